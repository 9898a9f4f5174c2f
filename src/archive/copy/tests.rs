//! Copies between temporary directories, as an ordinary user without a namespace.

use super::*;
use crate::archive::content;
use crate::archive::merged::Merged;
use crate::archive::node::Kind;
use crate::archive::upper::{Attrs, Upper};
use crate::sys::idmap::IdMap;
use std::collections::BTreeMap;

use std::fs;
use std::os::unix::ffi::OsStrExt;

use std::path::PathBuf;
use tempfile::TempDir;

/// A tree on disk that can be copied from: a layer of its own.
struct Source {
    dir: TempDir,
}

/// What a test puts into a tree.
enum Put<'a> {
    File(&'a str, u32),
    Dir(u32),
    Link(&'a str),
    Hard(&'a str),
    Owned(&'a str, u32, u32),
    Device(u32, u32),
    Fifo,
}
use Put::*;

/// Makes a layer with these entries.
fn layer(entries: &[(&str, Put<'_>)]) -> Source {
    let dir = tempfile::tempdir().unwrap();
    let none = Merged::open::<PathBuf>(&[], &IdMap::Plain).unwrap();
    let mut upper = Upper::create(&dir.path().join("layer"), &none).unwrap();
    fill(&mut upper, entries);
    upper.finish().unwrap();
    Source { dir }
}

fn fill(upper: &mut Upper<'_>, entries: &[(&str, Put<'_>)]) {
    let time = Some(crate::archive::Time::seconds(1000));
    for (path, put) in entries {
        let path = Path::new(path);
        if let Some(parent) = path.parent() {
            upper.ensure_dir(parent, &Attrs::root(0o755, time)).unwrap();
        }
        let write = |text: &str| {
            let bytes = text.as_bytes().to_vec();
            move |f: &mut fs::File| {
                std::io::Write::write_all(f, &bytes).unwrap();
                Ok(())
            }
        };
        match put {
            File(text, mode) => upper.file(path, &Attrs::root(*mode, time), write(text)).unwrap(),
            Dir(mode) => upper.dir(path, &Attrs::root(*mode, time)).unwrap(),
            Link(target) => upper.symlink(path, Path::new(target), &Attrs::root(0o777, time)).unwrap(),
            Hard(target) => upper.hardlink(path, Path::new(target)).unwrap(),
            Owned(text, uid, gid) => {
                let attrs = Attrs { uid: *uid, gid: *gid, ..Attrs::root(0o640, time) };
                upper.file(path, &attrs, write(text)).unwrap();
            }
            Device(major, minor) => {
                upper.device(path, Kind::Char(*major, *minor), &Attrs::root(0o600, time)).unwrap();
            }
            Fifo => upper.fifo(path, &Attrs::root(0o600, time)).unwrap(),
        }
    }
}

impl Source {
    fn tree(&self) -> Merged {
        Merged::open(&[self.dir.path().join("layer")], &IdMap::Plain).unwrap()
    }
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
        implicit_mtime: 42,
    }
}

/// The tree after a copy: what each path is, in a short form.
fn copied(tree: &dyn Tree, base: &[(&str, Put<'_>)], request: &Request) -> Result<BTreeMap<String, String>, Error> {
    let lower = layer(base);
    let below = lower.tree();
    let dir = lower.dir.path().join("upper");
    let mut upper = Upper::create(&dir, &below).unwrap();
    copy(request, tree, &mut upper)?;
    upper.finish().unwrap();
    Ok(list(&Merged::open(&[lower.dir.path().join("layer"), dir], &IdMap::Plain).unwrap()))
}

fn list(tree: &Merged) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    let mut inodes: BTreeMap<u64, String> = BTreeMap::new();
    while let Some(dir) = todo.pop() {
        for (name, node) in tree.read_dir(&dir).unwrap() {
            let path = dir.join(name);
            let shown = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
            let meta = node.meta;
            let mut text = match meta.kind {
                Kind::File => {
                    let mut content = String::new();
                    std::io::Read::read_to_string(&mut tree.open_file(&node).unwrap(), &mut content).unwrap();
                    let first = inodes.entry(meta.ino).or_insert(shown.clone());
                    if *first == shown { content } else { format!("{content} = {first}") }
                }
                Kind::Dir => {
                    todo.push(path);
                    "/".to_owned()
                }
                Kind::Symlink => format!("-> {}", tree.read_link(&node).unwrap().display()),
                Kind::Char(major, minor) => format!("c {major}:{minor}"),
                Kind::Fifo => "pipe".to_owned(),
                other => format!("{other:?}"),
            };
            if meta.kind != Kind::Symlink {
                text += &format!(" {:o}", meta.mode);
            }
            if (meta.uid, meta.gid) != (0, 0) {
                text += &format!(" {}:{}", meta.uid, meta.gid);
            }
            out.insert(shown, text);
        }
    }
    out
}

/// One row: name, tree below, sources, destination, expected paths (or the start of the error).
type Row<'a> = (&'a str, Vec<(&'a str, Put<'a>)>, &'a [&'a str], &'a str, Result<&'a [(&'a str, &'a str)], &'a str>);

fn context() -> Source {
    layer(&[
        ("a.txt", File("a", 0o644)),
        ("b.txt", File("b", 0o600)),
        ("set", File("s", 0o4755)),
        ("dir", Dir(0o750)),
        ("dir/x", File("x", 0o644)),
        ("dir/sub", Dir(0o700)),
        ("dir/sub/y", File("y", 0o644)),
        ("link-to-file", Link("dir/x")),
        ("link-to-dir", Link("/dir")),
        ("up", Link("../../../dir/sub")),
        ("links", Dir(0o755)),
        ("links/inner", Link("../a.txt")),
        ("links/dangling", Link("nowhere")),
        ("loop", Link("loop")),
        ("hard/one", File("h", 0o644)),
        ("hard/two", Hard("hard/one")),
        ("special/null", Device(1, 3)),
        ("special/pipe", Fifo),
        ("owned", Owned("o", 7, 8)),
        ("[odd]", File("odd", 0o644)),
    ])
}

#[test]
fn sources_and_destinations() {
    let source = context();
    let tree = source.tree();
    let rows: Vec<Row<'_>> = vec![
        ("file to name", vec![], &["a.txt"], "/x", Ok(&[("x", "a 644")])),
        (
            "file to new directory",
            vec![],
            &["a.txt"],
            "/n/m/",
            Ok(&[("n", "/ 755"), ("n/m", "/ 755"), ("n/m/a.txt", "a 644")]),
        ),
        ("file to name in new directory", vec![], &["a.txt"], "/n/m", Ok(&[("n", "/ 755"), ("n/m", "a 644")])),
        (
            "file into existing directory",
            vec![("d", Dir(0o700))],
            &["a.txt"],
            "/d",
            Ok(&[("d", "/ 700"), ("d/a.txt", "a 644")]),
        ),
        ("slash dot", vec![], &["a.txt"], "/d/.", Ok(&[("d", "/ 755"), ("d/a.txt", "a 644")])),
        (
            "several",
            vec![],
            &["a.txt", "/b.txt"],
            "/d/",
            Ok(&[("d", "/ 755"), ("d/a.txt", "a 644"), ("d/b.txt", "b 600")]),
        ),
        ("file over file", vec![("x", File("old", 0o600))], &["a.txt"], "/x", Ok(&[("x", "a 644")])),
        ("set-id bits stay", vec![], &["set"], "/", Ok(&[("set", "s 4755")])),
        (
            "contents of a directory",
            vec![],
            &["dir"],
            "/d",
            Ok(&[("d", "/ 755"), ("d/x", "x 644"), ("d/sub", "/ 700"), ("d/sub/y", "y 644")]),
        ),
        (
            "contents of a directory into the root",
            vec![("sub", Dir(0o777)), ("sub/old", File("old", 0o644))],
            &["dir/"],
            "/",
            Ok(&[("x", "x 644"), ("sub", "/ 700"), ("sub/y", "y 644"), ("sub/old", "old 644")]),
        ),
        (
            "existing destination keeps its metadata",
            vec![("d", Dir(0o711))],
            &["dir/sub"],
            "/d/",
            Ok(&[("d", "/ 711"), ("d/y", "y 644")]),
        ),
        ("link to a file", vec![], &["link-to-file"], "/d/", Ok(&[("d", "/ 755"), ("d/link-to-file", "x 644")])),
        ("link to a directory", vec![], &["link-to-dir/sub"], "/d", Ok(&[("d", "/ 755"), ("d/y", "y 644")])),
        ("link out of the root", vec![], &["up"], "/d", Ok(&[("d", "/ 755"), ("d/y", "y 644")])),
        (
            "links inside are kept",
            vec![],
            &["links"],
            "/d",
            Ok(&[("d", "/ 755"), ("d/inner", "-> ../a.txt"), ("d/dangling", "-> nowhere")]),
        ),
        ("hard links", vec![], &["hard"], "/", Ok(&[("one", "h 644"), ("two", "h = one 644")])),
        ("devices and pipes", vec![], &["special"], "/", Ok(&[("null", "c 1:3 600"), ("pipe", "pipe 600")])),
        ("owners of a stage", vec![], &["owned"], "/", Ok(&[("owned", "o 640 7:8")])),
        (
            "destination through a link",
            vec![("l", Link("real/deep"))],
            &["a.txt"],
            "/l/",
            Ok(&[("l", "-> real/deep"), ("real", "/ 755"), ("real/deep", "/ 755"), ("real/deep/a.txt", "a 644")]),
        ),
        (
            "destination link to a file",
            vec![("f", File("old", 0o600)), ("l", Link("/f"))],
            &["a.txt"],
            "/l",
            Ok(&[("f", "a 644"), ("l", "-> /f")]),
        ),
        (
            "destination link out of the root",
            vec![("l", Link("../../out"))],
            &["a.txt"],
            "/l",
            Ok(&[("l", "-> ../../out"), ("out", "a 644")]),
        ),
        (
            "a link in the target directory is replaced",
            vec![("d/a.txt", Link("/f")), ("f", File("old", 0o600))],
            &["a.txt"],
            "/d/",
            Ok(&[("d", "/ 755"), ("d/a.txt", "a 644"), ("f", "old 600")]),
        ),
        ("wildcard", vec![], &["*.txt"], "/d/", Ok(&[("d", "/ 755"), ("d/a.txt", "a 644"), ("d/b.txt", "b 600")])),
        ("wildcard in the middle", vec![], &["d?r/s*/y"], "/d/", Ok(&[("d", "/ 755"), ("d/y", "y 644")])),
        (
            "wildcard over a directory",
            vec![],
            &["d*"],
            "/d/",
            Ok(&[("d", "/ 755"), ("d/x", "x 644"), ("d/sub", "/ 700"), ("d/sub/y", "y 644")]),
        ),
        ("class", vec![], &["[ab].txt"], "/d/", Ok(&[("d", "/ 755"), ("d/a.txt", "a 644"), ("d/b.txt", "b 600")])),
        ("bracket in a name", vec![], &["[[]odd]"], "/", Ok(&[("[odd]", "odd 644")])),
        ("optional wildcard", vec![], &["a.txt", "none*"], "/", Ok(&[("a.txt", "a 644")])),
        ("dots stay inside", vec![], &["../../a.txt"], "/../../x", Ok(&[("x", "a 644")])),
        ("missing", vec![], &["none"], "/", Err("\"/none\": not found")),
        ("missing below a file", vec![], &["a.txt/b"], "/", Err("\"/a.txt/b\": not found")),
        ("missing beside others", vec![], &["a.txt", "./no/ne"], "/", Err("\"/no/ne\": not found")),
        ("dangling link", vec![], &["links/dangling"], "/", Err("\"/links/dangling\": not found")),
        ("loop", vec![], &["loop"], "/", Err("cannot resolve `loop`: too many levels")),
        ("nothing matches", vec![], &["none*", "no?"], "/", Err("no source matches: `none*`, `no?`")),
        ("malformed wildcard", vec![], &["[a"], "/", Err("malformed wildcard in source `[a`")),
        (
            "file over directory",
            vec![("d/a.txt", Dir(0o755))],
            &["a.txt"],
            "/d/",
            Err("cannot replace directory `/d/a.txt` with a file"),
        ),
        (
            "file over directory below",
            vec![("x", Dir(0o755))],
            &["dir"],
            "/",
            Err("cannot replace directory `/x` with a file"),
        ),
        ("directory over file", vec![("f", File("", 0o644))], &["dir"], "/f", Err("cannot copy a directory over `/f`")),
        (
            "directory over link below",
            vec![("sub", Link("dir")), ("dir", Dir(0o755))],
            &["dir"],
            "/",
            Err("cannot copy a directory over `/sub`"),
        ),
        ("file as parent", vec![("f", File("", 0o644))], &["a.txt"], "/f/g", Err("cannot resolve")),
    ];
    for (name, base, sources, dest, want) in rows {
        let base_paths: Vec<String> = list(&layer(&base).tree()).into_keys().collect();
        match (copied(&tree, &base, &request(sources, dest)), want) {
            (Ok(got), Ok(want)) => {
                let want: BTreeMap<String, String> = want.iter().map(|(p, t)| ((*p).into(), (*t).into())).collect();
                let got: BTreeMap<_, _> =
                    got.into_iter().filter(|(p, _)| want.contains_key(p) || !base_paths.contains(p)).collect();
                assert_eq!(got, want, "{name}");
            }
            (Err(got), Err(want)) => assert!(got.to_string().starts_with(want), "{name}: {got}"),
            (got, want) => panic!("{name}: got {got:?}, want {want:?}"),
        }
    }
}

#[test]
fn owners_and_modes_of_the_request() {
    let source = context();
    let tree = source.tree();
    let mut ask = request(&["dir", "a.txt"], "/n/d/");
    ask.chown = Some((5, 6));
    ask.chmod = Some(Mode::parse("711").unwrap());
    let got = copied(&tree, &[], &ask).unwrap();
    for path in ["n", "n/d", "n/d/sub"] {
        assert_eq!(got[path], "/ 711 5:6", "{path}");
    }
    assert_eq!(got["n/d/x"], "x 711 5:6");
    assert_eq!(got["n/d/a.txt"], "a 711 5:6");
    ask.chmod = Some(Mode::parse("u=rwX,go=").unwrap());
    let got = copied(&tree, &[("n", Dir(0o755))], &ask).unwrap();
    assert_eq!(got["n"], "/ 755", "what exists keeps its owner and mode");
    assert_eq!(got["n/d"], "/ 700 5:6");
    assert_eq!(got["n/d/x"], "x 600 5:6");
}

#[test]
fn inline_files_are_readable_and_of_root() {
    let source = context();
    let tree = source.tree();
    let mut ask = request(&[], "/etc/motd");
    ask.sources = vec![Item::Inline { name: "EOF".to_owned(), content: b"hello\n".to_vec() }];
    let got = copied(&tree, &[], &ask).unwrap();
    assert_eq!(got["etc/motd"], "hello\n 644");
    ask.dest = "/etc/".to_owned();
    ask.chown = Some((1, 2));
    ask.chmod = Some(Mode::parse("0755").unwrap());
    let got = copied(&tree, &[], &ask).unwrap();
    assert_eq!(got["etc/EOF"], "hello\n 755 1:2");
    let one = content::digest(&ask, &tree, None).unwrap();
    ask.sources = vec![Item::Inline { name: "EOF".to_owned(), content: b"hello!\n".to_vec() }];
    assert_ne!(content::digest(&ask, &tree, None).unwrap(), one);
}

#[test]
fn times_come_from_the_sources() {
    let source = context();
    let tree = source.tree();
    let lower = layer(&[("old", Dir(0o755))]);
    let below = lower.tree();
    let dir = lower.dir.path().join("upper");
    let mut upper = Upper::create(&dir, &below).unwrap();
    copy(&request(&["dir"], "/old/new"), &tree, &mut upper).unwrap();
    upper.finish().unwrap();
    let after = Merged::open(&[lower.dir.path().join("layer"), dir], &IdMap::Plain).unwrap();
    let time = |path: &str| after.lookup(Path::new(path)).unwrap().unwrap().meta.mtime.sec;
    assert_eq!(time("old"), 1000, "a directory that was there keeps its time");
    assert_eq!(time("old/new"), 42, "what the copy makes gets the time of the request");
    assert_eq!(time("old/new/sub"), 1000);
    assert_eq!(time("old/new/sub/y"), 1000);
}

#[test]
fn parents_keep_the_directories_of_the_sources() {
    let source = layer(&[
        ("test/a/b/c/d/foo", File("foo", 0o644)),
        ("test/a/b/c/d/e/bay", File("bay", 0o644)),
        ("test/a/b2/c/d/e/bar", File("bar", 0o644)),
        ("test/a/b/c2/d/e/baz", File("baz", 0o644)),
    ]);
    let tree = source.tree();
    let files = |sources: &[&str]| {
        let mut ask = request(sources, "/out/");
        ask.parents = true;
        let got = copied(&tree, &[], &ask)?;
        Ok::<_, Error>(got.into_iter().filter(|(_, t)| !t.starts_with('/')).map(|(p, _)| p).collect::<Vec<_>>())
    };
    for (sources, want) in [
        (&["/test/a/b/./c/d"][..], &["out/c/d/e/bay", "out/c/d/foo"][..]),
        (&["/test/a/b/c/d/."], &["out/test/a/b/c/d/e/bay", "out/test/a/b/c/d/foo"]),
        (&["./test/a/b/c/d"], &["out/test/a/b/c/d/e/bay", "out/test/a/b/c/d/foo"]),
        (&["/test/a/./b/./c"], &["out/b/c/d/e/bay", "out/b/c/d/foo"]),
        (&["/test/a/./*/c"], &["out/b/c/d/e/bay", "out/b/c/d/foo", "out/b2/c/d/e/bar"]),
        (&["/test/a/b*/./c/**/e"], &["out/c/d/e/bar", "out/c/d/e/bay"]),
        (&["/test/a/b/c*/./d/**/baz", "/test/a/b*/./c/**/bar"], &["out/c/d/e/bar", "out/d/e/baz"]),
        (&["/test/a/b3*/c"], &[]),
    ] {
        assert_eq!(files(sources).unwrap(), want, "{sources:?}");
    }
    assert!(files(&["/test/none"]).is_err());
    let mut ask = request(&["./test/a/b/c/./d"], "/out/");
    ask.parents = true;
    assert_eq!(copied(&tree, &[], &ask).unwrap()["out/d/e"], "/ 755");
}

#[test]
fn exclusions() {
    let source = layer(&[
        ("s/keep.txt", File("k", 0o644)),
        ("s/drop.md", File("d", 0o644)),
        ("s/deep/drop.md", File("d", 0o644)),
        ("s/deep/keep.md", File("k", 0o644)),
        ("s/only/drop.md", File("d", 0o644)),
    ]);
    let tree = source.tree();
    let paths = |sources: &[&str], exclude: &[&str]| {
        let mut ask = request(sources, "/");
        ask.exclude = Patterns::new(exclude).unwrap();
        copied(&tree, &[], &ask).unwrap().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(paths(&["s"], &["**/drop.md"]), ["deep", "deep/keep.md", "keep.txt", "only"]);
    assert_eq!(paths(&["s"], &["*.md"]), ["deep", "deep/drop.md", "deep/keep.md", "keep.txt", "only", "only/drop.md"]);
    assert_eq!(paths(&["s"], &["*", "!deep/keep.md"]), ["deep", "deep/keep.md"]);
    assert_eq!(paths(&["s/*"], &["*.md", "only"]), ["keep.txt"]);
}

/// A tar archive of one directory and one file of 7:8.
fn archive() -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, kind, content) in [("top/", tar::EntryType::Directory, ""), ("top/file", tar::EntryType::Regular, "in")]
    {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o750);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(content.len() as u64);
        out.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    out.into_inner().unwrap()
}

#[test]
fn archives_are_told_by_content_and_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let none = Merged::open::<PathBuf>(&[], &IdMap::Plain).unwrap();
    let mut upper = Upper::create(&dir.path().join("layer"), &none).unwrap();
    let mut packed = Vec::new();
    crate::archive::compress::gzip(archive().as_slice(), &mut packed, None, 1).unwrap();
    let mut cut = archive();
    cut.truncate(1024 + 513);
    let put = |upper: &mut Upper<'_>, name: &str, bytes: &[u8]| {
        let fill = |f: &mut fs::File| {
            std::io::Write::write_all(f, bytes).unwrap();
            Ok(())
        };
        upper.file(Path::new(name), &Attrs::root(0o644, None), fill).unwrap();
    };
    put(&mut upper, "plain", &archive());
    put(&mut upper, "packed.txt", &packed);
    put(&mut upper, "text.tar", b"not really");
    put(&mut upper, "empty.tar", b"");
    put(&mut upper, "cut.tar", &cut);
    upper.symlink(Path::new("link"), Path::new("plain"), &Attrs::root(0o777, None)).unwrap();
    upper.finish().unwrap();
    let tree = Merged::open(&[dir.path().join("layer")], &IdMap::Plain).unwrap();
    let add = |source: &str, chown| {
        let mut ask = request(&[source], "/new/dir");
        ask.unpack = true;
        ask.chown = chown;
        copied(&tree, &[], &ask)
    };
    for source in ["plain", "packed.txt", "link", "p*d.txt"] {
        let got = add(source, None).unwrap();
        assert_eq!(got["new/dir"], "/ 755", "{source}");
        assert_eq!(got["new/dir/top"], "/ 750 7:8", "{source}");
        assert_eq!(got["new/dir/top/file"], "in 750 7:8", "{source}");
    }
    assert_eq!(add("plain", Some((1, 2))).unwrap()["new/dir/top/file"], "in 750 1:2");
    assert_eq!(add("text.tar", None).unwrap()["new/dir"], "not really 644");
    assert_eq!(add("empty.tar", None).unwrap()["new/dir"], " 644");
    let error = add("cut.tar", None).unwrap_err().to_string();
    assert!(error.starts_with("cannot unpack `cut.tar`: "), "{error}");
    let copied = copied(&tree, &[], &request(&["plain"], "/x")).unwrap();
    assert!(!copied.contains_key("x/top"), "COPY leaves archives alone");
}
