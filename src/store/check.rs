//! Checks that everything in the store is what its name says, and that nothing that a name reaches is missing.

use super::{Error, Store, lease};
use crate::oci::Digest;
use std::{collections::BTreeMap, fmt, fs, path::PathBuf};

/// Something in the store that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A blob whose bytes have another digest.
    DamagedBlob(Digest),
    /// A file among the blobs that no digest names.
    StrayFile(PathBuf),
    /// An image that lacks a blob or cannot be read.
    BrokenImage {
        /// Its name, or its manifest's digest.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// A record of the step cache that does not parse.
    BrokenStep(PathBuf),
    /// A layer directory that lacks its files or has records that do not parse.
    BrokenSnapshot {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::DamagedBlob(digest) => write!(f, "blob `{digest}` is damaged"),
            Problem::StrayFile(path) => write!(f, "`{}` is no blob", path.display()),
            Problem::BrokenImage { image, reason } => write!(f, "image `{image}` is broken: {reason}"),
            Problem::BrokenStep(path) => write!(f, "step record `{}` is broken", path.display()),
            Problem::BrokenSnapshot { path, reason } => write!(f, "snapshot `{}` is broken: {reason}", path.display()),
        }
    }
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Blobs.
    pub blobs: usize,
    /// Entries of index.json.
    pub images: usize,
    /// Records of the step cache.
    pub steps: usize,
    /// Layer directories.
    pub snapshots: usize,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl Store {
    /// Reads every blob, image, step record and layer directory. Other processes may go on working: what they are making
    /// is out of sight until it is complete.
    ///
    /// # Errors
    /// Where a directory of the store cannot be read at all.
    pub fn check(&self) -> Result<Checked, Error> {
        let mut checked = Checked::default();
        self.check_blobs(&mut checked)?;
        self.check_images(&mut checked)?;
        self.check_steps(&mut checked)?;
        self.check_snapshots(&mut checked)?;
        Ok(checked)
    }

    /// Takes away what `problems` found damaged: blobs, files that are none, step records and layer directories. All of
    /// it can be brought again, by a pull or a build. Returns those that are gone; a layer directory that a process uses
    /// stays. Names of images stay in any case.
    ///
    /// # Errors
    /// Where the store cannot be read, or a blob cannot be removed.
    pub fn repair(&self, problems: &[Problem]) -> Result<Vec<Problem>, Error> {
        let _lock = self.lock_exclusive()?;
        let (held, _) = lease::survey(&self.root)?;
        let mut done = vec![];
        for problem in problems {
            let gone = match problem {
                // Somebody may have put a sound one in its place since.
                Problem::DamagedBlob(digest) => match self.verify_blob(digest) {
                    Err(Error::Damaged { .. } | Error::Io { .. }) => self.remove_blob(digest).map(|()| true)?,
                    _ => false,
                },
                Problem::StrayFile(path) | Problem::BrokenStep(path) => fs::remove_file(path).is_ok(),
                Problem::BrokenSnapshot { path, .. } => {
                    let name = path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy();
                    !held.contains(&*name) && self.drop_aside(path)
                }
                Problem::BrokenImage { .. } => false,
            };
            if gone {
                done.push(problem.clone());
            }
        }
        Ok(done)
    }

    /// The images that cannot be used as they are.
    ///
    /// # Errors
    /// Where the list of images cannot be read.
    pub fn broken_images(&self) -> Result<Vec<Problem>, Error> {
        let mut checked = Checked::default();
        self.check_images(&mut checked)?;
        Ok(checked.problems)
    }

    fn check_blobs(&self, checked: &mut Checked) -> Result<(), Error> {
        let dir = self.root.join("blobs/sha256");
        let mut all: BTreeMap<PathBuf, Option<Digest>> = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("cannot read directory", &dir))? {
            let entry = entry.map_err(Error::io("cannot read directory", &dir))?;
            let digest = entry.file_name().to_str().and_then(|n| format!("sha256:{n}").parse().ok());
            all.insert(entry.path(), digest);
        }
        for (path, digest) in all {
            match digest.map(|d| (d, self.verify_blob(&d))) {
                None => checked.problems.push(Problem::StrayFile(path)),
                // Collected since the directory was read.
                Some((_, Err(Error::MissingBlob(_)))) => continue,
                Some((d, Err(_))) => checked.problems.push(Problem::DamagedBlob(d)),
                Some((_, Ok(()))) => {}
            }
            checked.blobs += 1;
        }
        Ok(())
    }

    fn check_images(&self, checked: &mut Checked) -> Result<(), Error> {
        for image in self.list()? {
            checked.images += 1;
            let missing = match self.reach(&image.descriptor) {
                Ok(all) => {
                    all.into_iter().find(|d| self.open_blob(d).is_err()).map(|d| Error::MissingBlob(d).to_string())
                }
                Err(e) => Some(e.to_string()),
            };
            if let Some(reason) = missing {
                let name = image.name.unwrap_or_else(|| image.descriptor.digest.to_string());
                checked.problems.push(Problem::BrokenImage { image: name, reason });
            }
        }
        Ok(())
    }

    fn check_steps(&self, checked: &mut Checked) -> Result<(), Error> {
        let dir = self.steps_dir();
        for entry in fs::read_dir(&dir).map_err(Error::io("cannot read directory", &dir))? {
            let path = entry.map_err(Error::io("cannot read directory", &dir))?.path();
            match fs::read(&path) {
                Ok(bytes) if serde_json::from_slice::<serde_json::Value>(&bytes).is_err() => {
                    checked.problems.push(Problem::BrokenStep(path));
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                _ => {}
            }
            checked.steps += 1;
        }
        Ok(())
    }

    fn check_snapshots(&self, checked: &mut Checked) -> Result<(), Error> {
        let dir = self.snapshots_dir();
        for key in fs::read_dir(&dir).map_err(Error::io("cannot read directory", &dir))?.flatten() {
            for entry in fs::read_dir(key.path()).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_lock = entry.file_name().to_string_lossy().starts_with('.');
                if is_lock || !path.is_dir() {
                    continue;
                }
                checked.snapshots += 1;
                let reason = if path.join("fs").is_dir() {
                    crate::archive::record::Records::load(&path).err().map(|e| e.to_string())
                } else {
                    Some("it has no files".to_owned())
                };
                if let Some(reason) = reason {
                    checked.problems.push(Problem::BrokenSnapshot { path, reason });
                }
            }
        }
        Ok(())
    }
}
