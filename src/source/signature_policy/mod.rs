//! Signature policies, as containers-policy.json(5) describes them: which images may be pulled, and by whom they have to be signed.
//!
//! ```text
//! image ─► scopes of its transport, most specific first ─► requirements, all of which it has to meet
//! ```
//!
//! A policy is asked about what comes from outside: a registry, an archive, a directory. What is in the store was judged when it came.
//! Signatures are cosign's ([`crate::attest::signature`]), of the image's manifest or of the index that led to it: the
//! index names the manifest by digest, so whoever signed the one vouches for the other. Whatever is not understood
//! refuses the image.

mod error;
mod identity;
mod parse;
mod scopes;

pub use error::Error;

use super::signatures;
use crate::attest::signature::{self, Signed, VerifyingKey};
use crate::oci::{Digest, Location, Reference};
use crate::registry::{Client, Resolved};
use identity::Identity;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest policy file that is read, in bytes.
const LONGEST: u64 = 4 << 20;
/// Where the policy of the machine is.
const SYSTEM: &str = "/etc/containers/policy.json";
/// Where that of the user is, below the home directory.
const OF_USER: &str = ".config/containers/policy.json";

/// Which images may be pulled. Without a file: all.
#[derive(Debug, Default)]
pub struct SignaturePolicy(Option<Loaded>);

#[derive(Debug)]
struct Loaded {
    path: PathBuf,
    rules: Rules,
}

/// What a file says.
#[derive(Debug)]
struct Rules {
    default: Vec<Requirement>,
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Debug)]
enum Requirement {
    Accept,
    Reject,
    Sigstore { keys: Vec<Key>, identity: Identity },
    Unsupported { what: String, hint: &'static str },
}

#[derive(Debug)]
enum Key {
    File(PathBuf),
    /// PEM.
    Data(String),
}

impl Key {
    fn file(path: String) -> Key {
        Key::File(path.into())
    }
}

/// How messages call a part of a policy.
fn place(transport: &str, scope: &str) -> String {
    if scope.is_empty() { format!("the default of `{transport}`") } else { format!("scope `{scope}` of `{transport}`") }
}

/// The requirements for one image, and how messages call their place.
struct Applies<'a> {
    image: String,
    path: &'a Path,
    scope: String,
    requirements: &'a [Requirement],
}

impl SignaturePolicy {
    /// The policy of this file; of none that of the user, else that of the machine, else one that accepts everything.
    ///
    /// # Errors
    /// Where there is a file and it cannot be used.
    pub fn find(file: Option<&Path>) -> Result<SignaturePolicy, Error> {
        if let Some(file) = file {
            return SignaturePolicy::read(file);
        }
        let home = std::env::var_os("HOME").filter(|h| !h.is_empty()).map(|home| Path::new(&home).join(OF_USER));
        for path in home.into_iter().chain([PathBuf::from(SYSTEM)]) {
            match SignaturePolicy::read(&path) {
                Err(Error::Read { error, .. })
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                found => return found,
            }
        }
        Ok(SignaturePolicy::default())
    }

    fn read(path: &Path) -> Result<SignaturePolicy, Error> {
        let failed = |error| Error::Read { path: path.to_owned(), error };
        let mut text = vec![];
        File::open(path).and_then(|f| f.take(LONGEST + 1).read_to_end(&mut text)).map_err(failed)?;
        let bad = |message| Error::Parse { path: path.to_owned(), message };
        if text.len() as u64 > LONGEST {
            return Err(bad(format!("it is longer than {LONGEST} bytes")));
        }
        let rules = parse::parse(&text).map_err(bad)?;
        Ok(SignaturePolicy(Some(Loaded { path: path.to_owned(), rules })))
    }

    fn applies(&self, image: String, transport: &str, scopes: Vec<String>) -> Option<Applies<'_>> {
        let loaded = self.0.as_ref()?;
        let found = loaded.rules.transports.get(transport).and_then(|all| {
            let empty = String::new();
            scopes.iter().chain([&empty]).find_map(|scope| Some((place(transport, scope), all.get(scope)?)))
        });
        let (scope, requirements) = found.unwrap_or_else(|| ("`default`".into(), &loaded.rules.default));
        Some(Applies { image, path: &loaded.path, scope, requirements })
    }

    /// Whether an image that a registry has may be used.
    ///
    /// # Errors
    /// Where it may not, or that cannot be told.
    pub fn judge(&self, client: &Client, found: &Resolved) -> Result<(), Error> {
        let image = identity::complete(found.reference.clone().with_default_tag());
        let Some(applies) = self.applies(image.to_string(), "docker", scopes::of_name(&image)) else { return Ok(()) };
        let mut manifests = vec![found.descriptor.digest];
        manifests.extend(found.index.as_ref().map(|(index, _)| index.digest));
        let mut signatures = BTreeMap::new();
        applies.judge(|keys, identity| {
            let mut why = "it is not signed";
            for digest in &manifests {
                if !signatures.contains_key(digest) {
                    signatures.insert(*digest, signatures::all(client, &image, digest)?);
                }
                for one in signatures.get(digest).into_iter().flatten() {
                    match counts(one, digest, keys, identity, &image) {
                        Ok(()) => return Ok(Ok(())),
                        // The nearest miss says most.
                        Err(reason) if why != OTHER_NAME => why = reason,
                        Err(_) => {}
                    }
                }
            }
            Ok(Err(why))
        })
    }

    /// Fails where the policy has scopes for this transport that cannot be told to apply or not: those of podman's store begin with its
    /// driver and its place.
    fn without_scopes(&self, place: &Location) -> Result<(), Error> {
        let Some(loaded) = &self.0 else { return Ok(()) };
        let all = loaded.rules.transports.get(place.transport());
        match all.and_then(|all| all.keys().find(|scope| !scope.is_empty())) {
            None => Ok(()),
            Some(scope) => Err(Error::Unsupported {
                image: place.to_string(),
                path: loaded.path.clone(),
                scope: self::place(place.transport(), scope),
                what: "which images it is about depends on where podman's store is".into(),
                hint: "give this transport the empty scope only".into(),
            }),
        }
    }

    /// Whether an image may be used that lies somewhere else than in a registry. There are no signatures in such places.
    ///
    /// # Errors
    /// Where it may not, or that cannot be told.
    pub fn judge_local(&self, place: &Location) -> Result<(), Error> {
        let scopes = match place {
            Location::OciDir { path, .. } | Location::OciArchive { path, .. } | Location::Dir { path } => {
                let real = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
                scopes::of_path(&real.unwrap_or_else(|_| path.clone()))
            }
            Location::DockerDaemon(name) => match name.parse::<Reference>() {
                Ok(name) => scopes::of_name(&identity::complete(name.with_default_tag())),
                Err(_) => vec![],
            },
            Location::Containers(_) => {
                self.without_scopes(place)?;
                vec![]
            }
            Location::Store(_) | Location::Registry(_) | Location::DockerArchive { .. } => vec![],
        };
        let Some(applies) = self.applies(place.to_string(), place.transport(), scopes) else { return Ok(()) };
        applies.judge(|_, _| Ok(Err("there are no signatures in such a place")))
    }
}

impl Applies<'_> {
    /// Goes through the requirements; `signed` answers those for signatures: what is wrong, where none counts.
    fn judge(
        &self,
        mut signed: impl FnMut(&[VerifyingKey], &Identity) -> Result<Result<(), &'static str>, signatures::Error>,
    ) -> Result<(), Error> {
        let (image, path, scope) = (|| self.image.clone(), || self.path.to_owned(), || self.scope.clone());
        for requirement in self.requirements {
            match requirement {
                Requirement::Accept => {}
                Requirement::Reject => {
                    return Err(Error::Rejected {
                        image: image(),
                        path: path(),
                        scope: scope(),
                        why: "it rejects everything".into(),
                        hint: "use an image that the policy allows, or have whoever keeps the policy add a scope for this one"
                            .into(),
                    });
                }
                Requirement::Unsupported { what, hint } => {
                    return Err(Error::Unsupported {
                        image: image(),
                        path: path(),
                        scope: scope(),
                        what: what.clone(),
                        hint: (*hint).to_owned(),
                    });
                }
                Requirement::Sigstore { keys, identity } => {
                    let keys: Result<Vec<VerifyingKey>, _> = keys.iter().map(|key| self.key(key)).collect();
                    let keys =
                        keys.map_err(|source| Error::Key { image: image(), path: path(), scope: scope(), source })?;
                    let judged = signed(&keys, identity).map_err(|source| Error::Signatures {
                        image: image(),
                        path: path(),
                        scope: scope(),
                        source,
                    })?;
                    if let Err(why) = judged {
                        let hint = if why == OTHER_NAME && !identity.takes_repositories() {
                            "signatures of cosign name the repository and no tag: ask for \
                             `\"signedIdentity\": {\"type\": \"matchRepository\"}`"
                        } else {
                            "have the image signed with a key that the policy names, as `rbuild push --sign-key` does"
                        };
                        let (why, hint) = (why.to_owned(), hint.to_owned());
                        return Err(Error::Rejected { image: image(), path: path(), scope: scope(), why, hint });
                    }
                }
            }
        }
        Ok(())
    }

    fn key(&self, key: &Key) -> Result<VerifyingKey, crate::attest::Error> {
        match key {
            Key::Data(text) => VerifyingKey::parse(self.path, text),
            Key::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| crate::attest::Error::KeyFile { path: path.clone(), source })?;
                VerifyingKey::parse(path, &text)
            }
        }
    }
}

const OTHER_NAME: &str = "it is signed for another name";

/// Whether a signature counts; else what is wrong with it.
fn counts(
    one: &Signed,
    digest: &Digest,
    keys: &[VerifyingKey],
    identity: &Identity,
    image: &Reference,
) -> Result<(), &'static str> {
    let mut why = "it is not signed with a key of the policy";
    for key in keys {
        match signature::verify(key, one, digest) {
            Ok(()) => {
                let named = signature::identity(one).is_some_and(|claimed| identity.matches(image, &claimed));
                return if named { Ok(()) } else { Err(OTHER_NAME) };
            }
            Err("it was not made with this key") => {}
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> SignaturePolicy {
        let rules = parse::parse(text.as_bytes()).unwrap();
        SignaturePolicy(Some(Loaded { path: "p.json".into(), rules }))
    }

    #[test]
    fn the_most_specific_scope_counts_alone() {
        let accept = r#"[{"type": "insecureAcceptAnything"}]"#;
        let reject = r#"[{"type": "reject"}]"#;
        let all = policy(&format!(
            r#"{{"default": {reject}, "transports": {{"docker": {{
                "": {reject}, "*.example.com": {accept}, "r.example.com": {reject}, "r.example.com/a": {accept},
                "r.example.com/a/b": {reject}, "r.example.com/a/b:2": {accept}}},
                "dir": {{"/srv/images": {accept}}}, "other": {{"x*/": {accept}}}}}}}"#
        ));
        let scope = |name: &str| {
            let image = identity::complete(name.parse::<Reference>().unwrap().with_default_tag());
            all.applies(name.into(), "docker", scopes::of_name(&image)).unwrap().scope
        };
        for (name, want) in [
            ("r.example.com/a/b:2", "scope `r.example.com/a/b:2` of `docker`"),
            ("r.example.com/a/b", "scope `r.example.com/a/b` of `docker`"),
            ("r.example.com/a/bc", "scope `r.example.com/a` of `docker`"),
            ("r.example.com/x", "scope `r.example.com` of `docker`"),
            ("s.example.com:99/x", "scope `*.example.com` of `docker`"),
            ("example.com/x", "the default of `docker`"),
            ("busybox", "the default of `docker`"),
        ] {
            assert_eq!(scope(name), want, "{name}");
        }
        let local = |text: &str| all.judge_local(&text.parse().unwrap());
        assert!(local("dir:/srv/images/a").is_ok());
        for other in ["dir:/srv/imagesx", "oci:/srv/images/a", "docker-archive:/srv/images/a"] {
            let said = local(other).unwrap_err().to_string();
            assert!(said.contains(other) && said.contains("`default` of signature policy `p.json`"), "{said}");
        }
        assert!(SignaturePolicy::default().judge_local(&"dir:/x".parse().unwrap()).is_ok());
    }

    #[test]
    fn all_requirements_have_to_be_met() {
        let both = policy(r#"{"default": [{"type": "insecureAcceptAnything"}, {"type": "reject"}]}"#);
        assert!(both.judge_local(&"dir:/x".parse().unwrap()).is_err());
        let unknown = policy(r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]}"#);
        let said = unknown.judge_local(&"dir:/x".parse().unwrap()).unwrap_err();
        assert!(matches!(said, Error::Unsupported { .. }), "{said}");
    }
}
