//! What a step may have changed, as a supervisor tells it that saw every call of the step: so that not every file has to be
//! looked at afterwards.
//!
//! Files are named by the numbers of their inodes, which stay what they are wherever a step moves a file. A number too many
//! does no harm; one too few is a change that no layer has.

use rustix::fs::StatFs;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::os::fd::OwnedFd;

/// How many numbers are kept. Of more, all files are looked at.
const MOST: usize = 32 * 1024;

/// Files that a step may have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// Directories in which names may have come, gone, or come to mean another file.
    names: HashSet<u64>,
    /// Files of any kind of which something may have changed: opened in whatever way, or changed by name.
    files: HashSet<u64>,
    /// Whether it may be any file.
    any: bool,
    /// Whether a file may change still after the step has ended.
    lasting: bool,
}

impl Touched {
    /// A file may have changed.
    pub fn file(&mut self, inode: u64) {
        if !self.any {
            self.files.insert(inode);
            self.limit();
        }
    }

    /// Names in a directory may have changed, and with them its times.
    pub fn names_in(&mut self, inode: u64) {
        if !self.any {
            self.names.insert(inode);
            self.limit();
        }
    }

    /// Any file may have changed.
    pub fn anything(&mut self) {
        self.any = true;
        (self.names, self.files) = Default::default();
    }

    /// Any file may have changed, and may do so from now on: somebody outside of the step may have descriptors of it.
    pub fn anything_from_now_on(&mut self) {
        self.anything();
        self.lasting = true;
    }

    /// Whether every name is what it was.
    pub fn kept_names(&self) -> bool {
        !self.any && self.names.is_empty()
    }

    /// Whether a file may change still after the step has ended.
    pub fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// Both lists, sorted: directories whose names may have changed, and all files, these among them. `None`: any file.
    pub(super) fn sorted(&self) -> Option<(Vec<u64>, Vec<u64>)> {
        if self.any {
            return None;
        }
        let sorted = |mut all: Vec<u64>| {
            all.sort_unstable();
            all.dedup();
            all
        };
        let names = sorted(self.names.iter().copied().collect());
        Some((names, sorted(self.names.iter().chain(&self.files).copied().collect())))
    }

    fn limit(&mut self) {
        if self.names.len() + self.files.len() > MOST {
            self.anything();
        }
    }
}

/// Whether the numbers of inodes in a directory are those that everybody sees at any time, and whether its files change by
/// known calls only: so it is with these file systems. `same_device`: files and directories have one device number.
pub(super) fn tells(dir: &OwnedFd, same_device: bool) -> bool {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const TMPFS: u64 = 0x0102_1994;
    // Over several file systems it makes numbers up for directories, for as long as it remembers them.
    const OVERLAY: u64 = 0x794c_7630;
    let kind = |stat: StatFs| u64::try_from(stat.f_type).unwrap_or(0) & 0xffff_ffff;
    let known = rustix::fs::fstatfs(dir).is_ok_and(|stat| [EXT4, XFS, BTRFS, TMPFS, OVERLAY].contains(&kind(stat)));
    known && same_device
}
