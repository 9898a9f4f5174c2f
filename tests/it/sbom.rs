//! `rbuild sbom`: what an image holds, compared with what its own tools say, and documents that the libraries of their
//! formats accept.

use crate::harness::{Lab, cannot_run, require};
use std::path::Path;
use std::process::Command;

/// What `tests/sbom/check.py` lists; `None` where the libraries are missing, with the reason printed.
pub fn checked(format: &str, file: &Path) -> Option<Vec<String>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sbom/check.py");
    let out = Command::new("python3").arg(script).arg(format).arg(file).output();
    let Ok(out) = out else {
        cannot_run("`python3` is not installed");
        return None;
    };
    if out.status.code() == Some(2) {
        cannot_run("PyPI's cyclonedx-python-lib[json-validation] and spdx-tools are not here");
        return None;
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{format}: {text}{}", String::from_utf8_lossy(&out.stderr));
    Some(text.lines().map(str::to_owned).collect())
}

/// The packages that this machine's dpkg knows and that are there: `deb NAME VERSION ARCH`, sorted.
fn dpkg_query() -> Vec<String> {
    let form = "${db:Status-Status} deb ${Package} ${Version} ${Architecture}\n";
    let out = Command::new("dpkg-query").args(["-W", "-f", form]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let mut all: Vec<String> = text.lines().filter_map(|l| l.strip_prefix("installed ")).map(str::to_owned).collect();
    all.sort();
    assert!(all.len() > 50);
    all
}

/// Makes an rpm database with Python's `sqlite3`: two packages, the second with an epoch.
const RPM: &str = r#"
import sqlite3, struct, sys
def header(texts, epoch):
    index, data = b"", b""
    for tag, kind, value in [(1003, 4, struct.pack(">I", epoch))] + [(t, 6, v.encode() + b"\0") for t, v in texts.items()]:
        index += struct.pack(">IIII", tag, kind, len(data), 1)
        data += value
    return struct.pack(">II", len(index) // 16, len(data)) + index + data
db = sqlite3.connect(sys.argv[1])
db.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
for name, epoch in (("bash", 0), ("shadow-utils", 2)):
    texts = {1000: name, 1001: "5.2", 1002: "1.fc38", 1014: "GPLv3+ and MIT", 1022: "x86_64", 1011: "Fedora Project"}
    db.execute("INSERT INTO Packages (blob) VALUES (?)", (header(texts, epoch),))
db.commit()
"#;

#[test]
fn packages_are_those_that_the_tools_of_the_image_list() {
    require!("dpkg-query", "python3");
    let lab = Lab::new();
    let context = lab.context(
        "context",
        &[
            ("Dockerfile", "FROM scratch\nCOPY root /\nFROM scratch AS other\nCOPY other /\n"),
            ("root/etc/os-release", &std::fs::read_to_string("/etc/os-release").unwrap()),
            ("root/var/lib/dpkg/status", &std::fs::read_to_string("/var/lib/dpkg/status").unwrap()),
            ("other/etc/os-release", "ID=fedora\nVERSION_ID=38\n"),
            ("other/usr/lib/apk/db/installed", "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nm:T (x) <t@x.org>\n\n"),
            ("other/app/Cargo.lock", "version = 4\n[[package]]\nname = \"serde\"\nversion = \"1.0.200\"\n"),
            ("other/app/go.mod", "module x\nrequire example.org/A v1.2.3\n"),
            ("other/app/node_modules/@s/n/package.json", r#"{"name":"@s/n","version":"4.0.0","license":"(A OR B)"}"#),
            ("other/lib/Py_X-3.dist-info/METADATA", "Name: Py_X\nVersion: 3\nLicense: MIT AND ISC\n\n"),
        ],
    );
    let rpm = context.join("other/usr/lib/sysimage/rpm/rpmdb.sqlite");
    lab.mkdir("context/other/usr/lib/sysimage/rpm");
    lab.program("python3", ["-c", RPM]).arg(&rpm).ok();
    lab.rbuild(["bud", "-t", "other", "context"]).ok();
    lab.rbuild(["bud", "-t", "debian", "--target", "0", "context"]).ok();
    let other = [
        "apk musl 1.2.4-r2 x86_64",
        "cargo serde 1.0.200",
        "golang example.org/A v1.2.3",
        "npm @s/n 4.0.0",
        "pypi py-x 3",
        "rpm bash 0:5.2-1.fc38 x86_64",
        "rpm shadow-utils 2:5.2-1.fc38 x86_64",
    ];
    for format in ["spdx", "cyclonedx"] {
        for (image, expected) in [("debian", dpkg_query()), ("other", other.map(str::to_owned).to_vec())] {
            let file = lab.path(format!("{image}.{format}.json"));
            let name = file.to_str().unwrap();
            let done = lab.rbuild(["sbom", "--format", format, "--output", name, image]).ok();
            assert_eq!(done.stderr, "");
            let Some(listed) = checked(format, &file) else { return };
            assert_eq!(listed, expected, "{format} of {image}");
            // The same to standard output, byte for byte.
            let printed = lab.rbuild(["sbom", "-f", format, image]).ok().stdout;
            assert_eq!(printed, std::fs::read_to_string(&file).unwrap());
        }
    }
}

#[test]
fn times_are_the_images_or_those_that_were_asked_for() {
    let lab = Lab::new();
    lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    lab.rbuild(["bud", "--timestamp", "1600000000", "-t", "img", "context"]).ok();
    let created = |run: crate::harness::Run| {
        let document: serde_json::Value = serde_json::from_str(&run.ok().stdout).unwrap();
        document["creationInfo"]["created"].as_str().unwrap().to_owned()
    };
    assert_eq!(created(lab.rbuild(["sbom", "img"])), "2020-09-13T12:26:40Z");
    let asked = lab.rbuild(["sbom", "img"]).env("SOURCE_DATE_EPOCH", "1700000000");
    assert_eq!(created(asked), "2023-11-14T22:13:20Z");
    let bad = lab.rbuild(["sbom", "img"]).env("SOURCE_DATE_EPOCH", "soon").fails();
    assert!(bad.stderr.contains("SOURCE_DATE_EPOCH"), "{bad}");
    let bad = lab.rbuild(["sbom", "--format", "swid", "img"]).fails();
    assert!(bad.stderr.contains("expected `spdx` or `cyclonedx`"), "{bad}");
}

#[test]
fn what_is_not_read_is_said() {
    let lab = Lab::new();
    let files =
        [("Dockerfile", "FROM scratch\nCOPY . /\n"), ("var/lib/rpm/Packages.db", "RpmP"), ("a/composer.lock", "{")];
    lab.context("context", &files);
    lab.rbuild(["bud", "-t", "img", "context"]).ok();
    let done = lab.rbuild(["sbom", "img"]).ok();
    for part in ["`var/lib/rpm/Packages.db` in the format ndb is not read", "`a/composer.lock` is not read"] {
        assert!(done.stderr.contains(&format!("warning: {part}")) || done.stderr.contains(part), "{done}");
    }
}
