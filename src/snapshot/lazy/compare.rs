//! Whether a skeleton is what the complete layer is, but for contents that nobody has asked for.

use super::super::Error;
use super::skeleton::Skeleton;
use crate::archive::layer::{self, FS};
use crate::archive::node::{self, Xattrs};
use crate::archive::record::Records;
use crate::archive::whiteout;
use rustix::fs::{FileType, Stat};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are the same.
    Same,
    /// They are, but the table has whole seconds where the layer has parts of them.
    CoarseTimes,
    /// They are not: a path, and what of it.
    Differs(PathBuf, &'static str),
}

impl Skeleton {
    /// Compares it with the complete layer directory.
    ///
    /// # Errors
    /// One of both cannot be read.
    pub fn compare(&self, complete: &Path) -> Result<Verdict, Error> {
        let (dir, records) = (self.dir(), |dir: &Path| Records::load(dir));
        if records(&dir)? != records(complete)? {
            return Ok(Verdict::Differs(PathBuf::new(), "what is recorded of owners, modes and devices"));
        }
        let failed = |path: &Path| {
            let path = complete.join(FS).join(path);
            move |e: io::Error| Error::io("cannot compare", &path)(e)
        };
        let mut walk = Walk {
            ours: layer::open_fs(&dir)?,
            theirs: layer::open_fs(complete)?,
            numbers: HashMap::new(),
            coarse: false,
        };
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let found = walk.directory(self, &path, &mut pending).map_err(|e| failed(&path)(e.into()))?;
            if let Some((path, what)) = found {
                return Ok(Verdict::Differs(path, what));
            }
        }
        for (path, data) in self.all_filled() {
            let theirs = layer::open_file(&walk.theirs, path).map_err(|e| failed(path)(e.into()))?;
            let ours = File::open(&data).map_err(failed(path))?;
            if !equal(ours, File::from(theirs)).map_err(failed(path))? {
                return Ok(Verdict::Differs(path.to_owned(), "the contents"));
            }
        }
        Ok(if walk.coarse { Verdict::CoarseTimes } else { Verdict::Same })
    }
}

struct Walk {
    ours: OwnedFd,
    theirs: OwnedFd,
    /// Which of their inodes is which of ours, and the reverse: files with several names have the same ones.
    numbers: HashMap<(bool, u64), u64>,
    coarse: bool,
}

type Found = Option<(PathBuf, &'static str)>;

impl Walk {
    /// Compares a directory and what is in it, but for what is in directories there: these are still to be done.
    fn directory(&mut self, of: &Skeleton, path: &Path, pending: &mut Vec<PathBuf>) -> rustix::io::Result<Found> {
        let (ours, theirs) = (layer::open_dir(&self.ours, path)?, layer::open_dir(&self.theirs, path)?);
        if path.as_os_str().is_empty() {
            // Where no entry gives the root a time, it has that of its making.
            let (mut a, b) = (rustix::fs::fstat(&ours)?, rustix::fs::fstat(&theirs)?);
            (a.st_mtime, a.st_mtime_nsec) = (b.st_mtime, b.st_mtime_nsec);
            if let Some(what) = self.pair(&a, &b) {
                return Ok(Some((PathBuf::new(), what)));
            }
        }
        if attributes(&ours)? != attributes(&theirs)? {
            return Ok(Some((path.to_owned(), "attributes")));
        }
        let sorted = |mut names: Vec<OsString>| {
            names.sort_unstable();
            names
        };
        let names = sorted(layer::names(&ours)?);
        if names != sorted(layer::names(&theirs)?) {
            return Ok(Some((path.to_owned(), "the names in it")));
        }
        for name in names {
            let (at, name) = (path.join(&name), Path::new(&name));
            let (Some(a), Some(b)) = (layer::stat(&ours, name)?, layer::stat(&theirs, name)?) else {
                return Ok(Some((at, "its being there")));
            };
            if let Some(what) = self.pair(&a, &b) {
                return Ok(Some((at, what)));
            }
            match FileType::from_raw_mode(a.st_mode) {
                FileType::Directory => pending.push(at),
                FileType::RegularFile => {
                    if attributes(layer::open_file(&ours, name)?)? != attributes(layer::open_file(&theirs, name)?)? {
                        return Ok(Some((at, "attributes")));
                    }
                    // Who asked for it got what the table says of this file, and not of another one.
                    if a.st_size > 0 && a.st_nlink == 1 && of.file(a.st_ino).is_none_or(|file| file.path != at) {
                        return Ok(Some((at, "the contents")));
                    }
                }
                FileType::Symlink => {
                    let target = |dir: &OwnedFd| rustix::fs::readlinkat(dir, name, Vec::new());
                    if target(&ours)? != target(&theirs)? {
                        return Ok(Some((at, "the target")));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn pair(&mut self, a: &Stat, b: &Stat) -> Option<&'static str> {
        let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        if kind(a) != kind(b) || a.st_rdev != b.st_rdev {
            return Some("the type");
        }
        if (a.st_mode, a.st_uid, a.st_gid) != (b.st_mode, b.st_uid, b.st_gid) {
            return Some("mode or owner");
        }
        if kind(a) != FileType::Directory {
            if a.st_size != b.st_size {
                return Some("the size");
            }
            for (side, (from, to)) in [(true, (a.st_ino, b.st_ino)), (false, (b.st_ino, a.st_ino))] {
                if a.st_nlink.max(b.st_nlink) > 1 && *self.numbers.entry((side, from)).or_insert(to) != to {
                    return Some("the other names");
                }
            }
        }
        let whole = |stat: &Stat| i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        // A whiteout has that of its making, too.
        if whole(a) != whole(b) && !(whiteout::is(a) && whiteout::is(b)) {
            if a.st_mtime_nsec != 0 || whole(a).abs_diff(whole(b)) >= 1_000_000_000 {
                return Some("the time");
            }
            self.coarse = true;
        }
        None
    }
}

/// The attributes that a layer can have, and the marks of overlayfs.
fn attributes(fd: impl AsFd) -> rustix::io::Result<Xattrs> {
    let mut all = node::raw_xattrs(fd.as_fd())?;
    all.retain(|name, _| name.starts_with(b"user.") || name == b"security.capability");
    Ok(all)
}

fn equal(mut a: File, mut b: File) -> io::Result<bool> {
    const PIECE: usize = 256 << 10;
    let (mut left, mut right) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    loop {
        left.clear();
        right.clear();
        let n = Read::by_ref(&mut a).take(PIECE as u64).read_to_end(&mut left)?;
        Read::by_ref(&mut b).take(PIECE as u64).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}
