//! A step in a pod that allows no namespaces: what mounts show elsewhere, the [`supervisor`](crate::supervisor) shows.

use super::super::message::{Created, Filter, FilterKind, Message, Order};
use super::super::spec::{Guard, MountKind, Root};
use super::command::{self, NotStarted};
use super::{Context as _, Failure, Reporter};
use crate::archive::record::Records;
use crate::supervisor::{self, Gate, Memory, Mount, Scene, Source};
use crate::sys;
use crate::sys::fs::{Missing, resolve, resolve_or_create};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, readlinkat, statat};
use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Devices of the pod that every step gets.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Symbolic links in `/dev`: name, target.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Runs the command of the step and answers its exit code.
pub(super) fn live(order: &Order, filters: &[Filter], reporter: &mut Reporter, leash: OwnedFd) -> Result<i32, Failure> {
    let Root::Directory { path: root } = &order.step.root else {
        return Err(Failure::new("a step without namespaces needs its root file system as one directory", 0)
            .hint("use `--storage-driver=copy`"));
    };
    let scratch = root.with_file_name(format!("scene-{}", std::process::id()));
    fs::create_dir(&scratch).context(|| format!("cannot make `{}`", scratch.display()))?;
    let _removed = Removed(scratch.clone());
    let mut stage = Stage::new(root, &scratch)?;
    stage.usual(order, reporter)?;
    stage.wanted(order, reporter)?;
    let step = &order.step;
    let scene = Scene {
        root: root.clone(),
        mounts: std::mem::take(&mut stage.mounts),
        scratch: scratch.clone(),
        hostname: step.hostname.clone(),
        credentials: step.credentials(),
        records: step.recorded.visible.clone(),
        others: std::mem::take(&mut stage.others),
        owners: std::mem::take(&mut stage.owners),
        network: step.network != super::super::Network::None,
    };
    let first = |gate: &Gate| match prepare(order, filters, gate) {
        Ok(()) => command::execute(order).encode(),
        Err(failure) => NotStarted::Other(failure).encode(),
    };
    let ended = supervisor::run(&scene, first, leash).map_err(|e| {
        let errno = e.source.raw_os_error().unwrap_or(0);
        Failure::new(e.to_string(), errno).hint(
            "a pod without namespaces must allow `ptrace` and `seccomp` with listeners, as the runtimes' default seccomp \
             profile does on Linux 5.14 and newer",
        )
    })?;
    match NotStarted::decode(&ended.report) {
        Some(NotStarted::Other(failure)) => return Err(failure),
        Some(NotStarted::Program { code, message }) => {
            reporter.send(&Message::NotStarted { code, message });
            return Ok(code);
        }
        None => {}
    }
    if ended.status.code() == 0 {
        let mut touched = ended.touched;
        stage.made_in.take().into_iter().for_each(|inode| touched.names_in(inode));
        reporter.send(&Message::Touched(touched));
        reporter.send(&Message::Records(ended.records));
    }
    reporter.send(&Message::Exited { code: ended.status.code(), signal: ended.status.signal() });
    Ok(ended.status.code())
}

/// A directory that goes when this does.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the step's first process does before it executes the command.
fn prepare(order: &Order, filters: &[Filter], gate: &Gate) -> Result<(), Failure> {
    let step = &order.step;
    command::detach(step)?;
    sys::process::close_on_exec_from(3);
    // The kernel would write the memory of what crashes into a directory of the builder's.
    if let Some(core) = sys::rlimit::Kind::named("core") {
        sys::rlimit::set(core, Some(0), Some(0)).context(|| "cannot switch core dumps off".to_owned())?;
    }
    command::surroundings(step)?;
    // Of what the pod's root may do, the step gets nothing.
    sys::caps::drop_all().context(|| "cannot drop capabilities".to_owned())?;
    sys::caps::set_no_new_privileges().context(|| "cannot set no_new_privs".to_owned())?;
    gate.pass().context(|| "cannot load the supervisor's filter".to_owned())?;
    for (kind, filter) in filters {
        if *kind == FilterKind::Profile {
            sys::seccomp::load(filter).context(|| "cannot load the seccomp filter".to_owned())?;
        }
    }
    command::enter_directory(&step.cwd)
}

/// What the step will see, as far as it is put together.
struct Stage<'a> {
    root: OwnedFd,
    root_path: PathBuf,
    scratch: &'a Path,
    mounts: Vec<Mount>,
    others: Vec<(PathBuf, Records)>,
    owners: Vec<(PathBuf, (u32, u32))>,
    made: usize,
    /// Directories of the root in which mount points were made, which are taken away again.
    made_in: RefCell<Vec<u64>>,
}

impl<'a> Stage<'a> {
    fn new(root: &Path, scratch: &'a Path) -> Result<Stage<'a>, Failure> {
        let what = || format!("cannot open `{}`", root.display());
        let fd = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context(what)?;
        let root_path = path_of(fd.as_fd()).context(what)?;
        let (mounts, others, owners, made_in) = Default::default();
        Ok(Stage { root: fd, root_path, scratch, mounts, others, owners, made: 0, made_in })
    }

    /// A new directory of the step's own.
    fn directory(&mut self, mode: u32) -> Result<PathBuf, Failure> {
        self.made += 1;
        let path = self.scratch.join(format!("dir-{}", self.made));
        let what = || format!("cannot make `{}`", path.display());
        fs::create_dir(&path).context(what)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode | 0o700)).context(what)?;
        Ok(path)
    }

    /// Where in the step something is to be mounted: links on the way are followed, what is missing is made.
    fn point(&self, target: &Path, missing: Missing, reporter: &mut Reporter) -> Result<PathBuf, Failure> {
        let what = || format!("cannot make the mount point `{}`", target.display());
        // What is shown there already is where the rest of the path lies.
        let over = self.mounts.iter().rev().find_map(|m| match &m.source {
            Source::Path(path) => {
                target.strip_prefix(&m.target).ok().map(|rest| (m.target.clone(), path.clone(), rest))
            }
            Source::Proc | Source::Memory(_) => None,
        });
        if let Some((at, source, rest)) =
            over.filter(|(_, source, rest)| !rest.as_os_str().is_empty() && source.is_dir())
        {
            let dir = openat(CWD, &source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(what)?;
            let top = path_of(dir.as_fd()).context(what)?;
            let (fd, _) = resolve_or_create(dir.as_fd(), rest, missing, &mut |_| {}).context(what)?;
            let found = path_of(fd.as_fd()).context(what)?;
            return Ok(at.join(found.strip_prefix(&top).unwrap_or(rest)));
        }
        let (fd, made) = resolve_or_create(self.root.as_fd(), target, missing, &mut |_| {}).context(what)?;
        if let Some(made) = made {
            let parent = made.paths.first().and_then(|p| p.parent()).unwrap_or(Path::new("")).to_owned();
            let at = if parent.as_os_str().is_empty() { Path::new(".") } else { &parent };
            let above = statat(&self.root, at, AtFlags::SYMLINK_NOFOLLOW).context(what)?;
            self.made_in.borrow_mut().push(above.st_ino);
            reporter.send(&Message::Created(Created {
                paths: made.paths,
                parent,
                parent_mtime: made.parent_mtime,
                parent_in_upper: true,
                parent_ctime: (above.st_ctime, i64::try_from(above.st_ctime_nsec).unwrap_or(0)),
            }));
        }
        let found = path_of(fd.as_fd()).context(what)?;
        Ok(Path::new("/").join(found.strip_prefix(&self.root_path).unwrap_or(&found)))
    }

    fn show(&mut self, target: PathBuf, source: Source, guard: Guard, shared: bool) {
        let owned = !matches!(source, Source::Proc) && !shared;
        self.mounts.push(Mount {
            target,
            source,
            read_only: guard.read_only,
            no_exec: guard.no_exec,
            private: false,
            owned,
            common: false,
        });
    }

    /// What every step has.
    fn usual(&mut self, order: &Order, reporter: &mut Reporter) -> Result<(), Failure> {
        let dev = self.directory(0o755)?;
        for (name, target) in LINKS {
            symlink(target, dev.join(name)).context(|| format!("cannot make `/dev/{name}`"))?;
        }
        for name in ["shm", "pts"] {
            fs::create_dir(dev.join(name)).context(|| format!("cannot make `/dev/{name}`"))?;
        }
        let point = self.point(Path::new("/dev"), Missing::Directory, reporter)?;
        self.show(point.clone(), Source::Path(dev.clone()), Guard::default(), false);
        for name in NODES.into_iter().filter(|name| Path::new("/dev").join(name).exists()) {
            fs::write(dev.join(name), "").context(|| format!("cannot make `/dev/{name}`"))?;
            self.show(point.join(name), Source::Path(Path::new("/dev").join(name)), Guard::default(), true);
        }
        if !order.step.pipes.is_empty() {
            fs::create_dir(dev.join("pipes")).context(|| "cannot make `/dev/pipes`".to_owned())?;
        }
        for pipe in &order.step.pipes {
            if pipe.name.is_empty() || pipe.name.contains('/') || pipe.name == ".." || pipe.name == "." {
                return Err(Failure::new(format!("`{}` is no file name", pipe.name), 0));
            }
            let file = dev.join("pipes").join(&pipe.name);
            let what = || format!("cannot make `/dev/pipes/{}`", pipe.name);
            fs::write(&file, &pipe.content).context(what)?;
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).context(what)?;
        }
        let point = self.point(Path::new("/proc"), Missing::Directory, reporter)?;
        self.show(point, Source::Proc, Guard::default(), true);
        let point = self.point(Path::new("/sys"), Missing::Directory, reporter)?;
        self.show(point, Source::Path("/sys".into()), Guard::read_only(true), true);
        for (path, text) in [("/etc/resolv.conf", &order.resolv_conf), ("/etc/hosts", &order.hosts)] {
            let Some(text) = text else { continue };
            let target = self.point(Path::new(path), Missing::File, reporter)?;
            let file = Memory { content: text.clone().into_bytes(), mode: 0o644, uid: 0, gid: 0 };
            self.show(target, Source::Memory(file), Guard::default(), false);
        }
        Ok(())
    }

    /// What this step asks for.
    fn wanted(&mut self, order: &Order, reporter: &mut Reporter) -> Result<(), Failure> {
        for wanted in &order.step.devices {
            let what = || format!("cannot show the device `{}`", wanted.source.display());
            let directory = fs::metadata(&wanted.source).context(what)?.is_dir();
            let missing = if directory { Missing::Directory } else { Missing::File };
            let target = self.point(&wanted.target, missing, reporter)?;
            self.show(target, Source::Path(wanted.source.clone()), Guard::default(), true);
        }
        for wanted in &order.step.mounts {
            self.mount(wanted, reporter)?;
        }
        for path in &order.step.masked {
            let what = || format!("cannot cover `{}`", path.display());
            let place = match resolve(self.root.as_fd(), path) {
                Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                    continue;
                }
                other => other.context(what)?,
            };
            let stat = statat(&place, "", AtFlags::EMPTY_PATH).context(what)?;
            let target = self.point(path, Missing::File, reporter)?;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let source = if directory { self.directory(0o555)? } else { PathBuf::from("/dev/null") };
            self.show(target, Source::Path(source), Guard::read_only(directory), !directory);
        }
        Ok(())
    }

    fn mount(&mut self, wanted: &super::super::spec::Mount, reporter: &mut Reporter) -> Result<(), Failure> {
        let what = || format!("cannot mount `{}`", wanted.target.display());
        let (source, inside, guard) = match &wanted.kind {
            MountKind::Bind { source, inside, owner, guard } => {
                self.owners.extend(owner.map(|owner| (source.clone(), owner)));
                (source, inside, *guard)
            }
            MountKind::Tree { root: Root::Directory { path }, inside, guard, recorded } => {
                self.others.push((path.clone(), recorded.clone()));
                (path, inside, *guard)
            }
            MountKind::Tree { .. } => {
                return Err(Failure::new(format!("{}: its source is no directory", what()), 0)
                    .hint("use `--storage-driver=copy`"));
            }
            MountKind::Secret { content, mode, uid, gid } => {
                let target = self.point(&wanted.target, Missing::File, reporter)?;
                let file = Memory { content: content.bytes().to_vec(), mode: *mode, uid: *uid, gid: *gid };
                self.show(target, Source::Memory(file), Guard { no_exec: true, ..Guard::read_only(true) }, false);
                return Ok(());
            }
            MountKind::Tmpfs { size, mode, guard } => {
                let target = self.point(&wanted.target, Missing::Directory, reporter)?;
                if size.is_some() {
                    let at = wanted.target.display();
                    reporter.send(&Message::Warning(format!(
                        "the size of the tmpfs at `{at}` is no limit: this pod allows no mounts, so it is a directory"
                    )));
                }
                let directory = self.directory(*mode & 0o777)?;
                self.show(target, Source::Path(directory), *guard, false);
                return Ok(());
            }
        };
        // By descriptor and inside: whoever writes there at the same time cannot lead the mount out with a link.
        let from = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .context(|| format!("cannot open `{}`", source.display()))?;
        let from = match inside.as_os_str().is_empty() {
            true => from,
            false => resolve(from.as_fd(), inside)
                .context(|| format!("cannot mount `{}` of its source", inside.display()))?,
        };
        let stat = statat(&from, "", AtFlags::EMPTY_PATH).context(what)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let target =
            self.point(&wanted.target, if directory { Missing::Directory } else { Missing::File }, reporter)?;
        let source = path_of(from.as_fd()).context(what)?;
        self.show(target, Source::Path(source), guard, false);
        let common = matches!(wanted.kind, MountKind::Bind { .. }) && !guard.read_only;
        if let Some(shown) = self.mounts.last_mut() {
            shown.common = common;
        }
        Ok(())
    }
}

/// The path of an open file as the kernel writes it.
fn path_of(fd: BorrowedFd<'_>) -> rustix::io::Result<PathBuf> {
    let link = readlinkat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    Ok(OsString::from_vec(link.into_bytes()).into())
}
