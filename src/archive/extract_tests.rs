use super::*;
use crate::archive::node::Xattrs;
use crate::archive::tarfile::{Entry as Head, EntryKind, TarWriter};
use crate::sys::idmap::IdMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// A layer from lines: `dir/`, `file=content`, `link->target`, `hard=>target`, `c 1:3 name`; a mode in front: `4755 x=y`.
fn tar(lines: &[&str]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for line in lines {
        let (mode, rest) = match line.split_once(' ') {
            Some((mode, rest)) if mode.len() == 4 => (u32::from_str_radix(mode, 8).unwrap(), rest),
            _ => (0o644, *line),
        };
        let base = Head { path: b"", kind: EntryKind::File, mode, uid: 0, gid: 0, size: 0, mtime: 7, xattrs: None };
        if let Some((path, link)) = rest.split_once("=>") {
            tar.append(&Head { path: path.as_bytes(), kind: EntryKind::Hardlink(link.as_bytes()), ..base }).unwrap();
        } else if let Some((path, link)) = rest.split_once("->") {
            tar.append(&Head { path: path.as_bytes(), kind: EntryKind::Symlink(link.as_bytes()), ..base }).unwrap();
        } else if let Some((path, data)) = rest.split_once('=') {
            tar.append_file(&Head { path: path.as_bytes(), size: data.len() as u64, ..base }, data.as_bytes()).unwrap();
        } else if let Some(path) = rest.strip_suffix('/') {
            let mode = if mode == 0o644 { 0o755 } else { mode };
            tar.append(&Head { path: path.as_bytes(), kind: EntryKind::Dir, mode, ..base }).unwrap();
        } else {
            panic!("{line}");
        }
    }
    tar.finish().unwrap()
}

/// A stack of layers that is extracted one by one, in a directory with a file that nothing may touch.
struct Stack {
    dir: tempfile::TempDir,
    layers: Vec<PathBuf>,
}

impl Stack {
    fn new() -> Stack {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("canary"), "alive").unwrap();
        Stack { dir, layers: Vec::new() }
    }

    fn view(&self) -> Merged {
        Merged::open(&self.layers, &IdMap::Plain).unwrap()
    }

    fn add(&mut self, lines: &[&str]) -> Result<(), Error> {
        self.add_tar(&tar(lines))
    }

    fn add_tar(&mut self, tar: &[u8]) -> Result<(), Error> {
        let into = self.dir.path().join(self.layers.len().to_string());
        extract(tar, &into, &self.view(), &Limits::default())?;
        self.layers.push(into);
        Ok(())
    }

    fn of(layers: &[&[&str]]) -> Stack {
        let mut stack = Stack::new();
        for lines in layers {
            stack.add(lines).unwrap();
        }
        stack
    }

    fn read(&self, path: &str) -> Option<String> {
        let view = self.view();
        let found = view.resolve(Path::new(path), true).unwrap();
        Some(std::io::read_to_string(view.open_file(&found.node?).unwrap()).unwrap())
    }

    /// The tree as lines of names, directories with a slash.
    fn list(&self) -> Vec<String> {
        let view = self.view();
        let mut todo = vec![PathBuf::new()];
        let mut out = Vec::new();
        while let Some(dir) = todo.pop() {
            for (_, node) in view.read_dir(&dir).unwrap() {
                let path = node.path.to_str().unwrap().to_owned();
                if node.is_dir() {
                    todo.push(node.path);
                    out.push(format!("{path}/"));
                } else {
                    out.push(path);
                }
            }
        }
        out.sort();
        out
    }

    /// Nothing beside the layers was made or changed.
    fn assert_contained(&self) {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.retain(|name| name.to_str().unwrap().parse::<usize>().is_err());
        assert_eq!(names, ["canary"]);
        assert_eq!(std::fs::read_to_string(self.dir.path().join("canary")).unwrap(), "alive");
    }
}

#[test]
fn names_cannot_climb_out() {
    let stack = Stack::of(&[&["../../canary=evil", "/../abs=1", "a/../../../b=2", "./c/./d=3", "..->/etc", "/="]]);
    assert_eq!(stack.list(), ["abs", "b", "c/", "c/d", "canary"]);
    stack.assert_contained();
}

#[test]
fn links_in_parents_are_followed_inside_the_root() {
    let mut stack = Stack::new();
    let up = format!("up->..{}/", stack.dir.path().display());
    stack.add(&["etc/", "abs->/etc", "rel->../../../../etc", &up]).unwrap();
    stack.add(&["abs/a=1", "rel/b=2", "up/canary=evil"]).unwrap();
    assert_eq!(stack.read("etc/a").as_deref(), Some("1"));
    assert_eq!(stack.read("etc/b").as_deref(), Some("2"));
    assert_eq!(stack.read("up/canary").as_deref(), Some("evil"), "a dead link's target is made inside the root");
    stack.assert_contained();
}

#[test]
fn links_of_the_same_layer_are_followed_inside_the_root() {
    let stack = Stack::of(&[&["etc/", "l->/etc", "l/a=1", "l2->l", "l2/b=2"]]);
    assert_eq!(stack.list(), ["etc/", "etc/a", "etc/b", "l", "l2"]);
}

#[test]
fn a_parent_that_becomes_a_link_is_resolved_again() {
    let stack = Stack::of(&[&["etc/", "d/", "d/a=1", "d->/etc", "d/b=2"]]);
    assert_eq!(stack.list(), ["d", "etc/", "etc/b"]);
}

#[test]
fn times_of_directories_that_became_links_touch_nothing_outside() {
    let mut stack = Stack::new();
    let outside = stack.dir.path().join("9");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    let before = std::fs::metadata(outside.join("sub")).unwrap().mtime();
    stack.add(&["d/", "d/sub/", &format!("d->{}", outside.display())]).unwrap();
    assert_eq!(std::fs::metadata(outside.join("sub")).unwrap().mtime(), before);
}

#[test]
fn the_last_component_is_replaced_and_never_followed() {
    let mut stack = Stack::new();
    let target = stack.dir.path().join("canary");
    stack.add(&[&format!("link->{}", target.display())]).unwrap();
    stack.add(&["link=new"]).unwrap();
    assert_eq!(stack.read("link").as_deref(), Some("new"));
    let same = Stack::of(&[&["link->/nowhere", "link=new", "dir->/etc", "0700 dir/"]]);
    assert_eq!(same.list(), ["dir/", "link"]);
    stack.assert_contained();
}

#[test]
fn hardlinks_stay_inside() {
    let mut stack = Stack::of(&[&["etc/", "etc/passwd=inside", "d->/../../etc"]]);
    stack.add(&["a=>/etc/passwd", "b=>d/passwd", "c=>../../etc/passwd", "b=>b"]).unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!(stack.read(name).as_deref(), Some("inside"));
    }
    let upper = stack.layers[1].join("fs");
    let ino = |name: &str| std::fs::metadata(upper.join(name)).unwrap().ino();
    assert_eq!((ino("a"), ino("a")), (ino("b"), ino("etc/passwd")), "the lower file is copied up once");
    let outside = format!("x=>{}", stack.dir.path().join("canary").display());
    for line in [outside.as_str(), "x=>none", "x=>etc", "x=>/", "x=>.."] {
        let mut stack = Stack::of(&[&["etc/"]]);
        assert!(matches!(stack.add(&[line]), Err(Error::Refused { .. })), "{line}");
    }
    stack.assert_contained();
}

#[test]
fn a_hardlink_to_a_link_is_a_second_link() {
    let mut stack = Stack::new();
    let target = stack.dir.path().join("canary");
    stack.add(&[&format!("s->{}", target.display()), "h=>s", "h=over"]).unwrap();
    assert_eq!(stack.read("h").as_deref(), Some("over"));
    stack.assert_contained();
}

#[test]
fn a_file_as_a_parent_is_refused() {
    let mut stack = Stack::new();
    assert!(matches!(stack.add(&["f=x", "f/g=y"]), Err(Error::NotDirectory { .. })));
    let mut stack = Stack::new();
    assert!(matches!(stack.add(&["l->l", "l/g=y"]), Err(Error::Loop(_))));
}

#[test]
fn whiteouts_hide_lower_files_whatever_their_place_in_the_archive() {
    for lines in
        [["d/.wh.old=", "d/.wh.both=", "d/both=new", "d/new=1"], ["d/new=1", "d/both=new", "d/.wh.both=", "d/.wh.old="]]
    {
        let mut stack = Stack::of(&[&["d/", "d/old=0", "d/both=0", "d/keep=0"]]);
        stack.add(&lines).unwrap();
        assert_eq!(stack.list(), ["d/", "d/both", "d/keep", "d/new"]);
        assert_eq!(stack.read("d/both").as_deref(), Some("new"));
    }
}

#[test]
fn a_directory_that_is_removed_and_made_anew_is_empty() {
    for lines in [[".wh.d=", "d/", "d/new=1"], ["d/", "d/new=1", ".wh.d="], ["d=file", "d/", "d/new=1"]] {
        let mut stack = Stack::of(&[&["d/", "d/old=0", "d/sub/", "d/sub/x=0"]]);
        stack.add(&lines).unwrap();
        assert_eq!(stack.list(), ["d/", "d/new"], "{lines:?}");
    }
}

#[test]
fn opaque_directories_hide_lower_files_only() {
    for lines in [["d/.wh..wh..opq=", "d/sub/new=1"], ["d/sub/new=1", "d/.wh..wh..opq="]] {
        let mut stack = Stack::of(&[&["d/", "d/old=0", "d/sub/", "d/sub/x=0", "e=0"]]);
        stack.add(&lines).unwrap();
        assert_eq!(stack.list(), ["d/", "d/sub/", "d/sub/new", "e"], "{lines:?}");
    }
    let mut stack = Stack::of(&[&["d/", "d/old=0"]]);
    stack.add(&["d/.wh..wh..opq="]).unwrap();
    assert_eq!(stack.list(), ["d/"]);
}

#[test]
fn an_opaque_root_hides_everything_below() {
    for lines in [[".wh..wh..opq=", "d/new=1", "f=1"], ["f=1", "d/new=1", ".wh..wh..opq="]] {
        let mut stack = Stack::of(&[&["d/", "d/old=0", "e/", "f/", "g=0"]]);
        stack.add(&lines).unwrap();
        assert_eq!(stack.list(), ["d/", "d/new", "f"], "{lines:?}");
    }
}

#[test]
fn whiteouts_of_nothing_do_nothing() {
    let mut stack = Stack::of(&[&["a=0", "dead->/none"]]);
    stack
        .add(&[
            ".wh.b=",
            "none/.wh.c=",
            "dead/.wh.d=",
            "a/.wh.e=",
            ".wh..wh.plnk/",
            ".wh..wh.plnk/1=x",
            "x/.wh..wh.orph=",
        ])
        .unwrap();
    assert_eq!(stack.list(), ["a", "dead"]);
    assert_eq!(std::fs::read_dir(stack.layers[1].join("fs")).unwrap().count(), 0);
}

#[test]
fn whiteouts_of_directories_themselves_are_refused() {
    for line in [".wh..=", ".wh...=", ".wh.=", "d/.wh..="] {
        let mut stack = Stack::of(&[&["d/", "d/f=0"]]);
        assert!(matches!(stack.add(&[line]), Err(Error::Refused { .. })), "{line}");
    }
}

#[test]
fn a_whiteout_name_as_a_parent_is_a_name() {
    let stack = Stack::of(&[&["etc/", "etc/f=0"], &[".wh.etc/somefile=1"]]);
    assert_eq!(stack.list(), [".wh.etc/", ".wh.etc/somefile", "etc/", "etc/f"]);
}

#[test]
fn implicit_parents_keep_the_lower_metadata() {
    let stack = Stack::of(&[&["0750 a/", "1777 a/b/", "a/b/old=0"], &["a/b/new=1", "c/d/e=2"]]);
    let view = stack.view();
    let meta = |path: &str| view.lookup(Path::new(path)).unwrap().unwrap();
    assert_eq!((meta("a").layer, meta("a").meta.mode, meta("a").meta.mtime.sec), (1, 0o750, 7));
    assert_eq!((meta("a/b").layer, meta("a/b").meta.mode), (1, 0o1777));
    assert_eq!((meta("c/d").meta.mode, meta("c/d").meta.mtime.sec), (0o755, 7));
    assert_eq!(stack.list(), ["a/", "a/b/", "a/b/new", "a/b/old", "c/", "c/d/", "c/d/e"]);
}

#[test]
fn modes_that_would_lock_out_the_builder_are_recorded() {
    let stack = Stack::of(&[&["0000 f=x", "0500 d/", "d/x=1", "4755 s=1", "2755 g/"]]);
    let disk =
        |path: &str| std::fs::metadata(stack.layers[0].join("fs").join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!([disk("f"), disk("d"), disk("s"), disk("g")], [0o600, 0o700, 0o755, 0o755]);
    let view = stack.view();
    let mode = |path: &str| view.lookup(Path::new(path)).unwrap().unwrap().meta.mode;
    assert_eq!([mode("f"), mode("d"), mode("s"), mode("g")], [0, 0o500, 0o4755, 0o2755]);
}

#[test]
fn devices_owners_and_capabilities_are_recorded() {
    let caps: Xattrs = [
        (b"security.capability".to_vec(), vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (b"user.note".to_vec(), b"n".to_vec()),
        (b"user.overlay.opaque".to_vec(), b"y".to_vec()),
    ]
    .into();
    let more: Xattrs =
        [(b"trusted.overlay.opaque".to_vec(), b"y".to_vec()), (b"security.selinux".to_vec(), b"l".to_vec())].into();
    let base =
        Head { path: b"", kind: EntryKind::File, mode: 0o644, uid: 33, gid: 44, size: 0, mtime: 7, xattrs: None };
    let mut tar = TarWriter::new(Vec::new());
    tar.append(&Head { path: b"null", kind: EntryKind::Char(1, 3), mode: 0o666, uid: 0, gid: 0, ..base }).unwrap();
    tar.append(&Head { path: b"white", kind: EntryKind::Char(0, 0), ..base }).unwrap();
    tar.append(&Head { path: b"f", xattrs: Some(&caps), ..base }).unwrap();
    tar.append(&Head {
        path: b"d",
        kind: EntryKind::Dir,
        xattrs: Some(&[caps.clone(), more].into_iter().flatten().collect()),
        ..base
    })
    .unwrap();
    tar.append(&Head { path: b"h", kind: EntryKind::Hardlink(b"f"), ..base }).unwrap();
    tar.append(&Head { path: b"s", kind: EntryKind::Symlink(b"f"), mode: 0o777, ..base }).unwrap();
    tar.append(&Head { path: b"p", kind: EntryKind::Fifo, mode: 0o6622, ..base }).unwrap();
    let mut stack = Stack::new();
    stack.add_tar(&tar.finish().unwrap()).unwrap();
    assert!(std::fs::symlink_metadata(stack.layers[0].join("fs/null")).unwrap().is_file(), "no device is made");
    let view = stack.view();
    let node = |path: &str| view.lookup(Path::new(path)).unwrap().unwrap();
    assert_eq!((node("null").meta.kind, node("null").meta.mode), (Kind::Char(1, 3), 0o666));
    assert_eq!(node("white").meta.kind, Kind::Char(0, 0), "an archive cannot make an overlayfs whiteout");
    for name in ["f", "h", "s", "p", "d", "white"] {
        assert_eq!((node(name).meta.uid, node(name).meta.gid), (33, 44), "{name}");
    }
    assert_eq!(view.xattrs(&node("f")).unwrap(), caps);
    assert_eq!(view.xattrs(&node("h")).unwrap(), caps);
    assert_eq!(view.xattrs(&node("d")).unwrap(), caps);
    assert_eq!((node("p").meta.kind, node("p").meta.mode), (Kind::Fifo, 0o6622));
    assert_eq!(node("s").meta.mtime.sec, 7);
}

#[test]
fn replaced_files_lose_their_records() {
    let base =
        Head { path: b"d", kind: EntryKind::Dir, mode: 0o500, uid: 33, gid: 44, size: 0, mtime: 7, xattrs: None };
    let mut tar = TarWriter::new(Vec::new());
    tar.append(&base).unwrap();
    tar.append(&Head { path: b"d/f", kind: EntryKind::File, ..base }).unwrap();
    tar.append(&Head { kind: EntryKind::File, uid: 0, gid: 0, mode: 0o644, ..base }).unwrap();
    let mut stack = Stack::new();
    stack.add_tar(&tar.finish().unwrap()).unwrap();
    assert!(!stack.layers[0].join("records").exists());
}

#[test]
fn a_sparse_bomb_takes_no_space() {
    let map = "GNU.sparse.map=9999999990,10\n";
    let size = "GNU.sparse.size=10000000000\n";
    let data = format!("{} {size}{} {map}", size.len() + 3, map.len() + 3);
    let mut tar = TarWriter::new(Vec::new());
    tar.append_bytes(b"pax", data.as_bytes()).unwrap();
    let mut head = tar.finish().unwrap();
    head.truncate(1024);
    head[156] = b'x';
    head[148..156].fill(b' ');
    let sum: u32 = head[..512].iter().map(|b| u32::from(*b)).sum();
    head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut file = TarWriter::new(Vec::new());
    file.append_bytes(b"bomb", b"0123456789").unwrap();
    let mut stack = Stack::new();
    stack.add_tar(&[head, file.finish().unwrap()].concat()).unwrap();
    let meta = std::fs::metadata(stack.layers[0].join("fs/bomb")).unwrap();
    assert_eq!(meta.len(), 10_000_000_000);
    assert!(meta.blocks() * 512 < 1 << 20);
}

#[test]
fn limits_end_an_extraction() {
    let dir = tempfile::tempdir().unwrap();
    let lower = Merged::open::<PathBuf>(&[], &IdMap::Plain).unwrap();
    let names: Vec<String> = (0..100).map(|i| format!("0000 {i}=0123456789")).collect();
    let tar = tar(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for (name, limits) in [
        ("entries", Limits { entries: 99, ..Limits::default() }),
        ("bytes", Limits { bytes: Some(999), ..Limits::default() }),
        ("records", Limits { records: 99, ..Limits::default() }),
    ] {
        let result = extract(tar.as_slice(), &dir.path().join(name), &lower, &limits);
        assert!(matches!(result, Err(Error::Limit { .. })), "{name}: {result:?}");
    }
    let exact = Limits { entries: 100, bytes: Some(1000), records: 100 };
    extract(tar.as_slice(), &dir.path().join("exact"), &lower, &exact).unwrap();
}

#[test]
fn names_that_no_kernel_takes_are_refused() {
    let long = format!("{}=x", "n".repeat(256));
    let deep = format!("{}=x", "d/".repeat(2100));
    for line in [long.as_str(), deep.as_str()] {
        assert!(matches!(Stack::new().add(&[line]), Err(Error::Refused { .. })));
    }
    let most = format!("{}f=x", "d/".repeat(2040));
    assert_eq!(Stack::of(&[&[&most]]).read(&most[..most.len() - 2]).as_deref(), Some("x"));
}

#[test]
fn user_archives_unpack_below_their_directory_and_whiteouts_are_plain_names() {
    let stack = Stack::of(&[&["srv->/data", "data/", "data/old=0", "data/sub->/etc", "etc/"]]);
    let view = stack.view();
    let into = stack.dir.path().join("1");
    let mut upper = Upper::create(&into, &view).unwrap();
    let archive = tar(&["../up=1", ".wh.old=2", "0700 d/", "sub/f=3", "a->/d", "a/g=4", "h=>/up"]);
    unpack_archive(
        archive.as_slice(),
        &mut upper,
        Path::new("/srv"),
        &Attrs::root(0o755, None),
        None,
        &Limits::default(),
    )
    .unwrap();
    upper.finish().unwrap();
    let stack = Stack { layers: vec![stack.layers[0].clone(), into], dir: stack.dir };
    assert_eq!(
        stack.list(),
        [
            "data/",
            "data/.wh.old",
            "data/a",
            "data/d/",
            "data/d/g",
            "data/etc/",
            "data/etc/f",
            "data/h",
            "data/old",
            "data/sub",
            "data/up",
            "etc/",
            "srv",
        ]
    );
    stack.assert_contained();
}

#[test]
fn what_follows_the_archive_is_read_too() {
    let mut data = tar(&["a=1"]);
    data.extend([1; 100_000]);
    let mut rest = data.as_slice();
    let dir = tempfile::tempdir().unwrap();
    let lower = Merged::open::<PathBuf>(&[], &IdMap::Plain).unwrap();
    extract(&mut rest, &dir.path().join("l"), &lower, &Limits::default()).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn a_shared_volume_with_a_group_and_an_acl_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o2777)).unwrap();
    // A default ACL: version 2; owner, group, mask, others: all; user 55: all.
    let acl: Vec<u8> = [(1u16, u32::MAX), (2, 55), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)]
        .into_iter()
        .flat_map(|(tag, id)| [&tag.to_le_bytes()[..], &7u16.to_le_bytes(), &id.to_le_bytes()].concat())
        .collect();
    let acl = [&2u32.to_le_bytes()[..], &acl].concat();
    let set = rustix::fs::setxattr(dir.path(), "system.posix_acl_default", &acl, rustix::fs::XattrFlags::empty());
    if let Err(e) = set {
        println!("without an ACL: {e}");
    }
    let into = dir.path().join("layer");
    let lower = Merged::open::<PathBuf>(&[], &IdMap::Plain).unwrap();
    extract(tar(&["d/", "0700 d/e/", "0640 d/f=1"]).as_slice(), &into, &lower, &Limits::default()).unwrap();
    for (path, mode) in [("", 0o755), ("d", 0o755), ("d/e", 0o700), ("d/f", 0o640)] {
        let path = into.join("fs").join(path);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode, "{path:?}");
        for acl in ["system.posix_acl_default", "system.posix_acl_access"] {
            let got = rustix::fs::getxattr(&path, acl, &mut [0; 256]);
            assert!(matches!(got, Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP)), "{path:?}");
        }
    }
}

mod damaged {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// An archive with bytes changed is extracted or refused, but never panics and never leaves its root.
        #[test]
        fn archives_are_contained(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
            fix in any::<bool>(),
        ) {
            let long = format!("{}/f=x", "l".repeat(120));
            let mut data = tar(&["d/", "d/f=content", "l->/d", "l/g=x", "h=>d/f", "d/.wh.x=", "d/.wh..wh..opq=", &long]);
            for (at, byte) in &changes {
                let at = at.index(data.len());
                data[at] = *byte;
            }
            if fix {
                // With good checksums, so that the change is looked at.
                for block in data.chunks_exact_mut(512).filter(|b| b[257..262] == *b"ustar") {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
                }
            }
            if let Some(cut) = cut {
                data.truncate(cut.index(data.len()));
            }
            let mut stack = Stack::of(&[&["d/", "d/x=0", "out->../../.."]]);
            let _ = stack.add_tar(&data);
            let _ = std::fs::remove_dir_all(stack.dir.path().join("1"));
            stack.assert_contained();
        }
    }
}
