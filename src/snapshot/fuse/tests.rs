//! The overlay's rules, without a mount: as the session calls them.

use rustix::fs::{FileType, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::change::New;
use super::tree::ROOT;
use super::{Layers, Lower, Overlay, Result};

/// Two layers, `one` below `two`, and an upper directory.
struct Lab {
    dir: tempfile::TempDir,
    overlay: Overlay,
}

impl Lab {
    /// `fill` gets the root directories of both layers.
    fn new(fill: impl FnOnce(&Path, &Path)) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["one/fs", "two/fs", "upper/fs", "work"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fill(&at("one/fs"), &at("two/fs"));
        let lowers = vec![Lower::Layer(at("two")), Lower::Layer(at("one"))];
        let layers = Layers { lowers, upper: at("upper"), work: at("work") };
        let overlay = Overlay::open(&layers, None).unwrap();
        Lab { dir, overlay }
    }

    fn lower(&self, path: &str) -> PathBuf {
        self.dir.path().join("one/fs").join(path)
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper/fs").join(path)
    }

    /// The number of a path, looked up as the kernel does.
    fn id(&self, path: &str) -> u64 {
        path.split('/').filter(|p| !p.is_empty()).fold(ROOT, |parent, name| {
            self.overlay.lookup(parent, OsStr::new(name)).unwrap().unwrap_or_else(|| panic!("no `{path}`")).0.id
        })
    }

    fn exists(&self, path: &str) -> bool {
        let (parent, name) = split(path);
        self.overlay.lookup(self.id(parent), OsStr::new(name)).unwrap().is_some()
    }

    fn node(&self, path: &str) -> std::sync::Arc<super::tree::Node> {
        let id = self.id(path);
        self.overlay.tree().node(id).unwrap()
    }

    fn read(&self, path: &str) -> String {
        let mut buffer = vec![0; 100];
        let n = self.overlay.read(&self.node(path), 0, &mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    fn write(&self, path: &str, text: &str) {
        self.overlay.write(&self.node(path), 0, text.as_bytes(), false).unwrap();
    }

    fn make(&self, path: &str, kind: FileType) -> Result<()> {
        let (parent, name) = split(path);
        let new = New { parent: self.id(parent), name: OsStr::new(name), mode: 0o755, umask: 0o022, uid: 0, gid: 0 };
        match kind {
            FileType::Directory => self.overlay.make_dir(&new),
            _ => self.overlay.make_node(&new, kind),
        }
        .map(drop)
    }

    fn unlink(&self, path: &str) -> Result<()> {
        let (parent, name) = split(path);
        self.overlay.unlink(self.id(parent), OsStr::new(name))
    }

    fn rmdir(&self, path: &str) -> Result<()> {
        let (parent, name) = split(path);
        self.overlay.remove_dir(self.id(parent), OsStr::new(name))
    }

    fn rename(&self, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
        let ((a, b), (c, d)) = (split(from), split(to));
        self.overlay.rename((self.id(a), OsStr::new(b)), (self.id(c), OsStr::new(d)), flags)
    }

    fn list(&self, path: &str) -> Vec<String> {
        let items = self.overlay.list(&self.node(path)).unwrap();
        let mut names: Vec<String> = items.into_iter().map(|i| i.name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn is_whiteout(&self, path: &str) -> bool {
        fs::symlink_metadata(self.upper(path)).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
    }

    fn mark(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = [0; 64];
        rustix::fs::getxattr(self.upper(path), name, &mut value).ok().map(|n| value[..n].to_vec())
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn base(one: &Path, two: &Path) {
    fs::create_dir_all(one.join("d/sub")).unwrap();
    fs::create_dir_all(two.join("d")).unwrap();
    for (path, text) in [("f", "lower"), ("d/x", "x"), ("d/sub/deep", "deep"), ("gone", "gone")] {
        fs::write(one.join(path), text).unwrap();
    }
    fs::hard_link(one.join("f"), one.join("g")).unwrap();
    symlink("f", one.join("link")).unwrap();
    fs::write(two.join("d/y"), "y").unwrap();
    crate::archive::whiteout::make(fs::File::open(two).unwrap(), OsStr::new("gone")).unwrap();
}

#[test]
fn layers_are_merged() {
    let lab = Lab::new(base);
    assert_eq!(lab.list(""), ["d", "f", "g", "link"]);
    assert_eq!(lab.list("d"), ["sub", "x", "y"]);
    assert!(!lab.exists("gone"));
    assert_eq!(lab.read("d/sub/deep"), "deep");
    assert_eq!(lab.overlay.read_link(&lab.node("link")).unwrap(), b"f");
}

#[test]
fn the_first_change_copies_a_file_up_and_leaves_parents_times() {
    let lab = Lab::new(base);
    let time = filetime(&lab.lower("d/sub"));
    let before = lab.node("d/sub/deep").ino();
    lab.write("d/sub/deep", "DEE");
    assert_eq!(lab.read("d/sub/deep"), "DEEp");
    assert_eq!(fs::read_to_string(lab.upper("d/sub/deep")).unwrap(), "DEEp");
    assert_eq!(fs::read_to_string(lab.lower("d/sub/deep")).unwrap(), "deep");
    assert_eq!(filetime(&lab.upper("d/sub")), time);
    assert_eq!(lab.mark("d/sub/deep", "user.overlay.origin"), Some(vec![]));
    assert_eq!(lab.mark("d", "user.overlay.origin"), Some(vec![]));
    assert_eq!(lab.node("d/sub/deep").ino(), before, "the number stays");
    assert_eq!(lab.list("d"), ["sub", "x", "y"]);
    assert!(fs::read_dir(lab.dir.path().join("work")).unwrap().next().is_none());
}

fn filetime(path: &Path) -> (i64, i64) {
    let meta = fs::metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

#[test]
fn names_of_a_lower_file_part_when_one_is_changed() {
    let lab = Lab::new(base);
    assert_eq!(lab.node("f").ino(), lab.node("g").ino());
    assert_ne!(lab.node("f").id, lab.node("g").id);
    lab.write("f", "LOWER");
    assert_eq!((lab.read("f"), lab.read("g")), ("LOWER".into(), "lower".into()));
    assert_ne!(lab.node("f").ino(), lab.node("g").ino());
    assert_eq!(lab.overlay.stat(&lab.node("f")).unwrap().st_nlink, 1);
}

#[test]
fn a_new_name_for_a_lower_file_copies_it_up() {
    let lab = Lab::new(base);
    lab.overlay.make_link(lab.id("d/x"), ROOT, OsStr::new("z")).unwrap();
    assert_eq!(lab.node("z").id, lab.node("d/x").id);
    lab.write("z", "Z");
    assert_eq!(lab.read("d/x"), "Z");
    assert_eq!(fs::metadata(lab.upper("z")).unwrap().nlink(), 2);
    lab.unlink("d/x").unwrap();
    assert_eq!(lab.read("z"), "Z");
}

#[test]
fn what_is_removed_is_hidden_only_where_a_layer_has_it() {
    let lab = Lab::new(base);
    lab.make("new", FileType::RegularFile).unwrap();
    lab.unlink("new").unwrap();
    lab.unlink("f").unwrap();
    assert!(lab.is_whiteout("f") && !lab.upper("new").exists());
    lab.make("f", FileType::RegularFile).unwrap();
    assert_eq!(lab.read("f"), "");
    lab.unlink("f").unwrap();
    assert!(lab.is_whiteout("f"));
    // A layer had it, and another took it away already.
    lab.make("gone", FileType::RegularFile).unwrap();
    lab.unlink("gone").unwrap();
    assert!(fs::symlink_metadata(lab.upper("gone")).is_err());
}

#[test]
fn a_directory_made_anew_is_opaque() {
    let lab = Lab::new(base);
    assert_eq!(lab.rmdir("d"), Err(Errno::NOTEMPTY));
    for path in ["d/sub/deep", "d/x", "d/y"] {
        lab.unlink(path).unwrap();
    }
    lab.rmdir("d/sub").unwrap();
    lab.rmdir("d").unwrap();
    assert!(lab.is_whiteout("d"));
    lab.make("d", FileType::Directory).unwrap();
    assert_eq!(lab.mark("d", "user.overlay.opaque"), Some(b"y".to_vec()));
    assert!(lab.list("d").is_empty());
    lab.make("e", FileType::Directory).unwrap();
    assert_eq!(lab.mark("e", "user.overlay.opaque"), None);
}

#[test]
fn renames_are_overlayfs() {
    let lab = Lab::new(base);
    assert_eq!(lab.rename("d", "e", RenameFlags::empty()), Err(Errno::XDEV));
    assert_eq!(lab.rename("f", "d/x", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(lab.rename("f", "d", RenameFlags::empty()), Err(Errno::ISDIR));
    lab.rename("f", "d/x", RenameFlags::empty()).unwrap();
    assert_eq!(lab.read("d/x"), "lower");
    assert!(lab.is_whiteout("f") && !lab.exists("f"));
    // A directory of the upper layer, over a whiteout, under which a layer has a directory.
    lab.make("new", FileType::Directory).unwrap();
    lab.make("new/in", FileType::RegularFile).unwrap();
    lab.unlink("d/sub/deep").unwrap();
    lab.rmdir("d/sub").unwrap();
    lab.rename("new", "d/sub", RenameFlags::empty()).unwrap();
    assert_eq!(lab.list("d/sub"), ["in"]);
    assert_eq!(lab.mark("d/sub", "user.overlay.opaque"), Some(b"y".to_vec()));
    assert!(!lab.exists("new"));
    lab.rename("g", "d/y", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((lab.read("g"), lab.read("d/y")), ("y".into(), "lower".into()));
    assert_eq!(lab.rename("g", "d/y", RenameFlags::WHITEOUT), Err(Errno::INVAL));
}

#[test]
fn an_open_file_outlives_its_name() {
    let lab = Lab::new(base);
    for path in ["d/x", "d/y"] {
        let node = lab.node(path);
        if path == "d/y" {
            lab.write(path, "Y");
        }
        lab.unlink(path).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(lab.overlay.read(&node, 0, &mut buffer).unwrap(), 1);
        lab.overlay.write(&node, 1, b"more", false).unwrap();
        assert_eq!(lab.overlay.read(&node, 0, &mut buffer).unwrap(), 5);
        let stat = lab.overlay.stat(&node).unwrap();
        assert_eq!((stat.st_nlink, stat.st_size), (0, 5), "{path}");
        assert!(lab.is_whiteout(path));
    }
}

#[test]
fn truncating_a_lower_file_copies_no_more_than_is_left() {
    let lab = Lab::new(|one, _| fs::write(one.join("big"), vec![7; 1 << 20]).unwrap());
    lab.overlay.truncate(&lab.node("big"), 3, false).unwrap();
    assert_eq!(fs::read(lab.upper("big")).unwrap(), [7; 3]);
}

#[test]
fn holes_stay_holes_and_attributes_come_along() {
    let lab = Lab::new(|one, _| {
        let file = fs::File::create(one.join("sparse")).unwrap();
        file.set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"end", 32 << 20).unwrap();
        fs::set_permissions(one.join("sparse"), fs::Permissions::from_mode(0o4751)).unwrap();
        for (name, value) in [("user.a", b"1"), ("user.overlay.overlay.b", b"2"), ("user.overlay.origin", b"3")] {
            rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty()).unwrap();
        }
    });
    let node = lab.node("sparse");
    assert_eq!(lab.overlay.list_xattrs(&node).unwrap().split(|b| *b == 0).count(), 3);
    assert_eq!(lab.overlay.get_xattr(&node, OsStr::new("user.overlay.b")).unwrap(), b"2");
    lab.overlay.set_xattr(&node, OsStr::new("user.overlay.c"), b"4", 0).unwrap();
    let meta = fs::metadata(lab.upper("sparse")).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777), (64 << 20, 0o4751));
    assert!(meta.blocks() * 512 < 8 << 20, "{} blocks", meta.blocks());
    assert_eq!(lab.mark("sparse", "user.a"), Some(b"1".to_vec()));
    assert_eq!(lab.mark("sparse", "user.overlay.overlay.c"), Some(b"4".to_vec()));
    assert_eq!(lab.mark("sparse", "user.overlay.origin"), Some(vec![]));
}

#[test]
fn what_the_kernel_forgets_is_dropped() {
    let lab = Lab::new(base);
    let ids: Vec<u64> = ["d", "d/sub", "d/sub/deep", "f", "g"].iter().map(|path| lab.id(path)).collect();
    assert_eq!(lab.overlay.tree().len(), 1 + ids.len());
    // Parents first: they stay as long as a child does.
    for id in &ids {
        lab.overlay.tree().forget(*id, 100);
    }
    assert_eq!(lab.overlay.tree().len(), 1);
    assert_eq!(lab.read("d/sub/deep"), "deep");
}

#[test]
fn paths_may_be_longer_than_the_kernel_takes() {
    let lab = Lab::new(base);
    let name = "n".repeat(250);
    let mut parent = lab.id("d");
    for _ in 0..40 {
        let new = New { parent, name: OsStr::new(&name), mode: 0o755, umask: 0, uid: 0, gid: 0 };
        parent = lab.overlay.make_dir(&new).unwrap().0.id;
    }
    let new = New { parent, name: OsStr::new("file"), mode: 0o644, umask: 0, uid: 0, gid: 0 };
    let (node, _) = lab.overlay.make_file(&new).unwrap();
    lab.overlay.files().remove(node.id);
    lab.overlay.write(&node, 0, b"x", false).unwrap();
    assert_eq!(lab.overlay.stat(&node).unwrap().st_size, 1);
    lab.overlay.unlink(parent, OsStr::new("file")).unwrap();
}

#[test]
fn links_in_layers_lead_nowhere() {
    // A hostile layer: what is a directory below is a link above.
    let lab = Lab::new(|one, two| {
        fs::create_dir(one.join("dir")).unwrap();
        fs::write(one.join("dir/file"), "inside").unwrap();
        symlink("/etc", two.join("dir")).unwrap();
    });
    let node = lab.node("dir");
    assert_eq!(node.kind, FileType::Symlink);
    assert_eq!(lab.overlay.lookup(node.id, OsStr::new("passwd")).err(), Some(Errno::NOTDIR));
}

#[test]
fn opaque_marks_in_records_count() {
    use crate::archive::record::{Record, Records};
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["one/fs/d", "two/fs/d", "upper/fs", "work"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("one/fs/d/hidden"), "").unwrap();
    let mut records = Records::new();
    records.insert(Path::new("d"), Record { opaque: true, ..Record::default() });
    records.insert(Path::new("other"), Record { uid: Some(7), ..Record::default() });
    records.save(&at("two")).unwrap();
    let lowers = vec![Lower::Layer(at("two")), Lower::Layer(at("one"))];
    let overlay = Overlay::open(&Layers { lowers, upper: at("upper"), work: at("work") }, None).unwrap();
    let (d, _) = overlay.lookup(ROOT, OsStr::new("d")).unwrap().unwrap();
    assert!(overlay.list(&d).unwrap().is_empty());
}

/// What programs see of a path: the number, and the one that its directory lists.
fn numbers(lab: &Lab, path: &str) -> (u64, u64) {
    let (parent, name) = split(path);
    let items = lab.overlay.list(&lab.node(parent)).unwrap();
    let item = items.into_iter().find(|item| item.name == name).unwrap_or_else(|| panic!("no `{path}`"));
    (lab.node(path).ino(), item.ino)
}

/// As under memory pressure: everything that has a name.
fn forget_all(lab: &Lab, paths: &[&str]) {
    for path in paths {
        let id = lab.id(path);
        lab.overlay.files().remove(id);
        lab.overlay.tree().forget(id, 100);
    }
}

#[test]
fn a_directory_lists_the_numbers_that_its_files_show_and_they_stay() {
    let lab = Lab::new(|one, two| {
        base(one, two);
        fs::create_dir_all(two.join("d/sub")).unwrap();
        fs::create_dir(one.join("only")).unwrap();
    });
    lab.make("new", FileType::RegularFile).unwrap();
    lab.make("newdir", FileType::Directory).unwrap();
    let paths = ["d/sub/deep", "d/sub", "d/x", "d/y", "d", "f", "link", "only", "new", "newdir"];
    let before: Vec<u64> = paths.iter().map(|path| numbers(&lab, path).0).collect();
    lab.write("d/sub/deep", "D");
    lab.overlay.copy_up(&lab.node("only")).unwrap();
    lab.overlay.copy_up(&lab.node("link")).unwrap();
    forget_all(&lab, &paths);
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(numbers(&lab, path), (before, before), "{path}");
    }
    let (copied, made) = (numbers(&lab, "d/sub/deep").0, numbers(&lab, "new").0);
    lab.rename("d/sub/deep", "moved", RenameFlags::empty()).unwrap();
    lab.rename("new", "d/sub/deep", RenameFlags::empty()).unwrap();
    lab.overlay.make_link(lab.id("moved"), ROOT, OsStr::new("other")).unwrap();
    forget_all(&lab, &["moved", "other", "d/sub/deep"]);
    assert_eq!(numbers(&lab, "moved"), (copied, copied));
    assert_eq!(numbers(&lab, "other"), (copied, copied));
    assert_eq!(numbers(&lab, "d/sub/deep"), (made, made));
}

#[test]
fn no_two_files_ever_show_one_number() {
    let lab = Lab::new(base);
    let mut seen = std::collections::HashSet::new();
    for path in ["d/sub/deep", "d/x", "d/y", "f", "d", "d/sub"] {
        seen.insert(lab.node(path).ino());
    }
    for path in ["d/x", "d/y"] {
        lab.write(path, "copied");
        lab.unlink(path).unwrap();
    }
    let mut on_disk = std::collections::HashSet::new();
    let mut reused = false;
    for round in 0..200 {
        lab.make("a", FileType::RegularFile).unwrap();
        lab.make("b", FileType::Directory).unwrap();
        lab.make("c", FileType::Fifo).unwrap();
        lab.overlay.make_link(lab.id("a"), ROOT, OsStr::new("l")).unwrap();
        for path in ["a", "b", "c"] {
            assert!(seen.insert(numbers(&lab, path).0), "{path} in round {round}");
            reused |= !on_disk.insert(fs::symlink_metadata(lab.upper(path)).unwrap().ino());
        }
        // Away in each of the ways that there are.
        let a = lab.node("a");
        lab.unlink("a").unwrap();
        forget_all(&lab, &["l"]);
        lab.overlay.tree().forget(a.id, 100);
        match round % 2 {
            0 => lab.unlink("l").unwrap(),
            _ => lab.rename("c", "l", RenameFlags::empty()).unwrap(),
        }
        match round % 2 {
            0 => lab.unlink("c").unwrap(),
            _ => lab.unlink("l").unwrap(),
        }
        lab.rmdir("b").unwrap();
        // The kernel has closed what it had open.
        let ids: Vec<u64> = lab.overlay.tree().ids();
        ids.into_iter().for_each(|id| lab.overlay.tree().forget(id, 100));
    }
    if !reused {
        eprintln!("note: this file system never used a number again");
    }
}

#[test]
fn a_full_disk_loses_no_file() {
    let lab = Lab::new(base);
    lab.write("d/x", "changed");
    // No whiteout can be made any more.
    fs::remove_dir(lab.dir.path().join("work")).unwrap();
    assert!(lab.unlink("d/x").is_err());
    assert!(lab.rename("d/x", "z", RenameFlags::empty()).is_err());
    assert_eq!(lab.read("d/x"), "changed");
    let ino = lab.node("d/x").ino();
    forget_all(&lab, &["d/x"]);
    assert_eq!((lab.read("d/x"), lab.node("d/x").ino()), ("changed".into(), ino));
}
