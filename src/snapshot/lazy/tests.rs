//! A skeleton against the layer that its table is of.

use super::*;
use crate::archive::extract::{Limits, extract};
use crate::archive::indexed::{self, table};
use crate::archive::layer::Contents as _;
use crate::archive::tarfile::{Entry, EntryKind, TarWriter};
use crate::oci::{Descriptor, DiffId, Digest};
use crate::store::Store;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

fn tar() -> Vec<u8> {
    let mut w = TarWriter::new(vec![]);
    let file = |name: &'static [u8], content: &[u8]| Entry { mtime: 7, ..Entry::file(name, content.len() as u64) };
    w.append(&Entry { mtime: 7, ..Entry::dir(b"d") }).unwrap();
    w.append_file(&file(b"d/a", b"first"), &b"first"[..]).unwrap();
    w.append_file(&file(b"d/b", b"other"), &b"other"[..]).unwrap();
    w.append(&Entry { kind: EntryKind::Hardlink(b"d/a"), ..Entry::file(b"d/c", 0) }).unwrap();
    w.append(&Entry { kind: EntryKind::Symlink(b"a"), mtime: 7, ..Entry::file(b"d/l", 0) }).unwrap();
    w.append(&Entry { kind: EntryKind::Char(1, 3), mtime: 7, ..Entry::file(b"null", 0) }).unwrap();
    w.finish().unwrap()
}

struct Blob {
    bytes: Vec<u8>,
    asked: AtomicUsize,
    complete: Option<PathBuf>,
}

impl Origin for Blob {
    fn part(&self, _: usize, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let part = self.bytes.get(range.start as usize..range.end as usize);
        part.map(<[u8]>::to_vec).ok_or_else(|| io::Error::other("no such part"))
    }

    fn complete(&self, _: usize, _: &Path) -> Option<PathBuf> {
        self.complete.clone()
    }
}

/// A store, a stack with one skeleton, the complete layer directory, and the blob.
struct Scene {
    dir: tempfile::TempDir,
    store: Store,
    blob: Blob,
    table: Table,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut bytes = vec![];
        let written = indexed::estargz(&tar()[..], &mut bytes, None, 2).unwrap();
        let descriptor = Descriptor { annotations: written.annotations, ..Descriptor::of("x", &bytes) };
        let blob = Blob { bytes, asked: AtomicUsize::new(0), complete: None };
        let table = table::read(&descriptor, &|range| blob.part(0, range)).unwrap();
        blob.asked.store(0, Ordering::SeqCst);
        Scene { dir, store, blob, table }
    }

    /// The layer as it is extracted.
    fn complete(&self) -> PathBuf {
        let (dir, mut tar) = (self.dir.path().join("complete"), vec![]);
        flate2::read::MultiGzDecoder::new(&self.blob.bytes[..]).read_to_end(&mut tar).unwrap();
        let nothing = Merged::of(vec![], &IdMap::Plain);
        extract(&tar[..], &dir, &nothing, &Limits::default()).unwrap();
        dir
    }

    fn stack(&self, snapshots: &Snapshots<'_>, edit: impl FnOnce(&mut Table)) -> (Stack, Answering) {
        let (asking, answering) = Asking::pair().unwrap();
        let mut stack = Stack::new(snapshots, asking);
        let layer = LayerRef { diff_id: DiffId(Digest::of("layer")), blob: Digest::of("blob") };
        let mut table = self.table.clone();
        edit(&mut table);
        stack.push_skeleton(snapshots, &layer, 1 << 20, table).unwrap();
        assert!(!stack.is_complete() && stack.is_skeleton(&stack.dirs()[0]));
        (stack, answering)
    }
}

fn item<'t>(table: &'t mut Table, name: &str) -> &'t mut table::Item {
    table.items.iter_mut().find(|item| item.entry.name == name.as_bytes()).unwrap()
}

fn ino(stack: &Stack, name: &str) -> u64 {
    std::fs::symlink_metadata(stack.dirs()[0].join("fs").join(name)).unwrap().ino()
}

fn text(file: io::Result<File>) -> String {
    let mut text = String::new();
    file.unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn contents_come_when_they_are_asked_for_and_once() {
    let scene = Scene::new();
    let snapshots = Snapshots::new(&scene.store, IdMap::Plain).unwrap();
    let (stack, answering) = scene.stack(&snapshots, |_| ());
    let stop = answering.stopper().unwrap();
    let view = stack.view();
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (stack, snapshots, blob, refused) = (&stack, &snapshots, &scene.blob, &refused);
        scope.spawn(move || {
            let count = || {
                refused.fetch_add(1, Ordering::SeqCst);
            };
            serve(answering, &|ino| stack.contents(snapshots, ino, blob), &count);
        });
        // Through the view, as the builder does; and as the file system's server does.
        let node = view.lookup(Path::new("d/a")).unwrap().unwrap();
        let mut read = String::new();
        view.open_file(&node).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "first");
        assert_eq!(text(stack.asking().open(ino(stack, "d/c"))), "first");
        assert_eq!(blob.asked.load(Ordering::SeqCst), 1, "two names of one file");
        assert_eq!(text(stack.asking().open(ino(stack, "d/b"))), "other");
        assert!(text(stack.asking().open(ino(stack, indexed::TOC_NAME))).starts_with("{\"version\":1"));
        assert_eq!(blob.asked.load(Ordering::SeqCst), 2, "the table is here");
        assert_eq!(refused.load(Ordering::SeqCst), 0);
        assert!(stack.asking().open(1).is_err());
        drop(stop);
    });
    assert_eq!(refused.load(Ordering::SeqCst), 1, "the one that was refused");
    assert!(stack.asking().open(ino(&stack, "d/b")).is_err(), "nobody answers any more");
    assert_eq!(stack.compare(&[scene.complete()]).unwrap(), None);
    let dir = stack.dirs()[0].clone();
    assert!(dir.exists());
    drop(stack);
    assert!(!dir.exists());
}

#[test]
fn what_cannot_be_had_by_itself_comes_with_the_layer() {
    let mut scene = Scene::new();
    scene.blob.complete = Some(scene.complete());
    let snapshots = Snapshots::new(&scene.store, IdMap::Plain).unwrap();
    let (stack, _) = scene.stack(&snapshots, |table| item(table, "d/a").chunks[0].digest = Digest::of("another"));
    let open = |name: &str, blob: &Blob| stack.contents(&snapshots, ino(&stack, name), blob);
    assert_eq!(text(open("d/a", &scene.blob)), "first");
    assert_eq!(scene.blob.asked.load(Ordering::SeqCst), 1);
    assert_eq!(text(open("d/b", &scene.blob)), "other");
    assert_eq!(scene.blob.asked.load(Ordering::SeqCst), 1, "after one failure nothing more is asked for");
    scene.blob.complete = None;
    assert!(open("d/b", &scene.blob).is_err());
    // One that has another size there is neither of both.
    scene.blob.complete = Some(scene.dir.path().join("complete"));
    let (stack, _) = scene.stack(&snapshots, |table| {
        let a = item(table, "d/a");
        (a.entry.size, a.chunks[0].size) = (4, 4);
    });
    assert!(stack.contents(&snapshots, ino(&stack, "d/a"), &scene.blob).is_err());
}

#[test]
fn a_table_that_says_something_else_is_found_out() {
    let scene = Scene::new();
    let (snapshots, complete) = (Snapshots::new(&scene.store, IdMap::Plain).unwrap(), scene.complete());
    let verdict = |edit: &dyn Fn(&mut Table), read: Option<&str>| {
        let (stack, _) = scene.stack(&snapshots, edit);
        if let Some(name) = read {
            text(stack.contents(&snapshots, ino(&stack, name), &scene.blob));
        }
        stack.compare(std::slice::from_ref(&complete)).unwrap().map(|(_, verdict)| verdict)
    };
    let differs = |path: &str, what| Some(Verdict::Differs(path.into(), what));
    assert_eq!(verdict(&|_| (), Some("d/a")), None);
    assert_eq!(verdict(&|t| item(t, "d/a").entry.mode = 0o755, None), differs("d/a", "mode or owner"));
    assert_eq!(verdict(&|t| item(t, "d/l").entry.link = b"b".to_vec(), None), differs("d/l", "the target"));
    assert_eq!(verdict(&|t| item(t, "d/a").entry.mtime.sec = 8, None), differs("d/a", "the time"));
    assert_eq!(verdict(&|t| item(t, "d/c").entry.link = b"d/b".to_vec(), None), differs("d/c", "the other names"));
    assert_eq!(verdict(&|t| t.items.retain(|i| i.entry.name != b"d/b"), None), differs("d", "the names in it"));
    let attribute = |t: &mut Table| drop(item(t, "d/b").entry.xattrs.insert(b"user.a".to_vec(), vec![1]));
    assert_eq!(verdict(&attribute, None), differs("d/b", "attributes"));
    let swap = |t: &mut Table| item(t, "d/b").chunks = item(t, "d/a").chunks.clone();
    assert_eq!(verdict(&swap, None), None, "nobody has read it");
    assert_eq!(verdict(&swap, Some("d/b")), differs("d/b", "the contents"));
    let owner = |t: &mut Table| item(t, "d/b").entry.uid = 5;
    assert!(matches!(verdict(&owner, None), Some(Verdict::Differs(..))));
    let device = |t: &mut Table| item(t, "null").entry.kind = crate::archive::reader::Type::Char(1, 5);
    assert!(matches!(verdict(&device, None), Some(Verdict::Differs(..))));
    // A table of whole seconds.
    let finer = SystemTime::UNIX_EPOCH + Duration::from_millis(7600);
    File::options().write(true).open(complete.join("fs/d/b")).unwrap().set_modified(finer).unwrap();
    assert_eq!(verdict(&|_| (), None), Some(Verdict::CoarseTimes));
    assert_eq!(verdict(&|t| item(t, "d/b").entry.mtime.sec = 8, None), Some(Verdict::CoarseTimes));
    assert_eq!(verdict(&|t| item(t, "d/b").entry.mtime.sec = 9, None), differs("d/b", "the time"));
}

/// Under its other names it would be looked for in the layer by the name that another file has there.
#[test]
fn a_file_whose_name_was_taken_is_waited_for() {
    let scene = Scene::new();
    let snapshots = Snapshots::new(&scene.store, IdMap::Plain).unwrap();
    let layer = LayerRef { diff_id: DiffId(Digest::of("layer")), blob: Digest::of("blob") };
    let push = |edit: &dyn Fn(&mut Table)| {
        let mut table = scene.table.clone();
        edit(&mut table);
        let mut stack = Stack::new(&snapshots, Asking::pair().unwrap().0);
        stack.push_skeleton(&snapshots, &layer, 1 << 20, table).map_err(|e| e.to_string())
    };
    let again = |table: &mut Table, name: &[u8], mode: u32| {
        let mut twice = item(table, "d/b").clone();
        (twice.entry.name, twice.entry.mode) = (name.to_vec(), mode);
        table.items.push(twice);
    };
    push(&|table| again(table, b"d/e", 0o600)).unwrap();
    assert!(push(&|table| again(table, b"d/a", 0o600)).unwrap_err().contains("d/a"));
}
