//! Moving the bytes of one file into another, new one, in the cheapest way that the file systems allow.
//!
//! A clone shares the blocks; `copy_file_range` copies inside the kernel; reading and writing always works. What has
//! failed once is not tried again. Holes stay holes.

use rustix::fd::AsFd;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Files below this size are read and written at once: that is cheaper than the calls that avoid it.
const SMALL: u64 = 1 << 16;
/// Bytes read and written at once.
const BUFFER: usize = 1 << 18;
/// Bytes that one call may copy.
const SPAN: usize = 1 << 30;

/// What is known of the ways to copy.
#[derive(Debug)]
pub(in crate::archive) struct Transfer {
    clone: bool,
    in_kernel: bool,
    buffer: Vec<u8>,
}

impl Default for Transfer {
    fn default() -> Self {
        Transfer { clone: true, in_kernel: true, buffer: Vec::new() }
    }
}

impl Transfer {
    /// Copies all of `from` to `to`, which is new and empty; gives the number of bytes that `to` has then. What is appended
    /// to `from` meanwhile is left out.
    pub(in crate::archive) fn run(&mut self, from: &File, to: &File) -> io::Result<u64> {
        let stat = rustix::fs::fstat(from)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size == 0 {
            // Files of /proc and the like have content all the same.
            return self.by_reading(from, to, 0, u64::MAX);
        }
        if size < SMALL {
            return self.by_reading(from, to, 0, size);
        }
        if self.clone {
            match rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd()) {
                Ok(()) => return Ok(size),
                Err(_) => self.clone = false,
            }
        }
        const BLOCK: u64 = 512; // the unit of `st_blocks`, whatever the file system's is
        let stored = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX).saturating_mul(BLOCK);
        if stored < size {
            return self.sparse(from, to, size);
        }
        self.span(from, to, 0, size)
    }

    /// Copies only what is not a hole.
    fn sparse(&mut self, from: &File, to: &File, size: u64) -> io::Result<u64> {
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => break,
                // The file system does not know.
                Err(_) => return self.span(from, to, at, size),
            };
            let end = rustix::fs::seek(from, SeekFrom::Hole(data)).unwrap_or(size).min(size);
            if end <= data {
                break;
            }
            self.span(from, to, data, end)?;
            at = end;
        }
        rustix::fs::ftruncate(to, size)?;
        Ok(size)
    }

    /// Copies from `start` to `end`; gives where it stopped, which is before `end` where the file ends.
    fn span(&mut self, from: &File, to: &File, start: u64, end: u64) -> io::Result<u64> {
        let (mut read, mut written) = (start, start);
        while self.in_kernel && read < end {
            let wanted = usize::try_from(end - read).unwrap_or(usize::MAX).min(SPAN);
            match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), wanted) {
                // Some file systems of special files answer 0 where there is more: reading tells.
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::FBIG)) => return Err(e.into()),
                Err(_) => self.in_kernel = false,
            }
        }
        if read < end { self.by_reading(from, to, read, end) } else { Ok(written) }
    }

    fn by_reading(&mut self, from: &File, to: &File, start: u64, end: u64) -> io::Result<u64> {
        let mut at = start;
        self.buffer.resize(BUFFER, 0);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER);
            let room = self.buffer.get_mut(..most).unwrap_or_default();
            match from.read_at(room, at) {
                Ok(0) => break,
                Ok(n) => {
                    to.write_all_at(room.get(..n).unwrap_or_default(), at)?;
                    at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn every_way_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect();
        for (name, size) in [("empty", 0), ("one", 1), ("large", content.len())] {
            let source = dir.path().join(name);
            std::fs::write(&source, &content[..size]).unwrap();
            for (clone, in_kernel) in [(true, true), (false, true), (false, false)] {
                let target = dir.path().join(format!("{name}-{clone}-{in_kernel}"));
                let mut transfer = Transfer { clone, in_kernel, buffer: Vec::new() };
                let to = File::create(&target).unwrap();
                assert_eq!(transfer.run(&File::open(&source).unwrap(), &to).unwrap(), size as u64);
                assert!(std::fs::read(&target).unwrap() == content[..size], "{name} {clone} {in_kernel}");
            }
        }
    }

    #[test]
    fn holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let source = File::create(dir.path().join("from")).unwrap();
        source.write_all_at(b"middle", 8 << 20).unwrap();
        source.set_len(16 << 20).unwrap();
        for in_kernel in [true, false] {
            let mut transfer = Transfer { clone: false, in_kernel, buffer: Vec::new() };
            let path = dir.path().join(format!("to-{in_kernel}"));
            let to = File::create(&path).unwrap();
            assert_eq!(transfer.run(&File::open(dir.path().join("from")).unwrap(), &to).unwrap(), 16 << 20);
            assert_eq!(to.metadata().unwrap().len(), 16 << 20);
            assert!(to.metadata().unwrap().blocks() <= source.metadata().unwrap().blocks() + 64);
            let mut read = [0; 6];
            File::open(&path).unwrap().read_exact_at(&mut read, 8 << 20).unwrap();
            assert_eq!(&read, b"middle");
        }
    }

    #[test]
    fn a_file_of_proc_has_no_size_but_content() {
        let dir = tempfile::tempdir().unwrap();
        let mut to = File::create_new(dir.path().join("to")).unwrap();
        let n = Transfer::default().run(&File::open("/proc/self/limits").unwrap(), &to).unwrap();
        assert!(n > 0);
        to.flush().unwrap();
    }
}
