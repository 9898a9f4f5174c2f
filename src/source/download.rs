//! Files behind `http` and `https` addresses.
//!
//! What was fetched stays in the store as a blob, with a record of what the server said of it:
//!
//! ```text
//! downloads/<digest of the address>   JSON: digest, size, ETag, Last-Modified, boot of the machine
//! ```
//!
//! The next build asks the server whether the copy is still the right one. A file whose digest the Dockerfile demands need
//! not be asked for at all when it is here. A collection of garbage may drop the blobs at any time, and the records with
//! them; then the file is fetched again.

use super::{Context, Error, Given, Origin, loose::Loose, unpacked};
use crate::archive::node::Time;
use crate::oci::{Digest, Hashing};
use crate::registry::Client;
use crate::registry::download::{Authorization, Fetched, Wanted, shown};
use crate::store::{self, Store};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Largest file that is fetched, in bytes.
const LARGEST: u64 = 64 << 30;

/// What is remembered of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    digest: Digest,
    size: u64,
    etag: Option<String>,
    last_modified: Option<String>,
    /// The boot of the machine under which the blob was written: it was never synced.
    boot: String,
}

/// A file that was fetched; its content is a blob of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Digest of the content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When the server says that it was changed, in seconds since 1970.
    pub modified: Option<i64>,
}

impl Download {
    /// The file as ADD sees it: called `name`, root's, readable by root alone, as old as the server says.
    pub fn as_context(&self, store: &Store, url: &str, name: &str) -> Result<Context, Error> {
        let time = Time::seconds(self.modified.unwrap_or(0));
        let file = Loose::file(name, self.size, time, store.blob_file(&self.digest)?);
        Ok(Context::of(PathBuf::from(shown(url)), Box::new(file), None).made_at(self.modified))
    }
}

/// The name that ADD gives to a file: the last part of the address's path.
pub fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = String::from_utf8_lossy(&crate::registry::download::percent_decoded(name)).into_owned();
    match name.rsplit('/').next().unwrap_or_default() {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name => name.replace('\0', ""),
    }
}

/// Whether a text is the address of a file on a web server.
pub fn is_web(text: &str) -> bool {
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    lower.starts_with("http://") || lower.starts_with("https://")
}

/// Fetches a file, or finds it in the store. With `demanded`, its content must have this digest. `login` is for the server.
///
/// # Errors
///
/// It cannot be fetched or stored, or has another digest.
pub fn fetch(
    store: &Store,
    client: &Client,
    url: &str,
    demanded: Option<&Digest>,
    login: Option<Authorization>,
) -> Result<Download, Error> {
    let failed = |error| Error::Download { url: shown(url), error: Box::new(error) };
    let at = store.downloads_dir().join(Digest::of(url).hex());
    let known = known(store, &at);
    if let (Some(record), Some(demanded)) = (&known, demanded)
        && record.digest == *demanded
    {
        return Ok(download(record));
    }
    let wanted = Wanted {
        url: url.to_owned(),
        etag: known.as_ref().and_then(|r| r.etag.clone()),
        last_modified: known.as_ref().and_then(|r| r.last_modified.clone()),
        authorization: login,
        limit: LARGEST,
    };
    let dir = store.temp_dir("download")?;
    let path = dir.path().join("file");
    let written = |error| Error::Write { path: path.clone(), error };
    let mut file = File::create_new(&path).map_err(written)?;
    let fetched = client.download(&wanted, &mut file).map_err(failed)?;
    let record = match (fetched, known) {
        (Fetched { unchanged: true, .. }, Some(record)) => record,
        (fetched, _) => {
            drop(file);
            let mut content = Hashing::new(File::open(&path).map_err(written)?);
            io::copy(&mut content, &mut io::sink()).map_err(written)?;
            let (_, digest, size) = content.finish();
            if demanded.is_none_or(|d| *d == digest) {
                store.adopt_blob(&path, &digest)?;
            }
            let (etag, last_modified) = (fetched.etag, fetched.last_modified);
            Record { digest, size, etag, last_modified, boot: store.boot_id().to_owned() }
        }
    };
    if let Some(demanded) = demanded.filter(|d| **d != record.digest) {
        return Err(Error::Checksum {
            what: shown(url),
            demanded: demanded.to_string(),
            found: record.digest.to_string(),
        });
    }
    let json = serde_json::to_vec(&record).map_err(|e| written(io::Error::other(e)))?;
    fs::create_dir_all(store.downloads_dir()).map_err(written)?;
    store.write_file(&at, &json)?;
    Ok(download(&record))
}

/// The record of a file whose blob is here and sound.
fn known(store: &Store, at: &Path) -> Option<Record> {
    let record: Record = serde_json::from_slice(&fs::read(at).ok()?).ok()?;
    let size = store.blob_size(&record.digest).ok()??;
    // What is made of it has no other check.
    let sound = size == record.size && store.verify_blob(&record.digest).is_ok();
    if !sound {
        let _ = store.remove_blob(&record.digest);
    }
    sound.then_some(record)
}

fn download(record: &Record) -> Download {
    let modified = record.last_modified.as_deref().and_then(|t| jiff::fmt::rfc2822::parse(t.trim()).ok());
    Download { digest: record.digest, size: record.size, modified: modified.map(|t| t.timestamp().as_second()) }
}

/// Fetches a build context: an archive, or a single Dockerfile.
///
/// # Errors
///
/// As [`fetch`], and as [`unpacked::read`].
pub fn context(store: &Store, client: &Client, url: &str, login: Option<Authorization>) -> Result<Given, Error> {
    let found = fetch(store, client, url, None, login)?;
    let given = unpacked::read(store, store.open_blob(&found.digest)?, Path::new(&shown(url)))?;
    Ok(match given {
        Given::Files(files) => Given::Files(dated(files, &found, url)),
        text => text,
    })
}

/// The files of the archive behind `url`, as old as the server says, where it says so.
fn dated(files: Context, found: &Download, url: &str) -> Context {
    let origin = Origin { uri: shown(url), digest: found.digest.hex(), commit: false };
    let files = files.from_origin(origin);
    if found.modified.is_some() { files.made_at(found.modified) } else { files }
}

/// Fetches the files of a named context: an archive, unpacked, or the one file that it is.
///
/// # Errors
///
/// As [`context`].
pub fn files(store: &Store, client: &Client, url: &str, login: Option<Authorization>) -> Result<Context, Error> {
    let found = fetch(store, client, url, None, login)?;
    if unpacked::is_archive(&store.blob_file(&found.digest)?)
        && let Given::Files(files) = unpacked::read(store, store.open_blob(&found.digest)?, Path::new(&shown(url)))?
    {
        return Ok(dated(files, &found, url));
    }
    found.as_context(store, url, &file_name(url))
}

/// Fetches a Dockerfile.
///
/// # Errors
///
/// As [`fetch`]; it is larger than a Dockerfile can be.
pub fn dockerfile(
    store: &Store,
    client: &Client,
    url: &str,
    login: Option<Authorization>,
) -> Result<super::Dockerfile, Error> {
    let found = fetch(store, client, url, None, login)?;
    let name = shown(url);
    let content = super::files::bounded(store.open_blob(&found.digest)?, Path::new(&name))?;
    Ok(super::Dockerfile::from_stream(name, content))
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        Error::Store(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = store.put_blob(b"file").unwrap();
        let boot = store.boot_id().to_owned();
        let record = Record { digest, size: 4, etag: None, last_modified: None, boot };
        let at = dir.path().join("record");
        fs::write(&at, serde_json::to_vec(&record).unwrap()).unwrap();
        assert!(known(&store, &at).is_some());
        fs::write(store.blob_file(&digest).unwrap(), b"FILE").unwrap();
        assert!(known(&store, &at).is_none());
        assert!(store.blob_size(&digest).unwrap().is_none());
    }

    #[test]
    fn names_of_files() {
        for (url, want) in [
            ("https://h/a/b.tar.gz", "b.tar.gz"),
            ("https://h/a/b.tar.gz?x=1/2#c", "b.tar.gz"),
            ("https://h/a/b/", "b"),
            ("http://h/a%20b", "a b"),
            ("http://h/..%2f..%2fetc%2fpasswd", "passwd"),
            ("http://h/", "__unnamed__"),
            ("http://h", "__unnamed__"),
            ("http://h/..", "__unnamed__"),
        ] {
            assert_eq!(file_name(url), want, "{url}");
        }
    }
}
