//! What can go wrong between here and a registry.

use crate::error::{Classified, Kind, kind_of_io};
use crate::oci::{DigestError, PlatformError, ReferenceError};
use std::{fmt, io, path::PathBuf, time::Duration};

/// One entry of the list of errors in a registry's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The code of the distribution specification: `MANIFEST_UNKNOWN`, `DENIED`, …
    pub code: String,
    /// The registry's own words; may be empty.
    pub message: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.is_empty(), self.message.is_empty()) {
            (false, false) => write!(f, "{}: {}", self.code, self.message),
            (false, true) => f.write_str(&self.code),
            _ => f.write_str(&self.message),
        }
    }
}

/// An error of the registry client. `doing` says what was tried and names the image, `host` the server that was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of an image breaks the grammar.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A digest breaks the grammar.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A platform breaks the grammar.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A short name that configuration gives no single meaning.
    #[error("cannot resolve short name `{name}`: {why}")]
    ShortName {
        /// As it was written.
        name: String,
        /// What is missing.
        why: String,
    },
    /// registries.conf forbids this registry.
    #[error("cannot use `{reference}`: registry is blocked in registries.conf")]
    Blocked {
        /// The image.
        reference: String,
    },
    /// A configuration or credentials file cannot be used.
    #[error("cannot read `{}`: {why}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {verb} `{}`: {source}", path.display())]
    File {
        /// `read`, `write`, …
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A credential helper failed.
    #[error("credential helper `{program}` failed: {why}")]
    Helper {
        /// The program's name.
        program: String,
        /// What it said.
        why: String,
    },
    /// The runtime or the HTTP client could not be set up.
    #[error("cannot start the registry client: {0}")]
    Setup(io::Error),
    /// No answer came from the server, or it broke off.
    #[error("{doing}: registry `{host}`: {why}")]
    Transport {
        /// What was tried.
        doing: String,
        /// The server.
        host: String,
        /// The transport's words.
        why: String,
        /// Whether the same request can succeed later.
        transient: bool,
    },
    /// The server said nothing for too long.
    #[error("{doing}: registry `{host}`: {waiting_for} took longer than {seconds} s")]
    Timeout {
        /// What was tried.
        doing: String,
        /// The server.
        host: String,
        /// What did not come.
        waiting_for: &'static str,
        /// The limit in seconds.
        seconds: u64,
    },
    /// The server refused the request.
    #[error("{doing}: registry `{host}` answered {status}{}", list(*status, errors))]
    Status {
        /// What was tried.
        doing: String,
        /// The server.
        host: String,
        /// HTTP status code.
        status: u16,
        /// The registry's list of errors.
        errors: Vec<ApiError>,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
        /// The file with the token that was shown.
        token_file: Option<PathBuf>,
    },
    /// A file that is to hold a token for a registry.
    #[error("cannot use token file `{}` for `{registry}`: {why}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The registry, or the part of it.
        registry: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server's answer breaks the protocol.
    #[error("{doing}: registry `{host}`: {why}")]
    Protocol {
        /// What was tried.
        doing: String,
        /// The server.
        host: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// Content does not match its digest, length or format.
    #[error("{doing}: {why}")]
    Corrupt {
        /// What was tried.
        doing: String,
        /// The contradiction.
        why: String,
    },
    /// Content is valid but of no use here.
    #[error("{doing}: {why}")]
    Unsupported {
        /// What was tried.
        doing: String,
        /// What it is.
        why: String,
    },
    /// An index has no image for the platform.
    #[error("{doing}: no image for platform `{platform}`: the index has {available}")]
    NoPlatform {
        /// What was tried.
        doing: String,
        /// The platform asked for.
        platform: String,
        /// The platforms there are.
        available: String,
    },
    /// The caller's reader or writer failed.
    #[error("{doing}: {source}")]
    Local {
        /// What was tried.
        doing: String,
        /// The reader's or writer's error.
        source: io::Error,
    },
}

fn list(status: u16, errors: &[ApiError]) -> String {
    let texts: Vec<String> = errors.iter().map(ApiError::to_string).filter(|t| !t.is_empty()).collect();
    if !texts.is_empty() {
        return format!(": {}", texts.join("; "));
    }
    let reason = reqwest::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    reason.map_or_else(String::new, |r| format!(" ({})", r.to_lowercase()))
}

impl Error {
    /// The HTTP status, where the server refused.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// How long the server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A text without a secret, also where only the beginning of that is left in it.
pub(super) fn masked(text: &str, secret: &str) -> String {
    let head: String = secret.chars().take(12).collect();
    let (mut clean, mut rest) = (String::new(), text);
    while let Some((before, _)) = rest.split_once(&head).filter(|_| !head.is_empty()) {
        clean.push_str(before);
        clean.push_str("****");
        let found = rest.get(before.len()..).unwrap_or_default();
        let same = found.bytes().zip(secret.bytes()).take_while(|(a, b)| a == b).count();
        rest = found.get(same..).unwrap_or_default();
    }
    clean + rest
}

impl Error {
    /// The same, with the file whose token was refused, if one was, and without words that are secret.
    pub(super) fn with_token_of(mut self, file: Option<PathBuf>, secrets: &[String]) -> Error {
        if let Error::Status { errors, token_file, .. } = &mut self {
            for text in errors.iter_mut().flat_map(|e| [&mut e.code, &mut e.message]) {
                for secret in secrets {
                    *text = masked(text, secret);
                }
            }
            *token_file = file;
        }
        self
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Reference(_) | Error::Digest(_) | Error::Platform(_) | Error::ShortName { .. } => Kind::Usage,
            Error::Config { .. } | Error::TokenFile { .. } => Kind::Usage,
            Error::Blocked { .. } | Error::Helper { .. } => Kind::Denied,
            Error::File { source, .. } | Error::Setup(source) | Error::Local { source, .. } => kind_of_io(source),
            Error::Transport { .. } | Error::Timeout { .. } => Kind::Network,
            Error::Status { status, errors, .. } => match status {
                401 | 403 => Kind::Denied,
                404 => Kind::NotFound,
                409 => Kind::Conflict,
                405 => Kind::Unsupported,
                413 | 507 => Kind::Exhausted,
                429 | 408 | 500..=599 => Kind::Network,
                _ if errors.iter().any(|e| e.code == "DENIED" || e.code == "UNAUTHORIZED") => Kind::Denied,
                _ => Kind::System,
            },
            Error::Protocol { .. } | Error::Corrupt { .. } => Kind::Corrupt,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::NoPlatform { .. } => Kind::NotFound,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::ShortName { .. } => Some("write the full name, such as `docker.io/library/NAME`".into()),
            Error::Blocked { .. } => Some("remove `blocked = true` from its `[[registry]]` table".into()),
            Error::Transport { why, .. } if why.contains("certificate") => {
                Some("add the registry's CA to `certs.d/HOST/ca.crt`, or pass `--tls-verify=false`".into())
            }
            // Servers differ in what they call it.
            Error::Transport { why, .. } if why.contains("alert") && why.contains("Certificate") => Some(
                "the registry wants a certificate of its clients: put `certs.d/HOST/NAME.cert` and `NAME.key` there, or name \
                 their directory by `--cert-dir`"
                    .into(),
            ),
            Error::Transport { why, .. } if why.contains("InvalidContentType") => {
                Some("the registry seems to speak plain HTTP: pass `--tls-verify=false`".into())
            }
            Error::Transport { .. } | Error::Timeout { .. } => {
                Some("check the registry's name and the network from this pod".into())
            }
            Error::TokenFile { path, .. } => Some(format!(
                "in the pod, a `projected` volume with a `serviceAccountToken` whose `path` is `{}` has to be mounted at `{}`",
                path.file_name().unwrap_or_default().to_string_lossy(),
                path.parent().unwrap_or(path).display()
            )),
            Error::Status { status: 400 | 401 | 403, host, token_file: Some(path), .. } => Some(format!(
                "`{host}` does not take the token of `{}`: check `audience` of the pod's `serviceAccountToken`, what the \
                 service account may do there, and `as=` in the setting",
                path.display()
            )),
            Error::Status { status: 401, host, .. } => Some(format!("log in: `rbuild login {host}`")),
            Error::Status { status: 403, host, .. } => Some(format!(
                "the account used for `{host}` may not do this: check its permissions or log in as another"
            )),
            Error::Status { status: 404, errors, .. } => match errors.first().map(|e| e.code.as_str()) {
                Some("MANIFEST_UNKNOWN") => Some("check the tag or digest".into()),
                _ => Some("check the name; a private repository needs `rbuild login` first".into()),
            },
            Error::Status { status: 429, host, .. } => Some(format!(
                "the registry limits its rate: log in to `{host}`, use a mirror, or raise `--retry-delay`"
            )),
            Error::Status { status: 413, .. } => {
                Some("the registry, or a proxy before it, limits the size of requests: it has to take 1 MiB (`client_max_body_size` of nginx)".into())
            }
            Error::NoPlatform { .. } => Some("pass `--platform` with one of these".into()),
            Error::Corrupt { .. } => {
                Some("the registry, or something between, changed the content: try another mirror".into())
            }
            _ => None,
        }
    }

    fn retryable(&self) -> bool {
        match self {
            Error::Transport { transient, .. } => *transient,
            Error::Timeout { .. } => true,
            Error::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn secrets_are_masked_also_where_they_are_cut() {
        let secret = "eyJhbGciOiJSUzI1NiJ9.payload.signature";
        assert_eq!(masked(&format!("bad {secret}, {secret}!"), secret), "bad ****, ****!");
        assert_eq!(masked("bad eyJhbGciOiJSUzI1NiJ9.pay", secret), "bad ****");
        assert_eq!(masked("short: abc", "abc"), "short: ****");
        assert_eq!(masked("** ****", "****"), "** ****");
        assert_eq!(masked("nothing", ""), "nothing");
    }
}
