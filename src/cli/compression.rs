//! How layers are compressed on their way out: the flags of buildah and the keys of buildx's `--output`.

use super::{Error, values};
use crate::export::Form;
use crate::oci::{Compression, ManifestFormat};

/// Flags of everything that writes layers.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CompressionArgs {
    /// Compression of layers that are pushed or written to an archive: gzip, zstd, estargz, zstd:chunked, none
    #[arg(long, value_name = "FORMAT")]
    pub compression_format: Option<String>,
    /// Its level: 0 to 9 (gzip, estargz), 0 to 22 (zstd, zstd:chunked)
    #[arg(long, value_name = "LEVEL")]
    pub compression_level: Option<u32>,
    /// Compress layers anew that are compressed otherwise, those of the base, too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub force_compression: Option<bool>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `None`: what the destination takes by default.
    pub how: Option<Compression>,
    /// `None`: its own.
    pub level: Option<u32>,
    /// Whether layers that are compressed otherwise are compressed anew.
    pub force: bool,
}

impl CompressionArgs {
    /// Reads them.
    ///
    /// # Errors
    /// Words and levels that do not exist.
    pub fn lower(&self) -> Result<Wanted, Error> {
        let how = self.compression_format.as_deref().map(compression).transpose()?;
        Wanted::new(how, self.compression_level, self.force_compression == Some(true))
    }
}

impl Wanted {
    /// Puts it together.
    ///
    /// # Errors
    /// A level that the compression does not have.
    pub fn new(how: Option<Compression>, level: Option<u32>, force: bool) -> Result<Wanted, Error> {
        let Some(level) = level else { return Ok(Wanted { how, level: None, force }) };
        let how = how.unwrap_or(Compression::Gzip);
        match how {
            Compression::None => Err(Error::usage_hint("a compression level without compression", "leave it out")),
            _ if level > how.most() => Err(Error::usage_hint(
                format!("compression level {level} of {} does not exist", how.name()),
                format!("use 0 to {}", how.most()),
            )),
            _ => Ok(Wanted { how: Some(how), level: Some(level), force }),
        }
    }

    /// What two places ask for, of which one may ask for nothing.
    ///
    /// # Errors
    /// They contradict each other.
    pub fn and(self, other: Wanted) -> Result<Wanted, Error> {
        match (self, other) {
            (a, b) if a == b || b == Wanted::default() => Ok(a),
            (a, b) if a == Wanted::default() => Ok(b),
            _ => Err(Error::usage_hint(
                "outputs with different compression",
                "all outputs of a build have the same: write the others with `rbuild push`",
            )),
        }
    }

    /// The form of an export.
    pub fn form(self, format: Option<ManifestFormat>) -> Form {
        Form { format, compression: self.how, level: self.level, force: self.force }
    }
}

/// Values of `--compression-format`.
///
/// # Errors
/// Other words.
pub fn compression(text: &str) -> Result<Compression, Error> {
    match text {
        "bzip2" | "xz" => Err(Error::unsupported(format!("compression `{text}`"), Compression::NAMES)),
        _ => Compression::of_name(text)
            .ok_or_else(|| Error::usage_hint(format!("unknown compression `{text}`"), Compression::NAMES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_the_compression() {
        let of = |how: &str, level| Wanted::new(Some(compression(how).unwrap()), Some(level), false);
        for (how, most) in [("gzip", 9), ("estargz", 9), ("zstd", 22), ("zstd:chunked", 22)] {
            assert_eq!(of(how, most).unwrap().level, Some(most));
            assert_eq!(of(how, most + 1).unwrap_err().hint(), Some(format!("use 0 to {most}")));
        }
        assert!(of("none", 1).is_err());
        assert_eq!(Wanted::new(None, Some(3), false).unwrap().how, Some(Compression::Gzip));
        assert!(compression("lz4").is_err() && compression("xz").is_err());
    }

    #[test]
    fn outputs_agree_or_are_refused() {
        let zstd = Wanted { how: Some(Compression::Zstd), ..Wanted::default() };
        let gzip = Wanted { how: Some(Compression::Gzip), ..Wanted::default() };
        assert_eq!(zstd.and(Wanted::default()).unwrap(), zstd);
        assert_eq!(Wanted::default().and(zstd).unwrap(), zstd);
        assert!(zstd.and(gzip).is_err());
    }
}
