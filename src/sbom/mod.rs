//! What software an image holds: a bill of materials, read from the files of its layers without running anything.
//!
//! ```text
//! Merged ─► inventory: package databases (dpkg, apk, rpm), then every directory for what languages leave behind
//!              │
//!              └─► Inventory: packages, each once, with the files that name it ─► write: SPDX 2.3 or CycloneDX 1.6
//! ```
//!
//! An image is somebody else's input. So files are read up to a bound and lines as well, nothing recurses on what the
//! image says, and a number of packages that no image has is an error. What cannot be read is never left out in silence:
//! it becomes a note, which the caller shows.
//!
//! The document depends on nothing but the image, the name that it is asked for by, and the version of rbuild: packages are
//! sorted, ids are made of digests, the time is the image's.

mod apk;
mod cyclonedx;
mod debian;
mod document;
mod error;
mod files;
mod go;
mod licence;
mod locks;
mod node;
mod purl;
mod python;
mod rpm;
mod spdx;
mod system;
mod walk;

pub use document::{Format, Subject, write};
pub use error::Error;
pub use system::System;

use crate::archive::merged::Merged;
use std::collections::{BTreeMap, BTreeSet};

/// Most packages that an inventory holds; each file that names one counts.
const MAX_FOUND: usize = 200_000;
/// Longest name, version or other text of a package that is kept, in bytes.
const MAX_TEXT: usize = 4096;

/// Who packed a package, and by which rules its versions are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ecosystem {
    /// Debian and what comes from it.
    Deb,
    /// Alpine and what comes from it.
    Apk,
    /// Red Hat, SUSE and kin.
    Rpm,
    /// Python.
    PyPi,
    /// JavaScript.
    Npm,
    /// Rust.
    Cargo,
    /// Go.
    Golang,
    /// Ruby.
    Gem,
    /// PHP.
    Composer,
}

/// A package as its database describes it. The version is that of the database, with epoch and release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Who packed it.
    pub ecosystem: Ecosystem,
    /// Its name, with the namespace that the ecosystem writes into names (`@scope/name`, `vendor/name`).
    pub name: String,
    /// Its version; empty where it is not known.
    pub version: String,
    /// Processor that it is for, in the words of the ecosystem.
    pub arch: Option<String>,
    /// The source package that it was built from, where that has another name.
    pub source: Option<String>,
    /// What the package says of its licence, as it says it.
    pub licence: Option<String>,
    /// Who maintains it, as the package says it: `Name <address>`.
    pub maintainer: Option<String>,
}

impl Package {
    /// A package of which no more is known.
    fn new(ecosystem: Ecosystem, name: impl Into<String>, version: impl Into<String>) -> Package {
        let (name, version) = (name.into(), version.into());
        Package { ecosystem, name, version, arch: None, source: None, licence: None, maintainer: None }
    }
}

/// What was found in an image.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The distribution, where the image says it.
    pub system: Option<System>,
    /// The packages, each with the files that name it (paths from the root, without a leading `/`).
    pub packages: BTreeMap<Package, BTreeSet<String>>,
    /// What is in the image and could not be read, for people.
    pub notes: Vec<String>,
    found: usize,
}

impl Inventory {
    /// Adds a package that `file` names. One without a name is damage that says nothing, and left out.
    fn add(&mut self, file: &str, mut package: Package) -> Result<(), Error> {
        let texts = [&mut package.arch, &mut package.source, &mut package.licence, &mut package.maintainer];
        for text in texts {
            if text.as_ref().is_some_and(|t| t.is_empty() || t.len() > MAX_TEXT) {
                *text = None;
            }
        }
        if package.name.is_empty() || package.name.len() > MAX_TEXT || package.version.len() > MAX_TEXT {
            return Ok(());
        }
        self.found += 1;
        if self.found > MAX_FOUND {
            return Err(Error::TooMany(MAX_FOUND));
        }
        self.packages.entry(package).or_default().insert(file.to_owned());
        Ok(())
    }

    /// Notes what cannot be read.
    fn note(&mut self, text: String) {
        /// An image with more damaged files than this is damaged altogether.
        const MAX_NOTES: usize = 100;
        if self.notes.len() < MAX_NOTES {
            self.notes.push(text);
        }
    }
}

/// Reads what software is in a tree.
///
/// # Errors
/// A file-system call fails, or there are more packages than fit.
pub fn inventory(view: &Merged) -> Result<Inventory, Error> {
    let mut found = Inventory { system: system::read(view)?, ..Inventory::default() };
    debian::read(view, &mut found)?;
    apk::read(view, &mut found)?;
    rpm::read(view, &mut found)?;
    walk::read(view, &mut found)?;
    Ok(found)
}

#[cfg(test)]
mod tests;
