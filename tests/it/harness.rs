//! What the end-to-end tests stand on: a place of their own, the program run as a non-root user, a registry, a base image.
//!
//! A [`Lab`] is one test's world: a directory that the user may write to, with a store in it. Tests started as root run
//! the program as an unprivileged user with a range of ids (the first such user in `/etc/subuid`); started as a user,
//! they run it as that user. Whatever a lab starts, it ends: processes by id, files with the directory.

#![allow(dead_code)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The program under test, as cargo built it.
const RBUILD: &str = env!("CARGO_BIN_EXE_rbuild");

/// How long one command may take before it is killed and the test fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// Leaves the test, saying why, where something that it needs is missing; fails instead when `CI` is set, since CI
/// installs everything. Takes names of programs, or `if CONDITION, "reason"`.
macro_rules! require {
    (if $missing:expr, $reason:expr) => {
        if $missing {
            $crate::harness::cannot_run(&$reason);
            return;
        }
    };
    ($($program:literal),+ $(,)?) => {
        $(require!(if $crate::harness::which($program).is_none(), concat!("`", $program, "` is not installed"));)+
    };
}
#[allow(unused_imports)]
pub(crate) use require;

/// Prints why a test does not run, or fails where it should have been able to.
pub fn cannot_run(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "this test must run under CI, but {reason}");
    eprintln!("skipped: {reason}");
}

/// Where a program lies, looking also where Debian puts what administrators use.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Who runs the program under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Whether `/etc/subuid` and `/etc/subgid` give this user at least 65536 ids.
    pub ranged: bool,
}

impl User {
    /// The user that the program is run as: this one, or if this one is root, an unprivileged one.
    pub fn find() -> User {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let accounts: Vec<Vec<&str>> =
            passwd.lines().map(|l| l.split(':').collect()).filter(|f: &Vec<_>| f.len() > 3).collect();
        let ranged = |name: &str, uid: u32| {
            ["/etc/subuid", "/etc/subgid"].iter().all(|file| {
                fs::read_to_string(file).unwrap_or_default().lines().any(|line| {
                    let fields: Vec<&str> = line.split(':').collect();
                    let owner = fields.first().is_some_and(|f| *f == name || *f == uid.to_string());
                    owner && fields.get(2).and_then(|n| n.trim().parse::<u32>().ok()).is_some_and(|n| n >= 65536)
                })
            })
        };
        let users = accounts.iter().filter_map(|f| Some((f[0], f[2].parse().ok()?, f[3].parse().ok()?)));
        let newuidmap = which("newuidmap").is_some();
        if is_root() {
            let first = users.filter(|(_, uid, _)| *uid != 0).find(|(name, uid, _)| ranged(name, *uid));
            let (uid, gid) = first.map_or((1001, 1001), |(_, uid, gid)| (uid, gid));
            return User { uid, gid, ranged: newuidmap && first.is_some() };
        }
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let name = users.filter(|(_, id, _)| *id == uid).map(|(name, ..)| name).next().unwrap_or_default();
        User { uid, gid, ranged: newuidmap && ranged(name, uid) }
    }
}

/// One test's world. Its directory goes away with it.
pub struct Lab {
    dir: Option<tempfile::TempDir>,
    user: User,
}

impl Lab {
    /// A new directory below the system's temporary one, belonging to the user, with the program in `bin/`.
    pub fn new() -> Lab {
        Lab::below(&std::env::temp_dir())
    }

    /// A new directory below `parent`.
    pub fn below(parent: &Path) -> Lab {
        let dir = tempfile::Builder::new().prefix("rbuild-it-").tempdir_in(parent).expect("a temporary directory");
        let lab = Lab { user: User::find(), dir: Some(dir) };
        fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755)).expect("chmod of the lab");
        lab.own(&lab.dir());
        for name in ["bin", "home", "tmp"] {
            lab.mkdir(name);
        }
        // The build directory may lie where the user cannot go (`/root`), so the program comes here: by link, or copied.
        let program = lab.path("bin/rbuild");
        if fs::hard_link(RBUILD, &program).is_err() {
            fs::copy(RBUILD, &program).expect("cannot copy the program");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod of the program");
        }
        std::os::unix::fs::symlink("rbuild", lab.path("bin/docker")).expect("a link to the program");
        lab
    }

    /// The directory.
    pub fn dir(&self) -> PathBuf {
        self.dir.as_ref().expect("only gone in drop").path().to_owned()
    }

    /// A path in the directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir().join(name)
    }

    /// Who runs the program.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Gives a file or directory to the user.
    pub fn own(&self, path: &Path) {
        if is_root() {
            std::os::unix::fs::lchown(path, Some(self.user.uid), Some(self.user.gid)).expect("chown to the user");
        }
    }

    /// Makes a directory (with its parents, below the lab's) that belongs to the user.
    pub fn mkdir(&self, name: impl AsRef<Path>) -> PathBuf {
        let mut path = self.dir();
        for part in name.as_ref().iter() {
            path.push(part);
            if !path.exists() {
                fs::DirBuilder::new().mode(0o755).create(&path).expect("a directory");
                self.own(&path);
            }
        }
        path
    }

    /// Writes a file that belongs to the user, with the directories above it.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let name = name.as_ref();
        if let Some(parent) = name.parent() {
            self.mkdir(parent);
        }
        let path = self.path(name);
        fs::write(&path, content).unwrap_or_else(|e| panic!("cannot write `{}`: {e}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        self.own(&path);
        path
    }

    /// Writes a build context: a directory with these files.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.mkdir(name);
        for (file, content) in files {
            self.write(Path::new(name).join(file), content);
        }
        dir
    }

    /// The store that `rbuild` uses unless a test says otherwise.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The program, as the user, with nothing of this process's environment but what finds programs and names the store.
    pub fn rbuild<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.program(self.path("bin/rbuild"), args)
    }

    /// The program under the name `docker`.
    pub fn docker<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.program(self.path("bin/docker"), args)
    }

    /// Another program, as the user, in the same environment.
    pub fn program<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Run {
        let mut run = Run::new(program, args);
        run.command.current_dir(self.dir()).env("HOME", self.path("home")).env("TMPDIR", self.path("tmp"));
        // Without it, tools look for credentials in `/run/containers`, which may be closed to this user.
        run.command.env("RBUILD_ROOT", self.store()).env("XDG_RUNTIME_DIR", self.path("run"));
        // All tests with another driver: `RBUILD_TEST_STORAGE_DRIVER=copy cargo test --test it`.
        if let Some(driver) = std::env::var_os("RBUILD_TEST_STORAGE_DRIVER") {
            run.command.env("STORAGE_DRIVER", driver);
        }
        if is_root() {
            run.command.uid(self.user.uid).gid(self.user.gid);
            run.ids = Some((self.user.uid, self.user.gid));
        }
        run
    }

    /// Imports the busybox base as `localhost/busybox:latest` into the store.
    pub fn import_busybox(&self) {
        if !self.path("busybox.tar").exists() {
            self.write("busybox.tar", busybox_tar());
        }
        // The same image in every lab: a file name without the lab's directory, and one time.
        let import = self.rbuild(["import", "busybox.tar", "localhost/busybox:latest"]);
        import.env("SOURCE_DATE_EPOCH", "1600000000").ok();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        if std::env::var_os("RBUILD_TEST_KEEP").is_some() {
            eprintln!("kept: `{}`", dir.keep().display());
            return;
        }
        // Files of mapped ids cannot be removed by the user alone, but by root of the same namespace.
        if !is_root() && self.user.ranged {
            let store = dir.path().join("store");
            let _ = Run::new(dir.path().join("bin/rbuild"), ["unshare", "rm", "-rf"]).arg(store).output();
        }
        make_removable(dir.path());
        if let Err(e) = dir.close() {
            eprintln!("cannot remove the lab: {e}");
        }
    }
}

/// Makes directories writable, so that they can be emptied.
fn make_removable(dir: &Path) {
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(meta) = fs::symlink_metadata(&dir) else { continue };
        if meta.mode() & 0o700 != 0o700 {
            let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
        }
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        pending.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
}

/// A command to be run to its end.
pub struct Run {
    command: Command,
    ids: Option<(u32, u32)>,
    input: Vec<u8>,
    patience: Duration,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    /// The command line, for messages.
    pub line: String,
    /// Exit code, or 128 + the signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Run {
    /// A command as this process's user, in an environment that holds only `PATH` and the locale.
    pub fn new<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Run {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let mut all: Vec<PathBuf> = std::env::split_paths(&path).collect();
        all.extend(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
        let path: OsString = std::env::join_paths(all).expect("PATH");
        command.env_clear().env("PATH", path).env("LC_ALL", "C.UTF-8").args(args);
        Run { command, ids: None, input: Vec::new(), patience: PATIENCE }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Run {
        self.command.args(args);
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// Its working directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Run {
        self.command.current_dir(dir);
        self
    }

    /// What it reads from standard input.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Run {
        self.input = input.into();
        self
    }

    /// Limits the anonymous memory of it and of each process that it starts, in bytes.
    pub fn limit_data(mut self, bytes: u64) -> Run {
        // `prlimit` in front: this process must not run code of its own between fork and exec.
        let program = self.command.get_program().to_owned();
        let mut command = Command::new("prlimit");
        command.arg(format!("--data={bytes}")).arg(program).args(self.command.get_args()).env_clear();
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(dir) = self.command.get_current_dir() {
            command.current_dir(dir);
        }
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        self.command = command;
        self
    }

    /// Starts it, with its output thrown away, for tests that end it. The caller waits for it.
    pub fn start(mut self) -> Child {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.command.spawn().unwrap_or_else(|e| panic!("cannot start {:?}: {e}", self.command))
    }

    /// Runs it to its end, whatever that is.
    pub fn output(mut self) -> Done {
        let line = format!("{:?}", self.command);
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("cannot start {line}: {e}"));
        let mut stdin = child.stdin.take().expect("piped");
        let input = std::mem::take(&mut self.input);
        // A program that does not read its input is free to.
        let writer = thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        let (ended, deadline) = channel::<()>();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let patience = self.patience;
        let watchdog = thread::spawn(move || {
            let late = deadline.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if late {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            late
        });
        let stdout = stdout.join().expect("reader");
        let stderr = stderr.join().expect("reader");
        let status = child.wait().expect("wait");
        drop(ended);
        writer.join().expect("writer");
        let late = watchdog.join().expect("watchdog");
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let done = Done { line, code, stdout, stderr, took: started.elapsed() };
        assert!(!late, "not finished after {patience:?}: {done}");
        done
    }

    /// Runs it; it must succeed.
    #[track_caller]
    pub fn ok(self) -> Done {
        let done = self.output();
        assert!(done.code == 0, "failed: {done}");
        done
    }

    /// Runs it; it must fail, and not by a crash.
    #[track_caller]
    pub fn fails(self) -> Done {
        let done = self.output();
        assert!(done.code != 0, "succeeded, but must not: {done}");
        assert!(!done.stderr.contains("panicked at") && done.code != 101 && done.code < 128, "crashed: {done}");
        done
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ended with {}\n--- stdout\n{}\n--- stderr\n{}", self.line, self.code, self.stdout, self.stderr)
    }
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A port of the loopback interface that no other test gets, neither now nor after whoever listens there has ended.
pub fn port() -> u16 {
    listener().1
}

/// Somebody who listens on such a port.
///
/// The kernel gives out ports at and above 32768 where one asks for any; these are below.
pub fn listener() -> (TcpListener, u16) {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    // Processes that run tests at the same time begin at different places.
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(601)));
    loop {
        let port = 10_000 + (next.fetch_add(1, Ordering::Relaxed) % 20_000) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return (listener, port);
        }
    }
}

/// Debian's docker-registry on a free port of the loopback interface, ended when this goes away.
pub struct Registry {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// Starts one with an empty storage. Needs the program `docker-registry`.
    pub fn start() -> Registry {
        Registry::configured("", |_| String::new())
    }

    /// One that adds these headers to its answers: a mapping of YAML from names to lists.
    pub fn with_headers(headers: &str) -> Registry {
        Registry::configured(&format!(", headers: {headers}"), |_| String::new())
    }

    /// One that wants `someone` with the password `secret`.
    pub fn guarded() -> Registry {
        Registry::configured("", |dir| {
            let file = dir.join("users");
            fs::write(&file, "someone:$2y$04$n4qq7d78DlY7DNyoA1pKp.xakXf50su.l6rXZeqbK5Kffo9JVKCau\n")
                .expect("the users");
            format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", file.display())
        })
    }

    /// One with more in its configuration: of `http`, and after all else, given the directory for its files.
    pub fn configured(http: &str, more: impl Fn(&Path) -> String) -> Registry {
        let program = which("docker-registry").expect("`docker-registry` is installed");
        // Somebody else may take the port before the registry binds it: then another one is tried.
        for _ in 0..5 {
            let dir = tempfile::Builder::new().prefix("rbuild-registry-").tempdir().expect("a temporary directory");
            let port = port();
            let storage = dir.path().join("storage");
            let config = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
                 delete: {{enabled: true}}\nhttp: {{addr: 127.0.0.1:{port}{http}}}\n",
                storage.display()
            );
            fs::write(dir.path().join("config.yml"), config + &more(dir.path())).expect("the registry's configuration");
            let mut command = Command::new(&program);
            command.arg("serve").arg(dir.path().join("config.yml")).env_clear();
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let child = command.spawn().expect("cannot start docker-registry");
            let mut registry = Registry { child, port, _dir: dir };
            if registry.answers() {
                return registry;
            }
        }
        panic!("docker-registry did not come up");
    }

    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.child.try_wait().expect("its state").is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Host and port, as the first part of a reference.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Removes what no manifest with a tag refers to.
    pub fn collect_garbage(&self) {
        let mut command = Command::new(which("docker-registry").expect("`docker-registry` is installed"));
        command.args(["garbage-collect", "--delete-untagged"]).arg(self._dir.path().join("config.yml"));
        let done = command.output().expect("cannot collect garbage");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Where it keeps a repository.
    pub fn storage(&self, repository: &str) -> PathBuf {
        self._dir.path().join("storage/docker/registry/v2/repositories").join(repository)
    }

    /// From now on it takes connections, and says nothing.
    pub fn hang(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("SIGSTOP");
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes of this machine that have `argument` among their arguments.
pub fn processes_with_argument(argument: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|arg| arg == argument.as_bytes())
    })
    .collect()
}

/// Why there is no busybox base, if there is none.
pub fn busybox_is_missing() -> Option<&'static str> {
    let elf = fs::read("/bin/busybox").unwrap_or_default();
    match elf.is_empty() {
        true => Some("`busybox-static` is not installed"),
        false => None,
    }
}

/// A root file system of nothing but static busybox, as a tar: `/bin` with a link for each applet, `/etc/passwd`, `/tmp`.
pub fn busybox_tar() -> Vec<u8> {
    let listed = Command::new("/bin/busybox").arg("--list").output().expect("cannot run busybox").stdout;
    let applets = String::from_utf8(listed).expect("applets are ASCII");
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(1_600_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    use tar::EntryType::{Directory, Regular, Symlink};
    for (dir, mode) in
        [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755), ("usr", 0o755)]
    {
        tar.append_data(&mut header(Directory, mode, 0), format!("{dir}/"), &[][..]).expect("a directory");
    }
    let program = fs::read("/bin/busybox").expect("busybox");
    tar.append_data(&mut header(Regular, 0o755, program.len() as u64), "bin/busybox", &program[..]).expect("busybox");
    for applet in applets.lines().filter(|name| *name != "busybox") {
        tar.append_link(&mut header(Symlink, 0o777, 0), format!("bin/{applet}"), "busybox").expect("a link");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var:/bin/sh\n";
    let group = "root:x:0:\nwww:x:33:\n";
    for (name, content) in [("etc/passwd", passwd), ("etc/group", group)] {
        tar.append_data(&mut header(Regular, 0o644, content.len() as u64), name, content.as_bytes()).expect("a file");
    }
    tar.into_inner().expect("the end of the tar")
}

#[test]
fn the_user_is_not_root() {
    assert_ne!(User::find().uid, 0);
}

#[test]
fn a_lab_runs_programs_as_its_user_and_goes_away() {
    let lab = Lab::new();
    let file = lab.write("a/b/file", "content");
    assert_eq!(lab.program("cat", ["a/b/file"]).ok().stdout, "content");
    let id = lab.program("id", ["-u"]).ok().stdout;
    assert_eq!(id.trim(), lab.user().uid.to_string());
    assert_eq!(lab.program("cat", [""; 0]).input("in").ok().stdout, "in");
    assert_eq!(lab.program("sh", ["-c", "kill -9 $$"]).output().code, 137);
    let dir = lab.dir();
    drop(lab);
    assert!(!file.exists() && !dir.exists());
}

#[test]
fn a_registry_answers_and_ends() {
    require!("docker-registry");
    let registry = Registry::start();
    let host = registry.host();
    assert!(TcpStream::connect(&host).is_ok());
    drop(registry);
    assert!(TcpStream::connect(&host).is_err());
}
