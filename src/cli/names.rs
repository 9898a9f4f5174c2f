//! From what a user types as the name of an image to full names, in buildah's and in Docker's reading.

use super::Error;
use crate::oci::{Location, Reference};

/// How short names are completed when an image gets a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Naming {
    /// `x` is `localhost/x:latest`.
    #[default]
    Buildah,
    /// `x` is `docker.io/library/x:latest`.
    Docker,
}

impl Naming {
    /// The full name that an image gets when the user calls it `text`.
    ///
    /// # Errors
    /// A malformed name, or one with a digest: nobody can choose that.
    pub fn full(self, text: &str) -> Result<Reference, Error> {
        let typed: Reference = text.parse()?;
        if typed.digest.is_some() {
            return Err(Error::usage(format!("cannot name an image `{text}`: a name with a digest cannot be given")));
        }
        Ok(self.complete(typed))
    }

    /// The same reference with registry and tag filled in.
    pub fn complete(self, reference: Reference) -> Reference {
        let with_registry = match self {
            Naming::Docker => reference.docker_normalized(),
            Naming::Buildah if reference.registry.is_none() => reference.with_default_registry("localhost"),
            Naming::Buildah => reference.docker_normalized(),
        };
        with_registry.with_default_tag()
    }
}

/// `-t` of `bud`: a name for the store, completed, or a place with a transport.
pub fn destination(text: &str) -> Result<Location, Error> {
    if !Location::has_transport(text) {
        return Ok(Location::Store(Naming::Buildah.full(text)?));
    }
    place(text, Naming::Buildah)
}

/// A place with a transport; names in it are completed.
pub fn place(text: &str, naming: Naming) -> Result<Location, Error> {
    Ok(match text.parse()? {
        Location::Store(r) => Location::Store(naming.complete(r)),
        Location::Registry(r) => Location::Registry(r.docker_normalized().with_default_tag()),
        Location::OciArchive { path, .. } | Location::DockerArchive { path, .. } if path.as_os_str() == "-" => {
            return Err(Error::usage_hint(
                format!("`{text}` is no file"),
                "name a file; `rbuild save` writes an archive to standard output",
            ));
        }
        Location::DockerArchive { path, reference } => {
            Location::DockerArchive { path, reference: reference.map(|r| r.docker_normalized().with_default_tag()) }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_by_dialect() {
        for (typed, buildah, docker) in [
            ("x", "localhost/x:latest", "docker.io/library/x:latest"),
            ("a/b:1", "localhost/a/b:1", "docker.io/a/b:1"),
            ("docker.io/x", "docker.io/library/x:latest", "docker.io/library/x:latest"),
            ("localhost:5000/w", "localhost:5000/w:latest", "localhost:5000/w:latest"),
        ] {
            assert_eq!(Naming::Buildah.full(typed).unwrap().to_string(), buildah);
            assert_eq!(Naming::Docker.full(typed).unwrap().to_string(), docker);
        }
        assert!(Naming::Docker.full("UPPER").is_err());
    }

    #[test]
    fn destinations_may_have_transports() {
        assert_eq!(destination("x").unwrap().to_string(), "localhost/x:latest");
        assert_eq!(destination("docker://x").unwrap().to_string(), "docker://docker.io/library/x:latest");
        assert_eq!(destination("oci-archive:/tmp/o.tar").unwrap().to_string(), "oci-archive:/tmp/o.tar");
        let unknown = destination("ostree:x:y").unwrap_err();
        assert!(unknown.hint().is_some(), "{unknown}");
        assert!(destination("oci-archive:-").is_err() && destination("docker-archive:-:x").is_err());
    }
}
