//! What the file system of a step could not store of its files, by inode, while the step runs.
//!
//! ```text
//! records of the layers below ──► by path, each looked up once ──► table by inode ──► records of the step's layer
//!                                                chown, mknod, … ──┘
//! ```
//!
//! A file that is not in the table belongs to 0:0, and everything else about it is as the file system says. Being kept by
//! inode, an owner goes with its file through renames and links. A number that a removed file leaves is given to another
//! one: so each entry holds the time at which its file was made, and is void for a file of another time. Files of lower
//! layers keep their inode, under the step's eyes, even when they are copied up, and it is never free: their entries have
//! no such time, which a copy would change. The exception are files of lower layers with several names: what overlayfs copies
//! of them has a number of its own. They carry their owner as an attribute, which is looked for where a layer has any.

use crate::archive::Xattrs;
use crate::archive::node;
use crate::archive::record::{Device, Record, Records};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What tells one file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: (u32, u32),
    inode: u64,
    /// When it was made; `None` where the file system does not say.
    born: Option<(i64, u32)>,
}

/// What [`FileId::of`] needs of statx(2).
pub const ID: StatxFlags = StatxFlags::INO.union(StatxFlags::BTIME);

impl FileId {
    /// From what statx(2) said.
    pub fn of(stat: &Statx) -> FileId {
        let born = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        FileId {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            born: born.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
        }
    }

    fn key(&self) -> Key {
        (self.device, self.inode)
    }
}

type Key = ((u32, u32), u64);
type Born = Option<(i64, u32)>;

/// What is kept of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owned {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode, 12 bits, where it is not the one on disk.
    pub mode: Option<u32>,
    /// The device that an empty file stands for.
    pub device: Option<Device>,
    /// Attributes that could not be set.
    pub xattrs: Xattrs,
}

impl Owned {
    fn of(record: &Record) -> Owned {
        Owned {
            uid: record.uid.unwrap_or(0),
            gid: record.gid.unwrap_or(0),
            mode: record.mode,
            device: record.device,
            xattrs: record.xattrs.clone(),
        }
    }

    /// The record for a layer.
    pub fn record(&self) -> Record {
        let some = |id: u32| (id != 0).then_some(id);
        Record {
            uid: some(self.uid),
            gid: some(self.gid),
            mode: self.mode,
            device: self.device,
            xattrs: self.xattrs.clone(),
            opaque: false,
        }
    }
}

#[derive(Debug)]
struct Entry {
    /// `None`: whatever the inode's time is.
    born: Born,
    owned: Owned,
}

/// The table.
#[derive(Debug, Default)]
pub struct Owners {
    by_file: HashMap<Key, Entry>,
    /// Numbers that are another name's of a file with an entry of its own number: overlayfs gives a link to what it has just
    /// copied up the number of the copy.
    aliases: HashMap<Key, (Born, Key)>,
    /// Whether lower layers have recorded files with several names. Then no entry is ever dropped: its file may have a mark
    /// that is no longer true.
    linked: bool,
    /// Whether anything was changed.
    changed: bool,
    /// Numbers of the files that were marked with their owners.
    marked: Vec<u64>,
}

impl Owners {
    /// Empty: all is as the file system has it.
    pub fn new() -> Owners {
        Owners::default()
    }

    /// Whether no file has an entry.
    pub fn is_empty(&self) -> bool {
        self.by_file.is_empty()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.by_file.len()
    }

    /// Takes in what layers recorded: `visible` has what counts for each path, and `root` is the root directory as the step
    /// sees it. Paths that are not there are left out. Those that `own` names, too, are of the step's own layer.
    ///
    /// # Errors
    /// A file cannot be looked up.
    pub fn load(&mut self, visible: &Records, own: &Records, root: impl AsFd) -> rustix::io::Result<()> {
        for (path, record) in visible.iter() {
            let owned = Owned::of(record);
            if owned == Owned::default() {
                continue;
            }
            match statx(&root, at(path), AtFlags::SYMLINK_NOFOLLOW, ID | StatxFlags::TYPE | StatxFlags::NLINK) {
                Ok(stat) => {
                    let regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
                    self.linked |= regular && stat.stx_nlink > 1 && own.get(path).is_none();
                    let id = FileId::of(&stat);
                    let born = id.born.filter(|_| own.get(path).is_some());
                    self.by_file.insert(id.key(), Entry { born, owned });
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What is kept of a file.
    pub fn get(&self, file: &FileId) -> Option<&Owned> {
        let entry = self.by_file.get(&self.key(file))?;
        (entry.born.is_none() || file.born.is_none() || entry.born == file.born).then_some(&entry.owned)
    }

    /// Changes what is kept of a file.
    pub fn change(&mut self, file: &FileId, change: impl FnOnce(&mut Owned)) {
        self.changed = true;
        let key = self.key(file);
        if self.get(file).is_none() {
            self.by_file.insert(key, Entry { born: file.born, owned: Owned::default() });
        }
        if let Some(entry) = self.by_file.get_mut(&key) {
            change(&mut entry.owned);
            if entry.owned == Owned::default() && !self.linked {
                self.by_file.remove(&key);
            }
        }
    }

    /// Whether anything was changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Numbers of the files on which [`Owners::records`] has left marks.
    pub fn marked(&self) -> &[u64] {
        &self.marked
    }

    /// Gives an open file to somebody.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn give(&mut self, file: BorrowedFd<'_>, (uid, gid): (u32, u32)) -> rustix::io::Result<()> {
        let stat = statx(file, "", AtFlags::EMPTY_PATH, ID)?;
        self.change(&FileId::of(&stat), |owned| (owned.uid, owned.gid) = (uid, gid));
        Ok(())
    }

    fn key(&self, file: &FileId) -> Key {
        match self.aliases.get(&file.key()) {
            Some((born, key)) if *born == file.born => *key,
            _ => file.key(),
        }
    }

    /// `link` is a new name of `file`.
    pub fn linked(&mut self, file: &FileId, link: &FileId) {
        let key = self.key(file);
        if link.key() != key {
            self.aliases.insert(link.key(), (link.born, key));
        }
    }

    /// Whether a file without an entry may be one for [`Owners::adopt`].
    pub fn has_linked(&self) -> bool {
        self.linked
    }

    /// Takes in a file without an entry if it is a copy of one with several names. `open` opens it for reading.
    pub fn adopt(&mut self, stat: &Statx, open: impl FnOnce() -> rustix::io::Result<OwnedFd>) {
        let regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        let file = FileId::of(stat);
        if self.linked
            && regular
            && stat.stx_nlink == 1
            && self.get(&file).is_none()
            && let Some((uid, gid)) = open().ok().and_then(node::owner_mark)
        {
            self.change(&file, |owned| (owned.uid, owned.gid) = (uid, gid));
        }
    }

    /// The records of everything below `names`, the layer's own directory of files; `view` is the same directory as the step
    /// saw it, in which the files have the inodes of the table. Nothing may change meanwhile. Where the step's root is a
    /// directory and no overlay, both are that one.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn records(&mut self, names: BorrowedFd<'_>, view: BorrowedFd<'_>) -> rustix::io::Result<Records> {
        if self.is_empty() {
            return Ok(Records::new());
        }
        // In one directory, the number that is listed tells whether anything is kept of the file: most files need no look.
        if !self.linked && same(names, view)? {
            let known = self.by_file.keys().chain(self.aliases.keys()).map(|(_, inode)| *inode).collect();
            if let Some(records) = self.walk(names, view, Some(&known))? {
                return Ok(records);
            }
        }
        Ok(self.walk(names, view, None)?.unwrap_or_default())
    }

    /// As [`Owners::records`], where files are left out whose listed number is not among `known`; `None` if the file system
    /// lists other numbers than its files have.
    fn walk(
        &mut self,
        names: BorrowedFd<'_>,
        view: BorrowedFd<'_>,
        known: Option<&HashSet<u64>>,
    ) -> rustix::io::Result<Option<Records>> {
        let mut records = Records::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            self.note(&path, names, view, &mut records)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = openat(names, at(&path), flags, Mode::empty())?;
            let mut tried = known.is_none();
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let kind = match entry.file_type() {
                    FileType::Unknown => {
                        let stat = statx(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
                        FileType::from_raw_mode(stat.stx_mode.into())
                    }
                    kind => kind,
                };
                if kind != FileType::Directory && !tried {
                    tried = true;
                    let stat = statx(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO)?;
                    if stat.stx_ino != entry.ino() {
                        return Ok(None);
                    }
                }
                // A character device is a whiteout: the step does not see a file of this name.
                let unknown = known.is_some_and(|known| !known.contains(&entry.ino()));
                if kind == FileType::CharacterDevice || kind != FileType::Directory && unknown {
                    continue;
                }
                let below = path.join(OsStr::from_bytes(name));
                match kind {
                    FileType::Directory => pending.push(below),
                    _ => self.note(&below, names, view, &mut records)?,
                }
            }
        }
        Ok(Some(records))
    }

    fn note(
        &mut self,
        path: &Path,
        names: BorrowedFd<'_>,
        view: BorrowedFd<'_>,
        records: &mut Records,
    ) -> rustix::io::Result<()> {
        match statx(view, at(path), AtFlags::SYMLINK_NOFOLLOW, ID | StatxFlags::TYPE | StatxFlags::NLINK) {
            Ok(stat) => {
                let regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
                let open =
                    || openat(names, at(path), OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
                if self.linked && regular {
                    self.adopt(&stat, open);
                }
                if let Some(owned) = self.get(&FileId::of(&stat)) {
                    let record = owned.record();
                    if regular && stat.stx_nlink > 1 && (record.uid.is_some() || record.gid.is_some()) {
                        node::mark_owner(open()?, owned.uid, owned.gid);
                        self.marked.push(stat.stx_ino);
                    }
                    records.insert(path, record);
                }
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Whether two descriptors are of one directory.
fn same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let of = |fd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    Ok(of(a)? == of(b)?)
}

/// The path to hand to an `*at` call on the root: `.` for the root itself.
fn at(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn id(dir: &File, path: &str) -> FileId {
        FileId::of(&statx(dir, path, AtFlags::SYMLINK_NOFOLLOW, ID).unwrap())
    }

    fn owner(uid: u32, gid: u32) -> Record {
        Record { uid: Some(uid), gid: Some(gid), ..Record::default() }
    }

    #[test]
    fn owners_go_with_their_files_and_come_back_by_path() {
        let tree = tempfile::tempdir().unwrap();
        let path = |name: &str| tree.path().join(name);
        fs::create_dir(path("d")).unwrap();
        for name in ["a", "b", "d/c"] {
            File::create(path(name)).unwrap();
        }
        let root = File::open(tree.path()).unwrap();
        let mut before = Records::new();
        before.insert(Path::new("a"), owner(1, 2));
        before.insert(Path::new("d/c"), owner(3, 0));
        before.insert(Path::new("gone"), owner(4, 4));
        let mut owners = Owners::new();
        owners.load(&before, &Records::new(), &root).unwrap();
        assert_eq!(owners.len(), 2);

        fs::rename(path("a"), path("d/moved")).unwrap();
        fs::hard_link(path("d/moved"), path("link")).unwrap();
        owners.change(&id(&root, "b"), |o| o.device = Some(Device::Char(1, 3)));
        owners.change(&id(&root, "d/c"), |o| o.uid = 0);
        owners.change(&id(&root, "d"), |o| (o.gid, o.mode) = (8, Some(0o2775)));
        let records = owners.records(root.as_fd(), root.as_fd()).unwrap();
        let found: Vec<(String, Record)> = records.iter().map(|(p, r)| (p.display().to_string(), r.clone())).collect();
        let device = Record { device: Some(Device::Char(1, 3)), ..Record::default() };
        let directory = Record { gid: Some(8), mode: Some(0o2775), ..Record::default() };
        assert_eq!(
            found,
            [
                ("b".into(), device),
                ("d".into(), directory),
                ("d/moved".into(), owner(1, 2)),
                ("link".into(), owner(1, 2))
            ]
        );
    }

    #[test]
    fn another_file_with_the_number_of_a_removed_one_has_no_owner() {
        let mut owners = Owners::new();
        let file = FileId { device: (8, 1), inode: 7, born: Some((100, 5)) };
        owners.change(&file, |o| o.uid = 33);
        assert_eq!(owners.get(&file).unwrap().uid, 33);
        let later = FileId { born: Some((100, 6)), ..file };
        assert_eq!(owners.get(&later), None);
        owners.change(&later, |o| o.gid = 9);
        assert_eq!(owners.get(&later), Some(&Owned { gid: 9, ..Owned::default() }));
        assert_eq!(owners.get(&file), None);
        owners.change(&later, |o| o.gid = 0);
        assert!(owners.is_empty());
    }
}
