//! Tokens in files that somebody renews: what a pod is given in a projected volume (`serviceAccountToken`) for one registry.
//!
//! A setting names the registry, the file and how the registry takes what is in it:
//!
//! ```text
//! REGISTRY[/PATH]=FILE[,as=password|bearer|identity|exchange|robot][,user=…][,at=URL][,audience=…]
//!
//! password   the password of `user`, for the registry or its token server
//! bearer     shown to the registry as it is
//! identity   the refresh token with which the token server is asked (OAuth2 of the distribution protocol)
//! exchange   exchanged (RFC 8693) by the token server, or by the server `at`, whose answer is shown to the registry
//! robot      exchanged by the server `at`, asked in the name of `user`, for the password of `user`
//! ```
//!
//! The file is read again whenever something is asked for with it: it changes while a build runs. What is in it is never shown.

use super::{Error, credentials::normal_registry};
use reqwest::Url;
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

/// Longest token, in bytes. A server that takes it in a header takes a few KiB.
const MAX_BYTES: u64 = 64 << 10;
/// Who a token's owner is called where the registry does not mind.
const USER: &str = "serviceaccount";
/// Where registries with robots exchange tokens.
const ROBOT_PATH: &str = "/oauth2/federation/robot/token";

/// A file with a token, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    /// Registry, and the part of its repositories, as `host/a/b`.
    scope: String,
    path: PathBuf,
    pub(super) way: Way,
}

/// How a token opens a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As somebody's password.
    Password { user: String },
    /// As it is.
    Bearer,
    /// As the refresh token of the token server.
    Identity,
    /// Exchanged by the token server, or first by another one.
    Exchange { at: Option<Url>, audience: Option<String> },
    /// Exchanged for the password of a robot.
    Robot { at: Url, user: String },
}

impl TokenFile {
    /// Several, with white space between them.
    pub(super) fn list(text: &str) -> Result<Vec<TokenFile>, String> {
        text.split_whitespace().map(str::parse).collect()
    }

    /// How much of a repository's full name it is about; `None` where it is about another one.
    pub(super) fn fits(&self, registry: &str, repository: &str) -> Option<usize> {
        let name = format!("{registry}/{repository}");
        let rest = name.strip_prefix(&self.scope)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(self.scope.len())
    }

    /// Its name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it now.
    ///
    /// # Errors
    /// Where it cannot be read, or holds no token.
    pub(super) fn read(&self) -> Result<String, Error> {
        let bad = |why: &str| self.error(why.to_owned());
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => bad("there is no such file"),
            _ => self.error(e.to_string()),
        };
        // Who opens a pipe waits for its other end.
        if !self.path.metadata().map_err(failed)?.is_file() {
            return Err(bad("it is no regular file"));
        }
        let mut text = vec![];
        File::open(&self.path).map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(self.error(format!("it is larger than {MAX_BYTES} bytes, so that it is no token")));
        }
        let token = text.trim_ascii();
        if token.is_empty() {
            return Err(bad("it is empty"));
        }
        match std::str::from_utf8(token) {
            Ok(token) if token.bytes().all(|b| b.is_ascii_graphic()) => Ok(token.to_owned()),
            _ => Err(bad("it holds more than one word, so that it is no token")),
        }
    }

    fn error(&self, why: String) -> Error {
        Error::TokenFile { path: self.path.clone(), registry: self.scope.clone(), why }
    }
}

impl FromStr for TokenFile {
    type Err = String;

    fn from_str(text: &str) -> Result<TokenFile, String> {
        let form = || format!("`{text}` is not `REGISTRY[/PATH]=FILE[,as=…]`");
        let (scope, rest) = text.split_once('=').ok_or_else(form)?;
        let mut parts = rest.split(',');
        let path = parts.next().filter(|p| !p.is_empty()).ok_or_else(form)?;
        let (registry, below) = match scope.split_once('/') {
            Some((registry, below)) => (registry, Some(below.trim_matches('/'))),
            None => (scope, None),
        };
        if registry.is_empty() || scope.contains("://") || scope.contains(char::is_whitespace) {
            return Err(form());
        }
        let registry = normal_registry(registry);
        let scope = match below.filter(|b| !b.is_empty()) {
            Some(below) => format!("{registry}/{below}"),
            None => registry.to_owned(),
        };
        let (mut way, mut user, mut at, mut audience) = (None, None, None, None);
        for part in parts {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("`{part}` in `{text}` is not `NAME=VALUE`"))?;
            let slot = match name {
                "as" => &mut way,
                "user" => &mut user,
                "at" => &mut at,
                "audience" => &mut audience,
                _ => return Err(format!("`{name}` in `{text}` is none of `as`, `user`, `at` and `audience`")),
            };
            if value.is_empty() || slot.replace(value.to_owned()).is_some() {
                return Err(format!("`{name}` in `{text}` is empty or there twice"));
            }
        }
        let url = |at: String| match Url::parse(&at) {
            Ok(url) if matches!(url.scheme(), "https" | "http") && url.has_host() => Ok(url),
            _ => Err(format!("`at={at}` in `{text}` is no address of a server")),
        };
        let at = at.map(url).transpose()?;
        let kind = way.as_deref().unwrap_or("password");
        let useless = |name: &str| format!("`{name}` has no meaning with `as={kind}` in `{text}`");
        for (name, there, fits) in [
            ("user", user.is_some(), matches!(kind, "password" | "robot")),
            ("at", at.is_some(), matches!(kind, "exchange" | "robot")),
            ("audience", audience.is_some(), kind == "exchange"),
        ] {
            if there && !fits {
                return Err(useless(name));
            }
        }
        let way = match kind {
            "password" => Way::Password { user: user.unwrap_or_else(|| USER.into()) },
            "bearer" => Way::Bearer,
            "identity" => Way::Identity,
            "exchange" => Way::Exchange { at, audience },
            "robot" => {
                let user = user.ok_or_else(|| format!("`as=robot` in `{text}` needs `user=`, the robot's name"))?;
                Way::Robot { at: at.map_or_else(|| url(format!("https://{registry}{ROBOT_PATH}")), Ok)?, user }
            }
            _ => {
                return Err(format!(
                    "`as={kind}` in `{text}` is none of `password`, `bearer`, `identity`, `exchange` and `robot`"
                ));
            }
        };
        Ok(TokenFile { scope, path: path.into(), way })
    }
}

impl fmt::Display for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.scope, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read() {
        let url = |text: &str| Url::parse(text).unwrap();
        let user = |name: &str| Way::Password { user: name.into() };
        for (text, scope, path, way) in [
            ("r.test=/t", "r.test", "/t", user("serviceaccount")),
            ("r.test:5000/a/b/=/t,as=password,user=x", "r.test:5000/a/b", "/t", user("x")),
            ("index.docker.io=/t,as=bearer", "docker.io", "/t", Way::Bearer),
            ("r.test=/t=1,as=identity", "r.test", "/t=1", Way::Identity),
            ("r.test=t,as=exchange", "r.test", "t", Way::Exchange { at: None, audience: None }),
            (
                "r.test=t,as=exchange,at=https://s.test/t?a=b,audience=x",
                "r.test",
                "t",
                Way::Exchange { at: Some(url("https://s.test/t?a=b")), audience: Some("x".into()) },
            ),
            (
                "r.test=t,as=robot,user=o+r",
                "r.test",
                "t",
                Way::Robot { at: url("https://r.test/oauth2/federation/robot/token"), user: "o+r".into() },
            ),
        ] {
            let want = TokenFile { scope: scope.into(), path: path.into(), way };
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        for (text, word) in [
            ("r.test", "is not `REGISTRY"),
            ("=/t", "is not `REGISTRY"),
            ("https://r.test=/t", "is not `REGISTRY"),
            ("r.test=", "is not `REGISTRY"),
            ("r.test=,as=bearer", "is not `REGISTRY"),
            ("r.test=/t,bearer", "`bearer` in"),
            ("r.test=/t,as=magic", "`as=magic`"),
            ("r.test=/t,like=bearer", "`like` in"),
            ("r.test=/t,as=bearer,as=bearer", "there twice"),
            ("r.test=/t,as=bearer,user=x", "`user` has no meaning"),
            ("r.test=/t,audience=x", "`audience` has no meaning"),
            ("r.test=/t,as=exchange,at=nowhere", "`at=nowhere`"),
            ("r.test=/t,as=exchange,at=file:///x", "`at=file:///x`"),
            ("r.test=/t,as=robot", "needs `user=`"),
        ] {
            let e = text.parse::<TokenFile>().unwrap_err();
            assert!(e.contains(word), "{text}: {e}");
        }
        assert_eq!(TokenFile::list(" a=b \n c=d,as=bearer").unwrap().len(), 2);
        assert!(TokenFile::list("a=b c").is_err());
    }

    #[test]
    fn a_setting_is_about_whole_parts_of_names() {
        let fits =
            |setting: &str, registry, repository| setting.parse::<TokenFile>().unwrap().fits(registry, repository);
        assert_eq!(fits("r.test=t", "r.test", "a/b"), Some(6));
        assert_eq!(fits("r.test=t", "r.test", ""), Some(6));
        assert_eq!(fits("r.test/a=t", "r.test", "a/b"), Some(8));
        assert_eq!(fits("r.test/a=t", "r.test", "a"), Some(8));
        for (setting, registry, repository) in
            [("r.test/a=t", "r.test", "ab"), ("r.test/a=t", "r.test", ""), ("r.test=t", "r.test:5000", "a")]
        {
            assert_eq!(fits(setting, registry, repository), None, "{setting}");
        }
    }
}
