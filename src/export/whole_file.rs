//! Files that appear complete or not at all.

use super::Error;
use crate::ui::Stdout;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file in the making. Dropped before [`WholeFile::publish`], it leaves nothing.
///
/// Until it is complete it has no name, so that it goes even with a process that is killed. Where the file system cannot do
/// that (network file systems, overlayfs before Linux 6.3) it is a hidden file beside its place, which a kill leaves
/// there. The path `-` is standard output. What exists at the path and is no regular file (a pipe, `/dev/stdout`) is written to directly: there is nothing
/// to rename onto it.
#[derive(Debug)]
pub(super) struct WholeFile {
    path: PathBuf,
    place: Place,
    file: Option<BufWriter<File>>,
}

/// Where the content is while it is written.
#[derive(Debug)]
enum Place {
    /// In the directory of its path, without a name.
    Unnamed,
    /// Under this other name.
    Beside(PathBuf),
    /// Where it belongs.
    There,
}

impl WholeFile {
    /// Begins a file that is to be at `path`.
    pub fn create(path: &Path) -> Result<WholeFile, Error> {
        let failed = |e| Error::file("create", path)(e);
        let (file, place) = if path.as_os_str() == "-" {
            let stdout = Stdout::check().and_then(|()| io::stdout().as_fd().try_clone_to_owned()).map_err(failed)?;
            (File::from(stdout), Place::There)
        } else if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            (File::options().write(true).open(path).map_err(failed)?, Place::There)
        } else if let Some(file) = unnamed(path) {
            (file, Place::Unnamed)
        } else {
            let (file, name) = beside(path, |name| File::options().write(true).create_new(true).open(name))
                .map_err(Error::file("create", path))?;
            (file, Place::Beside(name))
        };
        Ok(WholeFile { path: path.to_owned(), place, file: Some(BufWriter::with_capacity(1 << 18, file)) })
    }

    /// Puts the finished file in its place, on the disk.
    pub fn publish(mut self) -> Result<(), Error> {
        let failed = |e| Error::file("write", &self.path)(e);
        let Some(file) = self.file.take() else { return Ok(()) };
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        if matches!(self.place, Place::There) {
            return Ok(());
        }
        file.sync_all().map_err(failed)?;
        if let Place::Unnamed = self.place {
            match link(&file, &self.path) {
                // A link replaces nothing: another name for a moment, and a rename.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let ((), name) = beside(&self.path, |name| link(&file, name)).map_err(failed)?;
                    self.place = Place::Beside(name);
                }
                linked => return linked.map_err(failed),
            }
        }
        if let Place::Beside(name) = &self.place {
            fs::rename(name, &self.path).map_err(failed)?;
            self.place = Place::There;
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
        if let Place::Beside(name) = &self.place {
            let _ = fs::remove_file(name);
        }
    }
}

/// Writes a whole small file.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut file = WholeFile::create(path)?;
    file.write_all(content).map_err(Error::file("write", path))?;
    file.publish()
}

/// A file without a name, in the directory of `path`; `None` where there cannot be one that gets a name later.
fn unnamed(path: &Path) -> Option<File> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(dir, flags, Mode::from_raw_mode(0o666)).ok()?);
    fs::metadata(in_proc(&file)).is_ok().then_some(file)
}

/// Gives a file without a name one that nothing has yet.
fn link(file: &File, name: &Path) -> io::Result<()> {
    Ok(rustix::fs::linkat(CWD, in_proc(file), CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

fn in_proc(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Makes something under a fresh name in the directory of `path`. Two containers may share that, and their pids are alike.
fn beside<T>(path: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = path.with_file_name(format!(".rbuild-{}-{now:x}.tmp", std::process::id()));
        match make(&name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|made| (made, name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_there_when_it_is_complete_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive");
        for content in ["first", "second, in its place"] {
            let before = fs::read(&path).ok();
            let mut file = WholeFile::create(&path).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            file.flush().unwrap();
            assert_eq!(fs::read(&path).ok(), before);
            file.publish().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names(dir.path()), ["archive"]);
        }
        let mut file = WholeFile::create(&path).unwrap();
        file.write_all(b"never finished").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "second, in its place");
        assert_eq!(names(dir.path()), ["archive"]);
    }

    #[test]
    fn an_unfinished_file_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        if unnamed(&dir.path().join("x")).is_none() {
            eprintln!("skipped: the file system of `{}` has no files without names", dir.path().display());
            return;
        }
        let mut file = WholeFile::create(&dir.path().join("archive")).unwrap();
        file.write_all(b"content").unwrap();
        file.flush().unwrap();
        assert!(names(dir.path()).is_empty());
        // What a kill would leave.
        std::mem::forget(file);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn where_files_need_names_they_have_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive");
        for finished in [false, true] {
            let (file, name) = beside(&path, |name| File::create_new(name)).unwrap();
            let file = Some(BufWriter::new(file));
            let mut file = WholeFile { path: path.clone(), place: Place::Beside(name), file };
            file.write_all(b"content").unwrap();
            assert!(names(dir.path()).iter().all(|n| n.starts_with('.')));
            if finished {
                file.publish().unwrap();
            }
        }
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(names(dir.path()), ["archive"]);
    }

    #[test]
    fn a_pipe_is_written_to() {
        let (mut reader, writer) = io::pipe().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd()));
        write(&path, b"content").unwrap();
        drop(writer);
        let mut got = String::new();
        io::Read::read_to_string(&mut reader, &mut got).unwrap();
        assert_eq!(got, "content");
    }
}
