//! The inodes that the kernel knows.
//!
//! A [`Node`] is an inode. The tree holds it as long as the kernel does (it counts the answers that named it, and gives the
//! counts back by forgetting), or as long as it is the parent of such a one. Names lead from a parent's number and a name to
//! a node; a node knows its names, so that its path can be told without one being stored.

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Result;
use super::layers::Layer;
use super::numbers::Numbers;

/// The root's number in the protocol.
pub(super) const ROOT: u64 = 1;
/// The first number that no program sees.
const OWN: u64 = 1 << 62;

/// Stacks of layers that are kept to be shared.
const MOST_STACKS: usize = 4096;

/// An inode.
pub(super) struct Node {
    /// Its number in the protocol.
    pub id: u64,
    /// What it is.
    pub kind: FileType,
    /// Of a directory the layers that show through, uppermost first; of a lower file the layer that has it.
    pub lowers: Arc<[u16]>,
    /// The number that programs see.
    ino: AtomicU64,
    upper: AtomicBool,
    place: Mutex<Place>,
}

/// Where a node is on disk, and what is known of it there.
pub(super) struct Place {
    pub at: At,
    /// Whether it is known to have no file capabilities.
    pub no_caps: bool,
    /// Of a directory: whether new files in it get an access control list, once that is known.
    pub default_acl: Option<bool>,
}

/// Where a node is on disk.
pub(super) enum At {
    /// Under its path in the first of its lower layers.
    Lower,
    /// Under its path in the upper directory.
    Upper,
    /// Its name is gone; the lower layer has it here.
    LostLower(PathBuf),
    /// Its name is gone; this keeps it.
    LostUpper(Arc<OwnedFd>),
    /// It is gone, and this was last known of it.
    Gone(Box<Stat>),
}

/// What was found under a name.
pub(super) struct Found {
    pub kind: FileType,
    pub upper: bool,
    pub lowers: Vec<u16>,
    /// Of the file itself: the upper one where there is one.
    pub stat: Stat,
    /// Device and number of what gives the inode number.
    pub identity: (u64, u64),
}

impl Node {
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether it is in the upper directory.
    pub fn is_upper(&self) -> bool {
        self.upper.load(Ordering::Acquire)
    }

    pub fn set_upper(&self) {
        self.upper.store(true, Ordering::Release);
    }

    pub fn ino(&self) -> u64 {
        self.ino.load(Ordering::Relaxed)
    }

    pub fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Slot {
    node: Arc<Node>,
    /// Answers that named it and were not given back.
    lookups: u64,
    /// Parents' numbers and names; none for the root and for what was removed.
    names: Vec<(u64, Arc<OsStr>)>,
    /// Its number on disk, if it is an upper file.
    upper_ino: Option<u64>,
}

/// Inodes by number and name.
pub(super) struct Tree {
    slots: HashMap<u64, Slot>,
    children: HashMap<u64, HashMap<Arc<OsStr>, u64>>,
    /// Upper files (no directories) by their number on disk: one with several names is one node.
    uppers: HashMap<u64, u64>,
    numbers: Numbers,
    /// The stacks of layers that nodes have: few, of which nearly all nodes share some.
    stacks: HashSet<Arc<[u16]>>,
    next: u64,
}

impl Tree {
    pub fn new(upper: &Layer, lowers: &[Layer]) -> io::Result<Tree> {
        let stat = rustix::fs::fstat(upper.root())?;
        let count = u16::try_from(lowers.len()).map_err(|_| io::Error::other("too many layers"))?;
        // As everywhere: a layer whose root is opaque hides those below.
        let mut stack = Vec::new();
        for index in 0..count {
            stack.push(index);
            if let Some(layer) = lowers.get(usize::from(index))
                && layer.is_opaque(Path::new(""))?
            {
                break;
            }
        }
        let node = Node {
            id: ROOT,
            kind: FileType::Directory,
            lowers: stack.into(),
            ino: AtomicU64::new(stat.st_ino),
            upper: AtomicBool::new(true),
            place: Mutex::new(Place { at: At::Upper, no_caps: true, default_acl: None }),
        };
        let slot = Slot { node: Arc::new(node), lookups: 1, names: Vec::new(), upper_ino: None };
        let numbers = Numbers::new(stat.st_dev);
        Ok(Tree {
            slots: HashMap::from([(ROOT, slot)]),
            children: HashMap::new(),
            uppers: HashMap::new(),
            numbers,
            stacks: HashSet::new(),
            next: OWN,
        })
    }

    pub fn node(&self, id: u64) -> Result<Arc<Node>> {
        self.slots.get(&id).map(|slot| slot.node.clone()).ok_or(Errno::STALE)
    }

    /// A node that other names are below: paths through anything else would follow links.
    pub fn dir(&self, id: u64) -> Result<Arc<Node>> {
        self.node(id).and_then(|node| if node.is_dir() { Ok(node) } else { Err(Errno::NOTDIR) })
    }

    /// What a name is known to lead to; counted as an answer that named it.
    pub fn hold_child(&mut self, parent: u64, name: &OsStr) -> Option<Arc<Node>> {
        let node = self.child(parent, name)?;
        self.count(node.id);
        Some(node)
    }

    fn child(&self, parent: u64, name: &OsStr) -> Option<Arc<Node>> {
        let id = self.children.get(&parent)?.get(name)?;
        self.slots.get(id).map(|slot| slot.node.clone())
    }

    /// Path of a node, relative to the root.
    ///
    /// # Errors
    /// ENOENT: it has no name any more.
    pub fn path(&self, id: u64) -> Result<PathBuf> {
        let mut names: Vec<&OsStr> = Vec::new();
        let mut at = id;
        while at != ROOT {
            let (parent, name) = self.slots.get(&at).and_then(|slot| slot.names.first()).ok_or(Errno::NOENT)?;
            names.push(name);
            at = *parent;
        }
        let mut path = PathBuf::with_capacity(names.iter().map(|n| n.len() + 1).sum());
        path.extend(names.iter().rev());
        Ok(path)
    }

    /// Number of the first parent.
    pub fn parent(&self, id: u64) -> Option<u64> {
        self.slots.get(&id).and_then(|slot| slot.names.first()).map(|(parent, _)| *parent)
    }

    /// The directories above a node that are not in the upper directory yet, nearest first.
    pub fn lower_parents(&self, id: u64) -> Vec<Arc<Node>> {
        let mut out = Vec::new();
        let mut at = id;
        while let Some(slot) = self.parent(at).and_then(|parent| self.slots.get(&parent)) {
            if slot.node.is_upper() {
                break;
            }
            at = slot.node.id;
            out.push(slot.node.clone());
        }
        out
    }

    /// Number of names that are known.
    pub fn names(&self, id: u64) -> usize {
        self.slots.get(&id).map_or(0, |slot| slot.names.len())
    }

    /// Takes in what was found under a name, and counts the answer that will name it.
    pub fn enter(&mut self, parent: u64, name: &OsStr, found: &Found) -> Arc<Node> {
        if let Some(node) = self.child(parent, name) {
            self.count(node.id);
            return node;
        }
        let upper_file = found.upper && found.kind != FileType::Directory;
        if upper_file && let Some(&id) = self.uppers.get(&found.stat.st_ino) {
            self.link(parent, name, id);
            if let Ok(node) = self.node(id) {
                return node;
            }
        }
        let ino = match upper_file {
            true => self.numbers.of_upper(found.stat.st_ino),
            false => self.numbers.of(found.identity),
        };
        // Each name of a lower file with several is a file of its own.
        let shared = !found.upper && found.kind != FileType::Directory && found.stat.st_nlink > 1;
        let usable = !shared && ino > ROOT && ino < OWN && !self.slots.contains_key(&ino);
        let id = if usable { ino } else { self.own_number() };
        let node = Arc::new(Node {
            id,
            kind: found.kind,
            lowers: self.stack(&found.lowers),
            ino: AtomicU64::new(ino),
            upper: AtomicBool::new(found.upper),
            place: Mutex::new(Place {
                at: if found.upper { At::Upper } else { At::Lower },
                no_caps: false,
                default_acl: None,
            }),
        });
        let upper_ino = upper_file.then_some(found.stat.st_ino);
        if let Some(ino) = upper_ino {
            self.uppers.insert(ino, id);
        }
        self.slots.insert(id, Slot { node: node.clone(), lookups: 0, names: Vec::new(), upper_ino });
        self.link(parent, name, id);
        node
    }

    fn stack(&mut self, lowers: &[u16]) -> Arc<[u16]> {
        if let Some(known) = self.stacks.get(lowers) {
            return known.clone();
        }
        let stack: Arc<[u16]> = lowers.into();
        if self.stacks.len() < MOST_STACKS {
            self.stacks.insert(stack.clone());
        }
        stack
    }

    fn own_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn count(&mut self, id: u64) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.lookups += 1;
        }
    }

    /// Gives a node one more name, and counts the answer that will name it.
    pub fn link(&mut self, parent: u64, name: &OsStr, id: u64) {
        self.count(id);
        self.name(parent, name, id);
    }

    fn name(&mut self, parent: u64, name: &OsStr, id: u64) {
        if let Some(slot) = self.slots.get_mut(&id) {
            if slot.names.is_empty() {
                // Nearly all have one: room for four would be most of what a node takes.
                slot.names.reserve_exact(1);
            }
            let name: Arc<OsStr> = name.into();
            slot.names.push((parent, name.clone()));
            self.children.entry(parent).or_default().insert(name, id);
        }
    }

    /// Takes a name away; the node stays as long as the kernel knows it.
    pub fn unlink(&mut self, parent: u64, name: &OsStr) {
        let Some(id) = self.forget_name(parent, name) else { return };
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.names.retain(|(p, n)| (*p, &**n) != (parent, name));
        }
        self.collect(parent);
    }

    fn forget_name(&mut self, parent: u64, name: &OsStr) -> Option<u64> {
        let names = self.children.get_mut(&parent)?;
        let id = names.remove(name);
        if names.is_empty() {
            self.children.remove(&parent);
        }
        id
    }

    /// Moves a node, if it is known, to another name, which nobody has.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) {
        let Some(id) = self.forget_name(from.0, from.1) else { return };
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.names.retain(|(p, n)| (*p, &**n) != from);
        }
        self.name(to.0, to.1, id);
        self.collect(from.0);
    }

    /// Gives each of two nodes the name of the other.
    pub fn exchange(&mut self, a: (u64, &OsStr), b: (u64, &OsStr)) {
        let (first, second) = (self.forget_name(a.0, a.1), self.forget_name(b.0, b.1));
        for (id, old, new) in [(first, a, b), (second, b, a)] {
            let Some(id) = id else { continue };
            if let Some(slot) = self.slots.get_mut(&id)
                && let Some(at) = slot.names.iter().position(|(p, n)| (*p, &**n) == old)
            {
                slot.names.remove(at);
            }
            self.name(new.0, new.1, id);
        }
    }

    /// A lower file has been copied to the upper file of number `ino`. It keeps the number that it had, unless other names
    /// of the lower file have it, too.
    pub fn copied_up(&mut self, node: &Node, ino: u64, shared: bool) {
        node.set_upper();
        if node.is_dir() {
            return;
        }
        if shared {
            node.ino.store(self.numbers.of_upper(ino), Ordering::Relaxed);
        } else {
            self.numbers.copied_up(ino, node.ino());
        }
        self.uppers.insert(ino, node.id);
        if let Some(slot) = self.slots.get_mut(&node.id) {
            slot.upper_ino = Some(ino);
        }
    }

    /// The upper file of this number is gone for good: the disk may use the number again.
    pub fn gone(&mut self, ino: u64) {
        self.uppers.remove(&ino);
        self.numbers.given_up(ino);
    }

    /// The number that is shown of a file in the upper directory that is no directory, by its own.
    pub fn shown_upper(&mut self, ino: u64) -> u64 {
        self.numbers.of_upper(ino)
    }

    /// The number that is shown of anything else, by device and number on disk.
    pub fn shown(&mut self, identity: (u64, u64)) -> u64 {
        self.numbers.of(identity)
    }

    /// Gives back answers that named a node.
    pub fn forget(&mut self, id: u64, lookups: u64) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.lookups = slot.lookups.saturating_sub(lookups);
            self.collect(id);
        }
    }

    /// Drops a node that nobody needs, and then its parents as far as nobody needs them.
    fn collect(&mut self, id: u64) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let unused = self.slots.get(&id).is_some_and(|slot| slot.lookups == 0 && id != ROOT);
            if !unused || self.children.contains_key(&id) {
                continue;
            }
            let Some(slot) = self.slots.remove(&id) else { continue };
            if let Some(ino) = slot.upper_ino
                && self.uppers.get(&ino) == Some(&id)
            {
                self.uppers.remove(&ino);
            }
            for (parent, name) in slot.names {
                self.forget_name(parent, &name);
                pending.push(parent);
            }
        }
    }

    /// Numbers of all nodes but the root, in the protocol.
    #[cfg(test)]
    pub fn ids(&self) -> Vec<u64> {
        self.slots.keys().copied().filter(|id| *id != ROOT).collect()
    }

    /// Number of nodes.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.len()
    }
}
