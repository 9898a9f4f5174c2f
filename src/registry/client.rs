//! The blocking face of the registry client.

use super::{Document, Error, Options, PushEvent, PushSource, Resolved};
use crate::oci::{Descriptor, Platform, Reference};
use std::{io::Write, path::Path};

/// A client for all registries. Cheap to share (by reference or `Arc`), usable from many threads at once. Its methods
/// block, and must not be called from asynchronous code.
pub struct Client {
    options: Options,
}

fn missing<T>(doing: &str) -> Result<T, Error> {
    Err(Error::Unsupported { doing: doing.to_owned(), why: "not there yet".into() })
}

impl Client {
    /// A client with these settings. Reads registries.conf; no network is touched yet.
    pub fn new(options: Options) -> Result<Client, Error> {
        Ok(Client { options })
    }

    /// The full names that a name as typed by a user may mean, best first. A full name means itself; a short name goes
    /// through aliases and `unqualified-search-registries`. A missing tag becomes `latest`.
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>, Error> {
        let _ = &self.options;
        Ok(vec![name.parse::<Reference>()?.docker_normalized().with_default_tag()])
    }

    /// Finds the image of `platform` behind a full name.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, Error> {
        missing(&format!("cannot pull `{reference}` for {platform}"))
    }

    /// What the name points at now (an index or an image manifest), without fetching it.
    pub fn resolve_digest(&self, reference: &Reference) -> Result<Descriptor, Error> {
        missing(&format!("cannot look up `{reference}`"))
    }

    /// The manifest or index behind a full name, unparsed, with its digest checked.
    pub fn fetch_manifest(&self, reference: &Reference) -> Result<Document, Error> {
        missing(&format!("cannot fetch `{reference}`"))
    }

    /// Streams a blob of a repository into `sink`, digest and length checked. What was written when an error is returned
    /// is of no use. Call from several threads to fetch in parallel.
    pub fn fetch_blob(&self, repo: &Reference, blob: &Descriptor, sink: &mut (dyn Write + Send)) -> Result<(), Error> {
        let _ = sink;
        missing(&format!("cannot fetch `{}` of `{repo}`", blob.digest))
    }

    /// Pushes an image and returns the descriptor of its manifest, which is put last. `progress` is called from several
    /// threads.
    pub fn push(
        &self,
        to: &Reference,
        image: &dyn PushSource,
        progress: &(dyn Fn(PushEvent) + Sync),
    ) -> Result<Descriptor, Error> {
        let _ = (image, progress);
        missing(&format!("cannot push `{to}`"))
    }

    /// Checks user and password with a registry and stores them in `authfile` (`None`: the default place). `registry` is
    /// a host with optional port, and may go on with a path that narrows the credentials down.
    pub fn login(&self, registry: &str, user: &str, password: &str, authfile: Option<&Path>) -> Result<(), Error> {
        let _ = (user, password, authfile);
        missing(&format!("cannot log in to `{registry}`"))
    }

    /// Removes the stored credentials of a registry. Returns whether there were any.
    pub fn logout(&self, registry: &str, authfile: Option<&Path>) -> Result<bool, Error> {
        let _ = authfile;
        missing(&format!("cannot log out of `{registry}`"))
    }
}
