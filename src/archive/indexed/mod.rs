//! Layers from which single files can be read: eStargz and zstd:chunked.
//!
//! Both are an ordinary compressed tar for who does not know them. Files begin at gzip members or zstd frames of their own,
//! long ones are cut in chunks, and a table of contents in JSON at the end says where they are; annotations of the layer's
//! descriptor vouch for the table.
//!
//! ```text
//! eStargz        gzip members: headers | chunk, headers | … | tar entry `stargz.index.json` | footer of 51 bytes
//! zstd:chunked   zstd frames:  headers | chunk | … | headers | skippable: table | skippable: tar-split | skippable: footer
//! ```
//!
//! In eStargz the table and a landmark (`.no.prefetch.landmark`: nothing is to be fetched in advance) are entries of the tar,
//! so the layer's diff ID is another one; of zstd:chunked the tar is what it was. Formats:
//! <https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md>,
//! <https://github.com/containers/storage/blob/main/docs/containers-storage-zstd-chunked.md>.
//!
//! Bytes depend on the tar and the level alone. Memory is constant but for the table: its text, at most
//! 150 MiB (what containers/storage reads), is held compressed, as is what zstd:chunked keeps of the headers. What a
//! table cannot describe is [`Error::Unfit`]: names that are not UTF-8, sparse entries, a file that is there twice.

mod pack;
mod scan;
pub mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
mod toc;

use super::tarfile::TarWriter;
use crate::oci::media::{ESTARGZ_SIZE, ESTARGZ_TOC, ZSTD_CHECKSUM, ZSTD_POSITION, ZSTD_TAR_SPLIT};
use crate::oci::{DiffId, Digest};
use pack::{Layout, pack};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use toc::TarSplit;

/// The table of an eStargz layer, as an entry of its tar.
pub const TOC_NAME: &str = "stargz.index.json";
/// Says that nothing is to be fetched before it is asked for.
pub const NO_PREFETCH: &str = ".no.prefetch.landmark";
/// Ends the files that are to be fetched at once.
const PREFETCH: &str = ".prefetch.landmark";

/// What is in front of the data of a skippable frame: its number and its length.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// Why a layer was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be described by a table of contents; any other form can hold it.
    #[error("{0}")]
    Unfit(String),
    /// The tar, or reading or writing.
    #[error(transparent)]
    Archive(#[from] super::Error),
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexed {
    /// What the layer's descriptor has to say.
    pub annotations: BTreeMap<String, String>,
    /// Digest of the tar that is inside now.
    pub diff_id: DiffId,
}

/// Writes the layer `tar` (uncompressed) as eStargz, at a level of gzip, 0 to 9, or its own. A table and landmarks that it has
/// already are left out.
///
/// # Errors
/// Where it is unfit or no tar, or reading or writing fails.
pub fn estargz(tar: impl Read, out: impl Write, level: Option<u32>, threads: usize) -> Result<Indexed, Error> {
    pack(tar, out, Layout::Estargz, level, threads, |packer| {
        let mut landmark = TarWriter::new(vec![]);
        let written = landmark.append_bytes(NO_PREFETCH.as_bytes(), &[0xf]).and_then(|()| landmark.finish());
        let landmark = written.map_err(super::Error::Output)?;
        packer.tar(&landmark[..], &mut |_| true)?;
        let ours = |name: &[u8]| [TOC_NAME, NO_PREFETCH, PREFETCH].iter().any(|o| o.as_bytes() == pack::clean(name));
        packer.tar_to_the_end(&mut |name| !ours(name))?;
        packer.settle()?;
        let toc = packer.take_toc()?.finish("")?;
        let at = packer.written();
        let mut entry = TarWriter::new(&mut *packer);
        let header = super::tarfile::Entry::file(TOC_NAME.as_bytes(), toc.length);
        let text = toc.read().map_err(super::Error::Output)?;
        entry.append_file(&header, text).map_err(super::Error::Output)?;
        entry.finish().map_err(super::Error::Output)?;
        packer.settle()?;
        packer.raw(&footer(at))?;
        let (diff_id, size) = packer.diff_id();
        let annotations = [(ESTARGZ_TOC, toc.digest.to_string()), (ESTARGZ_SIZE, size.to_string())];
        Ok(Indexed { annotations: named(annotations), diff_id })
    })
}

/// Writes the layer `tar` (uncompressed) as zstd:chunked, at a level of zstd, 0 to 22, or its own.
///
/// # Errors
/// As [`estargz`].
pub fn zstd_chunked(tar: impl Read, out: impl Write, level: Option<u32>, threads: usize) -> Result<Indexed, Error> {
    pack(tar, out, Layout::ZstdChunked(Box::new(TarSplit::new()?)), level, threads, |packer| {
        packer.tar_to_the_end(&mut |_| true)?;
        packer.settle()?;
        let split = packer.take_split()?.finish()?;
        let split_digest = Digest::of(&split.bytes);
        let toc = packer.take_toc()?.finish(&format!(r#","tarSplitDigest":"{split_digest}""#))?;
        let toc_at = packer.written() + 8;
        let split_at = toc_at + toc.bytes.len() as u64 + 8;
        let lengths = |text: &toc::PackedText| (text.bytes.len() as u64, text.length);
        let ((toc_length, toc_text), (split_length, split_text)) = (lengths(&toc), lengths(&split));
        let numbers = [toc_at, toc_length, toc_text, 1, split_at, split_length, split_text];
        let mut footer: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        footer.extend_from_slice(b"GNUlInUx");
        for data in [&toc.bytes, &split.bytes, &footer] {
            let length = u32::try_from(data.len()).map_err(|_| Error::Unfit("it has too many files".into()))?;
            packer.raw(&SKIPPABLE)?;
            packer.raw(&length.to_le_bytes())?;
            packer.raw(data)?;
        }
        let annotations = [
            (ZSTD_CHECKSUM, Digest::of(&toc.bytes).to_string()),
            (ZSTD_POSITION, format!("{toc_at}:{toc_length}:{toc_text}:1")),
            (ZSTD_TAR_SPLIT, format!("{split_at}:{split_length}:{split_text}")),
        ];
        Ok(Indexed { annotations: named(annotations), diff_id: packer.diff_id().0 })
    })
}

fn named<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An empty member of gzip whose extra field says where the table is.
fn footer(toc: u64) -> Vec<u8> {
    let field = format!("{toc:016x}STARGZ");
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0];
    out.extend_from_slice(field.as_bytes());
    // One stored block of no bytes, the last; checksum and length of nothing.
    out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    out.extend_from_slice(&[0; 8]);
    out
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        Error::Archive(super::Error::Output(e))
    }
}
