//! Where selected entries go, and writing them there.

use super::transfer::Transfer;
use super::tree::Tree;
use super::{Copied, Error, Found, Request, Selection, Source, Walk, escaped, select, shown, unpack};
use crate::archive;
use crate::archive::node::{Kind, Meta, Node, Time, Xattrs, clean};
use crate::archive::upper::{Attrs, Upper};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Copies everything that `request` names from `tree` into `upper`.
///
/// The caller ends the layer with [`Upper::finish`].
///
/// # Errors
///
/// A source that is not there, a destination that does not fit, or a failed file-system call. The upper directory then
/// holds a part of the copy.
pub fn copy(request: &Request, tree: &dyn Tree, upper: &mut Upper<'_>) -> Result<Copied, Error> {
    let selected = select(request, tree)?;
    let mut writer = Writer { request, tree, upper, transfer: Transfer::default(), copied: Copied::default() };
    for source in &selected.sources {
        match source {
            Source::Tree(selection) if selection.meta.kind == Kind::Dir => writer.contents(selection)?,
            Source::Tree(selection) => writer.single(selection)?,
            Source::Inline { name, content } => writer.inline(name, content)?,
        }
    }
    Ok(writer.copied)
}

/// The destination of a request, as it is at the moment.
struct Dest {
    /// Real path.
    path: PathBuf,
    /// What is there.
    meta: Option<Meta>,
}

struct Writer<'a, 'u, 'm> {
    request: &'a Request,
    tree: &'a dyn Tree,
    upper: &'u mut Upper<'m>,
    transfer: Transfer,
    copied: Copied,
}

/// For files with several names: the first copy of each.
type Links = HashMap<(u64, u64), PathBuf>;

impl Writer<'_, '_, '_> {
    /// Metadata of a directory that the copy makes on its own account.
    fn made(&self) -> Attrs {
        self.attrs(0o755, true, (0, 0), Some(Time::seconds(self.request.implicit_mtime)), Xattrs::new())
    }

    fn attrs(&self, mode: u32, is_dir: bool, owner: (u32, u32), mtime: Option<Time>, xattrs: Xattrs) -> Attrs {
        let (uid, gid) = self.request.chown.unwrap_or(owner);
        let mode = self.request.chmod.as_ref().map_or(mode, |chmod| chmod.apply(mode, is_dir));
        Attrs { mode, uid, gid, mtime, xattrs }
    }

    fn attrs_of(&self, meta: &Meta, xattrs: Xattrs) -> Attrs {
        self.attrs(meta.mode, meta.kind == Kind::Dir, (meta.uid, meta.gid), Some(meta.mtime), xattrs)
    }

    /// Looks at the destination, and makes the directories that it says are ones.
    fn dest(&mut self) -> Result<Dest, Error> {
        let dest = &self.request.dest;
        let is_dir = dest.is_empty() || dest.ends_with('/') || dest.ends_with("/.") || dest == ".";
        let path = clean(Path::new(dest));
        let made = self.made();
        if is_dir {
            self.upper.ensure_dir(&path, &made)?;
        } else if let Some(parent) = path.parent() {
            self.upper.ensure_dir(parent, &made)?;
        }
        let found = self.upper.resolve(&path, true)?;
        Ok(Dest { path: found.path, meta: found.node.map(|n| n.meta) })
    }

    /// Where a file called `name` goes: into a destination that is a directory, else to the destination itself.
    fn file_target(&mut self, name: &Path) -> Result<PathBuf, Error> {
        let dest = self.dest()?;
        if matches!(&dest.meta, Some(m) if m.kind == Kind::Dir) {
            let target = dest.path.join(name);
            self.upper.ensure_dir(&dest.path, &self.made())?;
            return Ok(target);
        }
        self.copied.named += 1;
        // A link in the destination may lead to where nothing is yet.
        if let Some(parent) = dest.path.parent() {
            self.upper.ensure_dir(parent, &self.made())?;
        }
        Ok(dest.path)
    }

    /// Fails where a directory is: nothing but a directory may take its place.
    fn no_dir(&self, target: &Path) -> Result<(), Error> {
        match self.upper.lookup(target)? {
            Some(node) if node.is_dir() => Err(Error::FileOverDir(shown(target))),
            _ => Ok(()),
        }
    }

    /// Copies anything but a directory; an archive is unpacked where the request says so.
    fn single(&mut self, selection: &Selection) -> Result<(), Error> {
        let may_unpack = self.request.unpack && selection.meta.kind == Kind::File;
        if may_unpack && unpack::is_archive(self.tree, &selection.path)? {
            let (made, dest) = (self.made(), clean(Path::new(&self.request.dest)));
            unpack::unpack(self.tree, &selection.path, self.upper, &dest, &made, self.request.chown)
                .map_err(|error| Error::Unpack { path: escaped(&selection.written), error })?;
            self.copied.entries += 1;
            return Ok(());
        }
        let target = self.file_target(Path::new(&selection.name))?;
        self.no_dir(&target)?;
        self.leaf(&selection.path, &selection.meta, &target, &mut Links::new())
    }

    fn inline(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        let target = self.file_target(&clean(Path::new(name)))?;
        self.no_dir(&target)?;
        let time = Some(Time::seconds(self.request.implicit_mtime));
        let attrs = self.attrs(0o644, false, (0, 0), time, Xattrs::new());
        self.upper.file(&target, &attrs, |to| {
            std::io::Write::write_all(to, content).map_err(archive::Error::file("write", &target))
        })?;
        self.copied.entries += 1;
        self.copied.bytes += content.len() as u64;
        Ok(())
    }

    /// Copies what is in a directory to the destination, which becomes one.
    fn contents(&mut self, selection: &Selection) -> Result<(), Error> {
        let dest = self.dest()?;
        match &dest.meta {
            Some(meta) if meta.kind != Kind::Dir => return Err(Error::DirOverFile(shown(&dest.path))),
            _ => {}
        }
        let base = self.upper.ensure_dir(&dest.path, &self.made())?;
        let mut links = Links::new();
        // The directory that this copy has made, below which nothing can be in the way. A walk goes depth first, so it
        // holds until the walk leaves it.
        let mut fresh = dest.meta.is_none().then(|| base.clone());
        for found in Walk::new(self.tree, selection, &self.request.exclude) {
            let found = found?;
            if found.rel.as_os_str().is_empty() {
                continue;
            }
            let target = base.join(&found.rel);
            let source = selection.path.join(&found.rel);
            if !fresh.as_ref().is_some_and(|dir| target.starts_with(dir)) {
                fresh = None;
            }
            let existing = if fresh.is_some() { None } else { self.upper.lookup(&target)? };
            if found.meta.kind == Kind::Dir {
                if existing.is_none() && fresh.is_none() {
                    fresh = Some(target.clone());
                }
                self.directory(&source, &found, &target, existing)?;
            } else if matches!(&existing, Some(node) if node.is_dir()) {
                return Err(Error::FileOverDir(shown(&target)));
            } else {
                self.leaf(&source, &found.meta, &target, &mut links)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, source: &Path, found: &Found, target: &Path, existing: Option<Node>) -> Result<(), Error> {
        let attrs = match existing {
            None => self.attrs_of(&found.meta, self.tree.xattrs(source, None)?),
            Some(node) if !node.is_dir() => return Err(Error::DirOverFile(shown(target))),
            Some(node) => {
                // Copied up first, so that it keeps the attributes that the source does not have.
                let mut attrs = self.attrs_of(&found.meta, self.tree.xattrs(source, None)?);
                self.upper.ensure_dir(target, &attrs)?;
                if found.implied {
                    // On the way to something selected, a directory that exists gets but the mode.
                    let Meta { uid, gid, mtime, .. } = node.meta;
                    attrs = Attrs { mode: attrs.mode, uid, gid, mtime: Some(mtime), xattrs: Xattrs::new() };
                }
                attrs
            }
        };
        self.upper.dir(target, &attrs)?;
        self.copied.entries += 1;
        Ok(())
    }

    /// Copies one entry that is no directory to a place where none is.
    fn leaf(&mut self, source: &Path, meta: &Meta, target: &Path, links: &mut Links) -> Result<(), Error> {
        match meta.kind {
            Kind::File => {
                if meta.nlink > 1 {
                    if let Some(first) = links.get(&(meta.dev, meta.ino)) {
                        match self.upper.hardlink(target, first) {
                            Ok(()) => {
                                self.copied.entries += 1;
                                return Ok(());
                            }
                            Err(error) if !too_many_links(&error) => return Err(error.into()),
                            Err(_) => {}
                        }
                    }
                    links.insert((meta.dev, meta.ino), target.to_owned());
                }
                let file = self.tree.open(source)?;
                let attrs = self.attrs_of(meta, self.tree.xattrs(source, Some(&file))?);
                let transfer = &mut self.transfer;
                let mut written = 0;
                self.upper.file(target, &attrs, |to| {
                    written = transfer.run(&file, to).map_err(archive::Error::file("copy to", target))?;
                    Ok(())
                })?;
                self.copied.bytes += written;
            }
            Kind::Symlink => {
                let to = self.tree.read_link(source)?;
                self.upper.symlink(target, &to, &self.attrs_of(meta, Xattrs::new()))?;
            }
            Kind::Fifo => self.upper.fifo(target, &self.attrs_of(meta, Xattrs::new()))?,
            Kind::Char(..) | Kind::Block(..) => {
                self.upper.device(target, meta.kind, &self.attrs_of(meta, Xattrs::new()))?;
            }
            // No image can hold a socket, and a directory never comes here.
            Kind::Socket | Kind::Dir => return Ok(()),
        }
        self.copied.entries += 1;
        Ok(())
    }
}

fn too_many_links(error: &archive::Error) -> bool {
    matches!(error, archive::Error::File { source, .. } if source.raw_os_error() == Some(libc::EMLINK))
}
