//! What every shared cache can do. A back end is one file; [`open`] is the one place that knows them all.

use super::entry::{Entry, Sealed};
use super::spec::{Place, Spec};
use super::{CacheKey, http, local, redis, registry};
use crate::oci::{Descriptor, Digest, Reference};
use crate::registry::{Client, Error as RegistryError, Timeouts};
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

/// Why a back end did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not answer, and is neither asked nor written to again.
    #[error("{0}")]
    Down(String),
    /// It answers, and does not do this for us. It may well do the other: who may not read may still write.
    #[error("{0}")]
    Refused(String),
    /// What it holds there is not what it should be. The rest may be sound.
    #[error("{0}")]
    Bad(String),
}

impl From<RegistryError> for Fault {
    fn from(e: RegistryError) -> Self {
        match e {
            RegistryError::Corrupt { .. } | RegistryError::Unsupported { .. } => Fault::Bad(e.to_string()),
            RegistryError::Status { status, .. } if status < 500 => Fault::Refused(e.to_string()),
            e => Fault::Down(e.to_string()),
        }
    }
}

/// Opens the bytes of a compressed layer anew.
pub type OpenBlob<'a> = &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync);

/// A layer on its way into a cache.
pub struct Packed<'a> {
    /// The blob.
    pub blob: &'a Descriptor,
    /// A repository that has it.
    pub at: Option<&'a Reference>,
    /// Its bytes. Making them may be work, so they are asked for when it is certain that they are needed.
    pub open: OpenBlob<'a>,
    /// Told of progress, so that whoever waits knows that it is not in vain.
    pub sent: &'a (dyn Fn(u64) + Sync),
}

/// A place that holds entries and layers. Every call comes back in bounded time: look-ups within the limit they are given,
/// transfers when nothing has moved for some seconds.
pub trait Backend: Send + Sync {
    /// How messages call it. Two with the same name are the same place; no password is in it.
    fn name(&self) -> String;

    /// The entry of a step.
    ///
    /// # Errors
    /// As [`Fault`] says.
    fn lookup(&self, key: &CacheKey, within: Duration) -> Result<Option<Sealed>, Fault>;

    /// Whether the blob of a layer is there, with its length.
    ///
    /// # Errors
    /// As [`Fault`] says.
    fn has_layer(&self, blob: &Descriptor, within: Duration) -> Result<bool, Fault>;

    /// Streams a blob. What was written before an error is of no use.
    ///
    /// # Errors
    /// As [`Fault`] says.
    fn fetch(&self, blob: &Descriptor, to: &mut (dyn Write + Send)) -> Result<(), Fault>;

    /// Writes an entry, after its layer.
    ///
    /// # Errors
    /// As [`Fault`] says.
    fn put(&self, key: &CacheKey, entry: &Entry, sealed: &Sealed, layer: Option<&Packed<'_>>) -> Result<(), Fault>;

    /// The repository that has the layers, where it is one: a push can link them from there.
    fn repository(&self) -> Option<&Reference> {
        None
    }

    /// Digests of layers that documents of that repository name beside entries of its own.
    fn named_layers(&self) -> Option<&HashSet<Digest>> {
        None
    }

    /// What a user should know of the place after the first look at it, on one line.
    fn note(&self) -> Option<String> {
        None
    }
}

/// How caches are spoken to: a build waits for what it reads, and not for what it writes.
#[derive(Clone)]
pub struct Clients {
    pub(super) read: Arc<Client>,
    pub(super) write: Arc<Client>,
}

impl Clients {
    /// Clients with the settings of another one, but for its patience.
    ///
    /// # Errors
    /// Where registries.conf cannot be read.
    pub fn like(client: &Client) -> Result<Clients, RegistryError> {
        let seconds = Duration::from_secs_f32;
        let reads = Timeouts { connect: seconds(1.0), answer: seconds(1.0), idle: seconds(1.5), store: seconds(5.0) };
        let writes =
            Timeouts { connect: seconds(2.0), answer: seconds(15.0), idle: seconds(15.0), store: seconds(60.0) };
        Ok(Clients { read: Arc::new(client.hurried(reads, 1)?), write: Arc::new(client.hurried(writes, 1)?) })
    }
}

/// The back end of a cache; `None` for one that is no place of its own.
pub fn open(spec: &Spec, clients: &Clients) -> Option<Arc<dyn Backend>> {
    let clients = clients.clone();
    Some(match &spec.place {
        Place::Registry(at) => Arc::new(registry::Registry::new(clients, at.clone(), &spec.scope)),
        Place::Local(dir) => Arc::new(local::Local::new(dir.clone(), &spec.scope)),
        Place::Redis { server, layers, ttl } => {
            Arc::new(redis::Redis::new(server.clone(), *ttl, &spec.scope, layers.clone(), clients))
        }
        Place::Http(base) => Arc::new(http::Http::new(clients, base.clone(), &spec.scope)),
        Place::Inline => return None,
    })
}

/// A blob's bytes, hashed while they pass: digest and length are compared at the end.
pub(super) fn copy_checked(from: &mut dyn Read, blob: &Descriptor, to: &mut (dyn Write + Send)) -> Result<(), Fault> {
    let mut out = crate::oci::Hashing::new(to);
    io::copy(&mut from.take(blob.size.saturating_add(1)), &mut out).map_err(|e| Fault::Bad(e.to_string()))?;
    check(out, blob)
}

/// Compares what has passed with the blob that it should be.
pub(super) fn check<W: Write>(out: crate::oci::Hashing<W>, blob: &Descriptor) -> Result<(), Fault> {
    let (mut to, digest, size) = out.finish();
    if digest != blob.digest || size != blob.size {
        let why = format!("`{}` of {} bytes came as `{digest}` of {size} bytes", blob.digest, blob.size);
        return Err(Fault::Bad(why));
    }
    to.flush().map_err(|e| Fault::Bad(e.to_string()))
}
