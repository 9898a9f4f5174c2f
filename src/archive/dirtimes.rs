//! The modification times that directories get at the end, when nothing is written into them any more.
//!
//! A hostile archive can name millions of directories, so the list lives in memory only up to a bound, and then in an
//! unlinked file. It is replayed in order: of several times for one directory the last wins.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::node::{self, Time};

const IN_MEMORY: usize = 1 << 20;
const HEAD: usize = 16;

/// A list of directories and their times.
#[derive(Debug)]
pub(super) struct DirTimes {
    /// Seconds, nanoseconds, length of the path, path; again and again.
    buffer: Vec<u8>,
    spill: Option<File>,
    dir: PathBuf,
}

impl DirTimes {
    /// An empty list; `dir` is where a temporary file may be made.
    pub(super) fn new(dir: &Path) -> DirTimes {
        DirTimes { buffer: Vec::new(), spill: None, dir: dir.to_owned() }
    }

    /// Appends a directory.
    pub(super) fn push(&mut self, path: &Path, time: Time) -> io::Result<()> {
        let path = node::bytes(path);
        let length = u32::try_from(path.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.buffer.extend(time.sec.to_le_bytes());
        self.buffer.extend(time.nsec.to_le_bytes());
        self.buffer.extend(length.to_le_bytes());
        self.buffer.extend(path);
        if self.buffer.len() < IN_MEMORY {
            return Ok(());
        }
        let spill = match &mut self.spill {
            Some(file) => file,
            none => {
                let path = self.dir.join("times.new");
                let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
                std::fs::remove_file(&path)?;
                none.insert(file)
            }
        };
        spill.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Calls `each` for every entry in order, and empties the list.
    pub(super) fn replay(&mut self, mut each: impl FnMut(&Path, Time) -> io::Result<()>) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        match self.spill.take() {
            Some(mut file) => {
                file.rewind()?;
                read_all(BufReader::with_capacity(1 << 16, file).chain(buffer.as_slice()), &mut each)
            }
            None => read_all(buffer.as_slice(), &mut each),
        }
    }
}

fn read_all(mut from: impl Read, each: &mut impl FnMut(&Path, Time) -> io::Result<()>) -> io::Result<()> {
    let mut path = Vec::new();
    loop {
        let mut head = [0; HEAD];
        if from.read(&mut head[..1])? == 0 {
            return Ok(());
        }
        from.read_exact(&mut head[1..])?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = head;
        let sec = i64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let nsec = u32::from_le_bytes([i, j, k, l]);
        path.resize(u32::from_le_bytes([m, n, o, p]) as usize, 0);
        from.read_exact(&mut path)?;
        each(node::path(&path), Time { sec, nsec })?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_goes_through_a_file_and_keeps_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut times = DirTimes::new(dir.path());
        let name = |i: i64| format!("{}/{i}", "d".repeat(200));
        for i in 0..12_000 {
            times.push(Path::new(&name(i)), Time { sec: -i, nsec: i as u32 }).unwrap();
        }
        assert!(times.spill.is_some() && times.buffer.len() < IN_MEMORY);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        let mut next = 0;
        times
            .replay(|path, time| {
                assert_eq!((path, time), (Path::new(&name(next)), Time { sec: -next, nsec: next as u32 }));
                next += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(next, 12_000);
    }
}
