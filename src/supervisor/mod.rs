//! A step without namespaces: its processes live in the pod's own world, and a supervisor keeps up another one for them.
//!
//! ```text
//! rbuild init              the supervisor: three threads, not dumpable
//!  ├─ thread: calls        answers what the step's filter notifies of: opens, stats, renames …  (calls/)
//!  ├─ thread: watch        the builder's wishes: signals, the end
//!  ├─ main thread: trace   forks, programs that start, ends                                     (trace)
//!  └─ the step             one seccomp filter, traced; its files are opened for it
//! ```
//!
//! A call that names a path is never made by the process that asks: the supervisor resolves the path in the step's own tree
//! ([`view`]), makes the call itself, and gives the result, or the descriptor. What the process does to the path meanwhile
//! changes nothing. A program is executed by way of a [`loader`](crate::sys::loader), the only file that the kernel may
//! execute.
//!
//! To the kernel every process has the same ids, and every file the same owner. What each of them would have with a range
//! of ids is kept here: [`ids`] knows what the kernel would do with the credentials of a process, [`owners`] which files
//! have an owner, a mode or a device number that the file system does not.

mod attributes;
mod calls;
mod elf;
mod exec;
pub mod ids;
pub mod keeper;
mod look;
pub mod owners;
mod policy;
mod proc;
mod serve;
mod tasks;
mod times;
mod trace;
mod view;
mod walk;

pub use view::{Memory, Mount, Source};

use crate::archive::plain::Touched;
use crate::archive::record::Records;
use crate::sys::process::{self, Fork, Status, exit_now, fork};
use crate::sys::seccomp::{self, Listener};
use crate::sys::{caps, landlock, loader, ptrace, rlimit};
use ::caps::Capability;
use owners::Owners;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use view::View;

/// Names of the loaders among the supervisor's files.
const LOADERS: [&str; 2] = ["loader", "loader-32"];
/// What the supervisor needs of root's power: files whatever their owner, and the step's processes.
const KEPT: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_RESOURCE,
];

/// How many directories and links are remembered at most.
const MAX_KNOWN: u64 = 16 * 1024;

/// What a step sees.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Its root directory, absolute on the builder's side.
    pub root: PathBuf,
    /// What lies over it, in this order. Mount points exist.
    pub mounts: Vec<Mount>,
    /// An empty directory of the builder's for the supervisor's own files, on a file system that allows programs.
    pub scratch: PathBuf,
    /// The host name that the step sees.
    pub hostname: String,
    /// Who the step's first process is before it becomes anybody else.
    pub credentials: ids::Credentials,
    /// What the layers have recorded of the files in the root directory.
    pub records: Records,
    /// Other root directories of which something is shown, and what their layers have recorded.
    pub others: Vec<(PathBuf, Records)>,
    /// Files that are shown over it, and whom they belong to.
    pub owners: Vec<(PathBuf, (u32, u32))>,
    /// Whether it has the pod's network, or none.
    pub network: bool,
}

/// A step that could not be run.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    /// What failed.
    pub what: String,
    /// The system error.
    pub source: io::Error,
}

impl Error {
    fn new(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error { what, source }
    }
}

/// How a step ended.
#[derive(Debug)]
pub struct Ended {
    /// How its first process ended.
    pub status: Status,
    /// What that process said before it became the step's program, if it did not.
    pub report: Vec<u8>,
    /// What is to be recorded of the files in the root directory.
    pub records: Records,
    /// Which files it may have changed.
    pub touched: Touched,
}

/// The path of a loader, and which file it is.
type Loader = (CString, (u64, u64));

/// What the supervisor knows.
struct World {
    view: View,
    owners: Owners,
    sockets: calls::Sockets,
    /// This process's user and group.
    own: (u32, u32),
    hostname: String,
    /// The loaders, the native one first: path, and which file it is.
    loaders: [Loader; 2],
    chance: u64,
    /// Which files may have been changed: those that the step had descriptors of, for with these it can do much that nobody
    /// asks about, and those that were changed by name.
    touched: Touched,
}

impl World {
    /// The step is given a descriptor.
    fn given(&mut self, fd: impl AsFd) {
        match rustix::fs::fstat(fd) {
            Ok(stat) => self.touched.file(stat.st_ino),
            Err(_) => self.touched.anything(),
        }
    }

    /// The path of a loader, and which file it is.
    fn loader(&self, form: loader::Form) -> &Loader {
        let [native, compat] = &self.loaders;
        if form == loader::NATIVE { native } else { compat }
    }

    /// A number that programs cannot foresee well enough to rely on.
    fn chance(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }
}

/// The step's first process puts itself under supervision with this.
pub struct Gate {
    filter: Vec<u8>,
    supervisor: UnixStream,
    loaders: [PathBuf; 2],
    offline: bool,
}

impl Gate {
    /// From here on the process sees the step's world. Needs no_new_privs or CAP_SYS_ADMIN.
    pub fn pass(&self) -> io::Result<()> {
        // Should the supervisor be wrong once: there is next to nothing that the process needs to do by itself.
        let [native, compat] = &self.loaders;
        landlock::only_execute(&[native, compat], self.offline)?;
        let listener = seccomp::load_with_patient_listener(&self.filter)?;
        process::send_descriptor(&self.supervisor, listener.as_fd())
    }
}

/// Runs a step. `first` becomes its first process: it prepares what it has to, passes the gate, and executes the program by
/// its path in the step; what it returns is a report of why that failed. `leash` is readable when the step is to end.
/// To be called by a process with one thread.
pub fn run(scene: &Scene, first: impl FnOnce(&Gate) -> Vec<u8>, leash: OwnedFd) -> Result<Ended, Error> {
    // The pod's root may set those of its devices, and of what is in `/proc` and `/sys`.
    let times_are_free = !rustix::process::getuid().is_root()
        && !scene.mounts.iter().any(|m| m.read_only && m.owned && matches!(m.source, Source::Path(_)));
    // Pods' filters may refuse it.
    let takes = io::pipe()
        .and_then(|(end, _)| process::descriptor_of(rustix::process::getpid().as_raw_nonzero().get(), end.as_raw_fd()));
    let network = calls::Network { none: !scene.network, takes: takes.is_ok() };
    let filter = seccomp::compile(&policy::policy(times_are_free, network))
        .map_err(|e| Error { what: "cannot make the supervisor's filter".to_owned(), source: io::Error::other(e) })?;
    let mut world = prepare(scene, network)?;
    let broken = || Error::new("cannot start a step");
    let (mut report_read, report_write) = io::pipe().map_err(broken())?;
    let (mut go_read, mut go_write) = io::pipe().map_err(broken())?;
    let (ours, theirs) = UnixStream::pair().map_err(broken())?;
    let watch = serve::Watch::new(leash).map_err(broken())?;
    let nowhere = scene.scratch.join("nowhere");
    let pid = match fork().map_err(broken())? {
        Fork::Child => {
            drop((report_read, go_write, ours));
            if go_read.read(&mut [0]).unwrap_or(0) == 0 || std::env::set_current_dir(&nowhere).is_err() {
                exit_now(127);
            }
            let loaders = LOADERS.map(|name| scene.scratch.join(name));
            let report = first(&Gate { filter, supervisor: theirs, loaders, offline: !scene.network });
            let mut pipe = report_write;
            let _ = pipe.write_all(&report);
            exit_now(127)
        }
        Fork::Parent(pid) => pid,
    };
    drop((report_write, go_read, theirs));
    // Not before: the child would be untraceable.
    caps::set_undumpable();
    rlimit::raise_descriptors();
    process::become_subreaper().map_err(broken())?;
    let root = world.view.root();
    let cwd = Arc::clone(&root);
    let around = tasks::Surroundings { root, cwd, umask: 0o022 };
    world.view.tasks.first(pid, around, scene.credentials.clone());
    let begin = ptrace::seize_with_programs(pid)
        .map_err(Error::new("cannot trace the step"))
        // It makes sockets and opens files for the step, which is to have nothing of what the pod's root may do besides.
        .and_then(|()| caps::keep_only(&KEPT).map_err(broken()))
        .and_then(|()| go_write.write_all(&[1]).map_err(broken()))
        .and_then(|()| process::await_descriptor(&ours).map_err(broken()));
    let listener = match begin {
        Ok(Some(fd)) => Listener::new(fd),
        // It ended before.
        Ok(None) => {
            let (status, _) = process::wait(pid).map_err(broken())?;
            let mut report = Vec::new();
            report_read.read_to_end(&mut report).map_err(broken())?;
            return Ok(Ended { status, report, records: scene.records.clone(), touched: Touched::default() });
        }
        Err(e) => {
            process::kill_and_reap(pid);
            return Err(e);
        }
    };
    drop(ours);
    listener.take_turns();
    let world = Arc::new(Mutex::new(world));
    serve::start(Arc::new(listener), Arc::clone(&world)).map_err(broken())?;
    watch.start(pid, Arc::clone(&world)).map_err(broken())?;
    let status = trace::run(pid, &world);
    let mut report = Vec::new();
    // All who could write there are dead.
    let _ = report_read.read_to_end(&mut report);
    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
    let root = world.view.root();
    let mut touched = std::mem::take(&mut world.touched);
    // The paths of files are looked for only where a file, or what is kept of one, may be another.
    if touched.kept_names() && !world.owners.take_changed() {
        return Ok(Ended { status, report, records: scene.records.clone(), touched });
    }
    let records = world.owners.records(root.as_fd(), root.as_fd());
    let records = records.map_err(|e| Error::new("cannot read the step's root directory")(e.into()))?;
    world.owners.marked().iter().for_each(|inode| touched.file(*inode));
    Ok(Ended { status, report, records, touched })
}

fn prepare(scene: &Scene, network: calls::Network) -> Result<World, Error> {
    let at = |what: &str, path: &std::path::Path| Error::new(format!("{what} `{}`", path.display()));
    let listing = scene.scratch.join("proc");
    let nowhere = scene.scratch.join("nowhere");
    for dir in [&listing, &nowhere] {
        std::fs::create_dir(dir).map_err(at("cannot make", dir))?;
    }
    let loaders = loaders(scene)?;
    let hard = rlimit::Kind::named("nofile").and_then(rlimit::Kind::hard_limit).unwrap_or(MAX_KNOWN * 2);
    let limit = usize::try_from((hard / 2).min(MAX_KNOWN)).unwrap_or(0);
    let mut view = View::new(&scene.root, listing, limit).map_err(|e| at("cannot open", &scene.root)(e.into()))?;
    view.network = scene.network;
    for mount in &scene.mounts {
        view.mount(mount).map_err(|e| at("cannot show", &mount.target)(e.into()))?;
    }
    let mut owners = Owners::new();
    owners.load(&scene.records, &scene.records, &*view.root()).map_err(|e| at("cannot read", &scene.root)(e.into()))?;
    for (path, records) in &scene.others {
        let fd = File::open(path).map_err(at("cannot open", path))?;
        owners.load(records, records, &fd).map_err(|e| at("cannot read", path)(e.into()))?;
    }
    for (path, owner) in &scene.owners {
        let fd = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        fd.and_then(|fd| owners.give(fd.as_fd(), *owner)).map_err(|e| at("cannot open", path)(e.into()))?;
    }
    for (mount, mounted) in scene.mounts.iter().zip(view.mounts.iter().skip(1)) {
        let (Source::Memory(file), Some(fd)) = (&mount.source, &mounted.memory) else { continue };
        let found = look::look_at(fd).map_err(|e| at("cannot show", &mount.target)(e.into()))?;
        owners.change(&owners::FileId::of(&found), |owned| {
            (owned.uid, owned.gid, owned.mode) = (file.uid, file.gid, Some(file.mode & 0o7777));
        });
    }
    owners.take_changed();
    let mut seed = [0; 8];
    let _ = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut seed));
    Ok(World {
        view,
        owners,
        sockets: calls::Sockets::new(network),
        own: (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
        hostname: scene.hostname.clone(),
        loaders,
        chance: u64::from_ne_bytes(seed) | 1,
        touched: Touched::default(),
    })
}

/// Writes the loaders.
fn loaders(scene: &Scene) -> Result<[Loader; 2], Error> {
    let at = |what: &str, path: &std::path::Path| Error::new(format!("{what} `{}`", path.display()));
    let files = LOADERS.map(|name| scene.scratch.join(name));
    let path = |file: &PathBuf| {
        CString::new(file.as_os_str().as_bytes())
            .map_err(|e| Error { what: "the store's path holds a zero byte".to_owned(), source: e.into() })
    };
    let [native, compat] = &files;
    let paths = [path(native)?, path(compat)?];
    let texts = [paths[0].as_c_str(), paths[1].as_c_str()];
    let mut ids = [(0, 0); 2];
    for ((form, file), id) in [loader::NATIVE, loader::COMPAT].into_iter().zip(&files).zip(&mut ids) {
        let image = form.image(texts).ok_or_else(|| Error {
            what: format!("the path `{}` is too long", file.display()),
            source: io::Error::from_raw_os_error(libc::ENAMETOOLONG),
        })?;
        std::fs::write(file, image).map_err(at("cannot write", file))?;
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o555)).map_err(at("cannot change", file))?;
        let found = std::fs::metadata(file).map_err(at("cannot read", file))?;
        *id = (found.dev(), found.ino());
    }
    let [native, compat] = paths;
    Ok([(native, ids[0]), (compat, ids[1])])
}
