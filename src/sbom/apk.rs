//! apk's database.
//!
//! Format: paragraphs of `X:value`, one letter a field; apk-package(5), section of the installed database.

use super::{Ecosystem, Error, Inventory, Package, files};
use crate::archive::merged::Merged;

/// Reads the database.
pub(super) fn read(view: &Merged, found: &mut Inventory) -> Result<(), Error> {
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        // Where `/lib` is a link both are one file.
        let Some(node) = files::find(view, path)? else { continue };
        let mut lines = files::lines(view, &node)?;
        let file = files::display(&node);
        parse(|| lines.next(), &mut |package| found.add(&file, package))?;
        lines.end(&node)?;
        break;
    }
    Ok(())
}

fn parse(
    lines: impl FnMut() -> Option<String>,
    add: &mut dyn FnMut(Package) -> Result<(), Error>,
) -> Result<(), Error> {
    let new = || Package::new(Ecosystem::Apk, "", "");
    files::paragraphs(
        lines,
        new,
        |line| !line.contains(':'),
        field,
        |mut package| {
            package.source = package.source.filter(|s| *s != package.name);
            if package.name.is_empty() { Ok(()) } else { add(package) }
        },
    )
}

fn field(package: &mut Package, line: &str) {
    match line.split_once(':') {
        Some(("P", value)) => package.name = value.into(),
        Some(("V", value)) => package.version = value.into(),
        Some(("A", value)) => package.arch = Some(value.into()),
        Some(("L", value)) => package.licence = Some(value.into()),
        Some(("o", value)) => package.source = Some(value.into()),
        Some(("m", value)) => package.maintainer = Some(value.into()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_packages() {
        let text = "C:Q1x=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\nm:T <t@x>\nF:lib\nR:ld.so\nZ:Q1:x\n\n\
                    P:libcrypto3\nV:3.1.4-r1\nA:x86_64\no:openssl\nL:Apache-2.0\n";
        let mut lines = text.lines().map(str::to_owned);
        let mut all = vec![];
        parse(|| lines.next(), &mut |p| {
            all.push(p);
            Ok(())
        })
        .unwrap();
        let short: Vec<_> = all.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.source.as_deref())).collect();
        assert_eq!(short, [("musl", "1.2.4-r2", None), ("libcrypto3", "3.1.4-r1", Some("openssl"))]);
        assert_eq!(all[0].licence.as_deref(), Some("MIT"));
    }
}
