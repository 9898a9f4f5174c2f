//! `--trust-ca`: certificates that programs in RUN steps trust on top of the image's, and that the image never gets.
//!
//! ```text
//! layers of the image ─► a layer with the image's bundles, each with the certificates at its end ─► upper directory
//! ```
//!
//! Not by mounts: programs that write a bundle anew rename it into its place, which a mount would refuse. What a step
//! leaves in a bundle is kept but for the certificates, which are cut out of it again. Where the image has no bundle,
//! there is one with these certificates alone until the step installs its own. Programs that bring bundles of their own
//! are told of it by variables of the step's environment.

use super::{
    Error,
    execute::{Executor, Site},
};
use crate::archive::{
    self,
    node::clean,
    upper::{Attrs, Upper, attrs_of},
};
use crate::snapshot::Active;
use crate::sys::fs::resolve;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, FileTimes, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

/// Where distributions have the bundle that programs read: Debian and Alpine, Fedora (two), SUSE, Alpine and BSD.
const BUNDLES: [&str; 5] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];
/// Programs that read another file than the distribution's, unless one of these names it.
const VARIABLES: [&str; 4] = ["NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "PIP_CERT", "SSL_CERT_FILE"];
/// Longest file that is read, in bytes.
const MOST_BYTES: u64 = 16 << 20;
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The certificates, as they stand at the end of a bundle; empty where there are none.
#[derive(Default)]
pub(super) struct Authorities(Vec<u8>);

/// What a step needs of them while it runs.
pub(super) struct Trusting {
    layer: Active,
    bundles: BTreeSet<PathBuf>,
    /// Whether they are the image's, made longer.
    extended: bool,
}

impl Trusting {
    /// The layer directory with the longer bundles, for above the image's layers.
    pub(super) fn layer(&self) -> PathBuf {
        self.layer.layer()
    }

    /// What tells programs with bundles of their own, in an environment that says nothing else.
    pub(super) fn tell(&self, env: &mut Vec<(OsString, OsString)>) {
        if let (true, Some(first)) = (self.extended, self.bundles.first()) {
            for name in VARIABLES {
                if !env.iter().any(|(n, _)| n == name) {
                    env.push((name.into(), Path::new("/").join(first).into()));
                }
            }
        }
    }
}

impl Authorities {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or holds no certificate.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Authorities, Error> {
        let mut all = vec![];
        for path in paths {
            let failed = |source| Error::File { path: path.clone(), source };
            let text = read(File::open(path).map_err(failed)?).map_err(failed)?;
            if !text.windows(BEGIN.len()).any(|w| w == BEGIN) {
                return Err(Error::Unsupported {
                    what: format!("the file `{}` of `--trust-ca`, which holds no certificate,", path.display()),
                    hint: "give certificates in PEM form: `openssl x509 -inform der` makes it from DER".into(),
                });
            }
            all.extend_from_slice(b"\n# --trust-ca\n");
            all.extend_from_slice(text.trim_ascii());
            all.push(b'\n');
        }
        Ok(Authorities(all))
    }

    /// Takes the certificates out of a bundle; `None` where they are not in it.
    fn cut(&self, bundle: &[u8]) -> Option<Vec<u8>> {
        let at = bundle.windows(self.0.len()).position(|w| w == self.0)?;
        Some([bundle.get(..at)?, bundle.get(at + self.0.len()..)?].concat())
    }
}

impl Executor<'_> {
    /// Makes a step trust them; nothing where there are none.
    pub(super) fn trust(&self, site: &Site) -> Result<Option<Trusting>, Error> {
        let Authorities(certificates) = &self.authorities;
        if certificates.is_empty() {
            return Ok(None);
        }
        let layer = self.start_layer(site.lower)?;
        let mut upper = Upper::open(&layer.layer(), &site.lower.view)?;
        let mut bundles = BTreeSet::new();
        for name in BUNDLES {
            let found = site.view.resolve(Path::new(name), true)?;
            let Some(node) = found.node.filter(|n| n.is_file()) else { continue };
            let path = clean(&found.path);
            if bundles.contains(&path) {
                continue;
            }
            let failed = |source| Error::File { path: Path::new("/").join(&path), source };
            let mut text = read(site.view.open_file(&node)?).map_err(failed)?;
            text.extend_from_slice(certificates);
            let attrs = attrs_of(&node, site.view.xattrs(&node)?);
            bundles.insert(put(&mut upper, &path, &attrs, &text)?);
        }
        let extended = !bundles.is_empty();
        if !extended {
            match put(&mut upper, Path::new(BUNDLES[0]), &Attrs::root(0o644, None), certificates) {
                Ok(path) => drop(bundles.insert(path)),
                // The image has something else in the place of a directory.
                Err(archive::Error::NotDirectory { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        upper.finish()?;
        Ok(Some(Trusting { layer, bundles, extended }))
    }

    /// Takes them out of what a step has left.
    pub(super) fn forget(&self, trusting: Option<Trusting>, site: &Site) -> Result<(), Error> {
        let upper = site.active.upper();
        for bundle in trusting.iter().flat_map(|t| &t.bundles) {
            self.cut_out(&upper, bundle).map_err(|source| Error::File { path: upper.join(bundle), source })?;
        }
        Ok(())
    }

    fn cut_out(&self, upper: &Path, bundle: &Path) -> io::Result<()> {
        // Inside, and by descriptor: the step may have left links there.
        let root = File::open(upper)?;
        let found = match resolve(root.as_fd(), bundle) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => return Ok(()),
            other => File::from(other?),
        };
        let meta = found.metadata()?;
        if !meta.is_file() {
            return Ok(());
        }
        let magic = format!("/proc/self/fd/{}", found.as_raw_fd());
        let mut file = OpenOptions::new().read(true).write(true).open(magic)?;
        let mut text = vec![];
        file.read_to_end(&mut text)?;
        if let Some(rest) = self.authorities.cut(&text) {
            file.rewind()?;
            file.set_len(0)?;
            file.write_all(&rest)?;
            file.set_times(FileTimes::new().set_modified(meta.modified()?))?;
        }
        Ok(())
    }
}

/// Writes a bundle and returns where it really is, behind the links of the image.
fn put(upper: &mut Upper, path: &Path, attrs: &Attrs, text: &[u8]) -> Result<PathBuf, archive::Error> {
    let dir = upper.ensure_dir(path.parent().unwrap_or(Path::new("")), &Attrs::root(0o755, None))?;
    let path = dir.join(path.file_name().unwrap_or_default());
    upper.file(&path, attrs, |file| file.write_all(text).map_err(archive::Error::file("write", &path)))?;
    Ok(path)
}

fn read(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_cut_out_wherever_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n\n").unwrap();
        let authorities = Authorities::read(&[file.clone(), file.clone()]).unwrap();
        let bundle = [b"before\n", authorities.0.as_slice(), b"after\n"].concat();
        assert_eq!(authorities.cut(&bundle).unwrap(), b"before\nafter\n");
        assert_eq!(authorities.cut(b"other"), None);
        std::fs::write(&file, "no certificate").unwrap();
        assert!(Authorities::read(&[file]).is_err());
    }
}
