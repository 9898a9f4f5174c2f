//! Platforms: `os/architecture[/variant]`, normalised the way containerd does it.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a text names no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid platform `{0}`: expected `os/arch`, `os/arch/variant` or an architecture")]
pub struct PlatformError(pub String);

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
        let bad = || PlatformError(s.to_owned());
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
                let one = word(one)?;
                match one.as_str() {
                    "linux" | "windows" | "darwin" | "freebsd" => p.os = one,
                    _ => p.architecture = one,
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
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want, "{text}");
        }
        assert!("".parse::<Platform>().is_err());
        assert!("a/b/c/d".parse::<Platform>().is_err());
    }
}
