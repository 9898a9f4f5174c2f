//! Secrets whose ids say that they are for a server: ADD and build contexts are fetched with them, as with BuildKit.
//!
//! | secret                                          | for                                        | header `Authorization`        |
//! |-------------------------------------------------|--------------------------------------------|-------------------------------|
//! | `HTTP_AUTH_TOKEN_<host>`                        | files behind http and https                | `Bearer TOKEN`                |
//! | `HTTP_AUTH_HEADER_<host>`                       | the same; the token wins                   | the secret                    |
//! | `GIT_AUTH_HEADER.<host>`, `GIT_AUTH_TOKEN.<host>` | repositories behind http and https       | the secret; as a password of  |
//! | `GIT_AUTH_HEADER`, `GIT_AUTH_TOKEN`             | those of all hosts without one of their own| the user `x-access-token`     |
//!
//! Of a repository's address the host is with its port, where one is written; of a file's it is without. Line ends around a
//! value are not part of it. The values stay in memory: they go to their server, and to git in its environment.

use super::{Error, Surroundings, secrets::Secrets};
use crate::registry::download::Authorization;
use crate::source::GitUrl;
use crate::source::download::is_web;
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// What fetching takes.
#[derive(Clone, Copy)]
pub(super) struct Reach<'a> {
    pub around: Surroundings<'a>,
    pub secrets: &'a Secrets,
}

impl Secrets {
    /// What the server of a file is told.
    ///
    /// # Errors
    /// A secret is meant for it that no header can hold.
    pub(super) fn web_login(&self, url: &str) -> Result<Option<Authorization>, Error> {
        let host = name_of(authority(url));
        let header = |id: String, scheme: &str| self.login(&id, |text| format!("{scheme}{text}"));
        match header(format!("HTTP_AUTH_TOKEN_{host}"), "Bearer ")? {
            Some(token) => Ok(Some(token)),
            None => header(format!("HTTP_AUTH_HEADER_{host}"), ""),
        }
    }

    /// What the server of a repository is told.
    ///
    /// # Errors
    /// A secret is meant for it that no header can hold.
    pub(super) fn git_login(&self, url: &GitUrl) -> Result<Option<Authorization>, Error> {
        if !is_web(&url.remote) {
            return Ok(None);
        }
        let of_host = format!(".{}", authority(&url.remote));
        for suffix in [of_host.as_str(), ""] {
            let header = self.login(&format!("GIT_AUTH_HEADER{suffix}"), str::to_owned)?;
            let token = |text: &str| format!("basic {}", BASE64_STANDARD.encode(format!("x-access-token:{text}")));
            let found = match header {
                Some(header) => Some(header),
                None => self.login(&format!("GIT_AUTH_TOKEN{suffix}"), token)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn login(&self, id: &str, made: impl Fn(&str) -> String) -> Result<Option<Authorization>, Error> {
        let Some(secret) = self.get(id) else { return Ok(None) };
        let failed = || Error::Secret { id: id.to_owned(), reason: "no HTTP header can hold it".into() };
        let text = std::str::from_utf8(secret.bytes()).map_err(|_| failed())?.trim_matches(['\r', '\n']);
        Authorization::new(&made(text)).filter(|_| !text.contains(['\r', '\n'])).ok_or_else(failed).map(Some)
    }
}

/// `host[:port]` of an address, as it is written.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// The host without its port.
fn name_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split_once(':').map_or(authority, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::request::{SecretOption, SecretSource};
    use crate::source::Written;

    fn secrets(all: &[(&str, &str)]) -> Secrets {
        let dir = tempfile::tempdir().unwrap();
        let option = |(id, value): &(&str, &str)| {
            let path = dir.path().join(id);
            std::fs::write(&path, value).unwrap();
            SecretOption { id: (*id).into(), source: SecretSource::File(path) }
        };
        Secrets::read(&all.iter().map(option).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn files_are_fetched_with_the_secret_of_their_host() {
        let of = |all: &[(&str, &str)], url: &str| {
            secrets(all).web_login(url).map(|login| login.map(|login| login.value().to_owned()))
        };
        let token = [("HTTP_AUTH_TOKEN_h.example", "t0ken\n"), ("HTTP_AUTH_HEADER_h.example", "Basic eDp5")];
        for url in ["https://h.example/f", "http://h.example:8080/f?x#y", "https://me:pw@h.example"] {
            assert_eq!(of(&token, url).unwrap().as_deref(), Some("Bearer t0ken"), "{url}");
            assert_eq!(of(&token[1..], url).unwrap().as_deref(), Some("Basic eDp5"), "{url}");
        }
        for url in ["https://other.example/h.example", "https://h.example.org/", "https://h.example@other.example/"] {
            assert_eq!(of(&token, url).unwrap(), None, "{url}");
        }
        assert_eq!(of(&[("HTTP_AUTH_TOKEN_::1", "t")], "http://[::1]:80/f").unwrap().as_deref(), Some("Bearer t"));
        let two_lines = of(&[("HTTP_AUTH_TOKEN_h", "a\nX: b")], "http://h/").unwrap_err().to_string();
        assert!(two_lines.contains("HTTP_AUTH_TOKEN_h") && !two_lines.contains("X: b"), "{two_lines}");
    }

    #[test]
    fn repositories_are_fetched_with_the_secret_of_their_host_or_the_one_for_all() {
        let of = |all: &[(&str, &str)], url: &str| {
            let url = GitUrl::parse(url, Written::CommandLine).unwrap().unwrap();
            secrets(all).git_login(&url).unwrap().map(|login| login.value().to_owned())
        };
        let all = [
            ("GIT_AUTH_HEADER.h:81", "Bearer host"),
            ("GIT_AUTH_TOKEN.h:81", "host"),
            ("GIT_AUTH_HEADER", "Bearer all"),
            ("GIT_AUTH_TOKEN", "all"),
        ];
        // x-access-token:host, x-access-token:all
        let basic = ["basic eC1hY2Nlc3MtdG9rZW46aG9zdA==", "basic eC1hY2Nlc3MtdG9rZW46YWxs"];
        let wanted = ["Bearer host", basic[0], "Bearer all", basic[1]];
        for (n, value) in wanted.iter().enumerate() {
            assert_eq!(of(&all[n..], "http://u:p@h:81/r.git#main:dir").as_deref(), Some(*value), "{n}");
        }
        assert_eq!(of(&all, "https://h/r.git").as_deref(), Some("Bearer all"));
        assert_eq!(of(&all[..2], "https://h/r.git"), None);
        for other in ["ssh://h:81/r", "git@h:r", "git://h:81/r", "file:///h/r"] {
            assert_eq!(of(&all, other), None, "{other}");
        }
    }
}
