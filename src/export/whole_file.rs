//! Files that appear complete or not at all.

use super::Error;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// A file in the making, beside its place. Dropped before [`WholeFile::publish`], it leaves nothing.
///
/// What exists at the path and is no regular file (a pipe, `/dev/stdout`) is written to directly: there is nothing to
/// rename onto it.
#[derive(Debug)]
pub(super) struct WholeFile {
    path: PathBuf,
    beside: Option<PathBuf>,
    file: Option<BufWriter<File>>,
}

impl WholeFile {
    /// Begins a file that is to be at `path`.
    pub fn create(path: &Path) -> Result<WholeFile, Error> {
        let special = fs::metadata(path).is_ok_and(|m| !m.is_file());
        let beside = (!special).then(|| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
        });
        let target = beside.as_deref().unwrap_or(path);
        let opened = match special {
            true => File::options().write(true).open(target),
            false => File::create(target),
        };
        let file = opened.map_err(Error::file("create", path))?;
        Ok(WholeFile { path: path.to_owned(), beside, file: Some(BufWriter::with_capacity(1 << 18, file)) })
    }

    /// Puts the finished file in its place, on the disk.
    pub fn publish(mut self) -> Result<(), Error> {
        let failed = |e| Error::file("write", &self.path)(e);
        if let Some(file) = self.file.take() {
            let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
            if self.beside.is_some() {
                file.sync_all().map_err(failed)?;
            }
        }
        if let Some(beside) = self.beside.take() {
            fs::rename(&beside, &self.path).map_err(failed)?;
        }
        Ok(())
    }
}

impl io::Write for WholeFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(f) => f.write(buf),
            None => Ok(0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), io::Write::flush)
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            let _ = fs::remove_file(beside);
        }
    }
}

/// Writes a whole small file.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut file = WholeFile::create(path)?;
    file.write_all(content).map_err(Error::file("write", path))?;
    file.publish()
}
