//! What all requests share: configuration, servers, and the places where an image may be.

use super::{
    Error, Options,
    conf::{Conf, Endpoint},
    credentials::Credentials,
    host::Host,
    transport::{Retry, Transport},
};
use crate::{error::Classified, oci::Reference};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The client without its runtime. Tasks of the runtime hold this, never the runtime itself.
pub(super) struct Core {
    pub(super) conf: Conf,
    pub(super) transport: Arc<Transport>,
    credentials: Arc<Credentials>,
    pub(super) tls_verify: Option<bool>,
    hosts: Mutex<HashMap<(String, bool), Arc<Host>>>,
}

/// A repository on a server.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) host: Arc<Host>,
    pub(super) repository: String,
}

impl Place {
    pub(super) fn retry(&self) -> Retry {
        self.host.transport().retry
    }
}

impl Core {
    pub(super) fn new(options: &Options) -> Result<Core, Error> {
        Ok(Core {
            conf: Conf::load(options)?,
            transport: Arc::new(Transport::new(options)),
            credentials: Arc::new(Credentials::new(options)?),
            tls_verify: options.tls_verify,
            hosts: Mutex::default(),
        })
    }

    /// A server that uses other credentials than those that are stored, and is not remembered.
    pub(super) fn host_with(&self, name: &str, credentials: Credentials) -> Host {
        let insecure = self.conf.insecure_host(name);
        let endpoint = Endpoint { host: name.to_owned(), repository: String::new(), insecure };
        Host::new(&endpoint, self.tls_verify, self.transport.clone(), Arc::new(credentials))
    }

    fn place(&self, endpoint: Endpoint) -> Place {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts
            .entry((endpoint.host.clone(), endpoint.insecure))
            .or_insert_with(|| {
                let (transport, credentials) = (self.transport.clone(), self.credentials.clone());
                Arc::new(Host::new(&endpoint, self.tls_verify, transport, credentials))
            })
            .clone();
        Place { host, repository: endpoint.repository }
    }

    /// Where to look for an image, mirrors first. Never empty.
    pub(super) fn pull_places(&self, reference: &Reference) -> Result<Vec<Place>, Error> {
        Ok(self.conf.pull_endpoints(reference)?.into_iter().map(|e| self.place(e)).collect())
    }

    /// Where to push an image.
    pub(super) fn push_place(&self, reference: &Reference) -> Result<Place, Error> {
        self.conf.push_endpoint(reference).map(|e| self.place(e))
    }

    /// Asks one place after the other. The error is that of the last one, the registry itself.
    pub(super) async fn first<T, F, Fut>(&self, reference: &Reference, ask: F) -> Result<T, Error>
    where
        F: Fn(Place) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut places = self.pull_places(reference)?.into_iter().peekable();
        while let Some(place) = places.next() {
            let name = place.host.name.clone();
            match ask(place).await {
                Err(e) if places.peek().is_some() => {
                    tracing::warn!("mirror `{name}` is of no use: {e} ({:?})", e.kind());
                }
                outcome => return outcome,
            }
        }
        Err(Error::ShortName { name: reference.to_string(), why: "no registry to ask".into() })
    }
}
