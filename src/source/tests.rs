//! Contexts on disk, hostile ones among them.

use super::*;
use crate::archive::content::{self, FileKey, Memo};
use crate::archive::copy::{self as copying, Copied, Item, Request, Tree};
use crate::archive::merged::Merged;
use crate::archive::node::{Kind as Node, Xattrs};
use crate::archive::upper::Upper;
use crate::dockerfile::ignore::Patterns;
use crate::error::Classified;
use crate::sys::idmap::IdMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes files below a new directory; a name that ends with `/` is a directory.
fn directory(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        if file.ends_with('/') {
            fs::create_dir_all(&path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, file).unwrap();
        }
    }
    dir
}

fn context(dir: &tempfile::TempDir, ignore: &str) -> Context {
    Context::open(dir.path()).unwrap().with_ignore(Patterns::parse(ignore.as_bytes()).unwrap())
}

fn request(sources: &[&str], dest: &str) -> Request {
    Request {
        sources: sources.iter().map(|s| Item::Path((*s).to_owned())).collect(),
        dest: dest.to_owned(),
        chown: None,
        chmod: None,
        exclude: Patterns::default(),
        parents: false,
        unpack: false,
        must_match: true,
        implicit_mtime: 0,
    }
}

/// Copies into an empty image and gives the image's layer.
fn copied(context: &Context, ask: &Request) -> Result<(tempfile::TempDir, Merged, Copied), copying::Error> {
    let dir = tempfile::tempdir().unwrap();
    let none = Merged::open::<PathBuf>(&[], &IdMap::Plain).unwrap();
    let layer = dir.path().join("layer");
    let mut upper = Upper::create(&layer, &none).unwrap();
    let done = copying::copy(ask, context, &mut upper)?;
    upper.finish().unwrap();
    let merged = Merged::open(&[layer], &IdMap::Plain).unwrap();
    Ok((dir, merged, done))
}

/// All paths of a tree, sorted; directories end with `/`.
fn paths(tree: &dyn Tree) -> Vec<String> {
    let mut out = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for (name, meta) in tree.read_dir(&dir).unwrap() {
            let path = dir.join(name);
            let mut text = path.to_string_lossy().into_owned();
            if meta.kind == Node::Dir {
                text.push('/');
                todo.push(path);
            }
            out.push(text);
        }
    }
    out.sort();
    out
}

#[test]
fn the_ignore_file_is_a_filter_over_the_view() {
    let dir = directory(&["a.txt", "b.md", "src/main.c", "src/deep/x.c", "src/deep/x.o", "out/big/file", "empty/"]);
    for (ignore, want) in [
        (
            "",
            &[
                "a.txt",
                "b.md",
                "empty/",
                "out/",
                "out/big/",
                "out/big/file",
                "src/",
                "src/deep/",
                "src/deep/x.c",
                "src/deep/x.o",
                "src/main.c",
            ][..],
        ),
        ("out\n*.md\n**/*.o", &["a.txt", "empty/", "src/", "src/deep/", "src/deep/x.c", "src/main.c"]),
        ("*\n!src/deep/x.c", &["src/", "src/deep/", "src/deep/x.c"]),
        ("*\n!src\nsrc/deep", &["src/", "src/main.c"]),
        ("**\n!**/*.c", &["src/", "src/deep/", "src/deep/x.c", "src/main.c"]),
        ("*\n!none", &[]),
        ("src/*\n!src/deep/none\nout\nempty", &["a.txt", "b.md", "src/"]),
    ] {
        assert_eq!(paths(&context(&dir, ignore)), want, "{ignore:?}");
    }
}

#[test]
fn what_is_ignored_cannot_be_named() {
    let dir = directory(&["secret", "dir/kept", "dir/dropped"]);
    symlink("secret", dir.path().join("link")).unwrap();
    let context = context(&dir, "secret\ndir/dropped\n");
    for source in ["secret", "/secret", "./dir/../secret", "dir/dropped", "link"] {
        let error = copied(&context, &request(&[source], "/")).unwrap_err();
        assert!(error.to_string().ends_with("not found"), "{source}: {error}");
        assert!(error.hint().unwrap().contains("ignore file"), "{source}");
    }
    let error = copied(&context, &request(&["nothing"], "/")).unwrap_err();
    assert_eq!(error.to_string(), "\"/nothing\": not found");
    assert!(!error.hint().unwrap().contains("ignore file"));
    assert_eq!(paths(&copied(&context, &request(&["dir"], "/")).unwrap().1), ["kept"]);
}

#[test]
fn owners_are_root_and_modes_are_kept() {
    let dir = directory(&["run", "sub/"]);
    fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(dir.path().join("sub"), fs::Permissions::from_mode(0o1777)).unwrap();
    let (_layer, tree, done) = copied(&context(&dir, ""), &request(&["."], "/")).unwrap();
    assert_eq!(done.entries, 2);
    let meta = |path: &str| Tree::lookup(&tree, Path::new(path)).unwrap().unwrap();
    assert_eq!((meta("run").mode, meta("run").uid, meta("run").gid), (0o4751, 0, 0));
    assert_eq!(meta("sub").mode, 0o1777);
    let source = Tree::lookup(&context(&dir, ""), Path::new("run")).unwrap().unwrap();
    assert_eq!(meta("run").mtime, source.mtime);
}

#[test]
fn attributes_of_users_are_kept_and_marks_of_overlays_are_not() {
    let dir = directory(&["file"]);
    let file = fs::File::open(dir.path().join("file")).unwrap();
    let set = |name: &str| rustix::fs::fsetxattr(&file, name, b"value", rustix::fs::XattrFlags::empty());
    if let Err(error) = set("user.mine") {
        assert!(std::env::var_os("CI").is_none(), "no extended attributes in {}: {error}", dir.path().display());
        println!("skipped: no extended attributes in {}: {error}", dir.path().display());
        return;
    }
    set("user.overlay.opaque").unwrap();
    set("user.overlay.overlay.opaque").unwrap();
    let (_layer, tree, _) = copied(&context(&dir, ""), &request(&["file"], "/")).unwrap();
    let want: Xattrs = [(b"user.mine".to_vec(), b"value".to_vec())].into();
    assert_eq!(Tree::xattrs(&tree, Path::new("file"), None).unwrap(), want);
}

#[test]
fn a_hostile_context_leads_nowhere() {
    let dir = directory(&["etc/passwd", "a/b/c"]);
    let at = |name: &str| dir.path().join(name);
    symlink("/etc", at("absolute")).unwrap();
    symlink("../../../../etc/passwd", at("relative")).unwrap();
    symlink("loop2", at("loop1")).unwrap();
    symlink("loop1", at("loop2")).unwrap();
    symlink("/proc/self/root", at("magic")).unwrap();
    symlink("a/b/../../../../../../etc", at("a/through")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"not\xffutf8")), "bytes").unwrap();
    fs::write(at("new\nline"), "newline").unwrap();
    let context = context(&dir, "");

    let content = |tree: &Merged, path: &str| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut Tree::open(tree, Path::new(path)).unwrap(), &mut text).unwrap();
        text
    };
    for source in ["absolute/passwd", "relative", "a/through/passwd"] {
        let (_layer, tree, _) = copied(&context, &request(&[source], "/x")).unwrap();
        assert_eq!(content(&tree, "x"), "etc/passwd", "{source} is the context's own file");
    }
    for source in ["loop1", "magic", "magic/etc/passwd", "absolute/shadow", "../../../../../etc/hostname"] {
        assert!(copied(&context, &request(&[source], "/x")).is_err(), "{source}");
    }
    let (_layer, tree, _) = copied(&context, &request(&["."], "/")).unwrap();
    let kind = |path: &[u8]| Tree::lookup(&tree, Path::new(OsStr::from_bytes(path))).unwrap().map(|m| m.kind);
    assert_eq!(kind(b"pipe"), Some(Node::Fifo));
    assert_eq!(kind(b"socket"), None);
    assert_eq!(kind(b"absolute"), Some(Node::Symlink));
    assert_eq!(kind(b"not\xffutf8"), Some(Node::File));
    assert_eq!(kind(b"new\nline"), Some(Node::File));
    let error = copied(&context, &request(&["none\n\u{1b}31m"], "/")).unwrap_err();
    assert!(!error.to_string().contains(['\n', '\u{1b}']), "{error:?}");
    let error = copied(&context, &request(&["none\n\u{1b}[31m"], "/x")).unwrap_err();
    assert!(!error.to_string().contains(['\n', '\u{1b}']), "{error:?}");
    assert!(content::digest(&request(&["."], "/"), &context, None).is_ok());
}

#[test]
fn deep_trees_take_no_stack() {
    let dir = tempfile::tempdir().unwrap();
    let mut fd = rustix::fs::open(dir.path(), rustix::fs::OFlags::PATH, 0.into()).unwrap();
    for _ in 0..400 {
        rustix::fs::mkdirat(&fd, "d", 0o755.into()).unwrap();
        fd = rustix::fs::openat(&fd, "d", rustix::fs::OFlags::PATH, 0.into()).unwrap();
    }
    let (_layer, tree, done) = copied(&context(&dir, "x\n!y"), &request(&["."], "/")).unwrap();
    assert_eq!(done.entries, 400);
    assert!(Tree::lookup(&tree, &["d"; 400].iter().collect::<PathBuf>()).unwrap().is_some());
}

#[test]
fn dockerfiles_and_ignore_files_are_found_in_the_order_of_the_dialect() {
    let find = |files: &[&str], named: Option<&str>, names: Names| {
        let dir = directory(files);
        let context = Context::open(dir.path()).unwrap();
        let named = named.map(|n| dir.path().join(n));
        let dockerfile = find_dockerfile(&context, named.as_deref(), names)?;
        let (_, ignore) = find_ignore(&context, &dockerfile, None, names)?;
        Ok::<_, Error>((String::from_utf8(dockerfile.content).unwrap(), ignore))
    };
    use Names::{Containerfile as C, Dockerfile as D};
    for (files, named, names, dockerfile, ignore) in [
        (&["Containerfile", "Dockerfile"][..], None, C, "Containerfile", None),
        (&["Containerfile", "Dockerfile"], None, D, "Dockerfile", None),
        (&["dockerfile"], None, D, "dockerfile", None),
        (&["Dockerfile", ".dockerignore", ".containerignore"], None, C, "Dockerfile", Some(".containerignore")),
        (&["Dockerfile", ".dockerignore", ".containerignore"], None, D, "Dockerfile", Some(".dockerignore")),
        (
            &["sub/my.df", "sub/my.df.dockerignore", ".dockerignore"],
            Some("sub/my.df"),
            C,
            "sub/my.df",
            Some("sub/my.df.dockerignore"),
        ),
        (&["sub/Dockerfile"], Some("sub"), C, "sub/Dockerfile", None),
    ] {
        let got = find(files, named, names).unwrap();
        assert_eq!(got, (dockerfile.to_owned(), ignore.map(str::to_owned)), "{files:?}");
    }
    let missing = find(&["x"], None, C).unwrap_err();
    assert!(missing.to_string().starts_with("no `Containerfile` or `Dockerfile` in build context"), "{missing}");
    assert!(find(&["x"], Some("none"), C).is_err());
}

#[test]
fn a_dockerfile_of_the_context_cannot_be_a_link_out_of_it() {
    let outside = directory(&["Dockerfile", "Dockerfile.dockerignore", "elsewhere"]);
    let dir = directory(&["real/Dockerfile"]);
    symlink(outside.path().join("elsewhere"), dir.path().join("Dockerfile")).unwrap();
    symlink("/real/Dockerfile", dir.path().join("inside")).unwrap();
    let context = Context::open(dir.path()).unwrap();
    assert!(find_dockerfile(&context, None, Names::Dockerfile).is_err());
    assert!(find_dockerfile(&context, Some(&dir.path().join("Dockerfile")), Names::Dockerfile).is_err());
    let inside = find_dockerfile(&context, Some(&dir.path().join("inside")), Names::Dockerfile).unwrap();
    assert_eq!(inside.content, b"real/Dockerfile");
    // One that the user names may be anywhere, and its ignore file is beside it.
    let named = outside.path().join("Dockerfile");
    let found = find_dockerfile(&context, Some(&named), Names::Dockerfile).unwrap();
    let (_, ignore) = find_ignore(&context, &found, None, Names::Dockerfile).unwrap();
    assert!(ignore.unwrap().ends_with("Dockerfile.dockerignore"));
    let (patterns, _) =
        find_ignore(&context, &found, Some(&outside.path().join("elsewhere")), Names::Dockerfile).unwrap();
    assert!(patterns.excludes(b"elsewhere"));
    assert!(find_ignore(&context, &found, Some(&outside.path().join("none")), Names::Dockerfile).is_err());
}

#[test]
fn standard_input_is_bounded_and_archives_are_told() {
    assert_eq!(dockerfile_on_stdin(&b"FROM scratch\n"[..]).unwrap().content, b"FROM scratch\n");
    assert!(matches!(dockerfile_on_stdin(&b"\x1f\x8b\x08 and more"[..]), Err(Error::StdinArchive)));
    let endless = std::io::Read::take(std::io::repeat(b'#'), u64::MAX);
    assert!(matches!(dockerfile_on_stdin(endless), Err(Error::TooLarge { .. })));
    let empty = Context::empty();
    assert!(paths(&empty).is_empty());
    assert!(copied(&empty, &request(&["x"], "/")).is_err());
    assert!(paths(&copied(&empty, &request(&["."], "/d")).unwrap().1) == ["d/"]);
}

#[derive(Default)]
struct Counting {
    known: Mutex<HashMap<FileKey, [u8; 32]>>,
    hits: AtomicUsize,
}

impl Memo for Counting {
    fn get(&self, key: &FileKey) -> Option<[u8; 32]> {
        let known = self.known.lock().unwrap().get(key).copied();
        self.hits.fetch_add(usize::from(known.is_some()), Ordering::Relaxed);
        known
    }
    fn put(&self, key: &FileKey, sha256: [u8; 32]) {
        self.known.lock().unwrap().insert(*key, sha256);
    }
}

#[test]
fn the_digest_follows_what_would_be_copied_and_nothing_else() {
    let dir = directory(&["a/one", "a/two", "a/sub/three", "b/other", "c.txt"]);
    let sum =
        |ignore: &str, sources: &[&str]| content::digest(&request(sources, "/"), &context(&dir, ignore), None).unwrap();
    let first = sum("", &["a"]);
    assert_eq!(first, sum("", &["./a/"]), "the way it is written does not matter");
    assert_eq!(first, sum("b", &["a"]));
    assert_ne!(first, sum("a/two", &["a"]));
    assert_ne!(first, sum("", &["b"]));
    let wild = sum("", &["*.txt"]);

    fs::write(dir.path().join("b/other"), "changed").unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH;
    fs::File::open(dir.path().join("a/one")).unwrap().set_modified(old).unwrap();
    assert_eq!(first, sum("", &["a"]), "times and other files do not count");
    fs::write(dir.path().join("d.txt"), "new").unwrap();
    assert_ne!(wild, sum("", &["*.txt"]));

    fs::set_permissions(dir.path().join("a/one"), fs::Permissions::from_mode(0o600)).unwrap();
    let mode = sum("", &["a"]);
    assert_ne!(first, mode);
    fs::write(dir.path().join("a/one"), "a/One").unwrap();
    let content = sum("", &["a"]);
    assert_ne!(mode, content);
    fs::rename(dir.path().join("a/one"), dir.path().join("a/uno")).unwrap();
    let name = sum("", &["a"]);
    assert_ne!(content, name);
    symlink("uno", dir.path().join("a/link")).unwrap();
    let link = sum("", &["a"]);
    assert_ne!(name, link);
    fs::create_dir(dir.path().join("a/empty")).unwrap();
    assert_ne!(link, sum("", &["a"]));
}

#[test]
fn a_memo_spares_reading_and_gives_the_same_digest() {
    let many: Vec<String> = (0..3000).map(|i| format!("d{}/f{i}", i % 7)).collect();
    let dir = directory(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let context = context(&dir, "");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    for name in &many {
        fs::File::open(dir.path().join(name)).unwrap().set_modified(later).unwrap();
    }
    let ask = request(&["."], "/");
    let plain = content::digest(&ask, &context, None).unwrap();
    let memo = Counting::default();
    assert_eq!(content::digest(&ask, &context, Some(&memo)).unwrap(), plain);
    assert!(memo.known.lock().unwrap().is_empty(), "files that seem to have changed a moment ago are not remembered");
    for name in &many {
        let file = fs::File::open(dir.path().join(name)).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let key = FileKey {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size as u64,
            mtime: crate::archive::Time { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as u32 },
            ctime: crate::archive::Time { sec: stat.st_ctime, nsec: stat.st_ctime_nsec as u32 },
        };
        memo.put(&key, *blake3::hash(name.as_bytes()).as_bytes());
    }
    assert_eq!(content::digest(&ask, &context, Some(&memo)).unwrap(), plain);
    assert_eq!(memo.hits.load(Ordering::Relaxed), many.len());
}
