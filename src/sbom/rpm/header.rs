//! The header of a package, as rpm's database holds it: an index of tags, and the data that they point into.
//!
//! ```text
//! entries: u32   bytes of data: u32   entries × { tag, type, offset, count: u32 }   data        (big endian)
//! ```
//!
//! Format: <https://rpm-software-management.github.io/rpm/manual/format_header.html>, without its leading magic.

/// Name.
pub(super) const NAME: u32 = 1000;
/// Version.
pub(super) const VERSION: u32 = 1001;
/// Release.
pub(super) const RELEASE: u32 = 1002;
/// Epoch, a number.
pub(super) const EPOCH: u32 = 1003;
/// Who distributes it.
pub(super) const VENDOR: u32 = 1011;
/// Licence.
pub(super) const LICENSE: u32 = 1014;
/// Processor.
pub(super) const ARCH: u32 = 1022;
/// File name of the source package.
pub(super) const SOURCE_RPM: u32 = 1044;

const INT32: u32 = 4;
/// A text, an array of them, and one in several languages: the first text is what is wanted.
const TEXTS: [u32; 3] = [6, 8, 9];

/// A header whose parts lie inside its bytes.
#[derive(Debug)]
pub(super) struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    /// Takes a header apart; `None` where its lengths contradict each other.
    pub fn parse(bytes: &'a [u8]) -> Option<Header<'a>> {
        let (count, length) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?);
        let index_end = usize::try_from(count).ok()?.checked_mul(16)?.checked_add(8)?;
        let end = index_end.checked_add(usize::try_from(length).ok()?)?;
        Some(Header { index: bytes.get(8..index_end)?, data: bytes.get(index_end..end)? })
    }

    /// Type and data of a tag.
    fn find(&self, tag: u32) -> Option<(u32, &'a [u8])> {
        let entry = self.index.chunks_exact(16).find(|e| u32_at(e, 0) == Some(tag))?;
        Some((u32_at(entry, 4)?, self.data.get(usize::try_from(u32_at(entry, 8)?).ok()?..)?))
    }

    /// The (first) text of a tag.
    pub fn text(&self, tag: u32) -> Option<String> {
        let (kind, data) = self.find(tag)?;
        let end = memchr::memchr(0, data)?;
        let text = data.get(..end).filter(|_| TEXTS.contains(&kind))?;
        Some(String::from_utf8_lossy(text).into_owned()).filter(|t| !t.is_empty() && t != "(none)")
    }

    /// The number of a tag.
    pub fn number(&self, tag: u32) -> Option<u32> {
        let (kind, data) = self.find(tag)?;
        u32_at(data, 0).filter(|_| kind == INT32)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}
