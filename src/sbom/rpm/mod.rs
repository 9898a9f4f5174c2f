//! rpm's database, in the form that it has today: an SQLite file with one row a package, whose blob is the package's header.
//!
//! The two older forms are named in a note: Berkeley DB (`Packages`) and ndb (`Packages.db`).

mod header;
mod sqlite;

use super::{Ecosystem, Error, Inventory, Package, files};
use crate::archive::Error as TreeError;
use crate::archive::merged::Merged;
use header::Header;

/// Where distributions have the database.
const PLACES: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];

/// Reads the database.
pub(super) fn read(view: &Merged, found: &mut Inventory) -> Result<(), Error> {
    let mut seen = vec![];
    for place in PLACES {
        // One of them may be a link to another.
        let mut fresh = |name: &str| -> Result<_, Error> {
            let node = files::find(view, &format!("{place}/{name}"))?.filter(|n| !seen.contains(&n.path));
            seen.extend(node.iter().map(|n| n.path.clone()));
            Ok(node)
        };
        for (old, form) in [("Packages", "Berkeley DB"), ("Packages.db", "ndb")] {
            if let Some(node) = fresh(old)?.filter(|n| n.meta.size > 0) {
                let text = "is not read, so rpm packages are missing: turn it into SQLite in the image, with \
                            `rpmdb --rebuilddb --define '_db_backend sqlite'`";
                found.note(format!("rpm's database `{}` in the format {form} {text}", files::display(&node)));
            }
        }
        if let Some(log) = fresh("rpmdb.sqlite-wal")?.filter(|n| n.meta.size > 0) {
            let text =
                "has changes that are not in the database yet, and are not read: run `rpmdb --verifydb` in the image";
            found.note(format!("`{}` {text}", files::display(&log)));
        }
        if let Some(node) = fresh("rpmdb.sqlite")? {
            let name = files::display(&node);
            let file = view.open_file(&node)?;
            match sqlite::rows(file, node.meta.size, "Packages", &mut |blob| match package(blob) {
                Some(package) => found.add(&name, package),
                None => Ok(()),
            }) {
                Ok(()) => {}
                Err(sqlite::Failure::Consumer(e)) => return Err(e),
                Err(sqlite::Failure::Read(e)) => return Err(TreeError::file("read", &node.path)(e).into()),
                Err(sqlite::Failure::Damaged(why)) => {
                    found.note(format!("rpm's database `{name}` cannot be read to its end: {why}"));
                }
            }
        }
    }
    Ok(())
}

/// The package of a header; `None` for the keys that rpm keeps among packages, and for damage.
fn package(blob: &[u8]) -> Option<Package> {
    let header = Header::parse(blob)?;
    let name = header.text(header::NAME)?;
    if name == "gpg-pubkey" {
        return None;
    }
    let (version, release) = (header.text(header::VERSION)?, header.text(header::RELEASE));
    let mut full = header.number(header::EPOCH).map(|e| format!("{e}:")).unwrap_or_default();
    full.push_str(&version);
    full.extend(release.iter().flat_map(|r| ["-", r.as_str()]));
    let source = header.text(header::SOURCE_RPM).and_then(|file| source_name(&file));
    Some(Package {
        arch: header.text(header::ARCH),
        source: source.filter(|s| *s != name),
        licence: header.text(header::LICENSE),
        maintainer: header.text(header::VENDOR),
        ..Package::new(Ecosystem::Rpm, name, full)
    })
}

/// `bash` of `bash-5.2.15-3.fc38.src.rpm`.
fn source_name(file: &str) -> Option<String> {
    let mut parts = file.rsplitn(3, '-');
    let (_release, _version) = (parts.next()?, parts.next()?);
    parts.next().map(str::to_owned)
}

#[cfg(test)]
mod tests;
