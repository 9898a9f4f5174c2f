//! `signedIdentity`: which name a signature must have been made for.

use crate::oci::Reference;

/// How the name in a signature has to relate to the image's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Identity {
    /// The same name and tag.
    MatchExact,
    /// The same name and tag; for an image named by digest the same repository.
    #[default]
    MatchRepoDigestOrExact,
    /// The same repository.
    MatchRepository,
    /// This name and tag, whatever the image is called.
    ExactReference(Reference),
    /// This repository, whatever the image is called.
    ExactRepository(Reference),
    /// As [`Identity::MatchRepoDigestOrExact`], once the first prefix of the image's name is replaced by the second.
    Remap {
        /// Prefix of the image's name.
        prefix: String,
        /// What stands there in signatures.
        signed: String,
    },
}

/// A full name as it is compared. A digest makes the tag void.
pub(super) fn complete(reference: Reference) -> Reference {
    let mut full = reference.docker_normalized();
    if full.digest.is_some() {
        full.tag = None;
    }
    full
}

fn bare(r: &Reference) -> bool {
    r.tag.is_none() && r.digest.is_none()
}

impl Identity {
    /// Whether a signature for the name `claimed` counts for `image`, which has a tag or a digest.
    pub(super) fn matches(&self, image: &Reference, claimed: &str) -> bool {
        let Ok(claimed) = claimed.parse::<Reference>() else { return false };
        let claimed = claimed.docker_normalized();
        match self {
            Identity::MatchExact => !bare(&claimed) && claimed == *image,
            Identity::MatchRepoDigestOrExact => repo_digest_or_exact(image, &claimed),
            Identity::MatchRepository => claimed.name() == image.name(),
            Identity::ExactReference(wanted) => claimed == *wanted,
            Identity::ExactRepository(wanted) => claimed.name() == wanted.name(),
            Identity::Remap { prefix, signed } => match remap(image, prefix, signed) {
                Some(image) => repo_digest_or_exact(&image, &claimed),
                None => false,
            },
        }
    }

    /// Whether signatures without a tag, as cosign makes them, can count for an image that is named by tag.
    pub(super) fn takes_repositories(&self) -> bool {
        matches!(self, Identity::MatchRepository | Identity::ExactRepository(_))
    }
}

fn repo_digest_or_exact(image: &Reference, claimed: &Reference) -> bool {
    if bare(claimed) {
        return false;
    }
    match image.digest {
        // The bytes of the manifest have been compared with it already.
        Some(_) => claimed.name() == image.name(),
        None => claimed == image,
    }
}

/// The name with another prefix; the same where the prefix is not its own, none where the result is no name.
fn remap(image: &Reference, prefix: &str, signed: &str) -> Option<Reference> {
    let full = image.to_string();
    match full.strip_prefix(prefix) {
        Some(rest) if rest.is_empty() || rest.starts_with(['/', ':', '@']) => {
            format!("{signed}{rest}").parse::<Reference>().ok().map(complete)
        }
        _ => Some(image.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn image(text: &str) -> Reference {
        complete(text.parse().unwrap())
    }

    #[test]
    fn names_are_compared_as_the_requirement_says() {
        let by_digest = format!("a.b/c/d@{}", Digest::of("x"));
        let both = format!("a.b/c/d:1@{}", Digest::of("x"));
        let exact = |t: &str| Identity::ExactReference(image(t));
        let repository = |t: &str| Identity::ExactRepository(image(t));
        let remap = |prefix: &str, signed: &str| Identity::Remap { prefix: prefix.into(), signed: signed.into() };
        for (identity, name, claimed, want) in [
            (Identity::MatchExact, "a.b/c/d:1", "a.b/c/d:1", true),
            (Identity::MatchExact, "a.b/c/d:1", "a.b/c/d:2", false),
            (Identity::MatchExact, "a.b/c/d:1", "a.b/c/d", false),
            (Identity::MatchExact, &by_digest, "a.b/c/d:1", false),
            (Identity::MatchExact, &by_digest, &by_digest, true),
            (Identity::default(), "a.b/c/d:1", "a.b/c/d:1", true),
            (Identity::default(), "a.b/c/d:1", "a.b/c/d", false),
            (Identity::default(), "a.b/c/d:1", "a.b/c/e:1", false),
            (Identity::default(), &by_digest, "a.b/c/d:7", true),
            (Identity::default(), &both, "a.b/c/d:7", true),
            (Identity::default(), &by_digest, "a.b/c/d", false),
            (Identity::MatchRepository, "a.b/c/d:1", "a.b/c/d", true),
            (Identity::MatchRepository, "a.b/c/d:1", "a.b/c/d:3", true),
            (Identity::MatchRepository, "a.b/c/d:1", "a.b/c/e", false),
            (Identity::MatchRepository, "busybox:1", "index.docker.io/library/busybox", true),
            (Identity::MatchRepository, "a.b/c/d:1", "", false),
            (Identity::MatchRepository, "a.b/c/d:1", "a.b/c/d:", false),
            (exact("v/x:2"), "a.b/c/d:1", "v/x:2", true),
            (exact("v/x:2"), "a.b/c/d:1", "v/x:3", false),
            (exact("v/x:2"), "a.b/c/d:1", "v/x", false),
            (repository("v/x"), "a.b/c/d:1", "v/x:3", true),
            (repository("v/x"), "a.b/c/d:1", "v/xy:3", false),
            (remap("a.b/c", "z.y"), "a.b/c/d:1", "z.y/d:1", true),
            (remap("a.b/c", "z.y"), "a.b/c/d:1", "a.b/c/d:1", false),
            (remap("a.b/c/d", "z.y/w"), "a.b/c/d:1", "z.y/w:1", true),
            (remap("a.b/c", "z.y"), "a.b/cc/d:1", "a.b/cc/d:1", true),
            (remap("a.b/c", "z.y"), "a.b/cc/d:1", "z.yc/d:1", false),
            (remap("a.b/c", "z.y"), &by_digest, "z.y/d:5", true),
        ] {
            assert_eq!(identity.matches(&image(name), claimed), want, "{identity:?} {name} {claimed}");
        }
    }
}
