//! Platforms: `os/architecture[/variant]`, normalised the way containerd does it.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a text names no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlatformError {
    /// It has too many parts, an empty one, or characters that no name has.
    #[error("invalid platform `{0}`: expected `os/arch`, `os/arch/variant` or an architecture")]
    Malformed(String),
    /// A word alone that is neither an operating system nor an architecture. In pairs any word will do.
    #[error("invalid platform `{0}`: unknown operating system or architecture; expected `os/arch`")]
    Unknown(String),
}

/// The operating systems that Go knows.
const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

/// The architectures that Go knows.
const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// The machine that an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// CPU architecture in Go's spelling: `amd64`, `arm64`, …
    pub architecture: String,
    /// Operating system in Go's spelling: `linux`.
    pub os: String,
    /// Operating-system version (Windows images).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Operating-system features that the image needs.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture: `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// A Linux platform of this architecture.
    pub fn linux(architecture: &str) -> Self {
        Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            os_version: None,
            os_features: vec![],
            variant: None,
        }
    }

    /// The platform that this program was built for.
    pub fn host() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Platform::linux(arch)
    }

    /// Whether an image of platform `other` serves when this one is asked for. A variant that either side leaves out
    /// matches any.
    pub fn accepts(&self, other: &Platform) -> bool {
        let (a, b) = (self.clone().normalized(), other.clone().normalized());
        a.os == b.os
            && a.architecture == b.architecture
            && (a.variant == b.variant || a.variant.is_none() || b.variant.is_none())
    }

    /// The same platform in canonical spelling: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
    pub fn normalized(mut self) -> Self {
        self.os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".into(),
            other => other.to_owned(),
        };
        let variant = self.variant.take().map(|v| v.to_ascii_lowercase());
        let (arch, variant) = match (self.architecture.to_ascii_lowercase().as_str(), variant.as_deref()) {
            ("i386" | "386" | "i686", _) => ("386".to_owned(), None),
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64".to_owned(), None),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64".to_owned(), v),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64".to_owned(), None),
            ("aarch64" | "arm64", v) => ("arm64".to_owned(), v),
            ("armhf", _) => ("arm".to_owned(), Some("v7")),
            ("armel", _) => ("arm".to_owned(), Some("v6")),
            ("arm", None | Some("7")) => ("arm".to_owned(), Some("v7")),
            ("arm", Some("5")) => ("arm".to_owned(), Some("v5")),
            ("arm", Some("6")) => ("arm".to_owned(), Some("v6")),
            ("arm", Some("8")) => ("arm".to_owned(), Some("v8")),
            (arch, v) => (arch.to_owned(), v),
        };
        self.variant = variant.filter(|v| !v.is_empty()).map(str::to_owned);
        self.architecture = arch;
        self
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(s: &str) -> Result<Self, PlatformError> {
        let bad = || PlatformError::Malformed(s.to_owned());
        let word = |w: &str| {
            let ok = !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
            ok.then(|| w.to_owned()).ok_or_else(bad)
        };
        if s == "local" {
            return Ok(Platform::host());
        }
        let parts: Vec<&str> = s.split('/').collect();
        let mut p = Platform::host();
        match parts.as_slice() {
            [one] => {
                // A word alone may be the one or the other, in any spelling.
                let named = Platform { os: word(one)?, architecture: word(one)?, ..Platform::host() }.normalized();
                if SYSTEMS.contains(&named.os.as_str()) {
                    p.os = named.os;
                } else if ARCHITECTURES.contains(&named.architecture.as_str()) {
                    (p.architecture, p.variant) = (named.architecture, named.variant);
                } else {
                    return Err(PlatformError::Unknown(s.to_owned()));
                }
            }
            [os, arch] => (p.os, p.architecture) = (word(os)?, word(arch)?),
            [os, arch, variant] => {
                (p.os, p.architecture, p.variant) = (word(os)?, word(arch)?, Some(word(variant)?));
            }
            _ => return Err(bad()),
        }
        Ok(p.normalized())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(v) => write!(f, "/{v}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_normalised() {
        for (text, want) in [
            ("linux/x86_64", "linux/amd64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("arm/v6", "arm/v6"),
            ("armhf", "linux/arm/v7"),
            ("armel", "linux/arm/v6"),
            ("X86_64", "linux/amd64"),
            ("riscv64", "linux/riscv64"),
            ("foo/bar", "foo/bar"),
            ("linux/foo/v1", "linux/foo/v1"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want, "{text}");
        }
        for bad in ["", "a/b/c/d", "linux/", "/amd64", "li nux/amd64", "linux/amd64,linux/arm64"] {
            assert_eq!(bad.parse::<Platform>(), Err(PlatformError::Malformed(bad.into())), "{bad}");
        }
    }

    #[test]
    fn a_word_alone_is_a_system_or_an_architecture() {
        let host = Platform::host().architecture;
        for (text, os) in [("windows", "windows"), ("macos", "darwin"), ("FreeBSD", "freebsd"), ("linux", "linux")] {
            let platform: Platform = text.parse().unwrap();
            assert_eq!((platform.os.as_str(), &platform.architecture), (os, &host), "{text}");
        }
        for unknown in ["foo", "all", "linux64", "v7"] {
            assert_eq!(unknown.parse::<Platform>(), Err(PlatformError::Unknown(unknown.into())), "{unknown}");
        }
    }
}
