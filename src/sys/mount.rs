//! Mounts, by the file-descriptor API of Linux 5.2 on, and by mount(2) where that is missing or refused.
//!
//! Every function takes the *target* as an open descriptor: a path could be redirected by a symbolic link of the image
//! between the check and the mount. mount(2) reaches the same object through `/proc/self/fd`.

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// A refused mount: what the kernel said, beyond the error number, where it said something.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}{log}")]
pub struct Error {
    /// The call that failed.
    pub call: &'static str,
    /// The kernel's messages, each behind `; `; empty where there are none.
    pub log: String,
    /// The error.
    #[source]
    pub source: io::Error,
}

impl Error {
    fn new(call: &'static str, source: impl Into<io::Error>) -> Error {
        Error { call, log: String::new(), source: source.into() }
    }

    /// Whether the call may only be unknown to the kernel, or refused by a filter that does not know it.
    pub fn is_refused(&self) -> bool {
        matches!(self.errno(), libc::ENOSYS | libc::EPERM)
    }

    /// The error number, 0 where there is none.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

/// Restrictions of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// No writes.
    pub read_only: bool,
    /// Setuid bits and file capabilities are ignored.
    pub no_suid: bool,
    /// Device nodes cannot be opened.
    pub no_dev: bool,
    /// Programs cannot be executed.
    pub no_exec: bool,
}

impl Attributes {
    fn new_api(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        flags
    }

    fn old_api(self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NOSUID, self.no_suid);
        flags.set(MountFlags::NODEV, self.no_dev);
        flags.set(MountFlags::NOEXEC, self.no_exec);
        flags
    }
}

/// Makes all mounts of this namespace private: what is mounted here stays here, and what others mount stays there.
pub fn make_private() -> Result<(), Error> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Error::new("mount(MS_PRIVATE)", e))
}

/// Whether the error may only mean that the newer call is unknown to the kernel or to a filter.
fn try_older(e: Errno) -> bool {
    matches!(e, Errno::NOSYS | Errno::PERM)
}

fn magic_link(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Mounts a new instance of a file system on `target`; the answer is its root directory.
pub fn new_filesystem(
    kind: &str,
    options: &[(&str, &str)],
    attributes: Attributes,
    target: BorrowedFd<'_>,
) -> Result<OwnedFd, Error> {
    match detached_filesystem(kind, options, attributes) {
        Ok(mount) => attach(mount.as_fd(), target).map(|()| mount),
        Err(e) if e.call == "fsopen" && e.is_refused() => {
            let text: Vec<String> = options.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let text = CString::new(text.join(",")).map_err(|e| Error::new("mount", io::Error::other(e)))?;
            rustix::mount::mount(kind, magic_link(target), kind, attributes.old_api(), text.as_c_str())
                .map_err(|e| Error::new("mount", e))?;
            reopen(target)
        }
        Err(e) => Err(e),
    }
}

/// Makes an instance of a file system that is mounted nowhere yet; the answer is its root directory. Where the kernel
/// lacks the newer calls or a filter refuses them, the error's call is `fsopen`.
pub fn detached_filesystem(kind: &str, options: &[(&str, &str)], attributes: Attributes) -> Result<OwnedFd, Error> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| Error::new("fsopen", e))?;
    let result = (|| {
        // What `/proc/self/mounts` shows as the device.
        for (key, value) in [("source", kind)].iter().chain(options) {
            rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value).map_err(|e| Error::new("fsconfig", e))?;
        }
        create(context.as_fd(), attributes)
    })();
    result.map_err(|e| with_log(e, context.as_fd()))
}

fn create(context: BorrowedFd<'_>, attributes: Attributes) -> Result<OwnedFd, Error> {
    rustix::mount::fsconfig_create(context).map_err(|e| Error::new("fsconfig(create)", e))?;
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes.new_api())
        .map_err(|e| Error::new("fsmount", e))
}

/// Puts a detached mount in its place.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Error> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags).map_err(|e| Error::new("move_mount", e))
}

/// Adds what the kernel wrote into the context to the error.
fn with_log(mut error: Error, context: BorrowedFd<'_>) -> Error {
    let mut buffer = [0u8; 1024];
    // One read, one message; the kernel keeps at most eight.
    for _ in 0..8 {
        match rustix::io::read(context, &mut buffer) {
            Ok(n) if n > 0 => {
                let text = String::from_utf8_lossy(buffer.get(..n).unwrap_or_default()).into_owned();
                error.log.push_str("; ");
                // `e ` stands before an error, `w ` before a warning.
                error.log.push_str(text.get(2..).unwrap_or(&text).trim());
            }
            _ => break,
        }
    }
    error
}

/// Shows what `source` is at `target`, too: with all that is mounted below where `recursive`.
pub fn bind(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    recursive: bool,
    attributes: Attributes,
) -> Result<(), Error> {
    bind_at(source, OsStr::new(""), target, recursive, attributes)
}

/// As [`bind`], of the entry `name` of the directory `dir`; a symbolic link is bound itself, not what it leads to.
/// An empty name is `dir` itself.
pub fn bind_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    target: BorrowedFd<'_>,
    recursive: bool,
    attributes: Attributes,
) -> Result<(), Error> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    match rustix::mount::open_tree(dir, name, flags) {
        Ok(tree) => {
            if attributes != Attributes::default() {
                match set_attributes(tree.as_fd(), recursive, attributes) {
                    // Before Linux 5.12: attach first, then remount; below a recursive bind only the top can be changed.
                    Err(e) if try_older(e) => {
                        attach(tree.as_fd(), target)?;
                        let over = reopen(target)?;
                        let flags = MountFlags::BIND | attributes.old_api();
                        return rustix::mount::mount_remount(magic_link(over.as_fd()), flags, "")
                            .map_err(|e| Error::new("mount(MS_REMOUNT)", e));
                    }
                    other => other.map_err(|e| Error::new("mount_setattr", e))?,
                }
            }
            attach(tree.as_fd(), target)
        }
        Err(e) if try_older(e) => {
            let opened;
            let source = if name.is_empty() {
                dir
            } else {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                opened = openat(dir, name, flags, Mode::empty()).map_err(|e| Error::new("openat", e))?;
                opened.as_fd()
            };
            let (from, to) = (magic_link(source), magic_link(target));
            let bound = if recursive {
                rustix::mount::mount_bind_recursive(from, to)
            } else {
                rustix::mount::mount_bind(from, to)
            };
            bound.map_err(|e| Error::new("mount(MS_BIND)", e))?;
            if attributes == Attributes::default() {
                return Ok(());
            }
            let over = reopen(target)?;
            rustix::mount::mount_remount(magic_link(over.as_fd()), MountFlags::BIND | attributes.old_api(), "")
                .map_err(|e| Error::new("mount(MS_REMOUNT)", e))
        }
        Err(e) => Err(Error::new("open_tree", e)),
    }
}

/// Opens what is mounted over the object that `target` is.
fn reopen(target: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    // The path of a descriptor leads to the mount on top; the descriptor itself stays below it.
    let path = std::fs::read_link(magic_link(target)).map_err(|e| Error::new("readlink", e))?;
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| Error::new("open", e))
}

fn set_attributes(tree: BorrowedFd<'_>, recursive: bool, attributes: Attributes) -> Result<(), Errno> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let attr = MountAttr { set: u64::from(attributes.new_api().bits()), clear: 0, propagation: 0, userns: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the pointer is to a struct of the size given; the path is a C string.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            std::mem::size_of::<MountAttr>(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Mounts the file system that whoever reads from `device`, an open `/dev/fuse`, serves. The device must have been opened
/// in the user namespace that owns this mount namespace. Does not wait for the server.
pub fn fuse(device: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Error> {
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", device.as_raw_fd());
    let options = CString::new(options).map_err(|e| Error::new("mount(fuse)", io::Error::other(e)))?;
    rustix::mount::mount("rbuild", magic_link(target), "fuse.rbuild", MountFlags::empty(), options.as_c_str())
        .map_err(|e| Error::new("mount(fuse)", e))
}

/// Layers to stack.
#[derive(Debug)]
pub struct Overlay<'a> {
    /// Lower directories, lowest first, at most 500.
    pub lowers: &'a [PathBuf],
    /// Takes the changes.
    pub upper: &'a Path,
    /// Empty, on the file system of `upper`.
    pub work: &'a Path,
}

/// Mounts an overlay on `target`, with attributes in `user.overlay.*` and without waiting for any disk; the answer is its
/// root directory.
pub fn overlay(layers: &Overlay<'_>, target: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    match rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => match overlay_by_context(layers, context.as_fd(), target) {
            Ok(root) => Ok(root),
            // `lowerdir+` came with Linux 6.7; older kernels call the parameter unknown.
            Err(e) if e.call == "fsconfig(lowerdir+)" && e.errno() == libc::EINVAL => overlay_by_text(layers, target),
            Err(e) => Err(with_log(e, context.as_fd())),
        },
        Err(e) if try_older(e) => overlay_by_text(layers, target),
        Err(e) => Err(Error::new("fsopen(overlay)", e)),
    }
}

/// fsconfig takes strings of at most 255 bytes, and overlay takes backslashes out of some of them.
const MAX_PARAMETER_BYTES: usize = 255;

fn overlay_by_context(layers: &Overlay<'_>, context: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    // Longer paths are given by descriptor; these must stay open until the mount exists.
    let mut held = Vec::new();
    let mut string = |call: &'static str, key: &str, value: &Path| {
        let set =
            |value: &Path| rustix::mount::fsconfig_set_string(context, key, value).map_err(|e| Error::new(call, e));
        let text = value.as_os_str().as_bytes();
        if text.len() <= MAX_PARAMETER_BYTES && !text.contains(&b'\\') {
            return set(value);
        }
        let fd =
            openat(CWD, value, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| Error::new("open", e))?;
        let short = magic_link(fd.as_fd());
        held.push(fd);
        set(&short)
    };
    // The kernel wants the topmost first.
    for lower in layers.lowers.iter().rev() {
        string("fsconfig(lowerdir+)", "lowerdir+", lower)?;
    }
    string("fsconfig", "source", Path::new("overlay"))?;
    string("fsconfig(upperdir)", "upperdir", layers.upper)?;
    string("fsconfig(workdir)", "workdir", layers.work)?;
    for flag in ["userxattr", "volatile"] {
        rustix::mount::fsconfig_set_flag(context, flag).map_err(|e| Error::new("fsconfig", e))?;
    }
    string("fsconfig(index)", "index", Path::new("off"))?;
    let mount = create(context, Attributes::default())?;
    attach(mount.as_fd(), target).map(|()| mount)
}

/// The same in one text, which may be one page long: so the layers get names of a few bytes, as symbolic links in a small
/// directory of its own, relative to which the kernel resolves them.
fn overlay_by_text(layers: &Overlay<'_>, target: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let step = |call: &'static str| move |e: Errno| Error::new(call, e);
    let names = PathBuf::from("/proc");
    // Covers /proc of this namespace for a moment; nothing else of it is needed meanwhile.
    let target_path = std::fs::read_link(magic_link(target)).map_err(|e| Error::new("readlink", e))?;
    let previous = openat(CWD, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(step("open"))?;
    rustix::mount::mount("tmpfs", &names, "tmpfs", MountFlags::empty(), None).map_err(step("mount(tmpfs)"))?;
    let result = (|| {
        rustix::process::chdir(&names).map_err(step("chdir"))?;
        let link = |path: &Path, name: &str| rustix::fs::symlink(path, name).map_err(|e| Error::new("symlink", e));
        let mut list = Vec::new();
        for (number, lower) in layers.lowers.iter().rev().enumerate() {
            let name = radix36(number);
            link(lower, &name)?;
            list.push(name);
        }
        link(layers.upper, "U")?;
        link(layers.work, "W")?;
        let base = format!("userxattr,index=off,upperdir=U,workdir=W,lowerdir={}", list.join(":"));
        let mount = |text: &str| {
            let text = CString::new(text).map_err(|e| Error::new("mount(overlay)", io::Error::other(e)))?;
            rustix::mount::mount("overlay", &target_path, "overlay", MountFlags::empty(), text.as_c_str())
                .map_err(|e| Error::new("mount(overlay)", e))
        };
        // `volatile` came with Linux 5.10.
        mount(&format!("volatile,{base}")).or_else(|e| if e.errno() == libc::EINVAL { mount(&base) } else { Err(e) })
    })();
    let _ = rustix::process::fchdir(previous);
    rustix::mount::unmount(&names, UnmountFlags::DETACH).map_err(step("umount"))?;
    result.and_then(|()| reopen(target))
}

fn radix36(mut number: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = Vec::new();
    loop {
        text.push(DIGITS.get(number % 36).copied().unwrap_or(b'0'));
        number /= 36;
        if number == 0 {
            break;
        }
    }
    text.reverse();
    String::from_utf8_lossy(&text).into_owned()
}

/// What has become of the root that was there before [`pivot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldRoot {
    /// It is gone from this namespace.
    Gone,
    /// It lies below the new one, which whoever may unmount here can take away.
    Below,
}

/// Makes the mount at `root` the root of this namespace and lets go of everything else.
///
/// Filters that allow mounts to root of a pod's own user namespace may still refuse pivot_root. There the mount is moved over
/// the old root: nothing leads below it, since `..` at the top of a namespace stays there, for all who may not unmount.
pub fn pivot(root: BorrowedFd<'_>) -> Result<OldRoot, Error> {
    rustix::process::fchdir(root).map_err(|e| Error::new("fchdir", e))?;
    let old = match rustix::process::pivot_root(".", ".") {
        // The old root now lies on top of the new one.
        Ok(()) => {
            rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(|e| Error::new("umount(old root)", e))?;
            OldRoot::Gone
        }
        Err(Errno::PERM | Errno::NOSYS | Errno::INVAL) => {
            rustix::mount::mount_move(".", "/").map_err(|e| Error::new("mount(MS_MOVE)", e))?;
            rustix::process::chroot(".").map_err(|e| Error::new("chroot", e))?;
            OldRoot::Below
        }
        Err(e) => return Err(Error::new("pivot_root", e)),
    };
    rustix::process::chdir("/").map_err(|e| Error::new("chdir", e))?;
    Ok(old)
}

/// Removes what is mounted at `name`, relative to the current directory; the rest of the kernel's work happens later.
pub fn detach_relative(name: &OsStr) -> Result<(), Error> {
    rustix::mount::unmount(Path::new(name), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|e| Error::new("umount", e))
}

/// As [`bind_at`], not recursive, by the newer calls only: [`Error::is_refused`] tells that they are not to be had.
pub fn bind_at_new(dir: BorrowedFd<'_>, name: &OsStr, target: BorrowedFd<'_>) -> Result<(), Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = rustix::mount::open_tree(dir, name, flags).map_err(|e| Error::new("open_tree", e))?;
    attach(tree.as_fd(), target)
}

/// The mount whose root directory this is, once more, attached nowhere and without what is mounted below. By the newer call
/// only: [`Error::is_refused`] tells that it is not to be had.
pub fn copy(top: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(top, "", flags).map_err(|e| Error::new("open_tree", e))
}

/// mount(2) with MS_BIND, by paths: for places that no link of `/proc` leads to.
pub fn bind_paths(from: &str, to: &str) -> Result<(), Error> {
    rustix::mount::mount_bind(from, to).map_err(|e| Error::new("mount(MS_BIND)", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names() {
        assert_eq!(radix36(0), "0");
        assert_eq!(radix36(35), "z");
        assert_eq!(radix36(36), "10");
        assert_eq!(radix36(499), "dv");
    }
}
