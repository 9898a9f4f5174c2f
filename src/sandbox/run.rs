//! The builder's side of a step: start its init, pass its output on, wait for its end, clean up.

use super::message::{Created, Filter, FilterKind, INIT_NAME, Isolation, Message, Order};
use super::spec::{Capability, Network, Root, Seccomp, Stdin, StepSpec};
use super::{Cancel, Error, Exit, Stream, Usage, etc, gate, profile};
use crate::archive::plain::Touched;
use crate::archive::record::Records;
use crate::supervisor::keeper;
use crate::sys::cgroup::{Cgroup, Figures};
use crate::sys::fs::beneath;
use crate::sys::idmap::{self, IdMap};
use crate::sys::landlock::can_scope_signals;
use crate::sys::memfd;
use crate::sys::process::{self, Rusage, Spawn, Spawned, spawn};
use crate::sys::seccomp::{self, Policy, compile};
use crate::sys::userns::{Entered, Rung, entered};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat, unlinkat};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Whether this pod was found to refuse a proc file system in a pid namespace: then no later step tries.
static PROC_REFUSED: AtomicBool = AtomicBool::new(false);

/// Runs the step and streams its output to `out`, in pieces as they come. Returns when the command ended and everything
/// that it left running is dead. Raising `cancel` kills the step at once.
pub fn run(spec: &StepSpec, out: &mut dyn FnMut(Stream, &[u8]), cancel: &Cancel) -> Result<Exit, Error> {
    let (rung, supervised) = match allowed() {
        Ok(rung) => (rung, false),
        // Without a namespace a supervisor can still show the step a world of its own.
        Err(denied) => match &spec.root {
            Root::Directory { .. } if entered().is_some() && super::isolation::may_supervise() => (Rung::None, true),
            _ => return Err(denied),
        },
    };
    if supervised {
        // To the kernel the step's processes are this one's user: not even a mistake of the supervisor's shows them its memory.
        crate::sys::caps::set_undumpable();
    }
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let isolation = match PROC_REFUSED.load(Ordering::Relaxed) {
            _ if supervised => Isolation::Supervised,
            true => Isolation::Traced,
            false => Isolation::PidNamespace,
        };
        match attempt(spec, rung, isolation, out, cancel)? {
            Some(exit) => return Ok(exit),
            None => PROC_REFUSED.store(true, Ordering::Relaxed),
        }
    }
}

/// The rung on which steps run, or why none can.
pub(super) fn allowed() -> Result<Rung, Error> {
    match entered() {
        // Outside of a namespace of its own the builder would give a step what only the machine's root has.
        None => Err(Error::Denied {
            message: "this process has not entered a user namespace".to_owned(),
            hint: "call `sys::userns::enter` first".to_owned(),
        }),
        Some(Entered { rung: Rung::None, reason, hint, .. }) => Err(Error::Denied {
            message: reason.clone().unwrap_or_else(|| "this pod allows no user namespace".to_owned()),
            hint: hint.clone().unwrap_or_default(),
        }),
        Some(entered) => Ok(entered.rung),
    }
}

fn setup(what: &str) -> impl Fn(io::Error) -> Error {
    move |e| Error::Setup { message: format!("{what}: {e}"), errno: e.raw_os_error().unwrap_or(0), hint: None }
}

/// One try; `None` when the kernel refused a proc file system, before the command was started.
fn attempt(
    spec: &StepSpec,
    rung: Rung,
    isolation: Isolation,
    out: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<Option<Exit>, Error> {
    let started = Instant::now();
    let broken = setup("cannot start a step");
    let keeps = match IdMap::current() {
        IdMap::Ranged { .. } => keeper::Kind::Devices { shown: may_see_devices(spec) },
        IdMap::One | IdMap::Plain => keeper::Kind::Ids,
    };
    let mut report = Report::default();
    let mut given = spec.clone();
    // Who may trace init has what init holds: files outside of the step, and the builder's ear.
    let traces = isolation != Isolation::Supervised && spec.capabilities().contains(&caps::Capability::CAP_SYS_PTRACE);
    // Who shares the builder's terminal is in its process group, too.
    let scope_signals = (traces || spec.interactive || isolation == Isolation::Traced) && can_scope_signals();
    if traces && !scope_signals {
        given.cap_drop.extend("CAP_SYS_PTRACE".parse::<Capability>());
        report.warnings.push(
            "the command goes without `CAP_SYS_PTRACE`: to keep it from its init takes Landlock of Linux 6.12"
                .to_owned(),
        );
    }
    let filters = filters(&given, isolation, keeps, scope_signals)?;
    let order = Order {
        step: given,
        isolation,
        keeps,
        node_root: node_root(),
        resolv_conf: etc::resolv_conf(spec),
        hosts: etc::hosts(spec),
        filters: filters.iter().map(|(kind, filter)| (*kind, filter.len())).collect(),
        scope_signals,
    };
    let text = order.encode().map_err(&broken)?;
    let mut parts: Vec<&[u8]> = vec![&text];
    parts.extend(filters.iter().map(|(_, filter)| filter.as_slice()));
    let order_file = memfd::sealed("order", &parts).map_err(&broken)?;

    let null = File::open("/dev/null").map_err(&broken)?;
    let (stdout_read, stdout_write) = io::pipe().map_err(&broken)?;
    let (stderr_read, stderr_write) = io::pipe().map_err(&broken)?;
    let (message_read, message_write) = io::pipe().map_err(&broken)?;
    let (leash_read, leash_write) = io::pipe().map_err(&broken)?;
    let (own_in, own_out, own_err) = (io::stdin(), io::stdout(), io::stderr());
    let inherit = spec.interactive || spec.stdin == Stdin::Inherit;
    let stdio: [BorrowedFd<'_>; 3] = [
        if inherit { own_in.as_fd() } else { null.as_fd() },
        if spec.interactive { own_out.as_fd() } else { stdout_write.as_fd() },
        if spec.interactive { own_err.as_fd() } else { stderr_write.as_fd() },
    ];
    let fds = [stdio[0], stdio[1], stdio[2], order_file.as_fd(), message_write.as_fd(), leash_read.as_fd()];
    let program = program().map_err(&broken)?;
    let argv = [CString::new(INIT_NAME).unwrap_or_default()];
    let what = Spawn {
        namespaces: namespaces(rung, isolation, spec.network),
        program: program.as_fd(),
        argv: &argv,
        env: &[],
        fds: &fds,
        own_session: !spec.interactive,
    };
    let new_user = what.namespaces & (libc::CLONE_NEWUSER as u64) != 0;
    let cgroup = Cgroup::of_this_process().and_then(Cgroup::child);
    let mut counted = false;
    let mut prepare = |pid| {
        // A step that cannot be moved is counted by its first process, as everywhere else.
        counted = cgroup.as_ref().is_some_and(|c| c.enter(pid).is_ok());
        if new_user { write_identity(pid) } else { Ok(()) }
    };
    let init = spawn(&what, &mut prepare).map_err(|e| explain_spawn(&e))?;
    drop((stdout_write, stderr_write, message_write, leash_read, order_file, null));

    let mut step = Running {
        init,
        streams: [
            Some((Stream::Stdout, File::from(std::os::fd::OwnedFd::from(stdout_read)))),
            Some((Stream::Stderr, File::from(std::os::fd::OwnedFd::from(stderr_read)))),
        ],
        messages: Some(File::from(std::os::fd::OwnedFd::from(message_read))),
        buffered: Vec::new(),
        report,
    };
    let watched = step.watch(out, cancel);
    // Its end makes init end the step.
    let mut leash = Some(leash_write);
    if watched.is_err() || cancel.is_cancelled() {
        // A pid namespace dies with its init. Tracees would be killed, too, but init sees to it that they are gone.
        if isolation != Isolation::PidNamespace {
            leash = None;
            let patience = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(&step.init.pidfd, PollFlags::IN)], Some(&patience));
        }
        let _ = process::signal(step.init.pidfd.as_fd(), libc::SIGKILL);
    }
    let ended = process::wait(step.init.pid).map_err(&broken);
    drop(leash);
    step.drain(out);
    watched.map_err(&broken)?;
    for created in step.report.created.iter().rev() {
        // What is not where it was is the step's by now.
        let _ = remove_mount_point(spec.root.changes(), created);
    }
    let (status, rusage) = ended?;
    if cancel.is_cancelled() && step.report.exited.is_none() {
        return Err(Error::Cancelled);
    }
    step.report.conclude(status, rusage, cgroup.filter(|_| counted).map(|c| c.figures()), started)
}

/// The filters of a step, in the order in which they are loaded: the profile comes last, since it may refuse loading.
fn filters(
    spec: &StepSpec,
    isolation: Isolation,
    keeps: keeper::Kind,
    scope_signals: bool,
) -> Result<Vec<Filter>, Error> {
    let mut filters = Vec::new();
    let mut add = |kind, policy: &Policy| {
        let invalid = |e: seccomp::Error| Error::Setup { message: e.to_string(), errno: 0, hint: None };
        compile(policy).map(|filter| filters.push((kind, filter))).map_err(invalid)
    };
    // Who wants no filter gets none but where the step cannot do without.
    if keeps == keeper::Kind::Ids || spec.seccomp != Seccomp::Unconfined {
        add(FilterKind::Keeper, &keeper::policy(keeps))?;
    }
    if isolation == Isolation::Traced {
        add(FilterKind::Gate, &gate::policy(!scope_signals))?;
    }
    if spec.interactive {
        add(FilterKind::Profile, &gate::terminal())?;
    }
    filters.extend(profile::filter(spec)?.map(|filter| (FilterKind::Profile, filter)));
    Ok(filters)
}

/// Whether the step may look at device nodes that are not there. To trap all calls that could see one would slow down every
/// step for what hardly any does: so it is done where layers have some, and where the command speaks of making them.
fn may_see_devices(spec: &StepSpec) -> bool {
    const MAKERS: [&[u8]; 3] = [b"mknod", b"MAKEDEV", b"debootstrap"];
    let speaks = |text: &[u8]| MAKERS.iter().any(|maker| text.windows(maker.len()).any(|part| part == *maker));
    // Those of `/dev` are covered by the step's own.
    let seen = |path: &Path| !path.starts_with("dev");
    spec.recorded.visible.iter().any(|(path, record)| record.device.is_some() && seen(path))
        || spec.argv.iter().any(|word| speaks(word.as_bytes()))
}

/// What init told.
#[derive(Default)]
struct Report {
    exited: Option<(i32, Option<i32>)>,
    failed: Option<Error>,
    proc_refused: bool,
    warnings: Vec<String>,
    records: Option<Records>,
    touched: Option<Touched>,
    created: Vec<Created>,
}

impl Report {
    fn take(&mut self, message: Message) {
        match message {
            Message::ProcRefused => self.proc_refused = true,
            Message::Failed { message, errno, hint } => self.failed = Some(Error::Setup { message, errno, hint }),
            Message::NotStarted { code, message } => self.failed = Some(Error::NotStarted { message, code }),
            Message::Warning(text) => self.warnings.push(text),
            Message::Created(created) => self.created.push(created),
            Message::Records(records) => self.records = Some(records),
            Message::Touched(touched) => self.touched = Some(touched),
            Message::Exited { code, signal } => self.exited = Some((code, signal)),
        }
    }

    fn conclude(
        self,
        status: process::Status,
        rusage: Rusage,
        figures: Option<Figures>,
        started: Instant,
    ) -> Result<Option<Exit>, Error> {
        match self.failed {
            // The warning may be the reason.
            Some(Error::NotStarted { message, code }) if !self.warnings.is_empty() => {
                let message = format!("{message}; {}", self.warnings.join("; "));
                return Err(Error::NotStarted { message, code });
            }
            Some(error) => return Err(error),
            None => {}
        }
        if self.proc_refused {
            return Ok(None);
        }
        // Without a word from init it was killed, and the command with it.
        let (code, signal) = self.exited.unwrap_or((status.code(), status.signal()));
        let records = match self.records {
            None if code == 0 => {
                let message = "init did not say what it kept of the files of the step".to_owned();
                return Err(Error::Setup { message, errno: libc::EPROTO, hint: None });
            }
            records => records.unwrap_or_default(),
        };
        Ok(Some(Exit {
            code,
            signal,
            usage: Usage::of(rusage, figures),
            duration: started.elapsed(),
            records,
            touched: self.touched,
            warnings: self.warnings,
        }))
    }
}

/// A step whose init is alive, or was until just now.
struct Running {
    init: Spawned,
    streams: [Option<(Stream, File)>; 2],
    messages: Option<File>,
    /// The part of a message that has come so far.
    buffered: Vec<u8>,
    report: Report,
}

/// How much is read at once; as much as a pipe holds.
const PIECE_BYTES: usize = 64 * 1024;

impl Running {
    /// Passes output on until init has ended or `cancel` is raised.
    fn watch(&mut self, out: &mut dyn FnMut(Stream, &[u8]), cancel: &Cancel) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let ready = {
                let mut fds = vec![
                    PollFd::new(&self.init.pidfd, PollFlags::IN),
                    PollFd::from_borrowed_fd(cancel.fd(), PollFlags::IN),
                ];
                let mut of = vec![Source::Init, Source::Cancel];
                if let Some(messages) = &self.messages {
                    fds.push(PollFd::new(messages, PollFlags::IN));
                    of.push(Source::Messages);
                }
                for (number, stream) in self.streams.iter().enumerate() {
                    if let Some((_, pipe)) = stream {
                        fds.push(PollFd::new(pipe, PollFlags::IN));
                        of.push(Source::Stream(number));
                    }
                }
                match poll(&mut fds, None) {
                    Ok(_) => {}
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(e) => return Err(e.into()),
                }
                let ready = fds.iter().zip(of).filter(|(fd, _)| !fd.revents().is_empty()).map(|(_, s)| s);
                ready.collect::<Vec<_>>()
            };
            for source in &ready {
                match *source {
                    Source::Stream(number) => self.read_stream(number, &mut piece, out)?,
                    Source::Messages => self.read_messages(&mut piece)?,
                    Source::Init | Source::Cancel => {}
                }
            }
            if ready.iter().any(|s| matches!(s, Source::Init | Source::Cancel)) {
                return Ok(());
            }
        }
    }

    /// Reads once, from a pipe that has something or has ended.
    fn read_stream(&mut self, number: usize, piece: &mut [u8], out: &mut dyn FnMut(Stream, &[u8])) -> io::Result<()> {
        let Some(Some((stream, pipe))) = self.streams.get_mut(number) else { return Ok(()) };
        match pipe.read(piece) {
            Ok(0) => {
                if let Some(ended) = self.streams.get_mut(number) {
                    *ended = None;
                }
                Ok(())
            }
            Ok(n) => {
                out(*stream, piece.get(..n).unwrap_or_default());
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn read_messages(&mut self, piece: &mut [u8]) -> io::Result<()> {
        let Some(pipe) = &mut self.messages else { return Ok(()) };
        match pipe.read(piece) {
            Ok(0) => self.messages = None,
            Ok(n) => {
                self.buffered.extend_from_slice(piece.get(..n).unwrap_or_default());
                while let Some(end) = self.buffered.iter().position(|&b| b == b'\n') {
                    let line: Vec<u8> = self.buffered.drain(..=end).collect();
                    // Only init writes there; what it writes can be read.
                    if let Ok(message) = serde_json::from_slice(&line) {
                        self.report.take(message);
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Takes what the pipes still hold. All writers are dead, so nothing more can come; a pipe that somebody holds open
    /// all the same is not waited for.
    fn drain(&mut self, out: &mut dyn FnMut(Stream, &[u8])) {
        let mut piece = vec![0; PIECE_BYTES];
        let nonblocking = |file: &File| rustix::fs::fcntl_setfl(file, rustix::fs::OFlags::NONBLOCK).is_ok();
        for number in 0..self.streams.len() {
            while let Some(Some((_, pipe))) = self.streams.get(number) {
                if !nonblocking(pipe) || self.read_stream(number, &mut piece, out).is_err() {
                    break;
                }
            }
        }
        while let Some(pipe) = &self.messages {
            if !nonblocking(pipe) || self.read_messages(&mut piece).is_err() {
                break;
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Source {
    Init,
    Cancel,
    Messages,
    Stream(usize),
}

/// The namespaces of a step.
fn namespaces(rung: Rung, isolation: Isolation, network: Network) -> u64 {
    if isolation == Isolation::Supervised {
        return 0;
    }
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if isolation == Isolation::PidNamespace {
        flags |= libc::CLONE_NEWPID;
    }
    // A user namespace below the builder's keeps the step from reading the builder. Root of the pod's own namespace does
    // without where it can: only there does a masked pod's kernel give it a proc file system.
    if rung != Rung::Pod || isolation == Isolation::Traced {
        flags |= libc::CLONE_NEWUSER;
    }
    if network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    u64::from(flags.unsigned_abs())
}

/// The map of a step's user namespace: every id of the builder's is itself.
fn write_identity(pid: i32) -> io::Result<()> {
    static MAPS: OnceLock<(String, String)> = OnceLock::new();
    let (uids, gids) = MAPS.get_or_init(|| {
        let (uids, gids) = idmap::own();
        let text = |extents: Vec<idmap::Extent>| {
            idmap::format(&extents.iter().map(|e| idmap::Extent { outside: e.inside, ..*e }).collect::<Vec<_>>())
        };
        (text(uids), text(gids))
    });
    std::fs::write(format!("/proc/{pid}/gid_map"), gids)?;
    std::fs::write(format!("/proc/{pid}/uid_map"), uids)
}

/// Whether id 0 of a step is the node's root to the kernel's file permission checks.
fn node_root() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        // The key names the outside ids; a map that keeps 0 as 0 is told apart by what `/proc` itself belongs to.
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata("/proc/sys").is_ok_and(|m| m.uid() == 0)
    })
}

/// This program, which is also every init.
fn program() -> io::Result<&'static File> {
    static PROGRAM: OnceLock<File> = OnceLock::new();
    if let Some(file) = PROGRAM.get() {
        return Ok(file);
    }
    let file = File::open("/proc/self/exe")?;
    Ok(PROGRAM.get_or_init(|| file))
}

fn explain_spawn(e: &io::Error) -> Error {
    let message = format!("cannot start a step: {e}");
    match e.raw_os_error() {
        Some(libc::EPERM) => Error::Denied {
            message: format!("new namespaces are refused: {e}"),
            hint: "the pod's seccomp profile must allow clone with namespace flags: set `securityContext.seccompProfile` to a \
                `Localhost` profile that does, or to `type: Unconfined`"
                .to_owned(),
        },
        Some(errno @ libc::ENOSPC) => Error::Setup {
            message: format!("{message} (too many namespaces)"),
            errno,
            hint: Some("raise the node's sysctls `user.max_*_namespaces`, or run fewer steps at once".to_owned()),
        },
        Some(errno @ libc::EAGAIN) => Error::Setup {
            message: format!("{message} (too many processes)"),
            errno,
            hint: Some("raise the pod's limit of processes, or run fewer steps at once".to_owned()),
        },
        errno => Error::Setup { message, errno: errno.unwrap_or(0), hint: None },
    }
}

/// Takes a mount point out of the upper directory, or the whole tree, again, as if it had never been made, unless the step used it.
///
/// The step may have put links in the place of what was there: none is followed.
fn remove_mount_point(upper: &Path, created: &Created) -> io::Result<()> {
    use std::fs::FileTimes;
    use std::time::{Duration, SystemTime};
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = openat(CWD, upper, place, Mode::empty())?;
    let parent = beneath(upper.as_fd(), &created.parent)?;
    let before = statat(&parent, "", AtFlags::EMPTY_PATH)?;
    // Making the entry set both times. Only if nobody changed anything since was the directory copied up for us alone, and
    // only if nobody made or removed entries since is its time ours to restore.
    let is_ours = |seconds, nanoseconds| (seconds, i64::try_from(nanoseconds).unwrap_or(0)) == created.parent_ctime;
    let untouched = is_ours(before.st_ctime, before.st_ctime_nsec);
    let same_entries = is_ours(before.st_mtime, before.st_mtime_nsec);
    for path in created.paths.iter().rev() {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let Ok(above) = beneath(upper.as_fd(), above) else { continue };
        let Ok(found) = statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let _ = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => unlinkat(&above, name, AtFlags::REMOVEDIR),
            FileType::RegularFile if found.st_size == 0 => unlinkat(&above, name, AtFlags::empty()),
            _ => Ok(()),
        };
    }
    if untouched
        && !created.parent_in_upper
        && let (Some(above), Some(name)) = (created.parent.parent(), created.parent.file_name())
        && beneath(upper.as_fd(), above).and_then(|above| Ok(unlinkat(&above, name, AtFlags::REMOVEDIR)?)).is_ok()
    {
        return Ok(());
    }
    if !same_entries {
        return Ok(());
    }
    let (seconds, nanoseconds) = created.parent_mtime;
    let since = Duration::new(seconds.unsigned_abs(), u32::try_from(nanoseconds).unwrap_or(0));
    let time = if seconds >= 0 { SystemTime::UNIX_EPOCH + since } else { SystemTime::UNIX_EPOCH - since };
    let directory = openat(&parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(directory).set_times(FileTimes::new().set_modified(time))
}
