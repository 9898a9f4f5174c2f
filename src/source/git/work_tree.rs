//! What git says of a directory of the user: which repository it is part of, at which commit, and where that came from.
//!
//! Git is only asked what it reads from its own files: nothing that looks at the files of the tree, since their repository can
//! name programs for that. Whether the repository is to be trusted at all is the user's configuration (`safe.directory`).

use reqwest::Url;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long one answer may take: on a slow disk git takes its time, and a named pipe in its place never answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer, in bytes. It fits into a pipe, so that nobody has to read while git runs.
const LONGEST: u64 = 16 << 10;

/// The work tree of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkTree {
    /// Its root directory.
    pub root: PathBuf,
    /// The commit that is checked out; `None` before the first one.
    pub revision: Option<String>,
    /// The address that it came from, without credentials.
    pub source: Option<String>,
}

impl WorkTree {
    /// The work tree that a directory is in; `None` where it is in none, or git is not there or does not say.
    pub fn of(dir: &Path) -> Option<WorkTree> {
        let root = PathBuf::from(ask(dir, &["rev-parse", "--show-toplevel"])?);
        let revision = ask(dir, &["rev-parse", "--quiet", "--verify", "HEAD^{commit}"]);
        let branch = ask(dir, &["symbolic-ref", "--quiet", "--short", "HEAD"]);
        let tracked = branch.and_then(|b| ask(dir, &["config", "--get", &format!("branch.{b}.remote")]));
        let remotes = tracked.iter().map(String::as_str).chain(["origin", "upstream"]);
        let source = remotes.into_iter().find_map(|remote| ask(dir, &["remote", "get-url", "--", remote]));
        Some(WorkTree { root, revision, source: source.as_deref().and_then(without_credentials) })
    }
}

/// What git answers, on one line.
fn ask(dir: &Path, question: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]).args(question).current_dir(dir);
    // Those of the user's configuration are kept; all others are about some repository, or about writing one.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("GIT_") && !n.starts_with("GIT_CONFIG_")) {
            command.env_remove(name);
        }
    }
    command.env_remove("GIT_CONFIG_PARAMETERS").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let started = Instant::now();
    let mut child = command.spawn().ok()?;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                tracing::debug!(dir = %dir.display(), "git does not answer");
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = String::new();
    child.stdout.take()?.take(LONGEST).read_to_string(&mut text).ok()?;
    let text = text.trim_end_matches('\n');
    (status.success() && !text.is_empty() && !text.contains('\n')).then(|| text.to_owned())
}

/// An address that may be shown.
fn without_credentials(address: &str) -> Option<String> {
    if !address.contains("://") {
        return Some(address.to_owned());
    }
    let mut url = Url::parse(address).ok()?;
    let _ = url.set_password(None);
    if matches!(url.scheme(), "http" | "https") {
        let _ = url.set_username("");
        url.set_query(None);
    }
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_credentials() {
        for (address, shown) in [
            ("https://user:token@h/a.git?private_token=x", "https://h/a.git"),
            ("https://token@h/a.git", "https://h/a.git"),
            ("ssh://git:secret@h:22/a.git", "ssh://git@h:22/a.git"),
            ("git@h:a.git", "git@h:a.git"),
            ("/srv/a.git", "/srv/a.git"),
        ] {
            assert_eq!(without_credentials(address).as_deref(), Some(shown));
        }
        assert_eq!(without_credentials("https://user:token@h:port/a"), None);
    }

    #[test]
    fn a_repository_that_does_not_answer_is_none() {
        let dir = tempfile::tempdir().unwrap();
        // What is no repository, and one whose files are none.
        assert_eq!(ask(Path::new("/proc"), &["rev-parse", "--show-toplevel"]), None);
        std::fs::create_dir_all(dir.path().join(".git/refs")).unwrap();
        std::fs::create_dir_all(dir.path().join(".git/objects")).unwrap();
        std::fs::write(dir.path().join(".git/HEAD"), "ref: ../../../etc/passwd\n").unwrap();
        std::fs::write(dir.path().join(".git/config"), "[core\n").unwrap();
        assert_eq!(WorkTree::of(dir.path()), None);
    }
}
