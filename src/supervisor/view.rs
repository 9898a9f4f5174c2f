//! What a step sees: one tree of directories, put together from a root directory and mounts over it.
//!
//! A [`Dir`] is a directory of that tree that is held open; everything is reached from one by a name without a slash, with
//! calls that follow no link. So whatever a step does to paths while they are resolved, nothing leads out of the tree.
//!
//! Directories and links that were passed are remembered. Every change of the tree goes through the supervisor, which
//! forgets them where a name may have come to mean something else ([`View::forget`]); trees that others change, too, are
//! never remembered.

use super::Errno;
use super::proc::ProcPlace;
use super::tasks::Tasks;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, readlinkat, statat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Which file: device and inode.
pub(super) type FileId = (u64, u64);

/// Something that is shown over the root directory.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Where, absolute in the step; the way there holds no link.
    pub target: PathBuf,
    /// What is shown.
    pub source: Source,
    /// Whether it cannot be changed.
    pub read_only: bool,
    /// Whether programs in it cannot be executed.
    pub no_exec: bool,
    /// Whether nobody but this step changes it.
    pub private: bool,
    /// Whether owners and modes of its files are the step's to decide, so that what is not recorded belongs to root.
    pub owned: bool,
    /// Whether others than this step's processes write there as well.
    pub common: bool,
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone)]
pub enum Source {
    /// A directory or another file of the builder's, by its absolute path.
    Path(PathBuf),
    /// The processes of the step.
    Proc,
    /// A file in memory.
    Memory(Memory),
}

/// A file in memory that a step is shown.
#[derive(Clone)]
pub struct Memory {
    /// What it holds.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a file of {} bytes", self.content.len())
    }
}

/// A mount that is set up.
#[derive(Debug)]
pub(super) struct Mounted {
    /// The builder's path of what is shown, as the kernel writes it.
    pub(super) host: Vec<u8>,
    /// The path in the step.
    target: Vec<u8>,
    what: What,
    pub(super) read_only: bool,
    pub(super) no_exec: bool,
    private: bool,
    pub(super) owned: bool,
    pub(super) common: bool,
    /// The file in memory that is shown.
    pub(super) memory: Option<OwnedFd>,
}

impl Mounted {
    /// Whether it shows processes.
    pub(super) fn is_proc(&self) -> bool {
        matches!(&self.what, What::Directory(dir) if dir.proc.is_some())
    }
}

#[derive(Debug, Clone)]
enum What {
    Directory(Arc<Dir>),
    /// A file: the directory that it is in, and its name there.
    File(Arc<Dir>, Vec<u8>),
}

/// What is shown, its path, and the file in memory if it is one.
type Opened = (What, Vec<u8>, Option<OwnedFd>);

/// A directory of the step's tree.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    pub(super) id: FileId,
    /// What `..` is, and the name there; `None` for the root.
    up: Option<(Arc<Dir>, Vec<u8>)>,
    /// Number of the mount that it is in.
    pub(super) mount: usize,
    /// The state of the tree for which `up` is right.
    generation: u64,
    /// Whether something is mounted on a name in it.
    has_mounts: bool,
    /// Where in `/proc`, if there.
    pub(super) proc: Option<ProcPlace>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Its absolute path in the step.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = self;
        while let Some((parent, name)) = &at.up {
            names.push(name);
            at = parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }

    /// The directory above and the name there.
    pub(super) fn up(&self) -> Option<(&Arc<Dir>, &[u8])> {
        self.up.as_ref().map(|(dir, name)| (dir, name.as_slice()))
    }
}

/// What a name in a directory is.
#[derive(Debug, Clone)]
pub(super) enum Child {
    Dir(Arc<Dir>),
    /// A symbolic link with its target.
    Link(Arc<[u8]>),
    /// A file that is mounted there.
    File(Arc<Dir>, Vec<u8>),
    /// Any other file.
    Other,
}

/// The tree.
#[derive(Debug)]
pub(super) struct View {
    /// Who looks at it.
    pub(super) tasks: Tasks,
    pub(super) mounts: Vec<Mounted>,
    /// Mounts by the directory and name that they cover.
    points: HashMap<(FileId, Vec<u8>), usize>,
    /// Directories that have some.
    with_points: HashMap<FileId, ()>,
    known: HashMap<FileId, HashMap<Vec<u8>, Child>>,
    known_count: usize,
    known_limit: usize,
    generation: u64,
    /// What descriptors stand for that are no such file themselves.
    stand_ins: HashMap<FileId, Arc<OwnedFd>>,
    /// Whether the step has the pod's network.
    pub(super) network: bool,
    /// Directory of the builder's that is shown in the place of `/proc` when that is listed.
    pub(super) listing: PathBuf,
}

/// How many descriptors may stand for something else at a time.
const MAX_STAND_INS: usize = 512;

pub(super) fn name_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(super) fn is_dir(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::Directory
}

/// The path of an open file as the kernel writes it.
pub(super) fn host_path(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    Ok(readlinkat(links()?, fd.as_raw_fd().to_string(), Vec::new())?.into_bytes())
}

/// The directory of links to this process's descriptors, held open: looking up `/proc/self` each time costs more than most
/// calls.
pub(super) fn links() -> Result<BorrowedFd<'static>, Errno> {
    static LINKS: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(fd) = LINKS.get() {
        return Ok(fd.as_fd());
    }
    let fd = openat(rustix::fs::CWD, "/proc/self/fd", PLACE | OFlags::DIRECTORY, Mode::empty())?;
    Ok(LINKS.get_or_init(|| fd).as_fd())
}

impl View {
    /// The tree whose root is a directory of the builder's. At most `known_limit` directories are held open.
    pub(super) fn new(root: &Path, listing: PathBuf, known_limit: usize) -> Result<View, Errno> {
        let mut view = View {
            tasks: Tasks::default(),
            mounts: Vec::new(),
            points: HashMap::new(),
            with_points: HashMap::new(),
            known: HashMap::new(),
            known_count: 0,
            known_limit,
            generation: 0,
            stand_ins: HashMap::new(),
            network: true,
            listing,
        };
        let fd = openat(rustix::fs::CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let host = host_path(fd.as_fd())?;
        let root = view.directory(fd, None, 0, None)?;
        view.mounts.push(Mounted {
            host,
            target: b"/".to_vec(),
            what: What::Directory(root),
            read_only: false,
            no_exec: false,
            private: true,
            owned: true,
            common: false,
            memory: None,
        });
        Ok(view)
    }

    /// Shows something more; what was shown at the same place before is covered.
    pub(super) fn mount(&mut self, mount: &Mount) -> Result<(), Errno> {
        let target = mount.target.as_os_str().as_bytes();
        let mut at = self.root();
        let mut names = target.split(|b| *b == b'/').filter(|n| !n.is_empty()).peekable();
        while let Some(name) = names.next() {
            if names.peek().is_some() {
                at = match self.child(&at, name, 0)? {
                    Child::Dir(dir) => dir,
                    _ => return Err(Errno::NOTDIR),
                };
                continue;
            }
            let number = self.mounts.len();
            let (what, host, memory) = self.open_source(mount, &at, name, number)?;
            self.mounts.push(Mounted {
                host,
                target: target.to_vec(),
                what,
                read_only: mount.read_only,
                no_exec: mount.no_exec,
                private: mount.private,
                owned: mount.owned,
                common: mount.common,
                memory,
            });
            self.points.insert((at.id, name.to_vec()), number);
            self.with_points.insert(at.id, ());
            self.forget();
            return Ok(());
        }
        Err(Errno::INVAL)
    }

    fn open_source(&self, mount: &Mount, at: &Arc<Dir>, name: &[u8], number: usize) -> Result<Opened, Errno> {
        let up = Some((Arc::clone(at), name.to_vec()));
        let (path, proc) = match &mount.source {
            Source::Path(path) => (path.as_path(), None),
            Source::Proc => (Path::new("/proc"), Some(ProcPlace::Top)),
            Source::Memory(memory) => {
                let fd = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC)?;
                let mut file = std::fs::File::from(fd);
                std::io::Write::write_all(&mut file, &memory.content).map_err(|_| Errno::NOMEM)?;
                let fd = OwnedFd::from(file);
                // By the link of this process's descriptor.
                let name = fd.as_raw_fd().to_string().into_bytes();
                let links = openat(rustix::fs::CWD, "/proc/self/fd", PLACE | OFlags::DIRECTORY, Mode::empty())?;
                let dir = self.directory(links, up, number, Some(ProcPlace::Descriptors(0)))?;
                // No path of the kernel's leads there.
                return Ok((What::File(dir, name), vec![0], Some(fd)));
            }
        };
        let fd = openat(rustix::fs::CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let host = host_path(fd.as_fd())?;
        let stat = statat(&fd, "", AtFlags::EMPTY_PATH)?;
        if is_dir(stat.st_mode) {
            return Ok((What::Directory(self.directory(fd, up, number, proc)?), host, None));
        }
        let end = host.iter().rposition(|b| *b == b'/').ok_or(Errno::INVAL)?;
        let (dir, file) = host.split_at(end);
        let dir = if dir.is_empty() { b"/" } else { dir };
        let fd = openat(rustix::fs::CWD, name_of(dir), PLACE | OFlags::DIRECTORY, Mode::empty())?;
        let dir = self.directory(fd, up, number, None)?;
        Ok((What::File(dir, file.get(1..).unwrap_or_default().to_vec()), host, None))
    }

    /// The root directory.
    pub(super) fn root(&self) -> Arc<Dir> {
        match self.mounts.first().map(|m| &m.what) {
            Some(What::Directory(dir)) => Arc::clone(dir),
            // `new` has put it there.
            _ => unreachable!("a view has a root"),
        }
    }

    /// Makes a directory of the tree out of an open one.
    pub(super) fn directory(
        &self,
        fd: OwnedFd,
        up: Option<(Arc<Dir>, Vec<u8>)>,
        mount: usize,
        proc: Option<ProcPlace>,
    ) -> Result<Arc<Dir>, Errno> {
        let stat = statat(&fd, "", AtFlags::EMPTY_PATH)?;
        let id = (stat.st_dev, stat.st_ino);
        let has_mounts = self.with_points.contains_key(&id);
        Ok(Arc::new(Dir { fd, id, up, mount, generation: self.generation, has_mounts, proc }))
    }

    /// What is mounted on a name.
    pub(super) fn mounted(&self, dir: &Dir, name: &[u8]) -> Option<usize> {
        if !dir.has_mounts && !self.with_points.contains_key(&dir.id) {
            return None;
        }
        self.points.get(&(dir.id, name.to_vec())).copied()
    }

    /// What a name in a directory is; `tid` asks.
    pub(super) fn child(&mut self, dir: &Arc<Dir>, name: &[u8], tid: i32) -> Result<Child, Errno> {
        if let Some(number) = self.mounted(dir, name)
            && let Some(mounted) = self.mounts.get(number)
        {
            return Ok(match &mounted.what {
                What::Directory(dir) => Child::Dir(Arc::clone(dir)),
                What::File(dir, name) => Child::File(Arc::clone(dir), name.clone()),
            });
        }
        if dir.proc.is_some() {
            return super::proc::child(self, dir, name, tid);
        }
        if let Some(child) = self.known.get(&dir.id).and_then(|names| names.get(name)) {
            return Ok(child.clone());
        }
        let fd = openat(dir, name_of(name), PLACE, Mode::empty())?;
        let child = self.look(dir, name, fd)?;
        if self.mounts.get(dir.mount).is_some_and(|m| m.private) && !matches!(child, Child::Other) {
            if self.known_count >= self.known_limit {
                self.known.clear();
                self.known_count = 0;
            }
            self.known.entry(dir.id).or_default().insert(name.to_vec(), child.clone());
            self.known_count += 1;
        }
        Ok(child)
    }

    fn look(&self, dir: &Arc<Dir>, name: &[u8], fd: OwnedFd) -> Result<Child, Errno> {
        let stat = statat(&fd, "", AtFlags::EMPTY_PATH)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let id = (stat.st_dev, stat.st_ino);
                let up = Some((Arc::clone(dir), name.to_vec()));
                let has_mounts = self.with_points.contains_key(&id);
                let generation = self.generation;
                Child::Dir(Arc::new(Dir { fd, id, up, mount: dir.mount, generation, has_mounts, proc: None }))
            }
            FileType::Symlink => Child::Link(readlinkat(&fd, "", Vec::new())?.into_bytes().into()),
            _ => Child::Other,
        })
    }

    /// Forgets what names meant.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.known_count = 0;
        self.generation += 1;
    }

    /// Forgets what one name meant, which is no directory that anything is known in.
    pub(super) fn forget_name(&mut self, dir: &Dir, name: &[u8]) {
        let Some(names) = self.known.get_mut(&dir.id) else { return };
        if let Some(child) = names.remove(name) {
            self.known_count = self.known_count.saturating_sub(1);
            if let Child::Dir(gone) = child {
                self.known.remove(&gone.id);
            }
        }
    }

    /// Whether something is mounted below a name.
    pub(super) fn holds_mounts(&self, dir: &Dir, name: &[u8]) -> bool {
        let mut path = dir.path();
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path.push(b'/');
        self.mounts.iter().any(|m| m.target.starts_with(&path))
    }

    /// A descriptor that stands for a file which cannot be opened.
    pub(super) fn stand_in_for(&mut self, held: OwnedFd) -> Result<OwnedFd, Errno> {
        let fd = rustix::fs::memfd_create("place", rustix::fs::MemfdFlags::CLOEXEC)?;
        let stat = rustix::fs::fstat(&fd)?;
        if self.stand_ins.len() >= MAX_STAND_INS {
            self.stand_ins.clear();
        }
        self.stand_ins.insert((stat.st_dev, stat.st_ino), Arc::new(held));
        Ok(fd)
    }

    /// What a file stands for, by its number.
    pub(super) fn stand_in_by_id(&self, id: FileId) -> Option<Arc<OwnedFd>> {
        if self.stand_ins.is_empty() { None } else { self.stand_ins.get(&id).cloned() }
    }

    /// What an open file stands for.
    pub(super) fn stand_in_of(&self, fd: BorrowedFd<'_>) -> Option<OwnedFd> {
        if self.stand_ins.is_empty() {
            return None;
        }
        let stat = statat(fd, "", AtFlags::EMPTY_PATH).ok()?;
        self.stand_in_by_id((stat.st_dev, stat.st_ino))?.try_clone().ok()
    }

    /// The directory for which the one at a path of the builder's stands.
    pub(super) fn stand_in(&mut self, host: &[u8]) -> Option<Arc<Dir>> {
        if host != self.listing.as_os_str().as_bytes() {
            return None;
        }
        self.at_path(b"/proc", 0).ok()
    }

    /// What the step sees of the link to a descriptor.
    pub(super) fn shown_link(&mut self, link: Vec<u8>) -> Vec<u8> {
        if link.first() != Some(&b'/') {
            return link;
        }
        if let Some(dir) = self.stand_in(&link) {
            return dir.path();
        }
        if let Some((_, path)) = self.path_of(&link) {
            return path;
        }
        // The builder's own files are nobody's business, but a name is expected: of a terminal it is the right one.
        if link.starts_with(b"/dev/") || link.starts_with(b"/memfd:") { link } else { b"/".to_vec() }
    }

    /// The directory with the path that it has now.
    pub(super) fn refresh(&mut self, dir: &Arc<Dir>) -> Arc<Dir> {
        if dir.generation == self.generation || dir.proc.is_some() || dir.up.is_none() {
            return Arc::clone(dir);
        }
        match host_path(dir.as_fd()).and_then(|host| self.at_host_path(&host, 0)) {
            Ok(found) if found.id == dir.id => found,
            _ => Arc::clone(dir),
        }
    }

    /// The path in the step of what lies at the builder's path `host`; `None` for what is not in the tree.
    pub(super) fn path_of(&self, host: &[u8]) -> Option<(usize, Vec<u8>)> {
        let below = |m: &Mounted| match host.strip_prefix(m.host.as_slice()) {
            Some([]) => Some(&host[host.len()..]),
            Some(rest) if rest.first() == Some(&b'/') => Some(rest),
            Some(rest) if m.host == b"/" => Some(rest),
            _ => None,
        };
        let mut best: Option<(usize, usize, &[u8])> = None;
        for (number, mounted) in self.mounts.iter().enumerate() {
            if let Some(rest) = below(mounted)
                && best.is_none_or(|(_, length, _)| mounted.host.len() >= length)
            {
                best = Some((number, mounted.host.len(), rest));
            }
        }
        let (number, _, rest) = best?;
        let target = &self.mounts.get(number)?.target;
        let mut path = if target == b"/" { Vec::new() } else { target.clone() };
        path.extend_from_slice(rest);
        if path.is_empty() {
            path.push(b'/');
        }
        Some((number, path))
    }

    /// The directory of the tree that lies at a path of the builder's.
    pub(super) fn at_host_path(&mut self, host: &[u8], tid: i32) -> Result<Arc<Dir>, Errno> {
        let (_, path) = self.path_of(host).ok_or(Errno::NOENT)?;
        self.at_path(&path, tid)
    }

    /// The directory at a path without links.
    pub(super) fn at_path(&mut self, path: &[u8], tid: i32) -> Result<Arc<Dir>, Errno> {
        let mut at = self.root();
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            at = match self.child(&at, name, tid)? {
                Child::Dir(dir) => dir,
                Child::Link(_) | Child::File(..) | Child::Other => return Err(Errno::NOTDIR),
            };
        }
        Ok(at)
    }

    /// The lines of `/proc/self/mounts`, or of `mountinfo`.
    pub(super) fn mount_lines(&self, long: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, mounted) in self.mounts.iter().enumerate() {
            let kind = if mounted.is_proc() { "proc" } else { "rbuild" };
            let mut access = if mounted.read_only { "ro" } else { "rw" }.to_owned();
            if number > 0 {
                access.push_str(",nosuid,nodev");
            }
            if mounted.no_exec {
                access.push_str(",noexec");
            }
            if long {
                out.extend_from_slice(format!("{} {} 0:{} / ", number + 20, 20, number + 20).as_bytes());
            } else {
                out.extend_from_slice(kind.as_bytes());
                out.push(b' ');
            }
            for byte in &mounted.target {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\\' => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
                    byte => out.push(*byte),
                }
            }
            if long {
                out.extend_from_slice(format!(" {access},relatime - {kind} {kind} {access}\n").as_bytes());
            } else {
                out.extend_from_slice(format!(" {kind} {access},relatime 0 0\n").as_bytes());
            }
        }
        out
    }
}
