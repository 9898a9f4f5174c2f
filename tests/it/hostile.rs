//! Archives that try to get out of the root file system, or to exhaust the builder: refused or contained.

use crate::harness::{Lab, Run, busybox_is_missing, busybox_tar, require};
use std::fs;
use std::io::Write;
use std::path::Path;
use tar::EntryType;

/// A tar whose names and links are written as given, whatever they are.
struct Craft(Vec<u8>);

impl Craft {
    /// The busybox base without the end of its archive, so that more can follow.
    fn on_busybox() -> Craft {
        let mut tar = busybox_tar();
        tar.truncate(tar.len() - 1024);
        Craft(tar)
    }

    fn empty() -> Craft {
        Craft(Vec::new())
    }

    fn entry(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Craft {
        let mut header = tar::Header::new_gnu();
        let raw = header.as_old_mut();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(8).expect("major");
            header.set_device_minor(0).expect("minor");
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Archives that aim at `outside`, a directory that the user may write to.
fn escapes(outside: &str) -> Vec<(&'static str, Craft)> {
    use EntryType::{Directory, Link, Regular, Symlink};
    let up = format!("{}{outside}", "../".repeat(12));
    vec![
        ("dots", Craft::on_busybox().entry(Regular, &format!("{up}/pwned"), "", b"x")),
        ("dots inside", Craft::on_busybox().entry(Regular, &format!("tmp/{up}/pwned"), "", b"x")),
        ("absolute", Craft::on_busybox().entry(Regular, &format!("{outside}/pwned"), "", b"x")),
        (
            "through an absolute link",
            Craft::on_busybox().entry(Symlink, "door", outside, b"").entry(Regular, "door/pwned", "", b"x"),
        ),
        (
            "through a relative link",
            Craft::on_busybox().entry(Symlink, "door", &up, b"").entry(Regular, "door/pwned", "", b"x"),
        ),
        (
            "through links of links",
            Craft::on_busybox()
                .entry(Symlink, "a", "/", b"")
                .entry(Symlink, "b", &format!("a/{up}"), b"")
                .entry(Directory, "b/", "", b"")
                .entry(Regular, "b/pwned", "", b"x"),
        ),
        (
            "over a link",
            Craft::on_busybox()
                .entry(Symlink, "file", &format!("{outside}/canary"), b"")
                .entry(Regular, "file", "", b"x"),
        ),
        ("hard link to the outside", Craft::on_busybox().entry(Link, "stolen", &format!("{outside}/canary"), b"")),
        ("hard link with dots", Craft::on_busybox().entry(Link, "stolen", &format!("{up}/canary"), b"")),
        (
            "hard link through a link",
            Craft::on_busybox()
                .entry(Symlink, "door", outside, b"")
                .entry(Link, "stolen", "door/canary", b"")
                .entry(Regular, "stolen", "", b"x"),
        ),
        ("whiteout with dots", Craft::on_busybox().entry(Regular, &format!("{up}/.wh.canary"), "", b"")),
        (
            "whiteout through a link",
            Craft::on_busybox().entry(Symlink, "door", outside, b"").entry(Regular, "door/.wh.canary", "", b""),
        ),
        (
            "whiteout of everything",
            Craft::on_busybox().entry(Regular, ".wh...", "", b"").entry(Regular, ".wh..", "", b""),
        ),
        (
            "opaque outside",
            Craft::on_busybox().entry(Symlink, "door", outside, b"").entry(Regular, "door/.wh..wh..opq", "", b""),
        ),
    ]
}

#[test]
fn nothing_escapes_from_a_layer() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let outside = lab.mkdir("o");
    lab.write("o/canary", "alive");
    let text = outside.to_str().expect("a text").to_owned();
    for (what, craft) in escapes(&text) {
        lab.write("hostile.tar", craft.end());
        let imported = lab.rbuild(["import", "hostile.tar", "localhost/hostile"]).output();
        let dockerfile = "FROM localhost/hostile\nCOPY Dockerfile /copied\nRUN [\"/bin/busybox\", \"true\"]\n";
        let context = lab.context("context", &[("Dockerfile", dockerfile)]);
        let built = lab.rbuild(["bud", "--no-cache", "-t", "localhost/x"]).arg(context).output();
        for done in [&imported, &built] {
            assert!(done.code < 126 && !done.stderr.contains("panicked"), "{what}: {done}");
        }
        let contained = imported.code == 0 && built.code == 0;
        eprintln!("{what}: {}", if contained { "contained" } else { "refused" });
        untouched(&outside, what);
        if contained {
            // What the image has at that place is its own.
            let stolen = lab.rbuild(["run", "localhost/x", "sh", "-c", "cat /stolen /file 2>/dev/null; true"]).output();
            assert!(!stolen.stdout.contains("alive"), "{what}: {stolen}");
        }
        untouched(&outside, what);
    }
}

#[test]
fn nothing_escapes_from_an_added_archive() {
    let lab = Lab::new();
    let outside = lab.mkdir("o");
    lab.write("o/canary", "alive");
    let text = outside.to_str().expect("a text").to_owned();
    for (what, craft) in escapes(&text) {
        let context = lab.context("context", &[("Dockerfile", "FROM scratch\nADD hostile.tar /in/\n")]);
        lab.write("context/hostile.tar", craft.end());
        let done = lab.rbuild(["bud", "--no-cache", "-t", "localhost/x"]).arg(context).output();
        assert!(done.code < 126 && !done.stderr.contains("panicked"), "{what}: {done}");
        eprintln!("{what}: {}", if done.code == 0 { "contained" } else { "refused" });
        untouched(&outside, what);
    }
}

#[test]
fn nothing_escapes_from_a_context_in_an_archive() {
    let lab = Lab::new();
    let outside = lab.mkdir("o");
    lab.write("o/canary", "alive");
    let text = outside.to_str().expect("a text").to_owned();
    let dockerfile = b"FROM scratch\nCOPY door/canary door/ file /in/\nCOPY . /all/\n";
    for (what, craft) in escapes(&text) {
        let tar = craft.entry(EntryType::Regular, "Dockerfile", "", dockerfile).end();
        for dockerfile in ["Dockerfile", "door/canary", "file"] {
            let done = lab.rbuild(["bud", "--no-cache", "-f", dockerfile, "-"]).input(tar.clone()).output();
            assert!(done.code < 126 && !done.stderr.contains("panicked"), "{what}: {done}");
            assert!(!format!("{}{}", done.stdout, done.stderr).contains("alive"), "{what}: {done}");
            untouched(&outside, what);
        }
        let blobs = lab.program("grep", ["-rl", "alive"]).arg(lab.store().join("blobs")).output();
        assert_eq!(blobs.stdout, "", "{what}: a file from outside is in a layer");
    }
}

#[test]
fn nothing_is_copied_from_outside_the_context() {
    let lab = Lab::new();
    let outside = lab.mkdir("o");
    lab.write("o/canary", "alive");
    let context = lab.context("context", &[("Dockerfile", "")]);
    std::os::unix::fs::symlink(&outside, context.join("door")).expect("a link");
    std::os::unix::fs::symlink(outside.join("canary"), context.join("file")).expect("a link");
    for step in ["COPY door/canary /c", "COPY ../o/canary /c", "COPY door/ /c/", "ADD file /c"] {
        lab.write("context/Dockerfile", format!("FROM scratch\n{step}\n"));
        let done = lab.rbuild(["bud", "--no-cache", "-t", "localhost/x"]).arg(&context).output();
        assert!(done.code < 126, "{step}: {done}");
        if done.code == 0 {
            let layout = lab.path("tmp/layout");
            let _ = fs::remove_dir_all(&layout);
            lab.rbuild(["push", "-D", "localhost/x"]).arg(format!("oci:{}:x", layout.display())).output();
            for blob in fs::read_dir(layout.join("blobs/sha256")).into_iter().flatten().flatten() {
                let bytes = fs::read(blob.path()).expect("a blob");
                let found = bytes.windows(5).any(|w| w == b"alive");
                assert!(!found, "{step}: a file from outside the context is in the image");
            }
        }
    }
}

fn untouched(outside: &Path, what: &str) {
    let names: Vec<_> = fs::read_dir(outside).expect("the outside").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(names, ["canary"], "{what}");
    assert_eq!(fs::read(outside.join("canary")).expect("the canary"), b"alive", "{what}");
}

#[test]
fn devices_are_never_made() {
    let lab = Lab::new();
    let craft = Craft::empty().entry(EntryType::Block, "disk", "", b"").entry(EntryType::Char, "port", "", b"");
    lab.write("base.tar", craft.end());
    lab.rbuild(["import", "base.tar", "localhost/devices"]).ok();
    let context = lab.context(
        "context",
        &[("Dockerfile", "FROM localhost/devices\nCOPY Dockerfile /copied\nCOPY --from=0 / /again/\n")],
    );
    lab.rbuild(["bud", "-t", "localhost/x"]).arg(context).output();
    // Only whiteouts, 0:0, are devices on the builder's side.
    let find = lab.program("find", [lab.store().as_os_str(), "-type".as_ref(), "b".as_ref()]).output();
    assert_eq!(find.stdout, "", "{find}");
    let script = "find \"$1\" -type c -exec stat -c '%t:%T %n' {} + | grep -v '^0:0 ' || true";
    let find = lab.program("sh", ["-c", script, "sh"]).arg(lab.store()).ok();
    assert_eq!(find.stdout, "", "{find}");
}

/// Runs a command that may not have more than 256 MB of anonymous memory.
fn with_little_memory(run: Run) -> Run {
    run.limit_data(256 << 20)
}

#[test]
fn a_sparse_bomb_does_not_fill_the_disk_or_memory() {
    let lab = Lab::new();
    // 10 GB of hole in a GNU sparse entry of no data.
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").expect("a name");
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let gnu = header.as_gnu_mut().expect("a GNU header");
    gnu.realsize.copy_from_slice(b"0116100000000"[1..].try_into().expect("twelve digits"));
    gnu.sparse[0].offset.copy_from_slice(b"116100000000");
    gnu.sparse[0].numbytes.copy_from_slice(b"000000000000");
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.resize(tar.len() + 1024, 0);
    lab.write("bomb.tar", &tar);
    let imported = lab.rbuild(["import", "bomb.tar", "localhost/bomb"]).output();
    let context = lab.context("context", &[("Dockerfile", "FROM localhost/bomb\nCOPY Dockerfile /copied\n")]);
    let built = with_little_memory(lab.rbuild(["bud", "-t", "localhost/x"]).arg(context)).output();
    for done in [imported, built] {
        assert!(done.code < 126 && !done.stderr.contains("panicked"), "{done}");
    }
    let used = lab.program("du", ["-sm"]).arg(lab.store()).output().stdout;
    let used: u64 = used.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(used < 100, "{used} MB in the store");
}

#[test]
fn a_bomb_of_compressed_zeros_is_not_held_in_memory() {
    let lab = Lab::new();
    // A file of 600 MB of zeros, compressed to less than 1 MB, with a length that the header states.
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").expect("a name");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(600 << 20);
    header.set_cksum();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(header.as_bytes()).expect("a header");
    let zeros = vec![0; 1 << 20];
    for _ in 0..600 {
        gzip.write_all(&zeros).expect("zeros");
    }
    gzip.write_all(&[0; 1024]).expect("the end");
    let context = lab.context("context", &[("Dockerfile", "FROM scratch\nADD zeros.tar.gz /\n")]);
    lab.write("context/zeros.tar.gz", gzip.finish().expect("gzip"));
    let done = with_little_memory(lab.rbuild(["bud", "-t", "localhost/x"]).arg(context)).output();
    assert!(done.code < 126 && !done.stderr.contains("panicked"), "{done}");
}

#[test]
fn many_tiny_entries_are_handled_in_bounded_memory() {
    let lab = Lab::new();
    let mut craft = Craft::empty();
    for n in 0..20_000 {
        craft = craft.entry(EntryType::Directory, &format!("d{}/e{n}/", n % 100), "", b"");
    }
    lab.write("many.tar", craft.end());
    lab.rbuild(["import", "many.tar", "localhost/many"]).ok();
    let context = lab.context("context", &[("Dockerfile", "FROM localhost/many\nCOPY Dockerfile /copied\n")]);
    let done = with_little_memory(lab.rbuild(["bud", "-t", "localhost/x"]).arg(context)).output();
    assert!(done.code < 126 && !done.stderr.contains("panicked"), "{done}");
}
