//! dpkg's database: `status`, and `status.d` of images that are put together from unpacked packages.
//!
//! Format: paragraphs of `Field: value`, deb-control(5). A package counts when it is there: what was removed and left its
//! configuration behind is not.

use super::{Ecosystem, Error, Inventory, Package, files};
use crate::archive::merged::Merged;
use std::path::Path;

/// Reads the database.
pub(super) fn read(view: &Merged, found: &mut Inventory) -> Result<(), Error> {
    const STATUS: &str = "var/lib/dpkg/status";
    const PARTS: &str = "var/lib/dpkg/status.d";
    if let Some(node) = files::find(view, STATUS)? {
        let mut lines = files::lines(view, &node)?;
        parse(|| lines.next(), &mut |package| found.add(STATUS, package))?;
        lines.end(&node)?;
    }
    let parts = view.resolve(Path::new(PARTS), true).ok().filter(|at| at.node.as_ref().is_some_and(|n| n.is_dir()));
    for (name, node) in parts.map(|at| view.read_dir(&at.path)).transpose()?.unwrap_or_default() {
        if node.is_file() && !name.as_encoded_bytes().ends_with(b".md5sums") {
            let mut lines = files::lines(view, &node)?;
            let file = files::display(&node);
            parse(|| lines.next(), &mut |package| found.add(&file, package))?;
            lines.end(&node)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Paragraph {
    name: String,
    version: String,
    arch: String,
    /// The third word of `Status`; without one, the package is there.
    state: Option<String>,
    source: Option<String>,
    maintainer: Option<String>,
}

impl Paragraph {
    fn field(&mut self, line: &str) {
        // The rest of a long field.
        if line.starts_with([' ', '\t']) {
            return;
        }
        let Some((key, value)) = line.split_once(':') else { return };
        let value = value.trim();
        match key.to_ascii_lowercase().as_str() {
            "package" => self.name = value.into(),
            "version" => self.version = value.into(),
            "architecture" => self.arch = value.into(),
            "status" => self.state = value.split_whitespace().nth(2).map(str::to_owned),
            // `Source: glibc (2.36-9)` where the version differs.
            "source" => self.source = value.split_whitespace().next().map(str::to_owned),
            "maintainer" => self.maintainer = Some(value.into()),
            _ => {}
        }
    }

    fn package(self) -> Option<Package> {
        let absent = matches!(self.state.as_deref(), Some("not-installed" | "config-files"));
        (!absent && !self.name.is_empty()).then(|| Package {
            arch: Some(self.arch),
            source: self.source.filter(|s| *s != self.name),
            maintainer: self.maintainer,
            ..Package::new(Ecosystem::Deb, self.name, self.version)
        })
    }
}

fn parse(
    lines: impl FnMut() -> Option<String>,
    add: &mut dyn FnMut(Package) -> Result<(), Error>,
) -> Result<(), Error> {
    let is_end = |line: &str| line.trim().is_empty();
    files::paragraphs(lines, Paragraph::default, is_end, Paragraph::field, |paragraph| match paragraph.package() {
        Some(package) => add(package),
        None => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_listed() {
        let text = "Package: a\nStatus: install ok installed\nSource: src (1)\nMaintainer: M <m@x>\n\
                    Architecture: amd64\nVersion: 1:2-3\nDescription: x\n Package: no\n\n\
                    Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\n\
                    Package: never\nStatus: unknown ok not-installed\n\n\
                    Package: half\nStatus: install reinstreq half-installed\nVersion: 4\nArchitecture: all\n\n\
                    package: bare\nversion: 5\nsource: bare";
        let mut lines = text.lines().map(str::to_owned);
        let mut all = vec![];
        parse(|| lines.next(), &mut |p| {
            all.push(p);
            Ok(())
        })
        .unwrap();
        let short: Vec<_> = all.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.source.as_deref())).collect();
        assert_eq!(short, [("a", "1:2-3", Some("src")), ("half", "4", None), ("bare", "5", None)]);
        assert_eq!(all[0].arch.as_deref(), Some("amd64"));
        assert_eq!(all[0].maintainer.as_deref(), Some("M <m@x>"));
    }
}
