//! Addresses of git repositories: what is cloned, which commit of it, which part, and how.
//!
//! | form | |
//! |---|---|
//! | `https://host/repo.git`, `http://…` | the path ends with `.git`, which tells it from a file |
//! | `git://host/repo`, `ssh://[user@]host/repo` | |
//! | `user@host:path` | ssh |
//! | `github.com/…` | https; only on a command line, as it could be a directory |
//! | `file:///repo` | a repository of this machine; only on a command line |
//!
//! Behind it `#REF:SUBDIR`, or in front of that a query: `?ref=`, `tag=`, `branch=`, `subdir=`, `checksum=` (also
//! `commit=`), `submodules=`, `keep-git-dir=`, `mtime=checkout|commit`, `fetch-by-commit=`. Both forms and their errors are
//! BuildKit's.
//!
//! Credentials of the address are kept apart from it: no message, no log and no argument of a program shows them.

use crate::registry::download::percent_decoded;
use std::fmt;

/// Where modification times of a checkout come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mtime {
    /// The moment of the checkout.
    #[default]
    Checkout,
    /// The time of the commit.
    Commit,
}

/// A user name and a password or token, which no debug output shows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// A repository, and what of it is wanted. Shown without credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GitUrl {
    /// The repository, without credentials, query and fragment.
    pub remote: String,
    pub(super) login: Option<Login>,
    /// Branch, tag, full name of a reference, or a whole commit; `None`: what the server says.
    pub reference: Option<String>,
    /// Directory of the repository that is wanted, clean and relative; `None`: all.
    pub subdir: Option<String>,
    /// The commit that it must be, or its first digits.
    pub checksum: Option<String>,
    /// Whether submodules are fetched.
    pub submodules: bool,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// Times of the files.
    pub mtime: Mtime,
    /// Whether the address says so.
    pub mtime_given: bool,
    /// Whether the commit itself is asked for, and not the name that leads to it.
    pub fetch_by_commit: bool,
}

/// Why an address of a repository cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid git address `{url}`: {why}")]
pub struct GitUrlError {
    /// The address, without credentials.
    pub url: String,
    /// What is wrong.
    pub why: String,
}

/// Where an address was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// On a command line, by the user.
    CommandLine,
    /// In a Dockerfile: it must not reach into this machine.
    Dockerfile,
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.remote)?;
        match (&self.reference, &self.subdir) {
            (None, None) => Ok(()),
            (reference, None) => write!(f, "#{}", reference.as_deref().unwrap_or_default()),
            (reference, Some(dir)) => write!(f, "#{}:{dir}", reference.as_deref().unwrap_or_default()),
        }
    }
}

/// Whether a text is a whole commit: 40 digits, or 64 in a repository of SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn decoded(text: &str) -> String {
    String::from_utf8_lossy(&percent_decoded(text)).into_owned()
}

/// Splits `scheme://user:password@rest` into the address without and the login.
pub fn split_login(url: &str) -> (String, Option<Login>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((login, host)) = authority.rsplit_once('@') else { return (url.to_owned(), None) };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let login = Login { user: decoded(user), password: decoded(password) };
    (format!("{scheme}://{host}{path}"), Some(login))
}

/// Whether a text is `user@host:path`.
fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let word = |w: &str, more: &[u8]| {
        !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || more.contains(&b))
    };
    word(user, b"") && word(host, b".")
}

impl GitUrl {
    /// Reads an address; `None` where the text names no git repository.
    ///
    /// # Errors
    ///
    /// It names one, but contradicts itself or asks for something that is not possible.
    pub fn parse(text: &str, written: Written) -> Option<Result<GitUrl, GitUrlError>> {
        let (rest, fragment) = match text.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (text, None),
        };
        let (address, query) = match rest.split_once('?') {
            Some((address, query)) => (address, Some(query)),
            None => (rest, None),
        };
        let lower = address.to_ascii_lowercase();
        let by_user = written == Written::CommandLine;
        let address = match lower.split_once("://") {
            Some(("http" | "https", _)) if address.trim_end_matches('/').ends_with(".git") => address.to_owned(),
            Some(("git" | "ssh", _)) => address.to_owned(),
            Some(("file", _)) if by_user => address.to_owned(),
            Some(_) => return None,
            None if lower.starts_with("github.com/") && by_user => format!("https://{address}"),
            None if is_scp(address) => address.to_owned(),
            None => return None,
        };
        Some(GitUrl::build(&address, query, fragment))
    }

    fn build(address: &str, query: Option<&str>, fragment: Option<&str>) -> Result<GitUrl, GitUrlError> {
        let web = address.to_ascii_lowercase().starts_with("http");
        let (remote, login) = if web { split_login(address) } else { (address.to_owned(), None) };
        let bad = |why: &str| GitUrlError { url: remote.clone(), why: why.to_owned() };
        let mut url = GitUrl {
            remote: remote.clone(),
            login,
            reference: None,
            subdir: None,
            checksum: None,
            submodules: true,
            keep_git_dir: false,
            mtime: Mtime::default(),
            mtime_given: false,
            fetch_by_commit: false,
        };
        let host = remote.split_once("://").map_or(remote.as_str(), |(_, rest)| rest);
        if host.starts_with('-') || remote.contains("@-") || remote.chars().any(|c| c.is_control() || c == ' ') {
            return Err(bad("it is no address of a server"));
        }
        if !web && split_login(&remote).1.is_some_and(|l| !l.password.is_empty()) {
            let (url, _) = split_login(&remote);
            return Err(GitUrlError { url, why: "only http and https take a password".to_owned() });
        }
        if let Some(fragment) = fragment {
            let fragment = decoded(fragment);
            let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
            url.reference = Some(reference.to_owned()).filter(|r| !r.is_empty());
            url.subdir = clean_subdir(subdir).map_err(bad)?;
        }
        for pair in query.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            url.set(name, &decoded(value), pair.contains('=')).map_err(|why| bad(&why))?;
        }
        if url.reference.as_deref().is_some_and(|r| !valid_reference(r)) {
            return Err(bad("its reference is no name of a branch, tag or commit"));
        }
        Ok(url)
    }

    /// One field of the query.
    fn set(&mut self, name: &str, value: &str, given: bool) -> Result<(), String> {
        let flag = || match value {
            "" if !given => Ok(true),
            "1" | "t" | "true" | "True" | "TRUE" => Ok(true),
            "0" | "f" | "false" | "False" | "FALSE" => Ok(false),
            _ => Err(format!("`{name}` must be `true` or `false`, and is `{value}`")),
        };
        let once = |was: &Option<String>, new: String| match was {
            Some(was) if *was != new => Err(format!("`{name}` contradicts what else is said: `{was}`")),
            _ => Ok(Some(new)),
        };
        let full = |prefix: &str| match value.starts_with("refs/") {
            true => value.to_owned(),
            false => format!("{prefix}{value}"),
        };
        match name {
            "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" if value.is_empty() => {
                return Err(format!("`{name}` is empty"));
            }
            "ref" => self.reference = once(&self.reference, value.to_owned())?,
            "tag" => self.reference = once(&self.reference, full("refs/tags/"))?,
            "branch" => self.reference = once(&self.reference, full("refs/heads/"))?,
            "subdir" => {
                if let Some(dir) = clean_subdir(value)? {
                    self.subdir = once(&self.subdir, dir)?;
                }
            }
            "checksum" | "commit" => self.checksum = once(&self.checksum, checksum(value)?)?,
            "submodules" => self.submodules = flag()?,
            "keep-git-dir" => self.keep_git_dir = flag()?,
            "fetch-by-commit" => self.fetch_by_commit = flag()?,
            "mtime" => {
                self.mtime_given = true;
                self.mtime = match value {
                    "checkout" => Mtime::Checkout,
                    "commit" => Mtime::Commit,
                    _ => return Err(format!("`mtime` must be `checkout` or `commit`, and is `{value}`")),
                }
            }
            _ => return Err(format!("unexpected `{name}` in its query")),
        }
        Ok(())
    }

    /// Demands a commit, as `ADD --checksum` does.
    ///
    /// # Errors
    ///
    /// The text is no commit, or another one was demanded already.
    pub fn demand(&mut self, commit: &str) -> Result<(), GitUrlError> {
        self.set("checksum", commit, true).map_err(|why| GitUrlError { url: self.remote.clone(), why })
    }

    /// What tells the files of one checkout from those of another, given the commit: for cache keys.
    pub fn identity(&self, commit: &str) -> String {
        let GitUrl { remote, subdir, submodules, keep_git_dir, mtime, .. } = self;
        // Relative submodules, and the origin that a kept `.git` names, depend on where the repository is.
        let place = if *submodules || *keep_git_dir { remote.as_str() } else { "" };
        format!("git {commit} {subdir:?} {submodules} {keep_git_dir} {mtime:?} {place}")
    }
}

/// A commit, or its first digits.
fn checksum(text: &str) -> Result<String, String> {
    let commit = text.to_ascii_lowercase();
    if !(7..=64).contains(&commit.len()) || !is_hex(&commit) {
        return Err(format!("`{text}` is no commit: at least 7 hexadecimal digits are"));
    }
    Ok(commit)
}

fn clean_subdir(text: &str) -> Result<Option<String>, &'static str> {
    let mut parts = vec![];
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("its directory leads out of the repository"),
            part if part.contains('\0') => return Err("its directory is no path"),
            part => parts.push(part),
        }
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

/// Whether this may be handed to git as the name of a reference: nothing that git would take for an option, a pattern or
/// an expression.
fn valid_reference(name: &str) -> bool {
    !name.starts_with(['-', '/', '.'])
        && !name.ends_with('/')
        && !name.contains("..")
        && !name.contains("@{")
        && !name.contains(|c: char| c.is_control() || " ~^:?*[\\".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> GitUrl {
        GitUrl::parse(text, Written::CommandLine).expect("a git address").expect("a sound one")
    }

    #[test]
    fn repositories_are_told_from_files_and_directories() {
        for text in [
            "https://host/a/b.git",
            "http://host:8080/b.git#v1",
            "HTTPS://host/b.git?ref=x",
            "git://host/b",
            "ssh://git@host:22/b",
            "git@host:a/b",
            "git@host.example:a/b.git#main:sub",
        ] {
            for written in [Written::CommandLine, Written::Dockerfile] {
                assert!(GitUrl::parse(text, written).is_some(), "{text}");
            }
        }
        for text in ["github.com/a/b", "file:///a/b"] {
            assert!(GitUrl::parse(text, Written::CommandLine).is_some(), "{text}");
            assert!(GitUrl::parse(text, Written::Dockerfile).is_none(), "{text}");
        }
        for text in ["https://host/x.tar.gz", "https://host/a.git/x", "dir", "a@b", "ftp://x/y.git", "a b@c:d", "./x:y"]
        {
            assert!(GitUrl::parse(text, Written::CommandLine).is_none(), "{text}");
        }
    }

    #[test]
    fn fragments_and_queries_say_the_same() {
        let a = of("https://host/r.git#v1:a/b/");
        assert_eq!(
            (a.remote.as_str(), a.reference.as_deref(), a.subdir.as_deref()),
            ("https://host/r.git", Some("v1"), Some("a/b"))
        );
        assert_eq!(of("https://host/r.git?ref=v1&subdir=a%2Fb"), a);
        assert_eq!(of("https://host/r.git#:a").subdir.as_deref(), Some("a"));
        assert_eq!(of("https://host/r.git#:a").reference, None);
        assert_eq!(of("git@host:r?tag=v1").reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(of("git@host:r?branch=x").reference.as_deref(), Some("refs/heads/x"));
        let all = of("https://h/r.git?commit=ABCDEF0&submodules=false&keep-git-dir&mtime=commit&fetch-by-commit=1");
        assert_eq!(all.checksum.as_deref(), Some("abcdef0"));
        assert!(!all.submodules && all.keep_git_dir && all.fetch_by_commit && all.mtime == Mtime::Commit);
        assert_eq!(of("github.com/a/b").remote, "https://github.com/a/b");
    }

    #[test]
    fn contradictions_and_tricks_are_refused() {
        for text in [
            "https://h/r.git?ref=a&tag=b",
            "https://h/r.git?ref=a#b",
            "https://h/r.git?nonsense=1",
            "https://h/r.git?mtime=never",
            "https://h/r.git?checksum=xyz",
            "https://h/r.git?checksum=abc",
            "https://h/r.git?submodules=maybe",
            "https://h/r.git#--upload-pack=x",
            "https://h/r.git#a..b",
            "https://h/r.git#:../etc",
            "https://h/r.git#main:a/../../etc",
            "https://h/r.git?subdir=",
            "ssh://-oProxyCommand=x/r",
            "git@-oProxyCommand:r",
        ] {
            assert!(GitUrl::parse(text, Written::CommandLine).is_some_and(|r| r.is_err()), "{text}");
        }
        let mut url = of("https://h/r.git?checksum=abcdef0");
        assert!(url.demand("abcdef0").is_ok() && url.demand("1234567").is_err());
    }

    #[test]
    fn credentials_are_in_no_text() {
        let url = of("https://me:s3cret%21@host/r.git#main");
        assert_eq!(url.login.as_ref().map(|l| l.password.as_str()), Some("s3cret!"));
        assert_eq!(url.to_string(), "https://host/r.git#main");
        assert!(!format!("{url:?}").contains("s3cret"));
        for text in ["https://me:s3cret@host/r.git?x=1", "ssh://me:s3cret@host/r"] {
            let bad = GitUrl::parse(text, Written::CommandLine);
            assert!(!bad.unwrap().unwrap_err().to_string().contains("s3cret"), "{text}");
        }
    }
}
