//! `type=http`: entries and layers behind addresses, by GET, HEAD and PUT.
//!
//! ```text
//! URL/steps/[SCOPE/]KEY          an entry, as JSON
//! URL/blobs/sha256/HEX           the blob of a layer
//! ```
//!
//! An address is written whole or not at all, and what is put there twice is the same, so writers need not know of each other.

use super::backend::{Backend, Clients, Fault, Packed, check};
use super::entry::{Entry, MAX_ENTRY_BYTES, Sealed};
use super::{CacheKey, document};
use crate::oci::{Descriptor, Hashing};
use std::io::{self, Write};
use std::time::Duration;

/// How long the server may take for a short document.
const SHORT: Duration = Duration::from_secs(3);

/// A web server.
pub(super) struct Http {
    clients: Clients,
    /// Ends with `/`.
    base: String,
    scope: String,
}

impl Http {
    pub fn new(clients: Clients, base: String, scope: &str) -> Http {
        Http { clients, base, scope: document::scope_name(scope) }
    }

    fn entry(&self, key: &CacheKey) -> String {
        match self.scope.as_str() {
            "" => format!("{}steps/{}", self.base, key.hex()),
            scope => format!("{}steps/{scope}/{}", self.base, key.hex()),
        }
    }

    fn blob(&self, blob: &Descriptor) -> String {
        format!("{}blobs/sha256/{}", self.base, blob.digest.hex())
    }
}

impl Backend for Http {
    fn name(&self) -> String {
        format!("type=http,url={}", crate::registry::download::shown(&self.base))
    }

    fn lookup(&self, key: &CacheKey, within: Duration) -> Result<Option<Sealed>, Fault> {
        match self.clients.read.get_within(&self.entry(key), MAX_ENTRY_BYTES, within)? {
            Some(bytes) => Sealed::from_json(&bytes).map(Some).map_err(Fault::Bad),
            None => Ok(None),
        }
    }

    fn has_layer(&self, blob: &Descriptor, within: Duration) -> Result<bool, Fault> {
        Ok(self.clients.read.length_within(&self.blob(blob), within)? == Some(blob.size))
    }

    fn fetch(&self, blob: &Descriptor, to: &mut (dyn Write + Send)) -> Result<(), Fault> {
        let mut out = Hashing::new(Bounded { to, left: blob.size });
        self.clients.read.get_into(&self.blob(blob), &mut out)?;
        check(out, blob)
    }

    fn put(&self, key: &CacheKey, _: &Entry, sealed: &Sealed, layer: Option<&Packed<'_>>) -> Result<(), Fault> {
        if let Some(layer) = layer
            && !self.has_layer(layer.blob, SHORT)?
        {
            let reader = (layer.open)().map_err(|e| Fault::Bad(e.to_string()))?;
            self.clients.write.put_stream(&self.blob(layer.blob), reader, layer.blob.size, layer.sent)?;
        }
        Ok(self.clients.write.put_within(&self.entry(key), sealed.to_json(), SHORT)?)
    }
}

/// Takes no more than a blob is long.
struct Bounded<'a> {
    to: &'a mut (dyn Write + Send),
    left: u64,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("it is longer than it should be"));
        }
        let n = self.to.write(bytes)?;
        self.left -= n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
