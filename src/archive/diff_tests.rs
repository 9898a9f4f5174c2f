use super::*;
use crate::archive::extract::{Limits, extract};
use crate::archive::reader::{Entry, Reader, Type};
use crate::archive::upper::{Attrs, Upper};
use crate::sys::idmap::IdMap;
use std::collections::{BTreeMap, HashMap};

const MAP: IdMap = IdMap::Plain;

fn attrs(mode: u32) -> Attrs {
    Attrs::root(mode, Some(Time { sec: 1_000, nsec: 500 }))
}

fn put(upper: &mut Upper<'_>, path: &str, content: &str) {
    upper.file(Path::new(path), &attrs(0o644), |f| f.write_all(content.as_bytes()).map_err(Error::Output)).unwrap();
}

fn view(layers: &[&Path]) -> Merged {
    Merged::open(layers, &MAP).unwrap()
}

/// A layer directory that `fill` writes over `lower`.
fn layer(dir: &Path, lower: &[&Path], fill: impl FnOnce(&mut Upper<'_>)) {
    let lower = view(lower);
    let mut upper = Upper::create(dir, &lower).unwrap();
    fill(&mut upper);
    upper.finish().unwrap();
}

fn entries(tar: &[u8]) -> Vec<Entry> {
    let mut reader = Reader::new(tar);
    std::iter::from_fn(|| reader.next_entry().unwrap()).collect()
}

fn names(tar: &[u8]) -> Vec<String> {
    entries(tar).into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect()
}

fn write(upper: &Path, lower: &[&Path], times: &Times) -> (Vec<u8>, LayerStats) {
    let mut out = Vec::new();
    let stats = write_layer(upper, &view(lower), times, &mut out).unwrap();
    (out, stats)
}

/// Everything that an image can see of a tree.
fn snapshot(layers: &[&Path]) -> BTreeMap<PathBuf, String> {
    let tree = view(layers);
    let mut out = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    let mut inodes: HashMap<(usize, u64), PathBuf> = HashMap::new();
    while let Some(dir) = todo.pop() {
        for (_, node) in tree.read_dir(&dir).unwrap() {
            let m = node.meta;
            let content = match m.kind {
                Kind::File => std::io::read_to_string(tree.open_file(&node).unwrap()).unwrap(),
                Kind::Symlink => tree.read_link(&node).unwrap().display().to_string(),
                _ => String::new(),
            };
            let first = match m.kind {
                Kind::Dir => node.path.clone(),
                _ => inodes.entry((node.layer, m.ino)).or_insert(node.path.clone()).clone(),
            };
            let mode = if m.kind == Kind::Symlink { 0o777 } else { m.mode };
            let xattrs = tree.xattrs(&node).unwrap();
            let line =
                format!("{:?} {mode:o} {}:{} {} {content} {xattrs:?} {first:?}", m.kind, m.uid, m.gid, m.mtime.sec);
            out.insert(node.path.clone(), line);
            if m.kind == Kind::Dir {
                todo.push(node.path);
            }
        }
    }
    out
}

#[test]
fn a_layer_holds_what_changed_and_the_way_to_it_in_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    layer(&base, &[], |u| {
        for d in ["a", "a/gone", "a/sub", "quiet", "opq"] {
            u.dir(Path::new(d), &attrs(0o755)).unwrap();
        }
        put(u, "a/old", "old");
        put(u, "a/sub/x", "x");
        put(u, "opq/y", "y");
        put(u, "quiet/z", "z");
    });
    layer(&top, &[&base], |u| {
        u.remove(Path::new("a/gone")).unwrap();
        u.remove(Path::new("a/old")).unwrap();
        put(u, "a/sub/new", "new");
        put(u, "a/B", "B");
        u.remove(Path::new("opq")).unwrap();
        u.dir(Path::new("opq"), &attrs(0o700)).unwrap();
        put(u, "opq/fresh", "fresh");
        // Copied up, and nothing more.
        u.ensure_dir(Path::new("quiet"), &attrs(0o755)).unwrap();
        put(u, "a-", "between a and a/ by bytes, behind a/ in the walk");
    });
    let (tar, stats) = write(&top, &[&base], &Times::default());
    let want =
        ["a/", "a/.wh.gone", "a/.wh.old", "a/B", "a/sub/", "a/sub/new", "a-", "opq/", "opq/.wh..wh..opq", "opq/fresh"];
    assert_eq!(names(&tar), want);
    assert_eq!((stats.entries, stats.size), (want.len() as u64, tar.len() as u64));
    assert_eq!(stats.diff_id, DiffId(crate::oci::Digest::of(&tar)));
}

#[test]
fn nothing_changed_is_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    layer(&base, &[], |u| {
        u.dir(Path::new("d"), &attrs(0o755)).unwrap();
        put(u, "d/f", "same");
        u.symlink(Path::new("d/l"), Path::new("f"), &attrs(0)).unwrap();
    });
    layer(&top, &[&base], |u| {
        u.ensure_dir(Path::new("d"), &attrs(0o755)).unwrap();
        put(u, "d/f", "same");
        u.symlink(Path::new("d/l"), Path::new("f"), &attrs(0)).unwrap();
    });
    assert_eq!(write(&top, &[&base], &Times::default()).1.entries, 0);
    layer(&dir.path().join("content"), &[&base], |u| put(u, "d/f", "samE"));
    assert_eq!(names(&write(&dir.path().join("content"), &[&base], &Times::default()).0), ["d/", "d/f"]);
}

#[test]
fn whiteouts_of_nothing_and_sockets_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    layer(&base, &[], |u| put(u, "f", "f"));
    layer(&top, &[&base], |u| u.remove(Path::new("f")).unwrap());
    let fs = top.join(FS);
    rustix::fs::mknodat(rustix::fs::CWD, fs.join("none"), FileType::CharacterDevice, rustix::fs::Mode::empty(), 0)
        .unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, fs.join("sock"), FileType::Socket, 0o600.into(), 0).unwrap();
    assert_eq!(names(&write(&top, &[&base], &Times::default()).0), [".wh.f"]);
}

#[test]
fn marks_of_overlayfs_never_reach_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    layer(&top, &[], |u| {
        u.dir(Path::new("d"), &attrs(0o755)).unwrap();
        put(u, "d/f", "f");
    });
    for name in ["origin", "opaque", "impure", "nlink", "redirect", "metacopy", "protattr", "uuid", "upper"] {
        for path in ["d", "d/f"] {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(top.join(FS).join(path), format!("user.overlay.{name}"), b"y", flags).unwrap();
        }
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(top.join(FS).join("d/f"), "user.overlay.overlay.opaque", b"mine", flags).unwrap();
    let all = entries(&write(&top, &[], &Times::default()).0);
    assert_eq!(all.iter().map(|e| e.name.as_slice()).collect::<Vec<_>>(), [b"d/".as_slice(), b"d/f"]);
    assert!(all[0].xattrs.is_empty());
    assert_eq!(all[1].xattrs, [(b"user.overlay.opaque".to_vec(), b"mine".to_vec())].into());
}

#[test]
fn second_names_are_hardlinks_to_the_first_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    layer(&top, &[], |u| {
        put(u, "m", "data");
        u.dir(Path::new("z"), &attrs(0o755)).unwrap();
        for name in ["z/1", "b", "m2"] {
            u.hardlink(Path::new(name), Path::new("m")).unwrap();
        }
    });
    let all = entries(&write(&top, &[], &Times::default()).0);
    let got: Vec<_> = all.iter().map(|e| (e.name.as_slice(), e.kind, e.link.as_slice(), e.size)).collect();
    assert_eq!(
        got,
        [
            (b"b".as_slice(), Type::File, b"".as_slice(), 4),
            (b"m", Type::Hardlink, b"b", 0),
            (b"m2", Type::Hardlink, b"b", 0),
            (b"z/", Type::Dir, b"", 0),
            (b"z/1", Type::Hardlink, b"b", 0),
        ]
    );
}

#[test]
fn times_are_whole_seconds_clamped_or_set() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    layer(&top, &[], |u| {
        put(u, "f", "f");
        u.dir(Path::new("late"), &Attrs::root(0o755, Some(Time { sec: 5_000, nsec: 9 }))).unwrap();
    });
    let times = |clamp_to, set_to| {
        let all = entries(&write(&top, &[], &Times { clamp_to, set_to }).0);
        all.iter().map(|e| (e.mtime.sec, e.mtime.nsec)).collect::<Vec<_>>()
    };
    assert_eq!(times(None, None), [(1_000, 0), (5_000, 0)]);
    assert_eq!(times(Some(2_000), None), [(1_000, 0), (2_000, 0)]);
    assert_eq!(times(Some(2_000), Some(3)), [(3, 0), (3, 0)]);
}

#[test]
fn the_root_has_an_entry_only_when_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top, same) = (dir.path().join("base"), dir.path().join("top"), dir.path().join("same"));
    layer(&base, &[], |u| u.dir(Path::new(""), &attrs(0o700)).unwrap());
    layer(&top, &[&base], |u| u.dir(Path::new(""), &attrs(0o750)).unwrap());
    layer(&same, &[&base], |u| put(u, "f", "f"));
    assert_eq!(names(&write(&base, &[], &Times::default()).0), ["./"]);
    assert_eq!(names(&write(&top, &[&base], &Times::default()).0), ["./"]);
    assert_eq!(names(&write(&same, &[&base], &Times::default()).0), ["f"]);
}

#[test]
fn names_that_mean_whiteouts_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    layer(&top, &[], |u| put(u, ".wh.f", "f"));
    let result = write_layer(&top, &view(&[]), &Times::default(), std::io::sink());
    assert!(matches!(result, Err(Error::Unsupported(_))), "{result:?}");
}

#[test]
fn directories_whose_name_means_a_whiteout_are_made_by_what_is_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let written = |name: &str, fill: &dyn Fn(&mut Upper)| {
        let top = dir.path().join(name);
        layer(&top, &[], fill);
        let mut out = vec![];
        write_layer(&top, &view(&[]), &Times::default(), &mut out).map(|_| names(&out))
    };
    let plain = Attrs { mode: 0o755, ..Attrs::default() };
    let nested = written("nested", &|u| {
        u.dir(Path::new(".wh.d"), &plain).unwrap();
        u.dir(Path::new(".wh.d/.wh.e"), &plain).unwrap();
        put(u, ".wh.d/.wh.e/f", "f");
        put(u, "z", "z");
    });
    assert_eq!(nested.unwrap(), [".wh.d/.wh.e/f", "z"]);
    let empty = written("empty", &|u| {
        u.dir(Path::new(".wh.d"), &plain).unwrap();
        put(u, "z", "z");
    });
    let last = written("last", &|u| u.dir(Path::new(".wh.d"), &plain).unwrap());
    let other_mode = written("mode", &|u| {
        u.dir(Path::new(".wh.d"), &Attrs { mode: 0o700, ..plain.clone() }).unwrap();
        put(u, ".wh.d/f", "f");
    });
    let aufs = written("aufs", &|u| {
        u.dir(Path::new(".wh..wh.d"), &plain).unwrap();
        put(u, ".wh..wh.d/f", "f");
    });
    for refused in [empty, last, other_mode, aufs] {
        assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
    }
}

#[test]
fn what_is_copied_over_a_recorded_file_has_its_own_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    layer(&base, &[], |u| u.file(Path::new("f"), &Attrs { uid: 33, ..attrs(0o600) }, |_| Ok(())).unwrap());
    layer(&top, &[&base], |u| put(u, "f", "new"));
    let (tar, _) = write(&top, &[&base], &Times::default());
    let all = entries(&tar);
    assert_eq!(all.iter().find(|e| e.name == b"f").map(|e| (e.uid, e.gid)), Some((0, 0)));
}

#[test]
fn a_tree_is_written_whole_and_layers_on_layers_mean_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    layer(&path("base"), &[], |u| {
        u.dir(Path::new("d"), &attrs(0o1777)).unwrap();
        put(u, "d/a", "a");
        put(u, "d/b", "b");
        u.hardlink(Path::new("d/c"), Path::new("d/b")).unwrap();
        u.fifo(Path::new("pipe"), &attrs(0o600)).unwrap();
        u.device(Path::new("dev"), Kind::Block(8, 1), &Attrs { gid: 6, ..attrs(0o660) }).unwrap();
    });
    layer(&path("top"), &[&path("base")], |u| {
        u.remove(Path::new("d/a")).unwrap();
        put(u, "d/c", "changed");
    });
    let (tar, _) = write(&path("top"), &[&path("base")], &Times::default());
    extract(tar.as_slice(), &path("again"), &view(&[&path("base")]), &Limits::default()).unwrap();
    let both = snapshot(&[&path("base"), &path("top")]);
    assert_eq!(snapshot(&[&path("base"), &path("again")]), both);

    let mut squashed = Vec::new();
    write_tree(&view(&[&path("base"), &path("top")]), &Times::default(), &mut squashed).unwrap();
    assert_eq!(names(&squashed), ["d/", "d/b", "d/c", "dev", "pipe"]);
    extract(squashed.as_slice(), &path("squashed"), &view(&[]), &Limits::default()).unwrap();
    assert_eq!(snapshot(&[&path("squashed")]), both);
}

mod round_trip {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum What {
        File(Vec<u8>, u32),
        Dir(u32),
        Link(Vec<u8>),
        Fifo,
        Device(u32, u32),
        Hardlink(usize),
        Remove,
    }

    #[derive(Debug, Clone)]
    struct Change {
        path: Vec<Vec<u8>>,
        what: What,
        uid: u32,
        mtime: i64,
        xattr: Option<Vec<u8>>,
    }

    /// Few distinct names, so that changes meet; some are long or no UTF-8.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            8 => "[abc]".prop_map(String::into_bytes),
            1 => Just(b"n\xff\xfe".to_vec()),
            1 => Just("ü".repeat(60).into_bytes()),
        ]
    }

    fn change() -> impl Strategy<Value = Change> {
        let what = prop_oneof![
            4 => (proptest::collection::vec(any::<u8>(), 0..600), 0u32..0o10000).prop_map(|(d, m)| What::File(d, m)),
            4 => (0u32..0o10000).prop_map(What::Dir),
            1 => proptest::collection::vec(1u8..=255, 1..150).prop_map(What::Link),
            1 => Just(What::Fifo),
            1 => (0u32..4096, 0u32..1 << 20).prop_map(|(a, b)| What::Device(a, b)),
            1 => (0usize..20).prop_map(What::Hardlink),
            2 => Just(What::Remove),
        ];
        let xattr = proptest::option::weighted(0.2, proptest::collection::vec(any::<u8>(), 0..30));
        (proptest::collection::vec(name(), 1..4), what, prop_oneof![Just(0u32), any::<u32>()], -10i64..1 << 34, xattr)
            .prop_map(|(path, what, uid, mtime, xattr)| Change { path, what, uid: uid.min(u32::MAX - 1), mtime, xattr })
    }

    fn apply(upper: &mut Upper<'_>, changes: &[Change]) {
        let mut files = Vec::new();
        for change in changes {
            let (name, parents) = change.path.split_last().unwrap();
            let parent: PathBuf = parents.iter().map(|p| OsStr::from_bytes(p)).collect();
            let Ok(parent) = upper.ensure_dir(&parent, &attrs(0o755)) else { continue };
            let path = parent.join(OsStr::from_bytes(name));
            let xattrs = change.xattr.iter().map(|v| (b"user.x".to_vec(), v.clone())).collect();
            let mtime = Some(Time::seconds(change.mtime));
            let attrs = |mode| Attrs { mode, uid: change.uid, gid: 1, mtime, xattrs };
            match &change.what {
                What::File(data, mode) => {
                    upper.file(&path, &attrs(*mode), |f| f.write_all(data).map_err(Error::Output)).unwrap();
                    files.push(path);
                }
                What::Dir(mode) => upper.dir(&path, &attrs(*mode)).unwrap(),
                What::Link(target) => {
                    upper.symlink(&path, node::path(target), &Attrs { xattrs: Xattrs::new(), ..attrs(0) }).unwrap()
                }
                What::Fifo => upper.fifo(&path, &Attrs { xattrs: Xattrs::new(), ..attrs(0o640) }).unwrap(),
                What::Device(major, minor) => upper.device(&path, Kind::Char(*major, *minor), &attrs(0o600)).unwrap(),
                What::Hardlink(index) => {
                    let Some(target) = files.get(index % files.len().max(1)).cloned() else { continue };
                    if !path.starts_with(&target) && !target.starts_with(&path) {
                        let _ = upper.hardlink(&path, &target);
                    }
                }
                What::Remove => upper.remove(&path).unwrap(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Any two layers, written and extracted again, are the same tree; and written once more the same bytes.
        #[test]
        fn layers_survive(first in proptest::collection::vec(change(), 0..20), second in proptest::collection::vec(change(), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            layer(&path("a"), &[], |u| apply(u, &first));
            layer(&path("b"), &[&path("a")], |u| apply(u, &second));
            let (tar_a, _) = write(&path("a"), &[], &Times::default());
            let (tar_b, _) = write(&path("b"), &[&path("a")], &Times::default());
            extract(tar_a.as_slice(), &path("a2"), &view(&[]), &Limits::default()).unwrap();
            extract(tar_b.as_slice(), &path("b2"), &view(&[&path("a2")]), &Limits::default()).unwrap();
            prop_assert_eq!(tree(&[&path("a2")]), tree(&[&path("a")]));
            prop_assert_eq!(tree(&[&path("a2"), &path("b2")]), tree(&[&path("a"), &path("b")]));
            prop_assert_eq!(write(&path("a2"), &[], &Times::default()).0, tar_a);
        }
    }

    /// As a tar of the whole tree, which says all that an image can carry.
    fn tree(layers: &[&Path]) -> Vec<String> {
        let mut out = Vec::new();
        write_tree(&view(layers), &Times::default(), &mut out).unwrap();
        let mut reader = Reader::new(out.as_slice());
        let mut lines = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let mut data = Vec::new();
            reader.copy(entry.size, &mut data).unwrap();
            lines.push(format!("{entry:?} {data:?}"));
        }
        lines
    }
}
