//! What git says of a directory of the user: which repository it is part of, at which commit, and where that came from.
//!
//! Git is only asked what it reads from its own files: nothing that looks at the files of the tree, nor at objects, which may have to be
//! fetched, since their repository can name programs for both. Whether the repository is to be trusted at all is the user's
//! configuration (`safe.directory`); files of the tree that look like a repository are none.

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
        let revision = ask(dir, &["rev-parse", "--quiet", "--verify", "HEAD"]);
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
    command.args([
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "safe.bareRepository=explicit",
    ]);
    command.args(question).current_dir(dir);
    // Those of the user's configuration are kept; all others are about some repository, or about writing one.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("GIT_") && !n.starts_with("GIT_CONFIG_")) {
            command.env_remove(name);
        }
    }
    command.env_remove("GIT_CONFIG_PARAMETERS").env("LC_ALL", "C");
    // No protocol is allowed, and nothing is fetched.
    command.env("GIT_ALLOW_PROTOCOL", "").env("GIT_NO_LAZY_FETCH", "1").env("GIT_TERMINAL_PROMPT", "0");
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
    // `helper::https://…` has an address within, whose credentials nobody finds.
    let mut url = Url::parse(address).ok().filter(Url::has_authority)?;
    let _ = url.set_password(None);
    url.set_fragment(None);
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
        assert_eq!(without_credentials("helper::https://user:token@h/a"), None);
    }

    #[test]
    fn no_repository_has_a_program_run() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, ran) = (dir.path().join("tree"), dir.path().join("ran"));
        let git = tree.join(".git");
        // A partial clone that lacks the commit: git fetches it by what the repository names.
        let fill = |git: &Path| {
            for below in ["objects", "refs/heads"] {
                std::fs::create_dir_all(git.join(below)).unwrap();
            }
            std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
            std::fs::write(git.join("refs/heads/main"), format!("{}\n", "12".repeat(20))).unwrap();
            let config = format!(
                "[core]\nrepositoryformatversion = 1\nbare = false\nworktree = {}\nsshCommand = \"touch {} #\"\n\
                 [extensions]\npartialClone = origin\n[remote \"origin\"]\nurl = ssh://h.test/x\npromisor = true\n",
                tree.display(),
                ran.display()
            );
            std::fs::write(git.join("config"), config).unwrap();
        };
        fill(&git);
        let found = WorkTree::of(&tree).unwrap();
        assert_eq!((found.revision, found.source), (Some("12".repeat(20)), Some("ssh://h.test/x".into())));
        ask(&tree, &["rev-parse", "--verify", "HEAD^{commit}"]);
        assert!(!ran.exists(), "by a repository");
        std::fs::remove_dir_all(&git).unwrap();
        fill(&tree.join("data"));
        assert_eq!(WorkTree::of(&tree.join("data")), None);
        assert!(!ran.exists(), "by files that look like one");
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
