//! A [`Memo`] in a file.
//!
//! ```text
//! magic, 8 bytes | SHA-256 of the rest | per file: dev, ino, size, mtime, ctime, BLAKE3 of the content
//! ```
//!
//! Numbers are little-endian: 8 bytes each, and 8 + 4 bytes for a time. It is only a cache: a file that is damaged or of
//! another version counts as empty, of two processes that save at once the last wins, and nothing waits for the disk.

use super::{FileKey, Memo};
use crate::archive::Error;
use crate::archive::node::Time;
use crate::sys::fs::unique_word;
use ring::digest::{SHA256, digest};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"rbhash\x00\x02";
const HEAD: usize = MAGIC.len() + 32;
const RECORD: usize = 3 * 8 + 2 * 12 + 32;
/// Files that are remembered; as much as 20 MB of memory.
const MOST: usize = 1 << 17;

/// Digests of files, loaded from a file and saved to it.
#[derive(Debug)]
pub struct FileMemo {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// From earlier runs.
    old: HashMap<FileKey, [u8; 32]>,
    /// Asked for or learnt in this run.
    used: HashMap<FileKey, [u8; 32]>,
    changed: bool,
}

impl FileMemo {
    /// Loads the memo at `path`; it is empty where there is none.
    pub fn open(path: &Path) -> FileMemo {
        let old = fs::read(path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        FileMemo { path: path.to_owned(), state: Mutex::new(State { old, ..State::default() }) }
    }

    /// Writes the memo back where something was learnt: what this run used first, then what is left of earlier ones, up
    /// to a bound.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.changed {
            return Ok(());
        }
        let mut body = Vec::with_capacity(RECORD * (state.used.len() + state.old.len()).min(MOST));
        for (key, digest) in state.used.iter().chain(&state.old).take(MOST) {
            encode(key, digest, &mut body);
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(digest(&SHA256, &body).as_ref());
        bytes.extend(body);
        // A name of its own for each process: another one may be saving too.
        let new = self.path.with_extension(format!("new-{}", unique_word()));
        fs::write(&new, bytes).map_err(Error::file("write", &new))?;
        fs::rename(&new, &self.path).map_err(Error::file("rename to", &self.path))?;
        state.changed = false;
        Ok(())
    }
}

impl Memo for FileMemo {
    fn get(&self, key: &FileKey) -> Option<[u8; 32]> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = state.old.remove(key) {
            state.used.insert(*key, digest);
        }
        state.used.get(key).copied()
    }

    fn put(&self, key: &FileKey, digest: [u8; 32]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.used.len() < MOST {
            state.used.insert(*key, digest);
            state.changed = true;
        }
    }
}

fn encode(key: &FileKey, digest: &[u8; 32], out: &mut Vec<u8>) {
    for number in [key.dev, key.ino, key.size] {
        out.extend(number.to_le_bytes());
    }
    for time in [key.mtime, key.ctime] {
        out.extend(time.sec.to_le_bytes());
        out.extend(time.nsec.to_le_bytes());
    }
    out.extend(digest);
}

fn decode(bytes: &[u8]) -> Option<HashMap<FileKey, [u8; 32]>> {
    let (head, body) = bytes.split_at_checked(HEAD)?;
    let (magic, sum) = head.split_at_checked(MAGIC.len())?;
    if magic != MAGIC || sum != digest(&SHA256, body).as_ref() {
        return None;
    }
    body.chunks_exact(RECORD).take(MOST).map(record).collect()
}

fn record(bytes: &[u8]) -> Option<(FileKey, [u8; 32])> {
    fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (head, tail) = rest.split_first_chunk::<N>()?;
        *rest = tail;
        Some(*head)
    }
    let rest = &mut { bytes };
    let number = |rest: &mut &[u8]| take(rest).map(u64::from_le_bytes);
    let time =
        |rest: &mut &[u8]| Some(Time { sec: i64::from_le_bytes(take(rest)?), nsec: u32::from_le_bytes(take(rest)?) });
    let (dev, ino, size) = (number(rest)?, number(rest)?, number(rest)?);
    let (mtime, ctime) = (time(rest)?, time(rest)?);
    Some((FileKey { dev, ino, size, mtime, ctime }, take(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> FileKey {
        let time = Time { sec: -(n as i64), nsec: 999_999_999 };
        FileKey { dev: n, ino: n << 40, size: u64::MAX - n, mtime: time, ctime: Time::seconds(n as i64) }
    }

    #[test]
    fn what_was_saved_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memo");
        let memo = FileMemo::open(&path);
        memo.save().unwrap();
        assert!(!path.exists(), "nothing was learnt");
        for n in 0..100 {
            memo.put(&key(n), [n as u8; 32]);
        }
        memo.save().unwrap();
        let memo = FileMemo::open(&path);
        memo.put(&key(100), [100; 32]);
        memo.save().unwrap();
        let memo = FileMemo::open(&path);
        for n in 0..=100 {
            assert_eq!(memo.get(&key(n)), Some([n as u8; 32]));
        }
        assert_eq!(memo.get(&key(101)), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_damaged_file_counts_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memo");
        let memo = FileMemo::open(&path);
        memo.put(&key(1), [1; 32]);
        memo.save().unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(FileMemo::open(&path).get(&key(1)), None, "byte {at}");
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(FileMemo::open(&path).get(&key(1)), None, "cut at {at}");
        }
    }
}
