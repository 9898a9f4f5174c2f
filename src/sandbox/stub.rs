//! The stub layer: a layer directory of empty mount points below every image.
//!
//! ```text
//! fs/  dev/ proc/ sys/ etc/hosts etc/resolv.conf
//! ```
//!
//! As the lowest layer of a step's overlay it gives images that lack these names something to mount on, without a trace in
//! the upper directory. Where an image has a directory of the same name, that one's owner, mode and time are seen.

use crate::sys::fs::unique_word;
use std::fs::{self, File, FileTimes};
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Makes the layer directory of empty mount points as the directory `dir`, where it is not there yet. Safe to call from several processes at once. Errors name no path.
pub fn make_stub(dir: &Path) -> io::Result<()> {
    let dir = dir.join("fs");
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new("/"));
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let building = parent.join(format!(".{name}.{}", unique_word()));
    fs::create_dir_all(&building)?;
    for name in ["dev", "proc", "sys", "etc"] {
        mode(&building.join(name), || fs::create_dir(building.join(name)), 0o755)?;
    }
    for name in ["etc/hosts", "etc/resolv.conf"] {
        mode(&building.join(name), || File::create(building.join(name)).map(drop), 0o644)?;
    }
    let old = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH).set_accessed(SystemTime::UNIX_EPOCH);
    for name in ["etc/hosts", "etc/resolv.conf", "dev", "proc", "sys", "etc", "."] {
        File::open(building.join(name))?.set_times(old)?;
    }
    mode(&building, || Ok(()), 0o755)?;
    match fs::rename(&building, &dir) {
        Ok(()) => Ok(()),
        // Another process was faster.
        Err(_) if dir.is_dir() => fs::remove_dir_all(&building),
        Err(e) => Err(e),
    }
}

/// Makes something with exactly this mode, whatever the umask and the set-group-id bit of the directory are.
fn mode(path: &Path, make: impl FnOnce() -> io::Result<()>, bits: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    make()?;
    fs::set_permissions(path, fs::Permissions::from_mode(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_by_many_at_once() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("stub");
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| make_stub(&dir).unwrap());
            }
        });
        assert_eq!(fs::read(dir.join("fs/etc/hosts")).unwrap(), b"");
        assert_eq!(fs::metadata(dir.join("fs/proc")).unwrap().modified().unwrap(), SystemTime::UNIX_EPOCH);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        make_stub(&dir).unwrap();
    }
}
