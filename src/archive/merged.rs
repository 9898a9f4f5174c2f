//! A stack of layer directories as one tree, read without a mount.
//!
//! The rules are overlayfs': the uppermost layer that has a name decides; a whiteout hides it; directories merge with
//! those below until one is opaque or something else than a directory is in the way.
//!
//! ```text
//! layer 1   a/      b (whiteout)          c (file)
//! layer 0   a/x     b                     c/y           sees  a/  a/x  c (file)
//! ```
//!
//! Layers must not change while a view of them exists. Every call names files by a path below the layer's `fs/` whose
//! parents the view itself has found to be directories of that layer, so no symbolic link is ever followed by the kernel.
//! Symbolic links are followed only by [`Merged::resolve`], inside the root.

use rustix::fs::{AtFlags, FileType, Stat};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::Error;
use super::layer::{Layer, names, open_dir, open_file, stat};
use super::node::{self, Disk, Kind, Node, Xattrs};
use super::record::{Record, Records};
use super::whiteout;
use crate::sys::idmap::IdMap;

/// Symbolic links that one path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;
/// Directories whose layers are remembered.
const CACHED_DIRS: usize = 4096;

/// A path whose symbolic links have been followed inside the root.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The path, relative to the root and clean. Of what does not exist the rest is appended as it was written.
    pub path: PathBuf,
    /// What is there.
    pub node: Option<Node>,
}

/// Stacked layer directories.
#[derive(Debug)]
pub struct Merged {
    layers: Vec<Arc<Layer>>,
    map: IdMap,
    stacks: Mutex<HashMap<Box<[u8]>, Option<Stack>>>,
}

/// Indices of the layers whose directories make up one directory, uppermost first; never empty.
type Stack = Arc<[usize]>;

impl Merged {
    /// A view of `layers`, lowest first; each is a layer directory that holds `fs/` and may hold `records`.
    /// No layer at all is an empty tree.
    ///
    /// # Errors
    /// A layer has no `fs/`, or its records cannot be read.
    pub fn open<P: AsRef<Path>>(layers: &[P], map: &IdMap) -> Result<Merged, Error> {
        let layers: Result<_, _> = layers.iter().map(|dir| Layer::open(dir.as_ref()).map(Arc::new)).collect();
        Ok(Merged::of(layers?, map))
    }

    /// A view of layers that are open already, lowest first.
    pub fn of(layers: Vec<Arc<Layer>>, map: &IdMap) -> Merged {
        Merged { layers, map: *map, stacks: Mutex::default() }
    }

    /// How ids on disk relate to the image's.
    pub fn id_map(&self) -> &IdMap {
        &self.map
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// What is recorded of the files of this view, by path.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn records(&self) -> Result<Records, Error> {
        let mut all = Records::new();
        for (index, layer) in self.layers.iter().enumerate() {
            for (path, record) in layer.records.iter() {
                if self.lookup(path)?.is_some_and(|node| node.layer == index) {
                    all.insert(path, Record { opaque: false, ..record.clone() });
                }
            }
        }
        Ok(all)
    }

    /// Whether the lower layers have a record of the owner of what is at `path`.
    pub(crate) fn has_recorded_owner(&self, path: &Path) -> Result<bool, Error> {
        if self.layers.iter().all(|layer| layer.records.is_empty()) {
            return Ok(false);
        }
        let record = self.lookup(path)?.and_then(|node| node.record);
        Ok(record.is_some_and(|record| record.uid.is_some() || record.gid.is_some()))
    }

    /// What is at `path`; the last component and its parents are not followed if they are links.
    ///
    /// # Errors
    /// A file-system call fails. Nothing being there is no error.
    pub fn lookup(&self, path: &Path) -> Result<Option<Node>, Error> {
        let path = node::clean(path);
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => match self.stack(parent)? {
                Some(stack) => self.child(&stack, parent, name),
                None => Ok(None),
            },
            _ => self.root(),
        }
    }

    /// Follows the symbolic links of `path` inside the root, as a process in a chroot would; the last component only if
    /// `follow_last`.
    ///
    /// # Errors
    /// A file-system call fails, links loop, or a parent is neither a directory nor missing.
    pub fn resolve(&self, path: &Path, follow_last: bool) -> Result<Resolved, Error> {
        resolve(path, follow_last, |at| self.lookup(at), |link| self.read_link(link))
    }

    /// The names in the directory `path` (no links followed), sorted by their bytes, with what each is.
    ///
    /// # Errors
    /// `path` is not a directory, or a file-system call fails.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Node)>, Error> {
        let path = node::clean(path);
        let Some(stack) = self.stack(&path)? else { return Err(Error::Missing(path)) };
        let mut seen: BTreeMap<OsString, Option<Node>> = BTreeMap::new();
        for index in stack.iter().copied() {
            let layer = self.layer(index)?;
            let failed = |e: rustix::io::Errno| Error::file("read directory", &layer.absolute(&path))(e);
            let fd = open_dir(&layer.fs, &path).map_err(failed)?;
            for name in names(&fd).map_err(failed)? {
                if seen.contains_key(&name) {
                    continue;
                }
                let stat = stat(&fd, Path::new(&name)).map_err(failed)?;
                let found = stat.and_then(|stat| self.node(index, layer, path.join(&name), &stat));
                seen.insert(name, found);
            }
        }
        Ok(seen.into_iter().filter_map(|(name, node)| Some((name, node?))).collect())
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// It is another kind of file, or cannot be opened.
    pub fn open_file(&self, node: &Node) -> Result<File, Error> {
        let layer = self.layer(node.layer)?;
        if let Some(contents) = layer.contents.as_ref().filter(|_| node.is_file() && node.meta.size > 0) {
            return contents.open(node.meta.ino).map_err(Error::file("open", &layer.absolute(&node.path)));
        }
        match open_file(&layer.fs, &node.path) {
            Ok(fd) if node.meta.kind == Kind::File => Ok(File::from(fd)),
            Ok(_) => {
                Err(Error::file("read", &layer.absolute(&node.path))(io::Error::from(io::ErrorKind::InvalidInput)))
            }
            Err(e) => Err(Error::file("open", &layer.absolute(&node.path))(e)),
        }
    }

    /// The target of a symbolic link, as it is stored.
    ///
    /// # Errors
    /// It is not a link, or cannot be read.
    pub fn read_link(&self, node: &Node) -> Result<PathBuf, Error> {
        let layer = self.layer(node.layer)?;
        let target = rustix::fs::readlinkat(&layer.fs, node::at(&node.path), Vec::new())
            .map_err(|e| Error::file("read link", &layer.absolute(&node.path))(e))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// The extended attributes that layers carry, under the names that an image gives them: `user.*` without the marks
    /// of overlayfs, and file capabilities in version 2.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn xattrs(&self, node: &Node) -> Result<Xattrs, Error> {
        let layer = self.layer(node.layer)?;
        let mut out = match node.meta.kind {
            Kind::File | Kind::Dir => open_file(&layer.fs, &node.path)
                .and_then(|fd| node::read_xattrs(fd.as_fd()))
                .map_err(|e| Error::file("read attributes of", &layer.absolute(&node.path))(e))?,
            _ => Xattrs::new(),
        };
        if let Some(record) = &node.record {
            out.extend(record.xattrs.clone());
        }
        Ok(out)
    }

    /// Opens what lies on disk for a regular file, a device or a directory.
    pub(super) fn open_raw(&self, node: &Node) -> Result<OwnedFd, Error> {
        let layer = self.with_contents(node)?;
        open_file(&layer.fs, &node.path).map_err(|e| Error::file("open", &layer.absolute(&node.path))(e))
    }

    /// Gives what lies on disk for a file a further name; `false` where the file system has no room for one, or is
    /// another.
    pub(super) fn link_raw(&self, node: &Node, dir: &OwnedFd, name: &OsStr) -> Result<bool, Error> {
        use rustix::io::Errno;
        let layer = self.with_contents(node)?;
        match rustix::fs::linkat(&layer.fs, &node.path, dir, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP) => Ok(false),
            Err(e) => Err(Error::file("link", &layer.absolute(&node.path))(e)),
        }
    }

    /// The absolute path on disk, for messages and for cloning data.
    pub fn disk_path(&self, node: &Node) -> Option<PathBuf> {
        self.layers.get(node.layer).map(|layer| layer.absolute(&node.path))
    }

    fn layer(&self, index: usize) -> Result<&Layer, Error> {
        self.layers
            .get(index)
            .map(|layer| &**layer)
            .ok_or_else(|| Error::Missing(PathBuf::from(format!("layer {index}"))))
    }

    /// The layer of a file, where that has its contents itself.
    fn with_contents(&self, node: &Node) -> Result<&Layer, Error> {
        let layer = self.layer(node.layer)?;
        match layer.contents {
            None => Ok(layer),
            Some(_) => Err(Error::Unsupported(format!("`{}` as it is on disk: it is hollow", node.path.display()))),
        }
    }

    fn root(&self) -> Result<Option<Node>, Error> {
        let Some((index, layer)) = self.layers.iter().enumerate().next_back() else { return Ok(None) };
        let stat = layer.stat(Path::new(""))?;
        Ok(stat.and_then(|stat| self.node(index, layer, PathBuf::new(), &stat)))
    }

    /// A file of one layer; `None` for a whiteout.
    fn node(&self, index: usize, layer: &Layer, path: PathBuf, stat: &Stat) -> Option<Node> {
        if whiteout::is(stat) {
            return None;
        }
        let record = layer.record(&path).cloned();
        let meta = node::meta(stat, record.as_deref(), &self.map);
        Some(Node { layer: index, path, meta, disk: Disk::of(stat), record })
    }

    /// The uppermost `name` in the directory `parent` that `stack` makes up.
    fn child(&self, stack: &[usize], parent: &Path, name: &OsStr) -> Result<Option<Node>, Error> {
        let path = parent.join(name);
        for index in stack.iter().copied() {
            let layer = self.layer(index)?;
            if let Some(stat) = layer.stat(&path)? {
                return Ok(self.node(index, layer, path, &stat));
            }
        }
        Ok(None)
    }

    /// The layers that make up the directory `path` (clean); `None` if there is no directory.
    fn stack(&self, path: &Path) -> Result<Option<Stack>, Error> {
        if path.as_os_str().is_empty() {
            let all: Stack = (0..self.layers.len()).rev().collect();
            return Ok((!all.is_empty()).then_some(all));
        }
        let cache = || self.stacks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cache().get(node::bytes(path)) {
            return Ok(known.clone());
        }
        // From the nearest known parent downwards.
        let mut missing: Vec<&Path> = vec![path];
        let mut stack: Option<Stack> = None;
        for parent in path.ancestors().skip(1) {
            if parent.as_os_str().is_empty() {
                stack = self.stack(parent)?;
                break;
            }
            if let Some(known) = cache().get(node::bytes(parent)) {
                stack = known.clone();
                break;
            }
            missing.push(parent);
        }
        for dir in missing.into_iter().rev() {
            stack = match stack {
                Some(above) => self.narrow(&above, dir)?,
                None => None,
            };
            let mut cache = cache();
            if cache.len() >= CACHED_DIRS {
                cache.clear();
            }
            cache.insert(node::bytes(dir).into(), stack.clone());
        }
        Ok(stack)
    }

    /// Of the layers that make up the parent of `dir`, those that make up `dir`.
    fn narrow(&self, above: &[usize], dir: &Path) -> Result<Option<Stack>, Error> {
        let mut out = Vec::new();
        for (place, index) in above.iter().copied().enumerate() {
            let layer = self.layer(index)?;
            let Some(stat) = layer.stat(dir)? else { continue };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                break;
            }
            out.push(index);
            if place + 1 < above.len() && layer.is_opaque(dir)? {
                break;
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }
}

/// Follows `path` through a tree that is given by its lookup and its links. See [`Merged::resolve`].
pub(crate) fn resolve(
    path: &Path,
    follow_last: bool,
    mut lookup: impl FnMut(&Path) -> Result<Option<Node>, Error>,
    mut read_link: impl FnMut(&Node) -> Result<PathBuf, Error>,
) -> Result<Resolved, Error> {
    const LONGEST: usize = 1 << 16;
    let mut todo: VecDeque<OsString> = split(path);
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(&name);
        let Some(found) = lookup(&at)? else {
            for rest in todo {
                if rest == ".." {
                    at.pop();
                } else {
                    at.push(rest);
                }
            }
            // `..` may have led back to what exists.
            let node = lookup(&at)?;
            return Ok(Resolved { path: at, node });
        };
        let last = todo.is_empty();
        match found.meta.kind {
            Kind::Symlink if !last || follow_last => {
                links += 1;
                let target = read_link(&found)?;
                if links > MAX_LINKS || target.as_os_str().len() > LONGEST {
                    return Err(Error::Loop(path.to_owned()));
                }
                at.pop();
                if target.has_root() {
                    at.clear();
                }
                let mut next = split(&target);
                next.append(&mut todo);
                todo = next;
            }
            Kind::Dir => {}
            _ if !last => return Err(Error::NotDirectory { path: path.to_owned(), at }),
            _ => {}
        }
    }
    let node = lookup(&at)?;
    Ok(Resolved { path: at, node })
}

fn split(path: &Path) -> VecDeque<OsString> {
    path.as_os_str()
        .as_bytes()
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsStr::from_bytes(part).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::layer::FS;
    use crate::archive::record::Device;
    use rustix::fs::Mode;
    use std::os::unix::fs::symlink;

    /// Layer directories with files given as `path` (directory when it ends with `/`), `path=content`, `path->target`,
    /// `path!` (whiteout), `path/?` (opaque directory).
    fn layers(dir: &Path, specs: &[&[&str]]) -> Vec<PathBuf> {
        let mut out = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let layer = dir.join(index.to_string());
            let fs = layer.join(FS);
            std::fs::create_dir_all(&fs).unwrap();
            for item in *spec {
                if let Some((path, target)) = item.split_once("->") {
                    symlink(target, fs.join(path)).unwrap();
                } else if let Some((path, content)) = item.split_once('=') {
                    std::fs::write(fs.join(path), content).unwrap();
                } else if let Some(path) = item.strip_suffix('!') {
                    let kind = rustix::fs::FileType::CharacterDevice;
                    rustix::fs::mknodat(rustix::fs::CWD, fs.join(path), kind, Mode::empty(), 0).unwrap();
                } else if let Some(path) = item.strip_suffix('?') {
                    std::fs::create_dir(fs.join(path)).unwrap();
                    let flags = rustix::fs::XattrFlags::empty();
                    rustix::fs::setxattr(fs.join(path), "user.overlay.opaque", b"y", flags).unwrap();
                } else {
                    std::fs::create_dir(fs.join(item)).unwrap();
                }
            }
            out.push(layer);
        }
        out
    }

    fn list(view: &Merged, path: &str) -> Vec<String> {
        view.read_dir(Path::new(path)).unwrap().into_iter().map(|(n, _)| n.into_string().unwrap()).collect()
    }

    #[test]
    fn layers_merge_as_overlayfs_merges_them() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(
            dir.path(),
            &[
                &["a/", "a/x=0", "b=0", "c/", "c/y=0", "d/", "d/old=0", "e=0"],
                &["a/", "a/z=1", "b!", "c=1", "d/?", "d/new=1", "e/", "e/in=1"],
                &["a/", "a/x!", "c/", "c/top=2"],
            ],
        );
        let view = Merged::open(&layers, &IdMap::Plain).unwrap();
        assert_eq!(list(&view, ""), ["a", "c", "d", "e"]);
        assert_eq!(list(&view, "a"), ["z"]);
        assert_eq!(list(&view, "/c/"), ["top"], "a file in between ends the merge");
        assert_eq!(list(&view, "d"), ["new"]);
        assert_eq!(list(&view, "e"), ["in"]);
        assert!(view.lookup(Path::new("a/x")).unwrap().is_none());
        assert!(view.lookup(Path::new("d/old")).unwrap().is_none());
        assert!(view.lookup(Path::new("c/y")).unwrap().is_none());
        let z = view.lookup(Path::new("a/z")).unwrap().unwrap();
        assert_eq!((z.layer, std::io::read_to_string(view.open_file(&z).unwrap()).unwrap().as_str()), (1, "1"));
        assert!(matches!(view.read_dir(Path::new("b")), Err(Error::Missing(_))));
    }

    #[test]
    fn links_are_followed_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(
            dir.path(),
            &[
                &[
                    "usr/",
                    "usr/bin/",
                    "usr/bin/sh=0",
                    "bin->usr/bin",
                    "up->../../../usr",
                    "abs->/usr/bin",
                    "dead->/no/x",
                ],
                &["usr/", "usr/lib/", "here->./abs/../lib", "loop->loop", "file=1"],
            ],
        );
        let view = Merged::open(&layers, &IdMap::Plain).unwrap();
        let to = |path: &str, follow| {
            let r = view.resolve(Path::new(path), follow).unwrap();
            (r.path.to_str().unwrap().to_owned(), r.node.is_some())
        };
        assert_eq!(to("/bin/sh", false), ("usr/bin/sh".into(), true));
        assert_eq!(to("bin", false), ("bin".into(), true));
        assert_eq!(to("bin/", true), ("usr/bin".into(), true));
        assert_eq!(to("up/bin/sh", false), ("usr/bin/sh".into(), true));
        assert_eq!(to("abs/new/deep", true), ("usr/bin/new/deep".into(), false));
        assert_eq!(to("dead/y", false), ("no/x/y".into(), false));
        assert_eq!(to("here", true), ("usr/lib".into(), true));
        assert_eq!(to("../../..", true), (String::new(), true));
        assert_eq!(to("none/../bin/sh", true).0, "bin/sh");
        assert!(matches!(view.resolve(Path::new("loop/x"), false), Err(Error::Loop(_))));
        assert!(matches!(view.resolve(Path::new("file/x"), false), Err(Error::NotDirectory { .. })));
    }

    #[test]
    fn records_override_what_the_disk_says() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path(), &[&["null=", "plain=x"]]);
        let mut records = Records::new();
        let null = Record { device: Some(Device::Char(1, 3)), mode: Some(0o666), gid: Some(5), ..Record::default() };
        records.insert(Path::new("null"), null);
        records.save(&layers[0]).unwrap();
        let view = Merged::open(&layers, &IdMap::Plain).unwrap();
        let null = view.lookup(Path::new("null")).unwrap().unwrap().meta;
        assert_eq!((null.kind, null.mode, null.uid, null.gid), (Kind::Char(1, 3), 0o666, 0, 5));
        let plain = view.lookup(Path::new("plain")).unwrap().unwrap().meta;
        assert_eq!((plain.kind, plain.uid, plain.gid), (Kind::File, 0, 0), "without a namespace files are root's");
    }

    #[test]
    fn an_empty_stack_is_an_empty_tree() {
        let view = Merged::open::<PathBuf>(&[], &IdMap::Plain).unwrap();
        assert!(view.lookup(Path::new("")).unwrap().is_none());
        assert_eq!(view.resolve(Path::new("/a/b"), true).unwrap().path, Path::new("a/b"));
    }
}
