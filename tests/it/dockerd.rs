//! Debian's dockerd without networks, for tests that hand images to it or take them from it.

use crate::harness::{Run, which};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A daemon with a directory of its own, ended when this goes away. Needs root and the programs `dockerd` and `docker`.
pub struct Dockerd {
    child: Child,
    dir: tempfile::TempDir,
}

impl Dockerd {
    /// Starts one that any user may speak to.
    pub fn start() -> Dockerd {
        let dir = tempfile::Builder::new().prefix("rbuild-dockerd-").tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("daemon.json"), "{}").expect("its configuration");
        let mut command = Command::new(which("dockerd").expect("`dockerd` is installed"));
        for (flag, name) in
            [("--config-file", "daemon.json"), ("--data-root", "root"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            command.arg(flag).arg(path(name));
        }
        command.arg("--host").arg(format!("unix://{}", path("socket").display()));
        command.args([
            "--storage-driver=vfs",
            "--group=root",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
        ]);
        command.args(["--ip-forward=false", "--ip-masq=false", "--log-level=warn"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(path("log")).expect("its log"));
        let mut dockerd = Dockerd { child: command.spawn().expect("dockerd"), dir };
        let deadline = Instant::now() + Duration::from_secs(60);
        while dockerd.docker(&["version"]).output().code != 0 {
            let log = || fs::read_to_string(dockerd.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "dockerd does not come up: {}", log());
            assert!(dockerd.child.try_wait().expect("its state").is_none(), "dockerd ended: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        fs::set_permissions(dockerd.socket(), fs::Permissions::from_mode(0o666)).expect("chmod");
        dockerd
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Its address, as `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The client, speaking to it.
    pub fn docker(&self, args: &[&str]) -> Run {
        let run = Run::new(which("docker").expect("`docker` is installed"), ["-H"]).arg(self.host());
        // The newest that Debian's daemon knows.
        run.args(args).env("HOME", self.dir.path()).env("DOCKER_API_VERSION", "1.41")
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends its containerd too.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
