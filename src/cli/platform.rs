//! The flags that say for which platform an image is.

use super::Error;
use crate::oci::{Platform, PlatformError};

/// `--platform`, or its parts.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PlatformArgs {
    /// Platform of the image: `linux/amd64`; `bud` takes several, separated by commas
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Vec<String>,
    /// Operating system of the image
    #[arg(long)]
    pub os: Option<String>,
    /// Architecture of the image
    #[arg(long)]
    pub arch: Option<String>,
    /// Variant of the architecture
    #[arg(long)]
    pub variant: Option<String>,
}

impl PlatformArgs {
    /// What a command line with `--platform` alone says.
    pub fn whole(platform: impl IntoIterator<Item = String>) -> PlatformArgs {
        PlatformArgs { platform: platform.into_iter().collect(), ..PlatformArgs::default() }
    }

    /// Whether a flag names a platform, or part of one.
    pub fn is_explicit(&self) -> bool {
        self.listed().next().is_some() || self.has_parts()
    }

    /// The platforms that the flags name, at least one; what they leave out is this machine's.
    ///
    /// # Errors
    /// A malformed platform, or a whole one beside parts.
    pub fn platforms(&self) -> Result<Vec<Platform>, Error> {
        let listed: Vec<String> = self.listed().map(str::to_owned).collect();
        if listed.len() < 2 {
            return Ok(vec![self.platform()?]);
        }
        listed.into_iter().map(|one| PlatformArgs { platform: vec![one], ..self.clone() }.platform()).collect()
    }

    /// The platform that the flags name together; what they leave out is this machine's.
    ///
    /// # Errors
    /// A malformed platform, several of them, or a whole one beside parts.
    pub fn platform(&self) -> Result<Platform, Error> {
        let mut listed = self.listed();
        let whole = listed.next();
        if listed.next().is_some() {
            return Err(Error::unsupported("`--platform` with several platforms", "name one of them"));
        }
        if whole.is_some() && self.has_parts() {
            return Err(Error::usage("invalid --platform may not be used with --os, --arch, or --variant"));
        }
        let mut platform = match whole {
            Some(text) => text.parse().map_err(|e: PlatformError| Error::usage(e.to_string()))?,
            None => Platform::host(),
        };
        for part in [&self.os, &self.arch, &self.variant].into_iter().flatten() {
            // As parts of a pair, these are any words.
            if format!("linux/{part}").parse::<Platform>().is_err() || part.contains('/') {
                return Err(Error::usage(format!("invalid platform: `{part}` is not one word")));
            }
        }
        if let Some(os) = &self.os {
            platform.os.clone_from(os);
        }
        if let Some(arch) = &self.arch {
            // The variant of another architecture says nothing about this one.
            (platform.architecture, platform.variant) = (arch.clone(), None);
        }
        platform.variant = self.variant.clone().or(platform.variant);
        Ok(platform.normalized())
    }

    fn listed(&self) -> impl Iterator<Item = &str> {
        self.platform.iter().flat_map(|p| p.split(',')).filter(|p| !p.is_empty())
    }

    fn has_parts(&self) -> bool {
        self.os.is_some() || self.arch.is_some() || self.variant.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_comes_from_one_flag_or_from_parts() {
        let whole = |p: &str| PlatformArgs::whole([p.to_owned()]);
        let arm = PlatformArgs { arch: Some("arm".into()), ..PlatformArgs::default() };
        let none = PlatformArgs::default();
        assert_eq!((none.platform().unwrap(), none.is_explicit()), (Platform::host(), false));
        assert!(whole("linux/amd64").is_explicit() && arm.is_explicit() && !whole("").is_explicit());
        assert_eq!(whole("linux/arm64/v8").platform().unwrap().to_string(), "linux/arm64");
        let v7 = PlatformArgs { variant: Some("v7".into()), ..arm.clone() };
        assert_eq!(v7.platform().unwrap().to_string(), "linux/arm/v7");
        let other = PlatformArgs { os: Some("plan9".into()), ..arm.clone() };
        assert!(other.platform().unwrap().to_string().starts_with("plan9/arm"));
        let several = whole("linux/amd64,linux/arm64/v8");
        assert!(several.platform().is_err());
        let texts: Vec<String> = several.platforms().unwrap().iter().map(Platform::to_string).collect();
        assert_eq!(texts, ["linux/amd64", "linux/arm64"]);
        assert_eq!(none.platforms().unwrap(), [Platform::host()]);
        assert!(PlatformArgs { arch: Some("arm".into()), ..several }.platforms().is_err());
        assert!(whole("foo").platform().unwrap_err().to_string().contains("unknown operating system or architecture"));
        assert!(PlatformArgs { arch: Some("a/b".into()), ..PlatformArgs::default() }.platform().is_err());
        assert!(PlatformArgs { platform: vec!["linux/amd64".into()], ..arm }.platform().is_err());
    }
}
