//! A root file system as a tar: an image of one layer.

use super::{Error, Loaded, publish};
use crate::archive::compress;
use crate::oci::{ContainerConfig, Descriptor, DiffId, History, ImageConfig, Platform, RootFs, media};
use crate::store::{BlobWriter, Store};
use std::io::{self, Read, Write};

/// What the image of a root file system says of itself.
#[derive(Clone, Debug, Default)]
pub struct RootFsOptions {
    /// The platform; `None`: this machine's.
    pub platform: Option<Platform>,
    /// How containers start.
    pub config: ContainerConfig,
    /// Creation time, RFC 3339.
    pub created: String,
    /// Comment of the history entry.
    pub comment: String,
}

/// Passes on what is read to a blob.
struct Tee<'a, 'b, R> {
    input: R,
    blob: &'a mut BlobWriter<'b>,
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.blob.write_all(buf.get(..n).unwrap_or_default())?;
        Ok(n)
    }
}

/// Makes an image of one layer from a tar, compressed or not, that is read once. The layer has the bytes of the tar.
///
/// # Errors
/// Where the tar cannot be read or is none, or the store cannot be written.
pub fn import(store: &Store, input: impl Read + Send, options: RootFsOptions) -> Result<Loaded, Error> {
    let input = compress::Decoder::new(io::BufReader::with_capacity(1 << 18, input)).map_err(Error::Read)?;
    let mut blob = store.blob_writer()?;
    let mut tee = Tee { input, blob: &mut blob };
    let mut entries: u64 = 0;
    for entry in tar::Archive::new(&mut tee).entries().map_err(Error::Tar)? {
        // Walking through is what checks the headers; whether paths are harmless is for extraction to decide.
        entry.map_err(Error::Tar)?;
        entries += 1;
    }
    // The end of the archive and what padding follows it belong to the layer as well.
    io::copy(&mut tee, &mut io::sink()).map_err(Error::Read)?;
    if entries == 0 {
        return Err(Error::Tar(io::Error::new(io::ErrorKind::UnexpectedEof, "it has no entries")));
    }
    let (digest, size) = blob.commit(None)?;
    let mut config = ImageConfig::scratch(&options.platform.unwrap_or_else(Platform::host));
    config.config = options.config;
    config.created = Some(options.created.clone());
    config.rootfs = RootFs { diff_ids: vec![DiffId(digest)], ..RootFs::default() };
    config.history = vec![History {
        created: Some(options.created),
        comment: Some(options.comment).filter(|c| !c.is_empty()),
        ..History::default()
    }];
    let bytes =
        serde_json::to_vec(&config).map_err(|source| Error::Json { what: "the image config".into(), source })?;
    let id = store.put_blob(&bytes)?;
    let layers = vec![Descriptor::new(media::OCI_LAYER, digest, size)];
    let manifest = publish(store, Descriptor::of(media::OCI_CONFIG, &bytes), layers, false)?;
    Ok(Loaded { manifest, id, names: vec![] })
}
