//! From the paths that processes name to places in the tree.

use super::Errno;
use super::ids::Credentials;
use super::view::{Child, Dir, View, name_of};
use rustix::fs::readlinkat;
use std::sync::Arc;

/// As many symbolic links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;
/// As long as the kernel lets a path be, with the zero at its end.
pub(super) const PATH_BYTES: usize = 4096;

/// A name in a directory, whether there is such a file or not.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The directory.
    pub(super) dir: Arc<Dir>,
    /// The name; empty for the directory itself.
    pub(super) name: Vec<u8>,
    /// Whether it can only be a directory, because a slash follows the name.
    pub(super) directory: bool,
    /// Whether something is mounted there.
    pub(super) mounted: bool,
    /// How many links led there.
    links: u32,
}

impl Place {
    /// A directory.
    pub(super) fn directory(dir: Arc<Dir>) -> Place {
        Place { dir, name: Vec::new(), directory: true, mounted: false, links: 0 }
    }

    /// The place by the directory above and the name there; `None` for the root.
    pub(super) fn by_name(&self) -> Option<(Arc<Dir>, Vec<u8>)> {
        if !self.name.is_empty() {
            return Some((Arc::clone(&self.dir), self.name.clone()));
        }
        self.dir.up().map(|(dir, name)| (Arc::clone(dir), name.to_vec()))
    }

    /// The path in the step.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut path = self.dir.path();
        if self.mounted && !self.name.is_empty() {
            // A mounted file is held by the builder's directory, whose way up is the place of the mount itself.
            return path;
        }
        if !self.name.is_empty() {
            if path != b"/" {
                path.push(b'/');
            }
            path.extend_from_slice(&self.name);
        }
        path
    }
}

/// Who resolves a path.
#[derive(Debug, Clone)]
pub(super) struct Start {
    /// What `/` is.
    pub(super) root: Arc<Dir>,
    /// Where a relative path starts.
    pub(super) base: Arc<Dir>,
    /// The thread.
    pub(super) tid: i32,
    /// Who looks, where permissions on the way count.
    pub(super) who: Option<Arc<Credentials>>,
    /// Whether links on the way are an error.
    pub(super) no_links: bool,
}

/// Asked before a name is looked up in a directory.
pub(super) type Search<'a> = &'a dyn Fn(&Dir) -> Result<(), Errno>;

impl View {
    /// The place that `path` names. A link at its end is not followed: see [`View::follow`].
    pub(super) fn walk(&mut self, start: &Start, path: &[u8], search: Option<Search<'_>>) -> Result<Place, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        self.walk_from(start, Arc::clone(&start.base), path.to_vec(), 0, search)
    }

    fn walk_from(
        &mut self,
        start: &Start,
        base: Arc<Dir>,
        path: Vec<u8>,
        mut links: u32,
        search: Option<Search<'_>>,
    ) -> Result<Place, Errno> {
        if path.len() >= PATH_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        let mut at = if path.first() == Some(&b'/') { Arc::clone(&start.root) } else { base };
        let mut todo = path;
        let mut from = 0;
        loop {
            let rest = todo.get(from..).unwrap_or_default();
            let Some(skip) = rest.iter().position(|b| *b != b'/') else {
                return Ok(Place { links, ..Place::directory(at) });
            };
            let rest = rest.get(skip..).unwrap_or_default();
            let length = memchr::memchr(b'/', rest).unwrap_or(rest.len());
            let name = rest.get(..length).unwrap_or_default();
            let behind = rest.get(length..).unwrap_or_default();
            let last = behind.iter().all(|b| *b == b'/');
            from = from + skip + length;
            if name == b"." {
                continue;
            }
            if let Some(search) = search {
                search(&at)?;
            }
            if name == b".." {
                if at.id != start.root.id || at.mount != start.root.mount {
                    at = match at.up() {
                        Some((up, _)) => Arc::clone(up),
                        None => at,
                    };
                }
                continue;
            }
            if last && behind.is_empty() {
                let name = name.to_vec();
                return self.end(at, name, start.tid, links);
            }
            match self.child(&at, name, start.tid) {
                Ok(Child::Dir(dir)) => at = dir,
                Ok(Child::Link(target)) => {
                    links += 1;
                    if links > MAX_LINKS || start.no_links {
                        return Err(Errno::LOOP);
                    }
                    if target.first() == Some(&b'/') {
                        at = Arc::clone(&start.root);
                    }
                    let mut next = target.to_vec();
                    next.extend_from_slice(behind);
                    todo = next;
                    from = 0;
                }
                Ok(Child::File(..) | Child::Other) => return Err(Errno::NOTDIR),
                Err(Errno::NOENT) if last => {
                    let name = name.to_vec();
                    return Ok(Place { dir: at, name, directory: true, mounted: false, links });
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The end of a path, where something may be mounted.
    fn end(&mut self, dir: Arc<Dir>, name: Vec<u8>, tid: i32, links: u32) -> Result<Place, Errno> {
        if self.mounted(&dir, &name).is_some() {
            match self.child(&dir, &name, tid)? {
                Child::Dir(dir) => return Ok(Place { mounted: true, links, ..Place::directory(dir) }),
                Child::File(dir, name) => return Ok(Place { dir, name, directory: false, mounted: true, links }),
                Child::Link(_) | Child::Other => {}
            }
        }
        Ok(Place { dir, name, directory: false, mounted: false, links })
    }

    /// Where the link at a place leads; `None` where there is no link.
    pub(super) fn follow(
        &mut self,
        start: &Start,
        place: &Place,
        search: Option<Search<'_>>,
    ) -> Result<Option<Place>, Errno> {
        if place.name.is_empty() {
            return Ok(None);
        }
        let target = match &place.dir.proc {
            Some(_) => match self.child(&place.dir, &place.name, start.tid) {
                Ok(Child::Link(target)) => target.to_vec(),
                Ok(_) => return Ok(None),
                Err(e) => return Err(e),
            },
            None => match readlinkat(&place.dir, name_of(&place.name), Vec::new()) {
                Ok(target) => target.into_bytes(),
                Err(Errno::INVAL) => return Ok(None),
                Err(e) => return Err(e),
            },
        };
        if place.links >= MAX_LINKS || start.no_links {
            return Err(Errno::LOOP);
        }
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        self.walk_from(start, Arc::clone(&place.dir), target, place.links + 1, search).map(Some)
    }
}
