//! TLS settings for one server: which CAs are trusted, which client certificate is shown.
//!
//! Trusted are the roots that are compiled in, so that an image without CA files works; the machine's own
//! (`SSL_CERT_FILE` and `SSL_CERT_DIR` replace the place where those lie); those in the text of `LOCAL_CA_CERTIFICATE`; and `*.crt` files of `certs.d/HOST` below
//! the `containers` directories of the user and the system and below `/etc/docker`, or of the one directory that
//! `--cert-dir` names.

use super::{Error, Options};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Makes TLS settings; the machine's CAs are read once.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    roots: OnceLock<RootCertStore>,
    /// The directory of `--cert-dir`, else the directories that hold one directory a host.
    fixed: Option<PathBuf>,
    by_host: Vec<PathBuf>,
    local_ca: Option<String>,
}

impl Tls {
    pub(super) fn new(options: &Options) -> Tls {
        let env = &options.environment;
        let mut by_host = vec![];
        by_host.extend(env.config_dir().map(|d| d.join("containers/certs.d")));
        by_host.push(env.etc.join("containers/certs.d"));
        by_host.push(env.etc.join("docker/certs.d"));
        Tls {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            roots: OnceLock::new(),
            fixed: options.cert_dir.clone(),
            by_host,
            local_ca: env.local_ca.clone(),
        }
    }

    /// The settings for a host with optional port. Without `verify`, any certificate will do.
    pub(super) fn config(&self, host: &str, verify: bool) -> Result<ClientConfig, Error> {
        let found = self.certificates(host)?;
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Setup(io::Error::other(e)))?;
        let builder = if verify {
            let mut roots = self.roots.get_or_init(system_roots).clone();
            for (path, certificate) in found.authorities {
                roots.add(certificate).map_err(|e| Error::Config { path, why: e.to_string() })?;
            }
            builder.with_root_certificates(roots)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything(self.provider.clone())))
        };
        let mut config = match found.client {
            Some((path, chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(|e| Error::Config { path, why: e.to_string() })?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn certificates(&self, host: &str) -> Result<Found, Error> {
        // a host name has no slash, but may be `..`
        let named = !host.is_empty() && !host.contains('/') && !host.bytes().all(|b| b == b'.');
        let dirs: Vec<PathBuf> = match &self.fixed {
            Some(dir) => vec![dir.clone()],
            None if named => self.by_host.iter().map(|d| d.join(host)).collect(),
            None => vec![],
        };
        let mut found = Found::default();
        if let Some(text) = &self.local_ca {
            let path = PathBuf::from("$LOCAL_CA_CERTIFICATE");
            let before = found.authorities.len();
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let corrupt = |e| Error::Config { path: path.clone(), why: format!("{e:?}") };
                found.authorities.push((path.clone(), certificate.map_err(corrupt)?));
            }
            if found.authorities.len() == before {
                return Err(Error::Config { path, why: "it holds no certificate as PEM text".into() });
            }
        }
        for dir in dirs {
            for path in files(&dir)? {
                let corrupt =
                    |e: rustls::pki_types::pem::Error| Error::Config { path: path.clone(), why: format!("{e:?}") };
                match path.extension().and_then(|x| x.to_str()) {
                    Some("crt") => {
                        for certificate in CertificateDer::pem_slice_iter(&read(&path)?) {
                            found.authorities.push((path.clone(), certificate.map_err(corrupt)?));
                        }
                    }
                    Some("cert") if found.client.is_none() => {
                        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(&path)?).collect();
                        let key_path = path.with_extension("key");
                        let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?)
                            .map_err(|e| Error::Config { path: key_path.clone(), why: format!("{e:?}") })?;
                        found.client = Some((path.clone(), chain.map_err(corrupt)?, key));
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }
}

#[derive(Default)]
struct Found {
    authorities: Vec<(PathBuf, CertificateDer<'static>)>,
    client: Option<(PathBuf, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let native = rustls_native_certs::load_native_certs();
    for e in &native.errors {
        tracing::debug!("cannot load a CA of this machine: {e}");
    }
    roots.add_parsable_certificates(native.certs);
    roots
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File { verb: "read", path: path.to_owned(), source })
}

/// The files of a directory by name; none where it does not exist or may not be read.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => {
            if e.kind() == io::ErrorKind::PermissionDenied {
                tracing::warn!("cannot read `{}`: {e}", dir.display());
            }
            return Ok(vec![]);
        }
    };
    let mut found = vec![];
    for entry in entries {
        let entry = entry.map_err(|source| Error::File { verb: "read", path: dir.to_owned(), source })?;
        found.push(entry.path());
    }
    found.sort();
    Ok(found)
}

/// Accepts every certificate. The handshake itself is still checked, so a broken peer is noticed.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
