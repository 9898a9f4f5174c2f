//! A build context that comes as an archive: a tar, compressed or not, from a pipe, a file or a server.
//!
//! It is unpacked into a layer directory of the store, as untrusted as any (see [`crate::archive::extract`]): no name and
//! no link leads out of it, and owners and devices that the disk cannot hold are recorded. As with BuildKit, files keep
//! the owners that the archive gives them.

use super::{Context, Error, files};
use crate::archive;
use crate::archive::compress::{Decoder, Format};
use crate::archive::extract::{Limits, unpack_archive};
use crate::archive::merged::Merged;
use crate::archive::node::Time;
use crate::archive::upper::{Attrs, Upper};
use crate::store::Store;
use crate::sys::idmap::IdMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Unpacks an archive; `shown` names it in messages.
///
/// # Errors
///
/// It cannot be read, is no archive, or tries what an archive must not.
fn unpack(store: &Store, input: impl Read + Send, shown: &Path) -> Result<Context, Error> {
    let wrong = |error: archive::Error| Error::Unpack { path: shown.to_owned(), error };
    let dir = store.temp_dir("context")?;
    let layer = dir.path().join("files");
    let map = IdMap::current();
    {
        let nothing = Merged::open::<&Path>(&[], &map).map_err(wrong)?;
        let mut upper = Upper::create(&layer, &nothing).map_err(wrong)?;
        let decoder = Decoder::new(input).map_err(|e| wrong(archive::Error::Input(e)))?;
        let missing = Attrs::root(0o755, Some(Time::seconds(0)));
        unpack_archive(decoder, &mut upper, Path::new(""), &missing, None, &Limits::default()).map_err(wrong)?;
        upper.finish().map_err(wrong)?;
    }
    let files = Merged::open(&[&layer], &map).map_err(wrong)?;
    Ok(Context::of(shown.to_owned(), Box::new(files), Some(dir)))
}

/// What a stream turned out to be.
#[expect(clippy::large_enum_variant, reason = "there is one of it for each context")]
#[derive(Debug)]
pub enum Given {
    /// An archive, unpacked: a build context.
    Files(Context),
    /// A Dockerfile; there are no files beside it.
    Dockerfile(Vec<u8>),
}

/// Reads a build context from a stream, or a Dockerfile: the first bytes tell.
///
/// # Errors
///
/// The stream fails, the archive cannot be unpacked, or the Dockerfile is larger than one can be.
pub fn read(store: &Store, mut input: impl Read + Send, shown: &Path) -> Result<Given, Error> {
    let mut head = vec![];
    input.by_ref().take(files::HEAD).read_to_end(&mut head).map_err(Error::read(shown))?;
    let archive = looks_like_archive(&head);
    let input = io::Cursor::new(head).chain(input);
    match archive {
        true => unpack(store, input, shown).map(Given::Files),
        false => files::bounded(input, shown).map(Given::Dockerfile),
    }
}

/// Whether a file is an archive that could be a build context.
pub fn is_archive(path: &Path) -> bool {
    let mut head = vec![];
    let read = File::open(path).and_then(|file| file.take(files::HEAD).read_to_end(&mut head));
    read.is_ok() && looks_like_archive(&head)
}

/// Whether these first bytes of a stream are those of a build context.
pub fn is_archive_head(head: &[u8]) -> bool {
    looks_like_archive(head)
}

/// Whether the first bytes of a stream are those of a tar, or of what a tar is compressed with.
pub(super) fn looks_like_archive(head: &[u8]) -> bool {
    Format::sniff(head) != Format::Plain || is_tar_header(head)
}

/// Whether this begins with the header of a tar: by its magic number or, for the oldest tars, by its checksum.
fn is_tar_header(head: &[u8]) -> bool {
    /// Where the checksum is; it counts as blanks in itself.
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(head) = head.get(..512) else { return false };
    if head.get(257..262) == Some(b"ustar") {
        return true;
    }
    let digits = head.get(CHECKSUM).unwrap_or_default();
    let text: String = digits.iter().map(|b| char::from(*b)).collect();
    let Ok(written) = u32::from_str_radix(text.trim_matches([' ', '\0']), 8) else { return false };
    let sum: u32 = head.iter().enumerate().map(|(i, b)| if CHECKSUM.contains(&i) { 32 } else { u32::from(*b) }).sum();
    sum == written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tars_of_all_ages_are_told_from_texts() {
        let mut old = vec![0; 1024];
        old[..4].copy_from_slice(b"name");
        let sum: u32 = old[..512].iter().map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        old[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        assert!(looks_like_archive(&old));
        old[0] = b'N';
        assert!(!looks_like_archive(&old));
        for head in [&b"\x1f\x8b\x08"[..], b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"] {
            assert!(looks_like_archive(head), "{head:?}");
        }
        assert!(!looks_like_archive(b"FROM scratch\n"));
        assert!(!looks_like_archive(&[b' '; 600]));
    }
}
