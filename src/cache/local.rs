//! `type=local`: an image layout directory, for volumes that several builders mount.
//!
//! The entries are images of the layout ([`super::document`]), each with its name, so that other tools can look at them and
//! copy them. `index.json` is one document for all writers: it is changed under a lock (`lock` in the directory) and
//! published by rename.

use super::backend::{Backend, Fault, Packed, copy_checked};
use super::entry::{Entry, Sealed};
use super::{CacheKey, document};
use crate::oci::{Descriptor, Digest, Hashing, Index, media};
use crate::sys::fs::unique_word;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The annotation that holds an entry's name in an index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Longest index that is read, in bytes.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Longest manifest that is read, in bytes.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// A directory.
pub(super) struct Local {
    dir: PathBuf,
    scope: String,
    names: Mutex<Option<Names>>,
}

/// The names of an index.
struct Names {
    /// Time and length of the file that they were read from.
    stamp: (SystemTime, u64),
    all: HashMap<String, Descriptor>,
}

fn down(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Fault {
    let text = format!("cannot {what} `{}`", path.display());
    move |e| Fault::Down(format!("{text}: {e}"))
}

impl Local {
    pub fn new(dir: PathBuf, scope: &str) -> Local {
        Local { dir, scope: scope.to_owned(), names: Mutex::default() }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    fn read_index(&self) -> Result<Index, Fault> {
        let path = self.dir.join("index.json");
        let mut bytes = vec![];
        match File::open(&path) {
            Ok(file) => file.take(MAX_INDEX_BYTES).read_to_end(&mut bytes).map_err(down("read", &path))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Index::empty()),
            Err(e) => return Err(down("open", &path)(e)),
        };
        serde_json::from_slice(&bytes).map_err(|e| Fault::Down(format!("cannot read `{}`: {e}", path.display())))
    }

    /// The manifest of a name.
    fn find(&self, name: &str) -> Result<Option<Descriptor>, Fault> {
        let path = self.dir.join("index.json");
        let stamp = match fs::metadata(&path) {
            Ok(meta) => (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(down("look at", &path)(e)),
        };
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.as_ref().is_none_or(|known| known.stamp != stamp) {
            let read = self.read_index()?.manifests.into_iter();
            let all = read.filter_map(|mut d| Some((d.annotations.remove(REF_NAME)?, d))).collect();
            *names = Some(Names { stamp, all });
        }
        Ok(names.as_ref().and_then(|known| known.all.get(name).cloned()))
    }

    /// Writes a file beside its place and renames it.
    fn publish(&self, path: &Path, fill: impl FnOnce(&mut File) -> Result<(), Fault>) -> Result<(), Fault> {
        let tmp = self.dir.join(format!(".tmp-{}", unique_word()));
        let mut file = File::create_new(&tmp).map_err(down("create", &tmp))?;
        let done = fill(&mut file).and_then(|()| fs::rename(&tmp, path).map_err(down("rename to", path)));
        if done.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        done
    }

    fn put_bytes(&self, bytes: &[u8]) -> Result<(), Fault> {
        let path = self.blob(&Digest::of(bytes));
        self.publish(&path, |file| file.write_all(bytes).map_err(down("write", &path)))
    }

    fn put_layer(&self, layer: &Packed<'_>) -> Result<(), Fault> {
        if self.has_layer(layer.blob, Duration::ZERO)? {
            return Ok(());
        }
        let path = self.blob(&layer.blob.digest);
        let mut reader = (layer.open)().map_err(|e| Fault::Bad(e.to_string()))?;
        self.publish(&path, |file| {
            let mut out = Hashing::new(Counted { file, count: 0, sent: layer.sent });
            io::copy(&mut reader, &mut out).map_err(down("write", &path))?;
            super::backend::check(out, layer.blob)
        })
    }
}

/// Tells of what was written.
struct Counted<'a> {
    file: &'a mut File,
    count: u64,
    sent: &'a (dyn Fn(u64) + Sync),
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.count += n as u64;
        (self.sent)(self.count);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Backend for Local {
    fn name(&self) -> String {
        match self.scope.is_empty() {
            true => format!("type=local,dir={}", self.dir.display()),
            false => format!("type=local,dir={},scope={}", self.dir.display(), self.scope),
        }
    }

    fn lookup(&self, key: &CacheKey, _: Duration) -> Result<Option<Sealed>, Fault> {
        let Some(manifest) = self.find(&document::name(&self.scope, key))? else { return Ok(None) };
        if manifest.size > MAX_MANIFEST_BYTES {
            return Err(Fault::Bad(format!("manifest `{}` is too long", manifest.digest)));
        }
        let mut bytes = vec![];
        self.fetch(&manifest, &mut bytes)?;
        document::read(&bytes).map(Some).map_err(Fault::Bad)
    }

    fn has_layer(&self, blob: &Descriptor, _: Duration) -> Result<bool, Fault> {
        Ok(fs::metadata(self.blob(&blob.digest)).is_ok_and(|m| m.is_file() && m.len() == blob.size))
    }

    fn fetch(&self, blob: &Descriptor, to: &mut (dyn Write + Send)) -> Result<(), Fault> {
        let path = self.blob(&blob.digest);
        let mut file = File::open(&path).map_err(|e| Fault::Bad(format!("cannot open `{}`: {e}", path.display())))?;
        copy_checked(&mut file, blob, to)
    }

    fn put(&self, key: &CacheKey, entry: &Entry, sealed: &Sealed, layer: Option<&Packed<'_>>) -> Result<(), Fault> {
        let blobs = self.dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(down("create directory", &blobs))?;
        if let Some(layer) = layer {
            self.put_layer(layer)?;
        }
        let (manifest, config) = document::write(entry, sealed);
        self.put_bytes(&config)?;
        self.put_bytes(&manifest)?;
        let lock = self.dir.join("lock");
        let lock_file = File::options().create(true).truncate(false).write(true).open(&lock);
        let held = lock_file.map_err(down("open", &lock))?;
        held.lock().map_err(down("lock", &lock))?;
        let layout = self.dir.join("oci-layout");
        if !layout.exists() {
            let text = br#"{"imageLayoutVersion":"1.0.0"}"#;
            self.publish(&layout, |file| file.write_all(text).map_err(down("write", &layout)))?;
        }
        let name = document::name(&self.scope, key);
        let mut index = self.read_index()?;
        index.manifests.retain(|d| d.annotations.get(REF_NAME) != Some(&name));
        let mut descriptor = Descriptor::of(media::OCI_MANIFEST, &manifest);
        descriptor.annotations.insert(REF_NAME.to_owned(), name);
        index.manifests.push(descriptor);
        let text = serde_json::to_vec(&index).unwrap_or_default();
        let path = self.dir.join("index.json");
        self.publish(&path, |file| file.write_all(&text).map_err(down("write", &path)))
    }
}
