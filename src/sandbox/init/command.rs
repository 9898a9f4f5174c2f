//! The child that becomes the step's command.

use super::super::message::{Filter, FilterKind, Order};
use super::super::spec::{Stdin, StepSpec};
use super::Failure;
use crate::supervisor::keeper::{Keeper, Kind};
use crate::sys;
use crate::sys::process::{Fork, exec, exit_now, fork};
use crate::sys::seccomp::Listener;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why the command did not start.
pub(super) enum NotStarted {
    /// The program is missing (127) or cannot be executed (126).
    Program {
        /// Code as a shell reports it.
        code: i32,
        /// Why.
        message: String,
    },
    /// Something else.
    Other(Failure),
}

/// A command that runs.
pub(super) struct Started {
    /// Its pid.
    pub(super) pid: i32,
    /// Where its calls arrive that init has to attend to itself.
    pub(super) calls: Option<Arc<Listener>>,
}

/// Starts the command. `adopt`, where there is one, is called with its pid before it does anything.
pub(super) fn start(
    order: &Order,
    filters: &[Filter],
    keeper: &Arc<Keeper>,
    adopt: Option<&mut dyn FnMut(i32) -> io::Result<()>>,
) -> Result<Started, NotStarted> {
    let other = |e: io::Error| {
        NotStarted::Other(Failure::new(format!("cannot start a process: {e}"), e.raw_os_error().unwrap_or(0)))
    };
    let (mut read, write) = io::pipe().map_err(other)?;
    let (mut go_read, mut go_write) = io::pipe().map_err(other)?;
    let (ours, theirs) = UnixStream::pair().map_err(other)?;
    match fork().map_err(other)? {
        Fork::Child => {
            drop((read, go_write, ours));
            // Waiting costs two changes of process.
            if adopt.is_some() && go_read.read(&mut [0]).unwrap_or(0) == 0 {
                exit_now(127);
            }
            let error = become_command(order, filters, &theirs);
            let mut pipe = write;
            let _ = pipe.write_all(&error.encode());
            exit_now(127)
        }
        Fork::Parent(pid) => {
            drop((write, go_read, theirs));
            // From its first call on: even starting the program may be one that is asked about. A call that is rare is worth
            // no thread.
            let later = if order.keeps.is_busy() {
                let keeper = keeper.clone();
                let thread = std::thread::Builder::new().name("keeper".into());
                thread.spawn(move || attend(&keeper, &ours)).map_err(other)?;
                None
            } else {
                Some(ours)
            };
            if let Some(adopt) = adopt {
                adopt(pid).and_then(|()| go_write.write_all(&[1])).map_err(|e| {
                    sys::process::kill(pid, libc::SIGKILL);
                    let errno = e.raw_os_error().unwrap_or(0);
                    NotStarted::Other(Failure::new(format!("cannot show the command in `/proc`: {e}"), errno))
                })?;
            }
            // The pipe closes when the program starts.
            let mut report = Vec::new();
            read.read_to_end(&mut report).map_err(other)?;
            match NotStarted::decode(&report) {
                None => {
                    let calls = later.and_then(|ours| sys::process::receive_descriptor(&ours).ok().flatten());
                    Ok(Started { pid, calls: calls.map(Listener::new).map(Arc::new) })
                }
                Some(error) => Err(error),
            }
        }
    }
}

/// Answers the calls of the step as soon as its first process has handed over where they arrive.
fn attend(keeper: &Keeper, child: &UnixStream) {
    // A directory of its own: the keeper may have to change into that of a process.
    if sys::process::unshare(rustix::thread::UnshareFlags::FS).is_err() {
        return;
    }
    let ready = loop {
        let mut fds = [PollFd::new(child, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other,
        }
    };
    if let (Ok(_), Ok(Some(listener))) = (ready, sys::process::receive_descriptor(child)) {
        keeper.serve(&Arc::new(Listener::new(listener)));
    }
}

fn no_listener(e: &io::Error) -> Failure {
    let failure = Failure::new(format!("cannot watch the calls of the step: {e}"), e.raw_os_error().unwrap_or(0));
    failure.hint(
        "where a pod has one id, owners of files are kept by a seccomp listener, which needs Linux 5.5 and a seccomp profile \
         that allows `seccomp`",
    )
}

impl NotStarted {
    pub(super) fn encode(&self) -> Vec<u8> {
        let value = match self {
            NotStarted::Program { code, message } => (*code, message, 0, &None),
            NotStarted::Other(f) => (0, &f.message, f.errno, &f.hint),
        };
        serde_json::to_vec(&value).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<NotStarted> {
        if bytes.is_empty() {
            return None;
        }
        Some(match serde_json::from_slice::<(i32, String, i32, Option<String>)>(bytes) {
            Ok((0, message, errno, hint)) => NotStarted::Other(Failure { message, errno, hint }),
            Ok((code, message, ..)) => NotStarted::Program { code, message },
            Err(e) => NotStarted::Other(Failure::new(format!("cannot start the command: {e}"), 0)),
        })
    }
}

/// Returns only on failure.
fn become_command(order: &Order, filters: &[Filter], init: &UnixStream) -> NotStarted {
    match prepare(order, filters, init) {
        Ok(()) => execute(order),
        Err(failure) => NotStarted::Other(failure),
    }
}

fn prepare(order: &Order, filters: &[Filter], init: &UnixStream) -> Result<(), Failure> {
    use super::Context as _;
    let step = &order.step;
    detach(step)?;
    if !step.interactive && step.ids.uid != 0 {
        // `/dev/stdout` can only be opened by the owner of the pipe.
        let _ = std::os::unix::fs::fchown(io::stdout(), Some(step.ids.uid), None);
        let _ = std::os::unix::fs::fchown(io::stderr(), Some(step.ids.uid), None);
    }
    sys::process::close_on_exec_from(3);
    surroundings(step)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    enter_directory(&step.cwd)?;

    sys::caps::bound(&step.capabilities()).context(|| "cannot drop capabilities".to_owned())?;
    if step.no_new_privileges {
        sys::caps::set_no_new_privileges().context(|| "cannot set no_new_privs".to_owned())?;
    }
    if order.scope_signals {
        sys::landlock::scope_signals().context(|| "cannot keep the signals of the step inside".to_owned())?;
    }
    // While there is still the privilege to load one without no_new_privs.
    for (kind, filter) in filters {
        match kind {
            FilterKind::Keeper => match sys::seccomp::load_with_patient_listener(filter) {
                Ok(listener) => sys::process::send_descriptor(init, listener.as_fd())
                    .context(|| "cannot hand over the seccomp listener".to_owned())?,
                // With real ids only device nodes need it.
                Err(_) if order.keeps != Kind::Ids => {}
                Err(e) => return Err(no_listener(&e)),
            },
            FilterKind::Gate | FilterKind::Profile => {
                sys::seccomp::load(filter).context(|| "cannot load the seccomp filter".to_owned())?;
            }
        }
    }
    change_user(order)
}

/// Leaves the signals, the session and the input of init.
pub(super) fn detach(step: &StepSpec) -> Result<(), Failure> {
    use super::Context as _;
    sys::process::reset_signals();
    if !step.interactive {
        let _ = rustix::process::setsid();
    }
    if step.stdin == Stdin::Null && !step.interactive {
        let what = || "cannot open `/dev/null`".to_owned();
        let null = openat(CWD, "/dev/null", OFlags::RDONLY, Mode::empty()).context(what)?;
        sys::process::set_stdio(null.as_fd(), 0).context(what)?;
    }
    Ok(())
}

/// Limits and CPUs.
pub(super) fn surroundings(step: &StepSpec) -> Result<(), Failure> {
    use super::Context as _;
    for limit in &step.rlimits {
        sys::rlimit::set(limit.kind, limit.soft, limit.hard)
            .context(|| format!("cannot set the limit `{}`", limit.kind.name()))?;
    }
    if !step.cpus.is_empty() {
        sys::rlimit::only_cpus(&step.cpus).context(|| "cannot choose the CPUs of the command".to_owned())?;
    }
    Ok(())
}

pub(super) fn enter_directory(cwd: &Path) -> Result<(), Failure> {
    let failure = |e: io::Error| {
        Failure::new(
            format!("cannot enter the working directory `{}`: {e}", cwd.display()),
            e.raw_os_error().unwrap_or(0),
        )
    };
    match std::env::set_current_dir(cwd) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(cwd).and_then(|()| std::env::set_current_dir(cwd)).map_err(failure)
        }
        other => other.map_err(failure),
    }
}

fn change_user(order: &Order) -> Result<(), Failure> {
    let ids = &order.step.ids;
    let failure = |call: &str, e: &io::Error| {
        Failure::new(format!("cannot become user {}:{}: {call}: {e}", ids.uid, ids.gid), e.raw_os_error().unwrap_or(0))
    };
    if order.keeps == Kind::Ids {
        // To the keeper the process has these ids already.
        return Ok(());
    }
    sys::caps::become_user(ids.uid, ids.gid, Some(&ids.groups)).map_err(|(call, e)| {
        let failure = failure(&call, &e);
        if e.raw_os_error() == Some(libc::EINVAL) {
            failure.hint(
                "the id lies outside of the range that the pod has: use a smaller one, or give the builder's user a wider \
                 range in `/etc/subuid` and `/etc/subgid`",
            )
        } else {
            failure
        }
    })
}

fn c_string(bytes: Vec<u8>) -> Option<CString> {
    CString::new(bytes).ok()
}

/// Executes the command. Returns only on failure.
pub(super) fn execute(order: &Order) -> NotStarted {
    let step = &order.step;
    let program = |code, message| NotStarted::Program { code, message };
    let Some(name) = step.argv.first().filter(|n| !n.is_empty()) else {
        return program(127, "the command is empty".to_owned());
    };
    let argv: Option<Vec<CString>> = step.argv.iter().map(|a| c_string(a.as_bytes().to_vec())).collect();
    // A secret takes the place of a variable of its name: of two, programs would not agree on which counts.
    let plain = step.env.iter().filter(|(n, _)| !step.secret_env.iter().any(|(secret, _)| n == secret.as_str()));
    let plain = plain.map(|(n, v)| [n.as_bytes(), b"=", v.as_bytes()].concat());
    let secret = step.secret_env.iter().map(|(n, v)| [n.as_bytes(), b"=", v.bytes()].concat());
    let env: Option<Vec<CString>> = plain.chain(secret).map(c_string).collect();
    let (Some(argv), Some(env)) = (argv, env) else {
        return program(126, "an argument or a variable contains a zero byte".to_owned());
    };
    let shown = name.to_string_lossy();
    let mut refused: Option<io::Error> = None;
    for candidate in candidates(name, &step.env) {
        let Some(path) = c_string(candidate.into_os_string().into_vec()) else { continue };
        let e = exec(&path, &argv, &env);
        match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {
                // A program that is there, but whose interpreter is not, is not "not found".
                if Path::new(OsStr::from_bytes(path.as_bytes())).exists() && refused.is_none() {
                    refused = Some(io::Error::other("its interpreter or loader is missing in the image"));
                }
            }
            _ => refused = refused.or(Some(e)),
        }
    }
    match refused {
        Some(e) => program(126, format!("cannot execute `{shown}`: {e}")),
        None if name.as_bytes().contains(&b'/') => {
            program(127, format!("cannot execute `{shown}`: no such file in the image"))
        }
        None => program(127, format!("cannot execute `{shown}`: not found in PATH")),
    }
}

fn candidates(name: &OsStr, env: &[(OsString, OsString)]) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(name)];
    }
    // The last one wins, as in a shell.
    let path = env.iter().rev().find(|(n, _)| n == "PATH").map_or(OsStr::new(DEFAULT_PATH), |(_, v)| v);
    path.as_bytes().split(|&b| b == b':').map(|dir| Path::new(OsStr::from_bytes(dir)).join(name)).collect()
}
