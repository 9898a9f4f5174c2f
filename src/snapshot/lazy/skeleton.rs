//! A skeleton, and the contents of its files.

use super::super::{Active, Error};
use crate::archive::extract::{self, Hollow};
use crate::archive::indexed::table::{Chunk, Form, Item, Table};
use crate::archive::layer;
use crate::archive::merged::Merged;
use crate::oci::ChainId;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Most bytes of a blob that are asked for at once, where no single chunk is longer.
const AT_ONCE: u64 = 4 << 20;
/// A file with more bytes than this in the blob, and more than half of it, is not fetched by itself: the whole comes as fast.
const LARGE: u64 = 64 << 20;

/// A layer directory without the contents of its files.
#[derive(Debug)]
pub(super) struct Skeleton {
    /// Its place in the stack.
    pub index: usize,
    /// The chain that it is the top of.
    pub chain: ChainId,
    /// `layer/`, and `data/` for what was filled.
    active: Active,
    /// Bytes of the blob.
    size: u64,
    form: Form,
    /// By number on disk.
    files: HashMap<u64, Wanted>,
    /// A file could not be had by itself: the next ones are not tried.
    dry: AtomicBool,
}

/// A regular file of a skeleton.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Its first name, below the layer's `fs/`.
    pub path: PathBuf,
    /// Bytes; `None` where the table does not say.
    size: Option<u64>,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    /// In the skeleton itself.
    Here(PathBuf),
    /// In the blob; and in a file of `data/`, once that is whole.
    Chunks(Vec<Chunk>, Mutex<bool>),
}

impl Skeleton {
    pub fn make(
        active: Active,
        (index, chain, size): (usize, ChainId, u64),
        table: Table,
        lower: &Merged,
    ) -> Result<Skeleton, Error> {
        let Table { form, items, tail } = table;
        let mut chunks: Vec<(u64, Vec<Chunk>)> = Vec::with_capacity(items.len());
        let entries = items.into_iter().map(|Item { entry, chunks: of }| {
            chunks.push((entry.size, of));
            entry
        });
        let made = extract::skeleton(entries, tail.as_deref(), &active.layer(), lower)?;
        let mut files = HashMap::with_capacity(made.len());
        let fs = layer::open_fs(&active.layer())?;
        for Hollow { ino, path, entry } in made {
            let failed = |e: io::Error| Error::io("cannot inspect", &active.layer().join(layer::FS).join(&path))(e);
            // A later entry may have taken its name and left it others, under which nobody could find it in the layer.
            if layer::stat(&fs, &path).map_err(|e| failed(e.into()))?.is_none_or(|stat| stat.st_ino != ino) {
                return Err(failed(io::Error::other("the layer has this name twice")));
            }
            let wanted = match chunks.get_mut(entry) {
                Some((size, chunks)) => {
                    let contents = Contents::Chunks(std::mem::take(chunks), Mutex::new(false));
                    Wanted { path, size: Some(*size), contents }
                }
                None => Wanted { path, size: None, contents: Contents::Here(active.layer()) },
            };
            files.insert(ino, wanted);
        }
        let data = active.data();
        fs::create_dir(&data).map_err(Error::io("cannot create directory", &data))?;
        Ok(Skeleton { index, chain, active, size, form, files, dry: AtomicBool::new(false) })
    }

    /// The layer directory.
    pub fn dir(&self) -> PathBuf {
        self.active.layer()
    }

    /// The file of this number.
    pub fn file(&self, ino: u64) -> Option<&Wanted> {
        self.files.get(&ino)
    }

    /// Whether a file is fetched by itself.
    pub fn is_worth_filling(&self, file: &Wanted) -> bool {
        let Contents::Chunks(chunks, _) = &file.contents else { return true };
        if self.dry.load(Ordering::Relaxed) {
            return false;
        }
        let bytes: u64 = chunks.iter().map(|chunk| chunk.blob.end - chunk.blob.start).sum();
        bytes <= LARGE || bytes <= self.size / 2
    }

    fn data(&self, ino: u64) -> PathBuf {
        self.active.data().join(ino.to_string())
    }

    /// The contents of a file, which are fetched by `part` if that was not done yet.
    pub fn filled(
        &self,
        ino: u64,
        file: &Wanted,
        part: &dyn Fn(Range<u64>) -> io::Result<Vec<u8>>,
    ) -> io::Result<File> {
        let (chunks, filled) = match &file.contents {
            Contents::Here(layer) => return file.in_complete(layer),
            Contents::Chunks(chunks, filled) => (chunks, filled),
        };
        let path = self.data(ino);
        let mut filled = filled.lock().unwrap_or_else(PoisonError::into_inner);
        if !*filled {
            let into = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            let done = fill(&into, chunks, self.form, part).and_then(|()| into.set_len(file.size.unwrap_or(0)));
            if let Err(e) = done {
                self.dry.store(true, Ordering::Relaxed);
                let _ = fs::remove_file(&path);
                return Err(e);
            }
            *filled = true;
        }
        File::open(&path)
    }

    /// Files that were filled: their paths in the layer, and their contents.
    pub fn all_filled(&self) -> impl Iterator<Item = (&Path, PathBuf)> {
        self.files.iter().filter_map(|(ino, file)| match &file.contents {
            Contents::Chunks(_, filled) if *filled.lock().unwrap_or_else(PoisonError::into_inner) => {
                Some((&*file.path, self.data(*ino)))
            }
            _ => None,
        })
    }
}

impl Wanted {
    /// The same file in the complete layer.
    pub fn in_complete(&self, dir: &Path) -> io::Result<File> {
        let fs = layer::open_fs(dir).map_err(io::Error::other)?;
        let file = File::from(layer::open_file(&fs, &self.path)?);
        let meta = file.metadata()?;
        // The table has said something else of it than the layer does: what the step made will not be kept.
        if !meta.is_file() || self.size.is_some_and(|size| size != meta.size()) {
            Err(Errno::IO.into())
        } else {
            Ok(file)
        }
    }
}

/// Fetches chunks, neighbours together, and writes them to their places.
fn fill(into: &File, chunks: &[Chunk], form: Form, part: &dyn Fn(Range<u64>) -> io::Result<Vec<u8>>) -> io::Result<()> {
    let mut rest = chunks;
    while let Some(first) = rest.first() {
        let start = first.blob.start;
        let near = |chunk: &&Chunk| chunk.blob.start >= start && chunk.blob.end <= start.saturating_add(AT_ONCE);
        let count = rest.iter().take_while(near).count().max(1);
        let (now, later) = rest.split_at(count);
        let end = now.iter().map(|chunk| chunk.blob.end).max().unwrap_or(start);
        let bytes = part(start..end)?;
        for chunk in now {
            into.write_all_at(&chunk.data(form, start, &bytes)?, chunk.offset)?;
        }
        rest = later;
    }
    Ok(())
}
