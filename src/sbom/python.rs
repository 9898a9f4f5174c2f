//! What Python's installers leave: `*.dist-info/METADATA` and `*.egg-info`.
//!
//! Format: <https://packaging.python.org/en/latest/specifications/core-metadata/>: header fields up to the first empty line.

use super::{Ecosystem, Package};

/// Whether a path is such a file.
pub(super) fn is_metadata(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let (name, parent) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match name {
        "METADATA" => parent.ends_with(".dist-info"),
        "PKG-INFO" => parent.ends_with(".egg-info"),
        _ => name.ends_with(".egg-info"),
    }
}

/// The package that the header describes.
pub(super) fn parse(lines: &mut dyn FnMut() -> Option<String>) -> Option<Package> {
    let mut package = Package::new(Ecosystem::PyPi, "", "");
    while let Some(line) = lines() {
        if line.is_empty() {
            break;
        }
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key.to_ascii_lowercase().as_str() {
            "name" => package.name = value.into(),
            "version" => package.version = value.into(),
            // An expression says more than the free text of old.
            "license-expression" => package.licence = Some(value.into()),
            "license" if package.licence.is_none() && value != "UNKNOWN" => package.licence = Some(value.into()),
            "author" if package.maintainer.is_none() && value != "UNKNOWN" => package.maintainer = Some(value.into()),
            _ => {}
        }
    }
    (!package.name.is_empty()).then_some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_header_counts() {
        let text =
            "Metadata-Version: 2.1\nName: Some_Thing\nVersion: 1.0\nLicense: MIT\nAuthor: UNKNOWN\n\nName: not\n";
        let mut lines = text.lines().map(str::to_owned);
        let package = parse(&mut || lines.next()).unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("Some_Thing", "1.0"));
        assert_eq!((package.licence.as_deref(), package.maintainer), (Some("MIT"), None));
        for (path, good) in [
            ("usr/lib/x-1.dist-info/METADATA", true),
            ("usr/lib/x.egg-info/PKG-INFO", true),
            ("usr/lib/x.egg-info", true),
            ("usr/METADATA", false),
            ("PKG-INFO", false),
        ] {
            assert_eq!(is_metadata(path), good, "{path}");
        }
    }
}
