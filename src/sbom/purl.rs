//! Package URLs: one name for a package in every tool.
//!
//! Format: <https://github.com/package-url/purl-spec>.

use super::{Ecosystem, Package, System};

/// The package URL of a package in an image of `system`.
pub(super) fn purl(package: &Package, system: Option<&System>) -> String {
    let (kind, fallback) = match package.ecosystem {
        Ecosystem::Deb => ("deb", "debian"),
        Ecosystem::Apk => ("apk", "alpine"),
        Ecosystem::Rpm => ("rpm", ""),
        Ecosystem::PyPi => ("pypi", ""),
        Ecosystem::Npm => ("npm", ""),
        Ecosystem::Cargo => ("cargo", ""),
        Ecosystem::Golang => ("golang", ""),
        Ecosystem::Gem => ("gem", ""),
        Ecosystem::Composer => ("composer", ""),
    };
    let distributed = matches!(package.ecosystem, Ecosystem::Deb | Ecosystem::Apk | Ecosystem::Rpm);
    let mut url = format!("pkg:{kind}");
    if distributed {
        let namespace = system.map_or(fallback, |s| s.id.as_str());
        if !namespace.is_empty() {
            url.push('/');
            encode(&namespace.to_lowercase(), &mut url);
        }
    }
    let name = match package.ecosystem {
        Ecosystem::PyPi => package.name.to_lowercase().replace(['_', '.'], "-"),
        Ecosystem::Deb | Ecosystem::Apk | Ecosystem::Composer => package.name.to_lowercase(),
        _ => package.name.clone(),
    };
    for part in name.split('/').filter(|p| !p.is_empty()) {
        url.push('/');
        encode(part, &mut url);
    }
    let epoch = package.version.split_once(':').filter(|_| package.ecosystem == Ecosystem::Rpm);
    let version = epoch.map_or(package.version.as_str(), |(_, rest)| rest);
    if !version.is_empty() {
        url.push('@');
        encode(version, &mut url);
    }
    let distro = system.filter(|_| distributed).map(|s| match &s.version {
        Some(version) => format!("{}-{version}", s.id),
        None => s.id.clone(),
    });
    // In the order of their names, as the format has it.
    let qualifiers = [
        ("arch", package.arch.as_deref()),
        ("distro", distro.as_deref()),
        ("epoch", epoch.map(|(epoch, _)| epoch)),
        ("upstream", package.source.as_deref()),
    ];
    let mut before = '?';
    for (key, value) in qualifiers.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        url.push(before);
        url.push_str(key);
        url.push('=');
        encode(value, &mut url);
        before = '&';
    }
    url
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_as_the_format_has_them() {
        let debian = System { id: "debian".into(), version: Some("12".into()), name: None };
        let of = |ecosystem, name: &str, version: &str| Package::new(ecosystem, name, version);
        let libc = Package {
            arch: Some("amd64".into()),
            source: Some("glibc".into()),
            ..of(Ecosystem::Deb, "libc6", "1:2.36-9+deb12u10")
        };
        let rpm = Package { arch: Some("x86_64".into()), ..of(Ecosystem::Rpm, "bash", "1:5.2-3.fc38") };
        for (package, system, expected) in [
            (
                &libc,
                Some(&debian),
                "pkg:deb/debian/libc6@1:2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12&upstream=glibc",
            ),
            (&rpm, None, "pkg:rpm/bash@5.2-3.fc38?arch=x86_64&epoch=1"),
            (&of(Ecosystem::Npm, "@angular/core", "1.0"), Some(&debian), "pkg:npm/%40angular/core@1.0"),
            (&of(Ecosystem::PyPi, "Some_Thing", "1.0"), None, "pkg:pypi/some-thing@1.0"),
            (&of(Ecosystem::Golang, "example.org/A/b", ""), None, "pkg:golang/example.org/A/b"),
        ] {
            assert_eq!(purl(package, system), expected);
        }
    }
}
