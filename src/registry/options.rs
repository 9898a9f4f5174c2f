//! What a caller can decide about the client. Nothing here is read from the environment but by [`Options::default`].

use super::{Timeouts, TokenFile, Warnings};
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// The variable that names files with tokens.
pub(super) const TOKEN_FILES: &str = "RBUILD_REGISTRY_TOKEN_FILE";

/// Settings of a [`Client`](super::Client).
#[derive(Clone, Debug)]
pub struct Options {
    /// The one file that holds credentials (`--authfile`); `None`: the usual places are searched.
    pub authfile: Option<PathBuf>,
    /// User and password for every registry (`--creds`); wins over all files.
    pub creds: Option<(String, String)>,
    /// Files with tokens for single registries (`--registry-token-file`); they win over the files of credentials.
    pub token_files: Vec<TokenFile>,
    /// `Some(false)`: certificates are not checked, and plain HTTP is tried where HTTPS fails. `Some(true)`: neither, not
    /// even on loopback. `None`: as registries.conf says, and plain HTTP is tried on loopback.
    pub tls_verify: Option<bool>,
    /// Directory with `*.crt` (CAs), `*.cert` and `*.key` (client) used for every registry (`--cert-dir`).
    pub cert_dir: Option<PathBuf>,
    /// How often a failed request is tried again, after the first time.
    pub retries: u32,
    /// Wait before the first new try; doubles with each further one, up to 30 s.
    pub retry_delay: Duration,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// The registries.conf to read in place of the user's or the system's.
    pub registries_conf: Option<PathBuf>,
    /// The directory of drop-in files to read in place of the user's and the system's.
    pub registries_conf_dir: Option<PathBuf>,
    /// Blobs that are sent at the same time in one push.
    pub parallel: usize,
    /// Value of the `User-Agent` header.
    pub user_agent: String,
    /// Where the warnings of registries go; clients with the same one have one list.
    pub warnings: Warnings,
    /// Variables and user that the search for configuration files depends on.
    pub environment: Environment,
}

/// The part of a process's environment that the client looks at.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `REGISTRY_AUTH_FILE`.
    pub registry_auth_file: Option<PathBuf>,
    /// `DOCKER_CONFIG`: the directory that holds `config.json`.
    pub docker_config: Option<PathBuf>,
    /// `DOCKER_AUTH_CONFIG`: the text of a `config.json`.
    pub docker_auth_config: Option<String>,
    /// `RBUILD_REGISTRY_TOKEN_FILE`: more of [`Options::token_files`], with white space between them.
    pub token_files: Option<String>,
    /// `CONTAINERS_REGISTRIES_CONF`.
    pub registries_conf: Option<PathBuf>,
    /// `LOCAL_CA_CERTIFICATE`: certificates of CAs that are trusted as well, as PEM text.
    pub local_ca: Option<String>,
    /// `PATH`, where credential helpers are looked for.
    pub path: Option<OsString>,
    /// Where the system's configuration lies: `/etc`.
    pub etc: PathBuf,
}

impl Environment {
    /// The environment of this process. Empty variables count as unset.
    pub fn of_process() -> Self {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let path = |name| var(name).map(PathBuf::from);
        Environment {
            home: path("HOME"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            config_home: path("XDG_CONFIG_HOME"),
            registry_auth_file: path("REGISTRY_AUTH_FILE"),
            docker_config: path("DOCKER_CONFIG"),
            docker_auth_config: var("DOCKER_AUTH_CONFIG").and_then(|v| v.into_string().ok()),
            token_files: var(TOKEN_FILES).and_then(|v| v.into_string().ok()),
            registries_conf: path("CONTAINERS_REGISTRIES_CONF"),
            local_ca: var("LOCAL_CA_CERTIFICATE").and_then(|v| v.into_string().ok()),
            path: var("PATH"),
            etc: PathBuf::from("/etc"),
        }
    }

    /// `$XDG_CONFIG_HOME`, else `~/.config`.
    pub(super) fn config_dir(&self) -> Option<PathBuf> {
        self.config_home.clone().or_else(|| self.home.as_ref().map(|h| h.join(".config")))
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            authfile: None,
            creds: None,
            token_files: vec![],
            tls_verify: None,
            cert_dir: None,
            retries: 3,
            retry_delay: Duration::from_secs(1),
            timeouts: Timeouts::default(),
            registries_conf: None,
            registries_conf_dir: None,
            parallel: 4,
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).into(),
            warnings: Warnings::default(),
            environment: Environment::of_process(),
        }
    }
}
