//! Running `git`, so that only the address and the user's own configuration decide what it does.

use super::super::Error;
use super::super::git_url::GitUrl;
use crate::registry::download::Authorization;
use crate::sys::signal::Cancel;
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Tries of what the network can spoil.
const TRIES: u32 = 3;
/// Longest output that is read, in bytes.
const LONGEST_OUTPUT: u64 = 64 << 20;
/// Bytes of git's own words that go into an error.
const LONGEST_MESSAGE: usize = 1000;
/// How often a running program is looked after.
const PAUSE: Duration = Duration::from_millis(10);

/// Variables with which a user says how servers are reached. All others that begin with `GIT_` are about a repository, and
/// this one is none of the user's.
const KEPT: [&str; 16] = [
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSL_CERT",
    "GIT_SSL_CERT_PASSWORD_PROTECTED",
    "GIT_SSL_KEY",
    "GIT_SSL_NO_VERIFY",
    "GIT_SSL_VERSION",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_ASKPASS",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_PROXY_COMMAND",
    "GIT_HTTP_USER_AGENT",
];

/// Answers git's question for credentials from the environment. It is run by the shell that git brings along.
const CREDENTIALS: &str =
    r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$RBUILD_GIT_USER" "$RBUILD_GIT_PASSWORD"; }; f"#;

/// A repository in the making, and the program that makes it.
pub(super) struct Git<'a> {
    url: &'a GitUrl,
    login: Option<&'a Authorization>,
    cancel: &'a Cancel,
    tree: PathBuf,
    /// Empty: where templates and hooks would be.
    nothing: PathBuf,
    config: Vec<(String, String)>,
}

impl<'a> Git<'a> {
    /// A repository to be made in `dir`.
    pub(super) fn new(
        url: &'a GitUrl,
        dir: &Path,
        login: Option<&'a Authorization>,
        cancel: &'a Cancel,
    ) -> Result<Git<'a>, Error> {
        let (tree, nothing) = (dir.join("tree"), dir.join("nothing"));
        for path in [&tree, &nothing] {
            fs::create_dir(path).map_err(|error| Error::Write { path: path.clone(), error })?;
        }
        let mut git = Git { url, login, cancel, tree, nothing, config: vec![] };
        let hooks = git.nothing.to_string_lossy().into_owned();
        let mut config = vec![
            ("core.hooksPath", hooks.as_str()),
            ("core.fsmonitor", "false"),
            ("core.autocrlf", "false"),
            ("core.logAllRefUpdates", "false"),
            ("safe.directory", "*"),
            ("submodule.recurse", "false"),
            ("fetch.recurseSubmodules", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("init.defaultBranch", "main"),
            ("http.lowSpeedLimit", "1"),
            ("http.lowSpeedTime", "120"),
        ];
        // What was set for `origin` here would be set for the `origin` of every submodule too: that one is in a file.
        let helper = format!("credential.{}.helper", url.remote);
        if url.login.is_some() {
            config.push((&helper, CREDENTIALS));
        }
        let header = format!("http.{}.extraHeader", scope(&url.remote));
        // Like all of this it goes through the environment, which other users cannot read, as they can arguments.
        let authorization = login.map(|login| format!("Authorization: {}", login.value()));
        if let Some(text) = &authorization {
            config.push((&header, text));
        }
        git.config = config.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if url.remote.starts_with("ssh://") || !url.remote.contains("://") {
            git.config.extend(git.ssh()?.map(|command| ("core.sshCommand".to_owned(), command)));
        }
        Ok(git)
    }

    /// Makes the repository, with the address as its `origin`.
    pub(super) fn init(&self, format: &str) -> Result<(), Error> {
        self.run(&["init", "--quiet", &format!("--object-format={format}"), "."], &[])?;
        self.run(&["config", "remote.origin.url"], &[&self.url.remote]).map(drop)
    }

    /// The files.
    pub(super) fn tree(&self) -> &Path {
        &self.tree
    }

    /// In a user namespace this process is root, and ssh would look for keys and known hosts in root's home directory.
    /// `None` where the user has said which command to use.
    fn ssh(&self) -> Result<Option<String>, Error> {
        if ["GIT_SSH", "GIT_SSH_COMMAND"].iter().any(|name| std::env::var_os(name).is_some()) {
            return Ok(None);
        }
        let (status, said, _) = self.start(&["config", "--get", "core.sshCommand"], &[])?;
        if status.success() && !said.is_empty() {
            return Ok(None);
        }
        let mut command = "ssh -o BatchMode=yes".to_owned();
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh"));
        // A path that a shell would take apart is left alone.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
        if let Some(dir) = home.as_deref().and_then(Path::to_str).filter(|dir| dir.chars().all(plain)) {
            let has = |name: &str| Path::new(dir).join(name).is_file();
            if has("config") {
                command.push_str(&format!(" -F {dir}/config"));
            }
            command.push_str(&format!(" -o UserKnownHostsFile={dir}/known_hosts"));
            for key in ["id_ed25519", "id_ecdsa", "id_rsa"].iter().filter(|key| has(key)) {
                command.push_str(&format!(" -o IdentityFile={dir}/{key}"));
            }
        }
        Ok(Some(command))
    }

    fn command(&self, verb: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(verb).args(arguments).current_dir(&self.tree);
        let own = |name: &OsString| name.to_str().is_some_and(|n| n.starts_with("GIT_") && !KEPT.contains(&n));
        for (name, _) in std::env::vars_os().filter(|(name, _)| own(name)) {
            command.env_remove(name);
        }
        // The user's own settings of this kind, then ours.
        let count = std::env::var("GIT_CONFIG_COUNT").ok().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let users = (0..count.min(1000)).filter_map(|n| {
            let var = |what: &str| std::env::var(format!("GIT_CONFIG_{what}_{n}")).ok();
            Some((var("KEY")?, var("VALUE")?))
        });
        let all: Vec<(String, String)> = users.chain(self.config.iter().cloned()).collect();
        for (n, (name, value)) in all.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{n}"), name).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        command.env("GIT_CONFIG_COUNT", all.len().to_string());
        // The store may itself lie in somebody's repository.
        command.env("GIT_CEILING_DIRECTORIES", self.tree.parent().unwrap_or(&self.tree));
        command.env("GIT_TEMPLATE_DIR", &self.nothing).env("GIT_LITERAL_PATHSPECS", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_NO_REPLACE_OBJECTS", "1").env("LC_ALL", "C");
        // Nobody is there to answer.
        if std::env::var_os("GIT_ASKPASS").is_none() {
            command.env("GIT_ASKPASS", "true");
        }
        command.env("SSH_ASKPASS", "true").env("SSH_ASKPASS_REQUIRE", "never");
        // Submodules may be anywhere but on this machine, unless the repository itself is.
        let local = if self.url.remote.starts_with("file:") { ":file" } else { "" };
        command.env("GIT_ALLOW_PROTOCOL", format!("http:https:git:ssh{local}"));
        if let Some(login) = &self.url.login {
            command.env("RBUILD_GIT_USER", &login.user).env("RBUILD_GIT_PASSWORD", &login.password);
        }
        command
    }

    /// Runs git once: how it ended, what it wrote, and what it said.
    fn start(&self, verb: &[&str], arguments: &[&str]) -> Result<(ExitStatus, String, String), Error> {
        let mut command = self.command(verb, arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoProgram { program: "git", needed_for: self.url.to_string() },
            _ => self.error(error.to_string()),
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let status = std::thread::scope(|scope| {
            let out = scope.spawn(move || text(stdout));
            let err = scope.spawn(move || text(stderr));
            let status = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Ok(status),
                    Ok(None) if self.cancel.is_cancelled() => {
                        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
                        let _ = child.wait();
                        break Err(Error::Cancelled);
                    }
                    Ok(None) => std::thread::sleep(PAUSE),
                    Err(e) => break Err(self.error(e.to_string())),
                }
            };
            let joined = |text: std::thread::Result<String>| text.unwrap_or_default();
            status.map(|status| (status, joined(out.join()), joined(err.join())))
        })?;
        Ok(status)
    }

    /// Runs git, again where the network failed, and gives what it wrote. `arguments` come last; none of them begins with a
    /// dash.
    pub(super) fn run(&self, verb: &[&str], arguments: &[&str]) -> Result<String, Error> {
        let mut tries = 0;
        loop {
            let (status, out, said) = self.start(verb, arguments)?;
            if status.success() {
                return Ok(out);
            }
            tries += 1;
            if tries == TRIES || !is_transient(&said) {
                let said = said.trim();
                return Err(self.error(if said.is_empty() { status.to_string() } else { said.to_owned() }));
            }
            std::thread::sleep(Duration::from_secs(1 << (tries - 1)));
        }
    }

    /// The commit behind a name that is in the repository.
    pub(super) fn commit(&self, name: &str) -> Option<String> {
        let text = self.run(&["rev-parse", "--quiet", "--verify"], &[&format!("{name}^{{commit}}")]).ok()?;
        Some(text.trim().to_owned())
    }

    /// Writes a file below `.git`.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.tree.join(".git").join(name);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.map_err(|error| Error::Write { path, error })
    }

    /// Removes what is below `.git`, or all of it.
    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.tree.join(".git").join(name);
        let removed = match path.is_dir() {
            true => crate::store::remove_tree(&path),
            false => fs::remove_file(&path),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Write { path, error }),
            _ => Ok(()),
        }
    }

    /// An error in git's own words, without anything secret in it.
    pub(super) fn error(&self, said: String) -> Error {
        let mut said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Some(login) = &self.url.login {
            for secret in [&login.password, &login.user].into_iter().filter(|s| s.len() > 2) {
                said = said.replace(secret.as_str(), "****");
            }
        }
        if let Some(login) = self.login {
            let word = login.value().split_once(' ').map_or("", |(_, word)| word.trim());
            for secret in [login.value(), word].into_iter().filter(|s| s.len() > 2) {
                said = said.replace(secret, "****");
            }
        }
        if let Some((cut, _)) = said.char_indices().nth(LONGEST_MESSAGE) {
            said.truncate(cut);
        }
        Error::Git { url: self.url.to_string(), said }
    }
}

/// Where a header of a web server is sent: to the repository alone; with GitHub, as BuildKit does, to all of its repositories,
/// for the sake of submodules.
fn scope(remote: &str) -> &str {
    let sites = ["https://github.com/", "https://www.github.com/"];
    sites.into_iter().find(|site| remote.starts_with(site)).unwrap_or(remote)
}

fn text(from: Option<impl Read>) -> String {
    let mut bytes = vec![];
    if let Some(from) = from {
        // What is too long is cut: nothing here reads so much.
        let _ = from.take(LONGEST_OUTPUT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether git's words tell of a network that may work the next time.
fn is_transient(said: &str) -> bool {
    let signs = [
        "RPC failed",
        "early EOF",
        "Connection reset",
        "Connection timed out",
        "Operation timed out",
        "Temporary failure in name resolution",
        "The requested URL returned error: 5",
        "The requested URL returned error: 429",
    ];
    signs.iter().any(|sign| said.contains(sign))
}
