//! The blocking face of the registry client.

use super::fetch::Begun;
use super::{
    Document, Error, LayerSource, Options, PushEvent, PushSource, Resolved, UploadMemory,
    core::Core,
    credentials::{self, Credentials},
    download::{self, Fetched, Wanted},
    fetch, push, referrers, resolve, upload,
};
use crate::oci::{Descriptor, Digest, Platform, Reference};
use std::{
    fs::File,
    io::Write,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads that talk to the network.
const WORKERS: usize = 2;

/// A client for all registries. Cheap to share (by reference or `Arc`), usable from many threads at once. Its methods
/// block, and must not be called from asynchronous code.
pub struct Client {
    options: Options,
    core: Arc<Core>,
    /// Made with the first request, so that a process which never asks a registry has no threads for it.
    runtime: Mutex<Option<Runtime>>,
}

impl Client {
    /// A client with these settings. Reads registries.conf; no network is touched yet.
    pub fn new(options: Options) -> Result<Client, Error> {
        let core = Arc::new(Core::new(&options)?);
        Ok(Client { options, core, runtime: Mutex::default() })
    }

    /// What registries want users to know, and has not been taken yet: for showing.
    pub fn warnings(&self) -> Vec<String> {
        self.options.warnings.take()
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    pub(super) fn core_arc(&self) -> Arc<Core> {
        self.core.clone()
    }

    pub(super) fn runtime(&self) -> Result<Handle, Error> {
        let mut slot = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = slot.as_ref() {
            return Ok(runtime.handle().clone());
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("registry")
            .enable_io()
            .enable_time()
            .build()
            .map_err(Error::Setup)?;
        let handle = runtime.handle().clone();
        *slot = Some(runtime);
        Ok(handle)
    }

    /// The full names that a name as typed by a user may mean, best first. A full name means itself; a short name goes
    /// through aliases and `unqualified-search-registries`. A missing tag becomes `latest`.
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>, Error> {
        self.core.conf.candidates(name)
    }

    /// Finds the image of `platform` behind a full name.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, Error> {
        let reference = reference.clone().docker_normalized().with_default_tag();
        let doing = format!("cannot pull `{reference}`");
        self.runtime()?.block_on(self.core.first(&reference, |place| {
            let (reference, doing) = (&reference, &doing);
            async move { resolve::resolve(&place, reference, platform, doing).await }
        }))
    }

    /// What the name points at now (an index or an image manifest), without fetching it.
    pub fn resolve_digest(&self, reference: &Reference) -> Result<Descriptor, Error> {
        let reference = reference.clone().docker_normalized().with_default_tag();
        let doing = format!("cannot look up `{reference}`");
        self.runtime()?.block_on(self.core.first(&reference, |place| {
            let (reference, doing) = (&reference, &doing);
            async move { resolve::head(&place, reference, doing).await }
        }))
    }

    /// The manifest or index behind a full name, unparsed, with its digest checked.
    pub fn fetch_manifest(&self, reference: &Reference) -> Result<Document, Error> {
        let reference = reference.clone().docker_normalized().with_default_tag();
        let doing = format!("cannot fetch the manifest of `{reference}`");
        self.runtime()?.block_on(self.core.first(&reference, |place| {
            let (reference, doing) = (&reference, &doing);
            async move { resolve::manifest(&place, reference, doing).await }
        }))
    }

    /// Streams a blob of a repository into `sink`, digest and length checked. What was written when an error is returned
    /// is of no use. Call from several threads to fetch in parallel.
    pub fn fetch_blob(&self, repo: &Reference, blob: &Descriptor, sink: &mut (dyn Write + Send)) -> Result<(), Error> {
        let doing = format!("cannot fetch a blob of `{repo}`");
        let places = self.core.pull_places(repo)?;
        fetch::blob(&self.runtime()?, places, blob, &doing, None, sink)
    }

    /// The same for a blob of which the caller has the beginning, as an earlier try wrote it: only the rest is fetched, and
    /// written into `sink`. The digest is that of all of it.
    pub fn fetch_rest(
        &self,
        repo: &Reference,
        blob: &Descriptor,
        begun: Begun<'_>,
        sink: &mut (dyn Write + Send),
    ) -> Result<(), Error> {
        let doing = format!("cannot fetch a blob of `{repo}`");
        let places = self.core.pull_places(repo)?;
        fetch::blob(&self.runtime()?, places, blob, &doing, Some(begun), sink)
    }

    /// These bytes of a blob of a repository, held in memory. They are what the registry says: whoever asks has to know what
    /// they should be.
    ///
    /// # Errors
    /// The blob has no such bytes, or no place sends parts of it.
    pub fn fetch_range(&self, repo: &Reference, blob: &Descriptor, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let doing = format!("cannot fetch a part of a blob of `{repo}`");
        self.runtime()?.block_on(self.core.first(repo, |place| {
            let (doing, range) = (&doing, range.clone());
            async move { fetch::range(&place, blob, range, doing).await }
        }))
    }

    /// Fetches a file behind a plain address into `into`, which holds exactly it afterwards, unless the copy that `wanted`
    /// describes is still the right one.
    pub fn download(&self, wanted: &Wanted, into: &mut File) -> Result<Fetched, Error> {
        download::download(&self.core, &self.runtime()?, wanted, into)
    }

    /// Pushes an image and returns the descriptor of its manifest, which is put last. `progress` is called from several
    /// threads.
    pub fn push(
        &self,
        to: &Reference,
        image: &dyn PushSource,
        progress: &(dyn Fn(PushEvent) + Sync),
    ) -> Result<Descriptor, Error> {
        let to = to.clone().docker_normalized().with_default_tag();
        push::push(&self.core, self.runtime()?, &to, image, self.options.parallel, progress)
    }

    /// The same without a tag: the image can only be found by its digest, which an index lists.
    pub fn push_untagged(
        &self,
        to: &Reference,
        image: &dyn PushSource,
        progress: &(dyn Fn(PushEvent) + Sync),
    ) -> Result<Descriptor, Error> {
        let to = Reference { tag: None, digest: None, ..to.clone() }.docker_normalized();
        push::push(&self.core, self.runtime()?, &to, image, self.options.parallel, progress)
    }

    /// Brings one layer to a repository ahead of its image: nothing names it yet. `memory` is asked for layer 0. When `stop`
    /// says so the upload is ended, and the registry told to forget it.
    ///
    /// # Errors
    /// Where it does not arrive.
    pub fn push_layer(
        &self,
        to: &Reference,
        layer: &LayerSource<'_>,
        memory: &dyn UploadMemory,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Descriptor, Error> {
        let to = Reference { tag: None, digest: None, ..to.clone() }.docker_normalized();
        push::push_layer(&self.core, self.runtime()?, &to, layer, memory, stop)
    }

    /// Asks the registry whether an image may be pushed under this name, by beginning an upload that is given up at once.
    ///
    /// # Errors
    /// What a push would fail with: the registry is not there, or does not let us.
    pub fn check_push(&self, to: &Reference) -> Result<(), Error> {
        let to = to.clone().docker_normalized();
        upload::check(&self.runtime()?, self.core.push_place(&to)?, &format!("cannot push `{to}`"))
    }

    /// Publishes a document (an index, say) under a name. All that it refers to must be in the repository already.
    pub fn push_manifest(&self, to: &Reference, manifest: &Document) -> Result<Descriptor, Error> {
        let to = to.clone().docker_normalized().with_default_tag();
        let doing = format!("cannot push `{to}`");
        let place = self.core.push_place(&to)?;
        self.runtime()?.block_on(push::put_manifest(&place, &to, manifest, &doing))
    }

    /// What refers to the manifest `subject` of a repository, whether the registry or its clients keep the list.
    pub fn referrers(&self, repository: &Reference, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let doing = format!("cannot list what refers to `{subject}`");
        self.runtime()?.block_on(self.core.first(repository, |place| {
            let doing = &doing;
            async move { referrers::all(&place, repository, subject, doing).await }
        }))
    }

    /// Sees to it that the manifest `entry`, which has been pushed, is found among what refers to `subject`.
    pub fn list_referrer(&self, repository: &Reference, subject: &Digest, entry: &Descriptor) -> Result<(), Error> {
        let doing = format!("cannot list `{}` among what refers to `{subject}`", entry.digest);
        let repository = repository.clone().docker_normalized();
        let place = self.core.push_place(&repository)?;
        self.runtime()?.block_on(referrers::list(&place, &repository, subject, entry, &doing))
    }

    /// Checks user and password with a registry and stores them in `authfile` (`None`: the default place). `registry` is
    /// a host with optional port, and may go on with a path that narrows the credentials down.
    pub fn login(&self, registry: &str, user: &str, password: &str, authfile: Option<&Path>) -> Result<(), Error> {
        let registry = credentials::normal_registry(registry);
        let doing = format!("cannot log in to `{registry}`");
        let name = registry.split('/').next().unwrap_or(registry);
        let host = self.core.host_with(name, Credentials::fixed(user, password));
        self.runtime()?.block_on(host.transport().retry.run(|| host.log_in(&doing)))?;
        let file = self.authfile(authfile)?;
        credentials::store(&file, registry, user, password, &self.options.environment)
    }

    /// Removes the stored credentials of a registry. Returns whether there were any.
    pub fn logout(&self, registry: &str, authfile: Option<&Path>) -> Result<bool, Error> {
        let file = self.authfile(authfile)?;
        credentials::erase(&file, credentials::normal_registry(registry), &self.options.environment)
    }

    fn authfile(&self, named: Option<&Path>) -> Result<std::path::PathBuf, Error> {
        match named {
            Some(file) => Ok(file.to_owned()),
            None => credentials::default_file(&self.options),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let slot = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = slot.take() {
            // an address lookup that hangs must not hold up the end of the process
            runtime.shutdown_background();
        }
    }
}
