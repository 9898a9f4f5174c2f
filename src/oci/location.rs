//! Where an image is, or goes to: `transport:details`, as skopeo, podman and buildah spell it.
//!
//! | text | meaning |
//! |---|---|
//! | `docker://registry/name:tag` | a registry |
//! | `oci:DIR[:tag]` | an OCI image layout in a directory |
//! | `oci-archive:FILE[:tag]` | the same in a tar |
//! | `docker-archive:FILE[:reference]` | what `docker save` writes |
//! | `dir:DIR` | manifest, config and layers side by side in a directory |
//! | `containers-storage:name` | the store of podman and buildah |
//! | `docker-daemon:name` | the store of a Docker daemon |
//! | a name alone | rbuild's own store |

use super::{Reference, ReferenceError};
use std::{fmt, path::PathBuf, str::FromStr};

/// Why a text names no location of an image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LocationError {
    /// The name part breaks the grammar of references.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A transport that other tools know and rbuild does not.
    #[error("unsupported transport `{0}`")]
    Transport(String),
    /// `oci:` and the like, with no path behind it.
    #[error("invalid location `{0}`: nothing behind the transport")]
    NoPath(String),
}

/// A place where an image can be read from or written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A name in the local store; defaults are not filled in.
    Store(Reference),
    /// A registry: `docker://`.
    Registry(Reference),
    /// An OCI image layout directory, and the name of the image in it.
    OciDir {
        /// The directory.
        path: PathBuf,
        /// Value of `org.opencontainers.image.ref.name`, where one was written.
        name: Option<String>,
    },
    /// A tar of an OCI image layout.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// Value of `org.opencontainers.image.ref.name`, where one was written.
        name: Option<String>,
    },
    /// A tar as `docker save` writes it.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// The name that the archive gives to the image.
        reference: Option<Reference>,
    },
    /// The store of podman and buildah: a name in it, as those write it, with `[driver@root]` before it or not.
    Containers(String),
    /// The store of a Docker daemon: a name in it.
    DockerDaemon(String),
    /// A directory of loose blobs with a `manifest.json`.
    Dir {
        /// The directory.
        path: PathBuf,
    },
}

/// Transports that others have and rbuild refuses by name: a text that begins with one is never taken for a reference.
const FOREIGN: &[&str] = &["ostree", "sif", "tarball", "atomic"];

impl Location {
    /// The image that this text names, where it is one in the store of another tool.
    pub fn in_other_store(text: &str) -> Option<Location> {
        match text.split_once(':')? {
            ("containers-storage" | "docker-daemon", _) => text.parse().ok(),
            _ => None,
        }
    }

    /// The name of the transport, without the colon.
    pub fn transport(&self) -> &'static str {
        match self {
            // As policies call it, which know no rbuild.
            Location::Store(_) | Location::Containers(_) => "containers-storage",
            Location::DockerDaemon(_) => "docker-daemon",
            Location::Registry(_) => "docker",
            Location::OciDir { .. } => "oci",
            Location::OciArchive { .. } => "oci-archive",
            Location::DockerArchive { .. } => "docker-archive",
            Location::Dir { .. } => "dir",
        }
    }

    /// Whether the text begins with the name of a transport, known to rbuild or not.
    pub fn has_transport(text: &str) -> bool {
        text.split_once(':').is_some_and(|(t, rest)| {
            matches!(t, "oci" | "oci-archive" | "docker-archive" | "dir" | "containers-storage" | "docker-daemon")
                // `docker:dind` is an image, `docker://…` is a transport.
                || (t == "docker" && rest.starts_with("//"))
                || FOREIGN.contains(&t)
        })
    }
}

/// Splits `path[:name]`. A name never begins with a slash, so `a:/b` has none.
fn path_and_name(text: &str) -> Option<(PathBuf, Option<&str>)> {
    let (path, name) = match text.split_once(':') {
        Some((p, n)) => (p, Some(n).filter(|n| !n.is_empty())),
        None => (text, None),
    };
    (!path.is_empty()).then(|| (PathBuf::from(path), name))
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(s: &str) -> Result<Self, LocationError> {
        if !Location::has_transport(s) {
            return Ok(Location::Store(s.parse()?));
        }
        let (transport, rest) = s.split_once(':').unwrap_or((s, ""));
        let split = || path_and_name(rest).ok_or_else(|| LocationError::NoPath(s.to_owned()));
        Ok(match transport {
            "docker" => Location::Registry(rest.trim_start_matches("//").parse()?),
            "containers-storage" | "docker-daemon" if rest.is_empty() => {
                return Err(LocationError::NoPath(s.to_owned()));
            }
            "containers-storage" => Location::Containers(rest.to_owned()),
            "docker-daemon" => Location::DockerDaemon(match rest.parse::<Reference>() {
                Ok(name) => name.with_default_tag().to_string(),
                // An id, which skopeo knows better.
                Err(_) => rest.to_owned(),
            }),
            "oci" => {
                let (path, name) = split()?;
                Location::OciDir { path, name: name.map(str::to_owned) }
            }
            "oci-archive" => {
                let (path, name) = split()?;
                Location::OciArchive { path, name: name.map(str::to_owned) }
            }
            "docker-archive" => {
                let (path, name) = split()?;
                Location::DockerArchive { path, reference: name.map(str::parse).transpose()? }
            }
            "dir" if rest.is_empty() => return Err(LocationError::NoPath(s.to_owned())),
            "dir" => Location::Dir { path: rest.into() },
            other => return Err(LocationError::Transport(other.to_owned())),
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Store(r) => write!(f, "{r}"),
            Location::Registry(r) => write!(f, "docker://{r}"),
            Location::OciDir { path, name } | Location::OciArchive { path, name } => {
                write!(f, "{}:{}", self.transport(), path.display())?;
                name.as_ref().map_or(Ok(()), |n| write!(f, ":{n}"))
            }
            Location::DockerArchive { path, reference } => {
                write!(f, "docker-archive:{}", path.display())?;
                reference.as_ref().map_or(Ok(()), |r| write!(f, ":{r}"))
            }
            Location::Dir { path } => write!(f, "dir:{}", path.display()),
            Location::Containers(name) | Location::DockerDaemon(name) => write!(f, "{}:{name}", self.transport()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_told_from_names() {
        let at = |t: &str| t.parse::<Location>().unwrap();
        assert_eq!(at("busybox"), Location::Store("busybox".parse().unwrap()));
        assert_eq!(at("docker:dind"), Location::Store("docker:dind".parse().unwrap()));
        assert_eq!(at("localhost:5000/x"), Location::Store("localhost:5000/x".parse().unwrap()));
        assert_eq!(at("docker://localhost:5000/x:y"), Location::Registry("localhost:5000/x:y".parse().unwrap()));
        assert_eq!(at("oci:/a/b:c"), Location::OciDir { path: "/a/b".into(), name: Some("c".into()) });
        assert_eq!(at("oci:d"), Location::OciDir { path: "d".into(), name: None });
        assert_eq!(
            at("oci-archive:x.tar:localhost/x:1"),
            Location::OciArchive { path: "x.tar".into(), name: Some("localhost/x:1".into()) }
        );
        assert_eq!(
            at("docker-archive:x.tar:a/b:1"),
            Location::DockerArchive { path: "x.tar".into(), reference: Some("a/b:1".parse().unwrap()) }
        );
        assert_eq!(at("dir:/x:y"), Location::Dir { path: "/x:y".into() });
        assert_eq!(at("docker-daemon:x:1"), Location::DockerDaemon("x:1".into()));
        assert_eq!(at("docker-daemon:x"), Location::DockerDaemon("x:latest".into()));
        assert_eq!(at("containers-storage:[vfs@/a]x"), Location::Containers("[vfs@/a]x".into()));
        assert_eq!("ostree:x".parse::<Location>(), Err(LocationError::Transport("ostree".into())));
        assert!("docker-daemon:".parse::<Location>().is_err());
        assert!("oci:".parse::<Location>().is_err());
        assert!("oci::x".parse::<Location>().is_err());
        for text in [
            "docker://a/b:c",
            "oci:/a:b",
            "oci-archive:a",
            "docker-archive:f:x:1",
            "dir:/q",
            "x:1",
            "docker-daemon:a/b:1",
        ] {
            assert_eq!(at(text).to_string(), text);
        }
    }
}
