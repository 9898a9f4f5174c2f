//! The protocol: requests of the kernel to calls of the overlay, and back.
//!
//! The first `open` and the like are answered with ENOSYS, which the kernel remembers and takes for "no need to ask".

use fuser::{
    BsdFileFlags, Config, CopyFileRangeFlags, FileAttr, FileHandle, FileType as Kind, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use rustix::fs::{FileType, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::attrs::Change;
use super::change::New;
use super::tree::{Node, ROOT};
use super::{Layers, Overlay, Result, find};
use crate::snapshot::lazy::Asking;

/// How long the kernel may remember: nothing changes behind its back.
const LONG: Duration = Duration::from_secs(1 << 30);
/// Bytes of one write.
const WRITE_BYTES: u32 = 1 << 20;
/// Numbers of inodes are used again only when the kernel has forgotten them.
const GENERATION: Generation = Generation(0);
/// Threads: one that waits for the disk must not keep all others waiting.
const FEWEST_THREADS: usize = 2;
const MOST_THREADS: usize = 8;

/// Serves the file system on a descriptor of `/dev/fuse` that has been mounted, until it is unmounted. Contents of skeletons'
/// files come by `asking`.
///
/// # Errors
/// A layer cannot be opened, or the kernel does not take part in the protocol.
pub fn serve(layers: &Layers, device: OwnedFd, asking: Option<&Asking>) -> io::Result<()> {
    rustix::process::umask(rustix::fs::Mode::empty());
    // A thread that ends without an answer would leave a program waiting for ever; the end of the process is an answer.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    let overlay = Overlay::open(layers, asking)?;
    let mut config = Config::default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // Who waits for the network keeps a thread for longer.
    let fewest = if asking.is_some() { MOST_THREADS } else { FEWEST_THREADS };
    config.n_threads = Some(processors.clamp(fewest, MOST_THREADS));
    Session::from_fd(Server(overlay), device, SessionACL::All, config)?.run()
}

struct Server(Overlay);

fn error(e: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(e.raw_os_error())
}

fn time(sec: i64, nsec: u64) -> SystemTime {
    let whole = Duration::from_secs(sec.unsigned_abs());
    let base = if sec < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(nsec))).unwrap_or(UNIX_EPOCH)
}

fn timespec(at: Option<TimeOrNow>) -> Timespec {
    match at {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeOrNow::SpecificTime(at)) => match at.duration_since(UNIX_EPOCH) {
            Ok(since) => Timespec {
                tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(since.subsec_nanos()),
            },
            Err(before) => {
                let before = before.duration();
                let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Timespec { tv_sec: -seconds, tv_nsec: 0 },
                    n => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - i64::from(n) },
                }
            }
        },
    }
}

fn kind(kind: FileType) -> Kind {
    match kind {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::NamedPipe,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => Kind::RegularFile,
    }
}

fn attr(ino: u64, node: &Node, stat: &Stat) -> FileAttr {
    // As in overlayfs: the links of a merged directory are not counted.
    let merged = node.is_dir() && !node.lowers.is_empty();
    FileAttr {
        ino: INodeNo(ino),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind(find::kind(stat)),
        perm: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        nlink: if merged && stat.st_nlink > 0 { 1 } else { u32::try_from(stat.st_nlink).unwrap_or(u32::MAX) },
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: 0,
        blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
        flags: 0,
    }
}

/// In an answer that names an inode, fuser takes the number for programs for the inode's own. Where they differ the kernel is
/// to ask again before it shows one.
fn named(node: &Node, stat: &Stat) -> (FileAttr, Duration) {
    (attr(node.id, node, stat), if node.ino() == node.id { LONG } else { Duration::ZERO })
}

fn answer(reply: ReplyEntry, made: Result<(std::sync::Arc<Node>, Stat)>) {
    match made {
        Ok((node, stat)) => {
            let (attr, valid) = named(&node, &stat);
            reply.entry_with_ttls(&valid, &LONG, &attr, GENERATION);
        }
        Err(e) => reply.error(error(e)),
    }
}

fn done(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(error(e)),
    }
}

impl Server {
    fn node(&self, id: INodeNo) -> Result<std::sync::Arc<Node>> {
        self.0.tree().node(id.0)
    }

    fn attr(&self, node: &Node) -> Result<FileAttr> {
        Ok(attr(node.ino(), node, &self.0.stat(node)?))
    }

    fn xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>>) {
        let value = match value {
            Ok(value) => value,
            Err(e) => return reply.error(error(e)),
        };
        match u32::try_from(value.len()) {
            Ok(length) if size == 0 => reply.size(length),
            Ok(length) if length <= size => reply.data(&value),
            _ => reply.error(fuser::Errno::ERANGE),
        }
    }
}

fn new<'a>(request: &Request, parent: INodeNo, name: &'a OsStr, mode: u32, umask: u32) -> New<'a> {
    New { parent: parent.0, name, mode, umask, uid: request.uid(), gid: request.gid() }
}

thread_local! {
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO;
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(WRITE_BYTES);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.lookup(parent.0, name) {
            Ok(Some(found)) => answer(reply, Ok(found)),
            Ok(None) => {
                // Number 0: there is none, and that may be remembered.
                let none = FileAttr {
                    ino: INodeNo(0),
                    size: 0,
                    blocks: 0,
                    atime: UNIX_EPOCH,
                    mtime: UNIX_EPOCH,
                    ctime: UNIX_EPOCH,
                    crtime: UNIX_EPOCH,
                    kind: Kind::RegularFile,
                    perm: 0,
                    nlink: 0,
                    uid: 0,
                    gid: 0,
                    rdev: 0,
                    blksize: 0,
                    flags: 0,
                };
                reply.entry(&LONG, &none, GENERATION);
            }
            Err(e) => reply.error(error(e)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.0.files().remove(ino.0);
        self.0.tree().forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino).and_then(|node| self.attr(&node)) {
            Ok(attr) => reply.attr(&LONG, &attr),
            Err(e) => reply.error(error(e)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = (atime.is_some() || mtime.is_some())
            .then(|| Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) });
        let changed = self.node(ino).and_then(|node| {
            if let Some(size) = size {
                self.0.truncate(&node, size, request.uid() != 0)?;
            }
            if mode.is_some() || uid.is_some() || gid.is_some() || times.is_some() {
                self.0.change(&node, &Change { mode, uid, gid, times })?;
            }
            self.attr(&node)
        });
        match changed {
            Ok(attr) => reply.attr(&LONG, &attr),
            Err(e) => reply.error(error(e)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino).and_then(|node| self.0.read_link(&node)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(error(e)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let kind = FileType::from_raw_mode(mode);
        answer(reply, self.0.make_node(&new(request, parent, name, mode, umask), kind));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        answer(reply, self.0.make_dir(&new(request, parent, name, mode, umask)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.0.unlink(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.0.remove_dir(parent.0, name));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        answer(reply, self.0.make_symlink(&new(request, parent, name, 0o777, 0), target));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        done(reply, self.0.rename((parent.0, name), (new_parent.0, new_name), flags));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer(reply, self.0.make_link(ino.0, parent.0, name));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.0.make_file(&new(request, parent, name, mode, umask)) {
            Ok((node, stat)) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                reply.created(&LONG, &named(&node, &stat).0, GENERATION, FileHandle(0), flags);
            }
            Err(e) => reply.error(error(e)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ.with_borrow_mut(|buffer| {
            let size = usize::try_from(size).unwrap_or(0);
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let piece = buffer.get_mut(..size).unwrap_or_default();
            match self.node(ino).and_then(|node| self.0.read(&node, offset, piece)) {
                Ok(n) => reply.data(piece.get(..n).unwrap_or_default()),
                Err(e) => reply.error(error(e)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let drop_set_id = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let written = self.node(ino).and_then(|node| self.0.write(&node, offset, data, drop_set_id));
        match written {
            Ok(done) => reply.written(u32::try_from(done).unwrap_or(0)),
            Err(e) => reply.error(error(e)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Like a volatile overlay: after a crash the step is run again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        reply.opened(FileHandle(self.0.open_dir()), flags);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let read = self.node(ino).and_then(|node| {
            let items = self.0.listing(&node, handle.0, offset == 0)?;
            let parent = self.0.tree().parent(node.id).unwrap_or(ROOT);
            let dots = [(".", node.ino()), ("..", self.0.tree().node(parent).map_or(ROOT, |node| node.ino()))];
            let dots = dots.iter().map(|(name, ino)| (OsStr::new(*name), *ino, FileType::Directory));
            let all = dots.chain(items.iter().map(|item| (&*item.name, item.ino, item.kind)));
            for (place, (name, ino, of)) in (1..).zip(all).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
                if reply.add(INodeNo(ino), place, kind(of), name) {
                    break;
                }
            }
            Ok(())
        });
        match read {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(error(e)),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let read = self.node(ino).and_then(|dir| {
            let items = self.0.listing(&dir, handle.0, offset == 0)?;
            let parent = self.0.tree().parent(dir.id).unwrap_or(ROOT);
            let parent = self.0.tree().node(parent)?;
            let here = self.0.stat(&dir)?;
            for (place, name, node) in [(1, ".", &dir), (2, "..", &parent)] {
                // The kernel takes neither for an answer that names an inode.
                if offset < place
                    && reply.add(INodeNo(node.ino()), place, name, &LONG, &attr(node.ino(), node, &here), GENERATION)
                {
                    return Ok(());
                }
            }
            let first = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
            for (place, item) in (3..).zip(items.iter()).skip(first) {
                // Removed since.
                let Some((node, stat)) = self.0.lookup(dir.id, &item.name)? else { continue };
                // One time for the name and its metadata: where these are to be asked for again, so is the name.
                let (shown, valid) = named(&node, &stat);
                if reply.add(INodeNo(node.id), place, &item.name, &valid, &shown, GENERATION) {
                    self.0.tree().forget(node.id, 1);
                    break;
                }
            }
            Ok(())
        });
        match read {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(error(e)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.0.close_dir(handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.0.space() {
            Ok(s) => {
                let size = |n: u64| u32::try_from(n).unwrap_or(4096);
                let (block, fragment) = (size(s.f_bsize), size(s.f_frsize));
                reply.statfs(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, block, 255, fragment);
            }
            Err(e) => reply.error(error(e)),
        }
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        done(reply, self.node(ino).and_then(|node| self.0.set_xattr(&node, name, value, flags)));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        Server::xattr(reply, size, self.node(ino).and_then(|node| self.0.get_xattr(&node, name)));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        Server::xattr(reply, size, self.node(ino).and_then(|node| self.0.list_xattrs(&node)));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.node(ino).and_then(|node| self.0.remove_xattr(&node, name)));
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        done(reply, self.node(ino).and_then(|node| self.0.allocate(&node, mode, offset, length)));
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.node(ino).and_then(|node| self.0.seek(&node, offset, whence)) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(error(e)),
        }
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copied = self.node(from).and_then(|from| {
            let to = self.node(to)?;
            self.0.copy_range((&from, from_offset), (&to, to_offset), length)
        });
        match copied {
            Ok(n) => reply.written(n),
            Err(e) => reply.error(error(e)),
        }
    }
}
