//! What a step does to a tree, and the layer that comes of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::{Glance, Kept, Plain, Sharing, break_link};
use crate::archive::diff::{Times, write_layer};
use crate::archive::record::{Record, Records};
use crate::archive::{layer::FS, merged::Merged};
use crate::sys::idmap::IdMap;

/// A stack of layer directories, and a place for trees.
pub(super) struct Bench {
    dir: tempfile::TempDir,
    layers: Vec<PathBuf>,
    trees: usize,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap(), layers: vec![], trees: 0 }
    }

    /// A further layer directory, filled by `fill`.
    pub(super) fn layer(&mut self, fill: impl FnOnce(&Path)) -> PathBuf {
        let layer = self.dir.path().join(format!("layer{}", self.layers.len()));
        fs::create_dir_all(layer.join(FS)).unwrap();
        fill(&layer.join(FS));
        self.layers.push(layer.clone());
        layer
    }

    fn view(&self) -> Merged {
        Merged::open(&self.layers, &IdMap::Plain).unwrap()
    }

    pub(super) fn tree(&mut self, sharing: Sharing) -> Plain {
        self.trees += 1;
        let root = self.dir.path().join(format!("tree{}", self.trees));
        let mut plain = Plain::create(&root, &IdMap::Plain, sharing).unwrap();
        plain.fill(&self.view(), Path::new("")).unwrap();
        plain.settle().unwrap();
        plain
    }

    /// Lets `step` change a tree of all layers, and puts the changes into a new layer directory.
    fn step(&mut self, step: impl FnOnce(&Path)) -> (Plain, PathBuf) {
        let mut tree = self.tree(Sharing::Never);
        step(tree.root());
        let top = self.top();
        self.collect(&mut tree, &top);
        (tree, top)
    }

    /// What a step changed that changed nothing of what is recorded.
    fn collect(&self, tree: &mut Plain, top: &Path) {
        let view = self.view();
        let records = view.records().unwrap();
        tree.collect(&view, top, &Kept { before: &records, after: &records }, None).unwrap();
    }

    fn top(&self) -> PathBuf {
        let top = self.dir.path().join(format!("top{}", self.trees));
        fs::create_dir_all(top.join(FS)).unwrap();
        top
    }

    /// The entries of the layer that a layer directory makes: path, with `=` what a regular file holds, `->` where a link
    /// leads, `==` what a hardlink is of.
    fn entries(&self, top: &Path) -> Vec<String> {
        let mut bytes = Vec::new();
        write_layer(top, &self.view(), &Times::default(), &mut bytes).unwrap();
        let mut all = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let link = entry.link_name().unwrap().map(|l| l.display().to_string()).unwrap_or_default();
            all.push(match entry.header().entry_type() {
                tar::EntryType::Regular => format!("{path}={}", std::io::read_to_string(&mut entry).unwrap()),
                tar::EntryType::Symlink => format!("{path}->{link}"),
                tar::EntryType::Link => format!("{path}=={link}"),
                _ => path,
            });
        }
        all
    }
}

pub(super) fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// `etc/conf`, `etc/other`, `lib/a`, `lib/sub/b`, `one` and `two` (one file), `link`.
pub(super) fn base(fs: &Path) {
    for (path, text) in [("etc/conf", "conf"), ("etc/other", "other"), ("lib/a", "a"), ("lib/sub/b", "b"), ("one", "1")]
    {
        write(fs.join(path), text);
    }
    fs::hard_link(fs.join("one"), fs.join("two")).unwrap();
    symlink("one", fs.join("link")).unwrap();
}

fn after(step: impl FnOnce(&Path)) -> Vec<String> {
    let mut bench = Bench::new();
    bench.layer(base);
    let (_, top) = bench.step(step);
    bench.entries(&top)
}

#[test]
fn a_tree_shows_what_the_layers_show() {
    let mut bench = Bench::new();
    bench.layer(base);
    bench.layer(|fs| {
        write(fs.join("lib/a"), "new");
        let kind = rustix::fs::FileType::CharacterDevice;
        fs::create_dir_all(fs.join("etc")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, fs.join("etc/other"), kind, rustix::fs::Mode::empty(), 0).unwrap();
        fs::set_permissions(fs.join("lib"), fs::Permissions::from_mode(0o2751)).unwrap();
    });
    let tree = bench.tree(Sharing::Never);
    let at = |path: &str| tree.root().join(path);
    assert_eq!(fs::read_to_string(at("lib/a")).unwrap(), "new");
    assert_eq!(fs::read_to_string(at("lib/sub/b")).unwrap(), "b");
    assert!(!at("etc/other").exists());
    assert_eq!(fs::metadata(at("lib")).unwrap().mode() & 0o7777, 0o2751);
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("one"));
    assert_eq!(fs::metadata(at("one")).unwrap().ino(), fs::metadata(at("two")).unwrap().ino());
    let lower = fs::metadata(bench.layers[0].join("fs/one")).unwrap();
    assert_ne!(fs::metadata(at("one")).unwrap().ino(), lower.ino());
    assert_eq!(fs::metadata(at("one")).unwrap().modified().unwrap(), lower.modified().unwrap());
    for (path, layer) in [("lib", 1), ("etc", 1), ("lib/sub", 0)] {
        let lower = fs::metadata(bench.layers[layer].join(FS).join(path)).unwrap();
        assert_eq!(fs::metadata(at(path)).unwrap().modified().unwrap(), lower.modified().unwrap(), "{path}");
    }
}

#[test]
fn a_part_is_made_with_nothing_beside_it() {
    let mut bench = Bench::new();
    bench.layer(base);
    let root = bench.dir.path().join("part");
    let mut plain = Plain::create(&root, &IdMap::Plain, Sharing::Never).unwrap();
    plain.fill(&bench.view(), Path::new("lib/sub")).unwrap();
    assert_eq!(fs::read_to_string(root.join("lib/sub/b")).unwrap(), "b");
    assert!(!root.join("lib/a").exists() && !root.join("etc").exists());
    let root = bench.dir.path().join("file");
    let mut plain = Plain::create(&root, &IdMap::Plain, Sharing::Never).unwrap();
    plain.fill(&bench.view(), Path::new("lib/a")).unwrap();
    assert_eq!(fs::read_to_string(root.join("lib/a")).unwrap(), "a");
    assert!(!root.join("lib/sub").exists());
}

#[test]
fn what_nobody_changed_is_in_no_layer() {
    assert_eq!(after(|_| {}), Vec::<String>::new());
    // Read, and rewritten in vain: nothing of it stays.
    let in_vain = after(|root| {
        let conf = root.join("etc/conf");
        let time = fs::metadata(&conf).unwrap().modified().unwrap();
        fs::write(&conf, fs::read(&conf).unwrap()).unwrap();
        fs::File::options().write(true).open(&conf).unwrap().set_modified(time).unwrap();
        let mode = fs::metadata(root.join("one")).unwrap().permissions();
        fs::set_permissions(root.join("one"), mode).unwrap();
    });
    assert_eq!(in_vain, Vec::<String>::new());
}

#[test]
fn changes_of_every_kind_are_found() {
    let all = after(|root| {
        // As long as before, and with the same time: only the time of change tells.
        let conf = root.join("etc/conf");
        let time = fs::metadata(&conf).unwrap().modified().unwrap();
        fs::write(&conf, "CONF").unwrap();
        fs::File::options().write(true).open(&conf).unwrap().set_modified(time).unwrap();
        fs::remove_file(root.join("link")).unwrap();
        symlink("two", root.join("link")).unwrap();
        fs::remove_dir_all(root.join("lib/sub")).unwrap();
        fs::write(root.join("lib/sub"), "file").unwrap();
        write(root.join("new/dir/x"), "x");
    });
    let wanted = ["etc/", "etc/conf=CONF", "lib/", "lib/sub=file", "link->two", "new/", "new/dir/", "new/dir/x=x"];
    assert_eq!(all, wanted);
}

#[test]
fn what_is_gone_is_hidden() {
    let all = after(|root| {
        fs::remove_file(root.join("etc/other")).unwrap();
        fs::remove_dir_all(root.join("lib")).unwrap();
        fs::create_dir(root.join("made")).unwrap();
        fs::remove_dir(root.join("made")).unwrap();
    });
    assert_eq!(all, [".wh.lib=", "etc/", "etc/.wh.other="]);
}

#[test]
fn a_directory_made_anew_hides_what_was_in_the_old_one() {
    let all = after(|root| {
        fs::remove_dir_all(root.join("lib")).unwrap();
        write(root.join("lib/sub/c"), "c");
    });
    assert_eq!(all, ["lib/", "lib/.wh..wh..opq=", "lib/sub/", "lib/sub/c=c"]);
    // A directory that was a file, and the other way round.
    let all = after(|root| {
        fs::remove_file(root.join("link")).unwrap();
        write(root.join("link/in"), "in");
    });
    assert_eq!(all, ["link/", "link/in=in"]);
}

#[test]
fn a_directory_that_was_moved_is_there_as_a_whole() {
    let all = after(|root| fs::rename(root.join("lib"), root.join("moved")).unwrap());
    assert_eq!(all, [".wh.lib=", "moved/", "moved/a=a", "moved/sub/", "moved/sub/b=b"]);
    let all = after(|root| {
        fs::rename(root.join("lib"), root.join("moved")).unwrap();
        fs::rename(root.join("moved"), root.join("lib")).unwrap();
    });
    assert_eq!(all, Vec::<String>::new());
}

#[test]
fn names_of_one_file_come_as_overlayfs_leaves_them() {
    // Through a name that the image has: each name is a file of its own from then on.
    let all = after(|root| fs::set_permissions(root.join("one"), fs::Permissions::from_mode(0o600)).unwrap());
    assert_eq!(all, ["one=1", "two=1"]);
    // A further name: of the first one that the image has.
    let all = after(|root| fs::hard_link(root.join("two"), root.join("three")).unwrap());
    assert_eq!(all, ["one=1", "three==one"]);
    let all = after(|root| fs::hard_link(root.join("etc/conf"), root.join("a")).unwrap());
    assert_eq!(all, ["a=conf", "etc/", "etc/conf==a"]);
    // A rename is none.
    let all = after(|root| fs::rename(root.join("two"), root.join("three")).unwrap());
    assert_eq!(all, [".wh.two=", "three=1"]);
    let all = after(|root| fs::remove_file(root.join("two")).unwrap());
    assert_eq!(all, [".wh.two="]);
    // New ones, and some that moved with their directory.
    let all = after(|root| {
        write(root.join("d/x"), "x");
        fs::hard_link(root.join("d/x"), root.join("d/y")).unwrap();
        fs::rename(root.join("d"), root.join("e")).unwrap();
    });
    assert_eq!(all, ["e/", "e/x=x", "e/y==e/x"]);
}

#[test]
fn the_next_step_goes_on_with_the_tree() {
    let mut bench = Bench::new();
    bench.layer(base);
    let (mut tree, top) = bench.step(|root| {
        write(root.join("new/x"), "x");
        fs::hard_link(root.join("new/x"), root.join("new/y")).unwrap();
        fs::remove_file(root.join("etc/other")).unwrap();
    });
    bench.entries(&top);
    bench.layers.push(top);
    tree.settle().unwrap();
    fs::write(tree.root().join("etc/other"), "again").unwrap();
    fs::remove_file(tree.root().join("new/y")).unwrap();
    bench.trees += 1;
    let top = bench.top();
    bench.collect(&mut tree, &top);
    assert_eq!(bench.entries(&top), ["etc/", "etc/other=again", "new/", "new/.wh.y="]);
}

#[test]
fn one_layer_takes_the_changes_of_several_steps() {
    let mut bench = Bench::new();
    bench.layer(base);
    let (mut tree, top) = bench.step(|root| {
        write(root.join("new/x"), "x");
        fs::hard_link(root.join("new/x"), root.join("new/y")).unwrap();
        write(root.join("new/z"), "z");
        fs::remove_dir_all(root.join("lib")).unwrap();
        fs::remove_file(root.join("etc/other")).unwrap();
    });
    tree.settle().unwrap();
    let root = tree.root().to_owned();
    let at = |path: &str| root.join(path);
    fs::write(at("new/x"), "X").unwrap();
    fs::remove_file(at("new/z")).unwrap();
    write(at("lib/again"), "again");
    fs::write(at("etc/other"), "again").unwrap();
    bench.collect(&mut tree, &top);
    let wanted =
        ["etc/", "etc/other=again", "lib/", "lib/.wh..wh..opq=", "lib/again=again", "new/", "new/x=X", "new/y==new/x"];
    assert_eq!(bench.entries(&top), wanted);
    tree.settle().unwrap();
    fs::remove_dir_all(at("lib")).unwrap();
    fs::remove_dir_all(at("new")).unwrap();
    fs::remove_file(at("etc/other")).unwrap();
    bench.collect(&mut tree, &top);
    assert_eq!(bench.entries(&top), [".wh.lib=", "etc/", "etc/.wh.other="]);
}

#[test]
fn a_tree_follows_layers_that_others_made() {
    let mut bench = Bench::new();
    bench.layer(base);
    let mut tree = bench.tree(Sharing::Never);
    let layer = bench.layer(|fs| {
        write(fs.join("lib/sub/c"), "c");
        rustix::fs::setxattr(fs.join("lib"), "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
        write(fs.join("etc/conf"), "new");
        fs::create_dir(fs.join("link")).unwrap();
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, fs.join("one"), kind, rustix::fs::Mode::empty(), 0).unwrap();
    });
    tree.follow(&layer, &bench.view()).unwrap();
    let fresh = bench.tree(Sharing::Never);
    assert_eq!(listing(tree.root()), listing(fresh.root()));
    assert!(!tree.root().join("lib/a").exists());
    // What one step alone saw goes again.
    let paths: BTreeSet<PathBuf> = ["etc/conf".into(), "certs/only/here".into()].into();
    write(tree.root().join("etc/conf"), "other");
    write(tree.root().join("certs/only/here"), "x");
    tree.refresh(&paths, &bench.view()).unwrap();
    assert_eq!(listing(tree.root()), listing(fresh.root()));
}

/// Path, kind, mode, time and content of everything.
fn listing(root: &Path) -> Vec<String> {
    let (mut all, mut todo) = (vec![], vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
            let name = path.strip_prefix(root).unwrap().display();
            all.push(format!("{name} {:o} {}.{} {content}", meta.mode(), meta.mtime(), meta.mtime_nsec()));
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn attributes_go_there_and_back_under_their_names() {
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    let get = |path: &Path, name: &str| {
        let mut value = [0; 64];
        rustix::fs::getxattr(path, name, &mut value).ok().map(|n| value[..n].to_vec())
    };
    let mut bench = Bench::new();
    bench.layer(|fs| {
        write(fs.join("f"), "x");
        set(&fs.join("f"), "user.kept", b"1");
        set(&fs.join("f"), "user.overlay.origin", b"");
        set(&fs.join("f"), "user.overlay.overlay.own", b"2");
    });
    let (tree, top) = bench.step(|root| {
        set(&root.join("f"), "user.overlay.opaque", b"y");
        fs::create_dir(root.join("d")).unwrap();
        set(&root.join("d"), "user.new", b"3");
    });
    let (seen, stored) = (tree.root().join("f"), top.join("fs/f"));
    assert_eq!(get(&seen, "user.overlay.own"), Some(b"2".to_vec()));
    assert_eq!(get(&seen, "user.overlay.origin"), None);
    assert_eq!(get(&stored, "user.kept"), Some(b"1".to_vec()));
    assert_eq!(get(&stored, "user.overlay.overlay.own"), Some(b"2".to_vec()));
    assert_eq!(get(&stored, "user.overlay.overlay.opaque"), Some(b"y".to_vec()));
    assert_eq!(get(&stored, "user.overlay.opaque"), None);
    assert_eq!(get(&top.join("fs/d"), "user.new"), Some(b"3".to_vec()));
}

#[test]
fn pipes_sockets_and_holes_are_carried_over() {
    let mut bench = Bench::new();
    bench.layer(base);
    let (_, top) = bench.step(|root| {
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
        let file = fs::File::create(root.join("sparse")).unwrap();
        file.set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"end", 32 << 20).unwrap();
    });
    let at = |path: &str| fs::symlink_metadata(top.join(FS).join(path)).unwrap();
    assert!(at("pipe").file_type().is_fifo() && at("socket").file_type().is_socket());
    assert_eq!(at("sparse").len(), 64 << 20);
    assert!(at("sparse").blocks() * 512 < 8 << 20, "{} blocks", at("sparse").blocks());
    let all = bench.entries(&top);
    assert_eq!(all.iter().filter(|e| !e.starts_with("sparse")).collect::<Vec<_>>(), ["pipe"]);
}

#[test]
fn a_shared_tree_leaves_the_layers_as_they_are() {
    let mut bench = Bench::new();
    let layer = bench.layer(base);
    let before = listing(&layer);
    let mut tree = bench.tree(Sharing::Broken);
    let root = tree.root().to_owned();
    let at = |path: &str| root.join(path);
    let ino = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(ino(at("etc/conf")), ino(layer.join("fs/etc/conf")));
    // Another tree of the same layers changes the times of change of all files.
    let _other = bench.tree(Sharing::Broken);
    let etc = fs::File::open(at("etc")).unwrap();
    let time = fs::metadata(at("etc")).unwrap().modified().unwrap();
    break_link(std::os::fd::AsFd::as_fd(&etc), "conf".as_ref(), &IdMap::Plain).unwrap();
    assert_eq!(fs::metadata(at("etc")).unwrap().modified().unwrap(), time);
    fs::write(at("etc/conf"), "changed").unwrap();
    fs::write(at("etc/new"), "new").unwrap();
    fs::remove_file(at("two")).unwrap();
    let top = bench.top();
    bench.collect(&mut tree, &top);
    assert_eq!(bench.entries(&top), [".wh.two=", "etc/", "etc/conf=changed", "etc/new=new"]);
    assert_eq!(listing(&layer), before);
}

#[test]
fn a_change_in_the_same_moment_is_seen() {
    let mut bench = Bench::new();
    bench.layer(base);
    let mut tree = bench.tree(Sharing::Never);
    let top = bench.top();
    for round in 0..50 {
        tree.settle().unwrap();
        // The same size, written at once.
        fs::write(tree.root().join("etc/conf"), format!("c{round:03}")).unwrap();
        bench.collect(&mut tree, &top);
        assert_eq!(fs::read_to_string(top.join("fs/etc/conf")).unwrap(), format!("c{round:03}"));
    }
}

#[test]
fn a_glance_tells_whether_anything_changed() {
    let mut bench = Bench::new();
    let layer = bench.layer(base);
    let before = Glance::at(&layer).unwrap();
    assert_eq!(Glance::at(&layer).unwrap(), before);
    fs::write(layer.join("fs/lib/sub/new"), "").unwrap();
    assert_ne!(Glance::at(&layer).unwrap(), before);
}

#[test]
fn many_files_need_little_memory() {
    use super::state::Entry;
    // A million files, before and after, with names of 15 bytes: less than 200 MB.
    assert!(2 * (size_of::<Entry>() + 15) * 1_000_000 < 200_000_000, "{} bytes", size_of::<Entry>());
}

#[test]
fn what_a_supervisor_kept_is_recorded() {
    let owner = |uid: u32, gid: u32| Record { uid: Some(uid), gid: Some(gid), ..Record::default() };
    let mut bench = Bench::new();
    let layer = bench.layer(base);
    let mut records = Records::new();
    records.insert(Path::new("etc/conf"), owner(5, 6));
    records.insert(Path::new("etc/other"), Record { mode: Some(0o4755), ..Record::default() });
    records.insert(Path::new("lib"), owner(7, 8));
    records.insert(Path::new("lib/a"), owner(9, 9));
    records.save(&layer).unwrap();
    let mut tree = bench.tree(Sharing::Never);
    let before = bench.view().records().unwrap();
    assert_eq!(before.len(), 4);
    // Nothing on disk says that an owner has changed.
    let mut after = before.clone();
    after.remove(Path::new("lib/a"));
    after.insert(Path::new("lib/sub"), owner(1, 2));
    after.insert(Path::new("one"), owner(3, 3));
    after.insert(Path::new("two"), owner(3, 3));
    after.insert(Path::new("new"), owner(0, 4));
    fs::write(tree.root().join("new"), "new").unwrap();
    let top = bench.top();
    tree.collect(&bench.view(), &top, &Kept { before: &before, after: &after }, None).unwrap();
    let wanted = ["lib/", "lib/a=a", "lib/sub/", "new=new", "one=1", "two=1"];
    assert_eq!(bench.entries(&top), wanted);
    let records = Records::load(&top).unwrap();
    let of = |path: &str| records.get(Path::new(path)).map(|r| (r.uid, r.gid)).unwrap_or_default();
    assert_eq!((of("lib"), of("lib/a"), of("lib/sub")), ((Some(7), Some(8)), (Some(0), Some(0)), (Some(1), Some(2))));
    assert_eq!((of("one"), of("new")), ((Some(3), Some(3)), (Some(0), Some(4))));
    // The same again is no change.
    let mut tree = bench.tree(Sharing::Never);
    let top = bench.top();
    tree.settle().unwrap();
    tree.collect(&bench.view(), &top, &Kept { before: &before, after: &before }, None).unwrap();
    assert_eq!(bench.entries(&top), Vec::<String>::new());
}

#[test]
fn more_files_than_wait_at_once_are_all_there_and_a_failure_is_told() {
    let mut bench = Bench::new();
    bench.layer(|fs| {
        for dir in 0..20 {
            fs::create_dir(fs.join(format!("d{dir}"))).unwrap();
            for file in 0..50 {
                fs::write(fs.join(format!("d{dir}/{file}")), format!("{dir} {file}")).unwrap();
            }
            // Closed for everybody, as soon as it is full.
            fs::set_permissions(fs.join(format!("d{dir}")), fs::Permissions::from_mode(0o555)).unwrap();
        }
        fs::write(fs.join("file"), "x").unwrap();
    });
    let mut tree = bench.tree(Sharing::Never);
    let time = |root: &Path| fs::metadata(root.join("d7")).unwrap().modified().unwrap();
    assert_eq!(time(tree.root()), time(&bench.layers[0].join(FS)));
    assert_eq!(fs::metadata(tree.root().join("d7")).unwrap().mode() & 0o777, 0o555);
    for (dir, file) in (0..20).flat_map(|dir| (0..50).map(move |file| (dir, file))) {
        let text = fs::read_to_string(tree.root().join(format!("d{dir}/{file}"))).unwrap();
        assert_eq!(text, format!("{dir} {file}"));
    }
    // In the way: one of the files that others copy.
    for dir in 0..20 {
        let dir = tree.root().join(format!("d{dir}"));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
    let failed = tree.fill(&bench.view(), Path::new("")).unwrap_err().to_string();
    assert!(failed.contains("copy to") && failed.contains("file"), "{failed}");
}

#[test]
fn a_tree_is_looked_at_anew_after_it_was_brought_up_to_date() {
    let mut bench = Bench::new();
    bench.layer(|fs| fs::write(fs.join("a"), "a").unwrap());
    let (mut tree, first) = bench.step(|root| fs::write(root.join("b"), "b").unwrap());
    bench.layers.push(first);
    // Nothing was done since: the next step's changes are all that is found.
    tree.settle().unwrap();
    fs::write(tree.root().join("c"), "c").unwrap();
    bench.trees += 1;
    let second = bench.top();
    bench.collect(&mut tree, &second);
    assert_eq!(bench.entries(&second), ["c=c"]);
    bench.layers.push(second);
    // A layer that came otherwise.
    let third = bench.layer(|fs| fs::write(fs.join("d"), "d").unwrap());
    tree.follow(&third, &bench.view()).unwrap();
    tree.settle().unwrap();
    bench.trees += 1;
    let fourth = bench.top();
    bench.collect(&mut tree, &fourth);
    assert_eq!(bench.entries(&fourth), Vec::<String>::new());
}
