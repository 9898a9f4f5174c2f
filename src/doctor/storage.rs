//! The directory that holds the store: what it lies on, and what is left there.

use super::{Finding, State};
use crate::sys::fs::unique_word;
use crate::sys::limits::Space;
use crate::ui::human;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the store is, and on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// The directory of the store; it need not exist yet.
    pub root: PathBuf,
    /// Type of the file system: `ext4`, `overlay`, `tmpfs`.
    pub kind: String,
    /// What that is in a pod.
    pub place: Place,
    /// Whether files can be written there, and if not, the system's answer.
    pub writable: Result<(), String>,
}

/// What the store lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The container's own writable layer.
    ContainerLayer,
    /// Memory.
    Memory,
    /// A file system on another machine.
    Network,
    /// A volume, or a plain directory of the machine.
    Volume,
}

/// Below which share of a file system the rest is scarce, in percent.
const SCARCE_PERCENT: u64 = 5;
/// An image of some size, with room for a step: less than this is little, in bytes.
const LITTLE_BYTES: u64 = 1 << 30;

impl Storage {
    /// Looks at the place of a store.
    pub fn at(root: &Path) -> Storage {
        let existing = root.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/"));
        let real = fs::canonicalize(existing).unwrap_or_else(|_| existing.to_owned());
        let kind = kind_of(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), &real);
        let place = match kind.as_str() {
            "overlay" => Place::ContainerLayer,
            "tmpfs" | "ramfs" => Place::Memory,
            "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "9p" | "virtiofs" => Place::Network,
            _ => Place::Volume,
        };
        let probe = real.join(format!(".rbuild-doctor-{}", unique_word()));
        let writable = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).map_err(|e| e.to_string());
        Storage { root: root.to_owned(), kind, place, writable }
    }

    /// What is said of it.
    pub fn findings(&self) -> Vec<Finding> {
        let shown = self.root.display();
        let mut all = vec![match (&self.writable, self.place) {
            (Err(e), _) => Finding::new("storage", State::No, format!("`{shown}` cannot be written: {e}")),
            (_, Place::ContainerLayer) => Finding::new(
                "storage",
                State::Partly,
                format!("`{shown}` lies on the container's own layer, over which the kernel stacks no second overlay"),
            ),
            (_, Place::Memory) => {
                Finding::new("storage", State::Yes, format!("`{shown}` lies in memory, and counts as the pod's"))
            }
            (_, Place::Network) => Finding::new(
                "storage",
                State::Partly,
                format!("`{shown}` lies on {}, which carries no overlay", self.kind),
            ),
            (_, Place::Volume) => Finding::new("storage", State::Yes, format!("`{shown}` lies on {}", self.kind)),
        }];
        let existing = self.root.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/"));
        if let Some(space) = Space::at(existing) {
            let scarce = space.free < LITTLE_BYTES || space.free < space.total / 100 * SCARCE_PERCENT;
            let state = if scarce { State::Partly } else { State::Yes };
            let text = format!("{} free of {}", human::size(space.free, " ", 3), human::size(space.total, " ", 3));
            all.push(Finding::new("space", state, text));
        }
        if let Ok(s) = rustix::fs::statvfs(existing)
            && s.f_files > 0
        {
            // An image of a distribution has tens of thousands of files.
            let state = if s.f_favail < 100_000 { State::Partly } else { State::Yes };
            all.push(Finding::new("inodes", state, format!("{} free of {}", s.f_favail, s.f_files)));
        }
        all
    }
}

/// The type of the file system that holds `path`, by the text of a `mountinfo`.
fn kind_of(mountinfo: &str, path: &Path) -> String {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let Some((head, tail)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (head.split(' ').nth(4), tail.split(' ').next()) else { continue };
        let depth = Path::new(point).components().count();
        // Of several at one place the last is on top.
        if path.starts_with(point) && best.is_none_or(|(d, _)| depth >= d) {
            best = Some((depth, kind));
        }
    }
    best.map_or("unknown", |(_, kind)| kind).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_and_last_mount_counts() {
        let text = "1 0 0:1 / / rw - overlay overlay rw\n2 1 0:2 / /work rw,relatime shared:1 - ext4 /dev/x rw\n\
            3 1 0:3 /a /work/deep rw - tmpfs tmpfs rw\n4 1 0:4 /a /work/deep rw - xfs x rw\ngarbage\n";
        let kind = |p: &str| kind_of(text, Path::new(p));
        assert_eq!(kind("/home"), "overlay");
        assert_eq!(kind("/work/store"), "ext4");
        assert_eq!(kind("/workshop"), "overlay");
        assert_eq!(kind("/work/deep/er"), "xfs");
        assert_eq!(kind_of("", Path::new("/")), "unknown");
    }

    #[test]
    fn a_place_that_is_not_there_yet_is_judged_by_what_is_above() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::at(&dir.path().join("not/yet"));
        assert_eq!(storage.writable, Ok(()));
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is left");
        assert!(storage.findings().iter().any(|f| f.name == "space"));
        assert!(Storage::at(Path::new("/proc/x")).writable.is_err());
    }
}
