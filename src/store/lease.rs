//! Leases: which process uses and makes what.
//!
//! A lease is a file that its process keeps locked (`flock`, so the kernel drops it with the process) and to which it
//! appends a line for each thing that it uses. A lease that can be locked by somebody else is dead.

use super::Error;
use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// This process's lease.
#[derive(Debug)]
pub(super) struct Lease {
    path: PathBuf,
    tmp: PathBuf,
    next: AtomicU64,
    held: Mutex<(File, HashSet<String>)>,
}

impl Lease {
    pub(super) fn new(root: &Path) -> Result<Lease, Error> {
        // The lock keeps a garbage collection from seeing the file before it is locked.
        let _lock = super::lock(root, super::Lock::Shared)?;
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        loop {
            let nanos =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
            let id = format!("{}-{}-{nanos:x}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
            let path = root.join("leases").join(&id);
            let file = match File::options().create_new(true).append(true).mode(0o644).open(&path) {
                Ok(f) => f,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io("cannot create", &path)(e)),
            };
            file.lock().map_err(Error::io("cannot lock", &path))?;
            let tmp = root.join("tmp").join(&id);
            return Ok(Lease { path, tmp, next: AtomicU64::new(0), held: Mutex::new((file, HashSet::new())) });
        }
    }

    /// Whether the lease holds this already.
    pub(super) fn holds(&self, what: &str) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).1.contains(what)
    }

    pub(super) fn hold(&self, what: &str) -> Result<(), Error> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.1.contains(what) {
            return Ok(());
        }
        held.0.write_all(format!("{what}\n").as_bytes()).map_err(Error::io("cannot write", &self.path))?;
        held.1.insert(what.to_owned());
        Ok(())
    }

    /// This process's temporary directory; it may not exist yet.
    pub(super) fn tmp_dir(&self) -> &Path {
        &self.tmp
    }

    /// A fresh path in this process's temporary directory.
    pub(super) fn temp_path(&self, what: &str) -> Result<PathBuf, Error> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        if n == 0 || !self.tmp.exists() {
            fs::create_dir_all(&self.tmp).map_err(Error::io("cannot create directory", &self.tmp))?;
        }
        Ok(self.tmp.join(format!("{what}-{n}")))
    }

    pub(super) fn temp_dir(&self, what: &str) -> Result<TempDir, Error> {
        let path = self.temp_path(what)?;
        fs::create_dir(&path).map_err(Error::io("cannot create directory", &path))?;
        // An emptyDir with an fsGroup is setgid; what is made here must not inherit that.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).map_err(Error::io("cannot change mode of", &path))?;
        Ok(TempDir { path: Some(path) })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // First what was made, then the lease: in this order nothing is left that no lease explains.
        let _ = remove_tree(&self.tmp);
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads every lease: the lines of the living, and the ids of the dead. Call with the store's lock held exclusively.
pub(super) fn survey(root: &Path) -> Result<(HashSet<String>, Vec<String>), Error> {
    let dir = root.join("leases");
    let (mut held, mut dead) = (HashSet::new(), vec![]);
    for entry in fs::read_dir(&dir).map_err(Error::io("cannot read directory", &dir))? {
        let path = entry.map_err(Error::io("cannot read directory", &dir))?.path();
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = match File::open(&path) {
            Ok(f) => f,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("cannot open", &path)(e)),
        };
        if file.try_lock_shared().is_ok() {
            dead.push(id);
        } else {
            let lines = fs::read_to_string(&path).map_err(Error::io("cannot read", &path))?;
            held.extend(lines.lines().map(str::to_owned));
        }
    }
    Ok((held, dead))
}

/// A directory that is removed with all it holds when the value is dropped.
#[derive(Debug)]
pub struct TempDir {
    path: Option<PathBuf>,
}

impl TempDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Moves the directory to `to` in one step, where it stays. Returns `false`, and removes it, where `to` exists: then
    /// somebody else made the same thing first.
    ///
    /// # Errors
    /// Where the rename fails for another reason.
    pub fn publish(mut self, to: &Path) -> Result<bool, Error> {
        let Some(from) = self.path.as_deref() else { return Ok(false) };
        match fs::rename(from, to) {
            Ok(()) => {
                self.path = None;
                Ok(true)
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => Ok(false),
            Err(e) => Err(Error::io("cannot rename to", to)(e)),
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(e) = remove_tree(path)
        {
            tracing::debug!(path = %path.display(), error = %e, "cannot remove");
        }
    }
}

/// Removes a directory with all it holds, also where a directory's own mode forbids reading it (an overlay's work
/// directory has mode 0). A missing one is no error.
///
/// # Errors
/// The first thing that could not be removed; the rest is removed all the same.
pub fn remove_tree(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            open_modes(path);
            fs::remove_dir_all(path)
        }
        Err(e) => Err(e),
    }
}

/// Gives the owner all rights on every directory below `path`, as far as possible.
fn open_modes(path: &Path) {
    let mut todo = vec![path.to_owned()];
    while let Some(dir) = todo.pop() {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let _ = fs::set_permissions(&dir, mode);
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for e in entries.flatten() {
            if e.file_type().is_ok_and(|t| t.is_dir()) {
                todo.push(e.path());
            }
        }
    }
}
