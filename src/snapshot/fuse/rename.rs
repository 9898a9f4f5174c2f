//! Renaming.
//!
//! A directory that has a lower one cannot be renamed: what is below would have to move, too. The answer is EXDEV, as with
//! overlayfs, and programs copy.

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::sync::Arc;

use super::tree::Node;
use super::{Overlay, Result, join};

/// One of the two names.
struct Side<'a> {
    dir: Arc<Node>,
    name: &'a OsStr,
}

impl Overlay {
    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), flags: RenameFlags) -> Result<()> {
        if flags.intersects(!(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE)) {
            return Err(Errno::INVAL);
        }
        let from = Side { dir: self.tree().dir(from.0)?, name: from.1 };
        let to = Side { dir: self.tree().dir(to.0)?, name: to.1 };
        let node = self.known(&from.dir, from.name)?;
        let target = match self.known(&to.dir, to.name) {
            Ok(target) => Some(target),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e),
        };
        if flags.contains(RenameFlags::NOREPLACE) && target.is_some() {
            return Err(Errno::EXIST);
        }
        let merged = |node: &Node| node.is_dir() && !node.lowers.is_empty();
        if merged(&node) {
            return Err(Errno::XDEV);
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            let target = target.ok_or(Errno::NOENT)?;
            if merged(&target) {
                return Err(Errno::XDEV);
            }
            return self.exchange((&from, &node), (&to, &target));
        }
        match &target {
            Some(target) if target.id == node.id => return Ok(()),
            Some(target) if target.is_dir() && !node.is_dir() => return Err(Errno::ISDIR),
            Some(target) if !target.is_dir() && node.is_dir() => return Err(Errno::NOTDIR),
            Some(target) if target.is_dir() && !self.is_empty(target)? => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.copy_up(&node)?;
        self.copy_up(&from.dir)?;
        self.copy_up(&to.dir)?;
        self.replace(&from, &to, &node, target.as_deref())
    }

    fn replace(&self, from: &Side<'_>, to: &Side<'_>, node: &Node, target: Option<&Node>) -> Result<()> {
        let mut place = target.map(Node::place);
        let _moving = self.moving();
        let old = join(&self.tree().path(from.dir.id)?, from.name);
        let new = join(&self.tree().path(to.dir.id)?, to.name);
        let hides = self.below(&to.dir, &new)?;
        let bares = self.below(&from.dir, &old)?.is_some();
        let whiteout = if bares { Some(self.spare_whiteout()?) } else { None };
        if node.is_dir() && hides == Some(FileType::Directory) {
            self.set_opaque(&old)?;
        }
        let losing = match (target, &place) {
            (Some(target), _) if target.is_dir() => {
                let losing = self.lose_dir(target, &new)?;
                if target.is_upper() {
                    self.remove_upper_dir(&new)?;
                }
                Some(losing)
            }
            (Some(target), Some(place)) => Some(self.lose(target, &place.at, &new)?),
            _ => None,
        };
        self.upper.at(&new, |to_dir, to_name| {
            let rename = || self.upper.at(&old, |dir, name| rustix::fs::renameat(dir, name, to_dir, to_name));
            match rename() {
                // A whiteout, which a directory does not replace.
                Err(Errno::NOTDIR | Errno::EXIST) if node.is_dir() && target.is_none_or(Node::is_dir) => {
                    rustix::fs::unlinkat(to_dir, to_name, AtFlags::empty())?;
                    rename().inspect_err(|_| {
                        let _ = self.put_whiteout(to_dir, to_name);
                    })
                }
                other => other,
            }
        })?;
        if let (Some(losing), Some(place)) = (losing, place.as_mut()) {
            losing.lost(self, &mut place.at);
        }
        if let Some(whiteout) = whiteout {
            self.upper.at(&old, |dir, name| whiteout.put(dir, name))?;
        }
        let mut tree = self.tree();
        if target.is_some() {
            tree.unlink(to.dir.id, to.name);
        }
        tree.rename((from.dir.id, from.name), (to.dir.id, to.name));
        Ok(())
    }

    fn exchange(&self, a: (&Side<'_>, &Node), b: (&Side<'_>, &Node)) -> Result<()> {
        for node in [a.1, b.1, &a.0.dir, &b.0.dir] {
            self.copy_up(node)?;
        }
        let _moving = self.moving();
        let first = join(&self.tree().path(a.0.dir.id)?, a.0.name);
        let second = join(&self.tree().path(b.0.dir.id)?, b.0.name);
        for (node, path, dir, new) in [(a.1, &first, &b.0.dir, &second), (b.1, &second, &a.0.dir, &first)] {
            if node.is_dir() && self.below(dir, new)? == Some(FileType::Directory) {
                self.set_opaque(path)?;
            }
        }
        self.upper.at(&first, |dir, name| {
            self.upper
                .at(&second, |other, last| rustix::fs::renameat_with(dir, name, other, last, RenameFlags::EXCHANGE))
        })?;
        self.tree().exchange((a.0.dir.id, a.0.name), (b.0.dir.id, b.0.name));
        Ok(())
    }
}
