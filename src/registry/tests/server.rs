//! Debian's `docker-registry` on a port of its own, with its data in a temporary directory.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PROGRAM: &str = "docker-registry";

/// A running registry; it ends when this is dropped.
pub(super) struct Server {
    child: Child,
    pub(super) dir: tempfile::TempDir,
    pub(super) host: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a program is there. Where it is missing, tests say so and pass, but not in CI.
pub(super) fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).exists()));
    if !found {
        assert!(std::env::var_os("CI").is_none(), "`{program}` is not installed");
        eprintln!("skipped: `{program}` is not installed");
    }
    found
}

impl Server {
    /// Starts a registry that asks for nothing.
    pub(super) fn open() -> Option<Server> {
        Server::start("", |_| String::new())
    }

    /// Starts a registry that lets in only `user` with `pass`.
    pub(super) fn with_password() -> Option<Server> {
        if !has("htpasswd") {
            return None;
        }
        Server::start("", |dir| {
            let out = Command::new("htpasswd").args(["-Bbn", "user", "pass"]).output().unwrap();
            assert!(out.status.success());
            fs::write(dir.join("htpasswd"), out.stdout).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}/htpasswd\n", dir.display())
        })
    }

    /// Starts a registry behind TLS. Its CA lies in `ca.crt` of its directory.
    pub(super) fn with_tls() -> Option<Server> {
        Server::behind_tls("")
    }

    /// Starts a registry behind TLS that sends its clients for a token to an address without TLS.
    pub(super) fn with_careless_tokens() -> Option<Server> {
        Server::behind_tls(
            "auth:\n  token:\n    realm: http://127.0.0.1:1/token\n    service: s\n    issuer: i\n    rootcertbundle: ROOT/ca.crt\n",
        )
    }

    fn behind_tls(more: &str) -> Option<Server> {
        if !has("openssl") {
            return None;
        }
        Server::start("tls", |dir| {
            let openssl = |args: &str| {
                let out = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().unwrap();
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            };
            fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
            let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
            openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=test-ca -days 2"));
            openssl(&format!("req {key} -keyout tls.key -out tls.csr -subj /CN=registry"));
            openssl("x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out tls.crt -days 2 -extfile ext");
            more.replace("ROOT", &dir.display().to_string())
        })
    }

    fn start(tls: &str, prepare: impl Fn(&Path) -> String) -> Option<Server> {
        if !has(PROGRAM) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display().to_string();
        let more = prepare(dir.path());
        // another process may take the port between our look and its bind: then the next one
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let host = format!("127.0.0.1:{port}");
            let tls = match tls {
                "" => String::new(),
                _ => format!("  tls:\n    certificate: {root}/tls.crt\n    key: {root}/tls.key\n"),
            };
            let text = format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
                 rootdirectory: {root}/data\nhttp:\n  addr: {host}\n  secret: s\n{tls}{more}"
            );
            let config = dir.path().join("config.yml");
            fs::write(&config, text).unwrap();
            let mut child = Command::new(PROGRAM)
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while child.try_wait().unwrap().is_none() {
                if TcpStream::connect(&host).is_ok() {
                    return Some(Server { child, dir, host });
                }
                assert!(Instant::now() < deadline, "`{PROGRAM}` does not listen");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("`{PROGRAM}` does not start");
    }
}
