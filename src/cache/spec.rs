//! What a user asks for with `--cache-from` and `--cache-to`, resolved.

use crate::oci::{Compression, Reference};
use std::{path::PathBuf, time::Duration};

/// How long entries of a key-value store live unless the user says otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(14 * 24 * 3600);

/// One cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Where it is.
    pub place: Place,
    /// Which entries of that place: those of other scopes are not seen.
    pub scope: String,
    /// Which steps are written.
    pub mode: Mode,
    /// How layers are compressed when they are written.
    pub compression: Compression,
}

/// Where the files of cache mounts with one id are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// The id.
    pub id: String,
    /// Where they are looked for.
    pub from: Vec<Spec>,
    /// Where they go.
    pub to: Vec<Spec>,
}

/// Where a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A repository of a registry: a small manifest for each entry, and the layers.
    Registry(Reference),
    /// An image layout directory.
    Local(PathBuf),
    /// Entries in Redis, layers in a repository.
    Redis {
        /// The server.
        server: RedisServer,
        /// Where the layers are.
        layers: Reference,
        /// How long an entry lives.
        ttl: Duration,
    },
    /// A web server that takes PUT and GET: everything below this address, which ends with `/`.
    Http(String),
    /// The image itself, when it is written; to be read it is named as a registry's.
    Inline,
}

/// A Redis server. Debug output does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisServer {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User, for servers that know several.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Number of the database.
    pub database: u32,
}

impl std::fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// Which steps a cache gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All that were executed or found.
    #[default]
    Max,
    /// Those whose layers are in the image.
    Min,
}

/// A file that should hold a key, and does not.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the key `{}`: {why}", path.display())]
pub struct KeyError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl crate::error::Classified for KeyError {
    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(
            "make one with `openssl genpkey -algorithm ed25519 -out key.pem`, its public half with `openssl pkey -in key.pem \
             -pubout`"
                .into(),
        )
    }
}
