//! What both kinds of documents have in common: what they are about, ids, times.

use super::{Ecosystem, Inventory, Package, cyclonedx, spdx};
use crate::oci::{Digest, Hashing};
use serde::{Serialize, Serializer};
use std::io::{self, Write};

/// A kind of document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// SPDX 2.3, JSON.
    #[default]
    Spdx,
    /// CycloneDX 1.6, JSON.
    CycloneDx,
}

impl Format {
    /// What in-toto statements call such a document.
    pub fn predicate_type(self) -> &'static str {
        match self {
            Format::Spdx => "https://spdx.dev/Document",
            Format::CycloneDx => "https://cyclonedx.org/bom",
        }
    }
}

/// The image that a document is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What it is called, as it was asked for.
    pub name: String,
    /// Its id: the digest of its config, which does not change on the way to a registry.
    pub id: Digest,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

impl Subject {
    /// The time in the form that documents have, RFC 3339 in whole seconds.
    pub(super) fn time(&self) -> String {
        let time = jiff::Timestamp::from_second(self.created).unwrap_or_default();
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// A UUID that belongs to the image, its name, and the packages of a document in `format`.
    pub(super) fn uuid(&self, format: &str, inventory: &Inventory) -> String {
        let mut hash = Hashing::new(io::sink());
        let head = format!("{format}\n{}\n{}\n{}\n", self.name, self.id, self.created);
        let ids = inventory.packages.keys().map(id);
        for text in std::iter::once(head).chain(ids) {
            // A sink takes everything.
            let _ = hash.write_all(text.as_bytes());
        }
        let (_, digest, _) = hash.finish();
        let hex = digest.hex();
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        // Version 8: made of what the maker likes. The variant is one of 8, 9, a, b.
        format!("{}-{}-8{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
    }
}

/// Writes an inventory as a document, in one line.
///
/// # Errors
/// Where `out` fails.
pub fn write(format: Format, subject: &Subject, inventory: &Inventory, mut out: impl Write) -> io::Result<()> {
    match format {
        Format::Spdx => spdx::write(subject, inventory, &mut out)?,
        Format::CycloneDx => cyclonedx::write(subject, inventory, &mut out)?,
    }
    out.write_all(b"\n")
}

/// Name and version of the program.
pub(super) const TOOL: (&str, &str) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// An id for a package that only it has in a document: letters, digits, `.` and `-`.
pub(super) fn id(package: &Package) -> String {
    const LONGEST_NAME: usize = 64;
    let kind = match package.ecosystem {
        Ecosystem::Deb => "deb",
        Ecosystem::Apk => "apk",
        Ecosystem::Rpm => "rpm",
        Ecosystem::PyPi => "pypi",
        Ecosystem::Npm => "npm",
        Ecosystem::Cargo => "cargo",
        Ecosystem::Golang => "golang",
        Ecosystem::Gem => "gem",
        Ecosystem::Composer => "composer",
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = package.name.chars().take(LONGEST_NAME).map(plain).collect();
    let Package { ecosystem: _, name: full, version, arch, source, licence, maintainer } = package;
    let rest = [arch, source, licence, maintainer].map(|o| o.as_deref().unwrap_or_default());
    let whole = format!("{full}\0{version}\0{}", rest.join("\0"));
    format!("{kind}-{name}-{}", Digest::of(&whole).hex().get(..20).unwrap_or_default())
}

/// A list that is made while it is written.
pub(super) struct Each<F>(pub F);

impl<F, I> Serialize for Each<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}
