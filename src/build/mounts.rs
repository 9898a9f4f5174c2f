//! `RUN --mount`: where the files of each mount are, and what of them decides what the step makes.
//!
//! | kind    | what the command sees                                           | in the cache key                    |
//! |---------|-----------------------------------------------------------------|-------------------------------------|
//! | bind    | files of a stage, of an image or of the context; what is written| options, and the digest of the files|
//! |         | to it (`rw`) is gone after the step                             |                                     |
//! | cache   | a directory of the store that outlives the build                | options, not the content            |
//! | tmpfs   | an empty file system in memory                                  | options                             |
//! | secret  | a file in memory, or a variable                                 | options                             |
//! | ssh     | a socket behind which the user's keys sign                      | options                             |
//!
//! A stage or an image is an overlay of its layers, with an upper directory that is thrown away. The build context is
//! copied first, so that the ignore file counts, owners are root, and nothing is written into the user's directory.

use super::{
    Error,
    copy::literal,
    execute::{Done, Executor},
    rootfs::Lower,
    stack::Stack,
};
use crate::archive::{
    content::{self, Memo},
    copy::{self, Item, Tree, tree},
    record::Records,
    upper::Upper,
};
use crate::dockerfile::{self, MountKind, Sharing, ignore::Patterns};
use crate::oci::Digest;
use crate::plan::{ContextId, CopyFrom, Mount, Run, StepId};
use crate::sandbox::{self, Guard, agent::Served};
use crate::snapshot::{Active, Links, Prepared, RootSpec};
use crate::store::CacheMount;
use crate::sys::idmap::IdMap;
use crate::ui::Event;
use std::{
    collections::HashMap,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// What a mount shows.
enum Files {
    /// A part of the build context, or of a named one.
    Context,
    /// A root file system: a stage or an image.
    Tree(Stack),
    /// A cache; with what it starts.
    Cache(Option<Start>),
    /// Memory.
    Memory,
    /// A secret.
    Secret,
    /// An SSH agent.
    Agent,
}

/// What a new cache starts with.
enum Start {
    /// A root file system.
    Tree(Stack),
    /// A named context of files, and the digest of its content.
    Context(ContextId, String),
}

impl Start {
    /// What tells it from others.
    fn key(&self) -> String {
        match self {
            Start::Tree(stack) => format!("{:?}", stack.chain()),
            Start::Context(_, digest) => format!("content {digest}"),
        }
    }
}

/// A mount of one step, with its files found.
pub(super) struct Wanted<'p> {
    mount: &'p Mount,
    files: Files,
}

/// Mounts that are ready for the sandbox. The directories behind them exist as long as the value lives.
#[derive(Default)]
pub(super) struct Ready {
    /// In the order in which they are to be made.
    pub mounts: Vec<sandbox::Mount>,
    /// Variables with secret values.
    pub secret_env: Vec<(String, sandbox::Hidden)>,
    /// Where SSH agents are, in the step.
    pub agents: Vec<PathBuf>,
    // Before the directories in which they listen.
    _served: Vec<Served>,
    // Before the layers that they stand on.
    _roots: Vec<Box<dyn Prepared>>,
    _layers: Vec<Active>,
    _caches: Vec<CacheMount>,
    _context: Vec<Arc<Active>>,
}

/// Copies of parts of contexts, by context and path: steps of one build share them.
pub(super) type ContextCopies = Mutex<HashMap<(Option<ContextId>, PathBuf), Arc<Active>>>;

impl Ready {
    /// Keeps an agent and the directory in which it listens.
    pub(super) fn serve(&mut self, served: Served, active: Active) {
        self._served.push(served);
        self._layers.push(active);
    }
}

impl Wanted<'_> {
    fn target(&self) -> &Path {
        Path::new(self.mount.options.target.as_deref().unwrap_or("/"))
    }

    /// Where the files come from, if they are a context's.
    fn context(&self) -> &CopyFrom {
        self.mount.from.as_ref().unwrap_or(&CopyFrom::Context)
    }

    fn source(&self) -> &Path {
        Path::new(self.mount.options.source.as_deref().unwrap_or(""))
    }
}

impl Executor<'_> {
    /// Finds the files of a step's mounts, in the order in which they are mounted: one inside another comes later.
    pub(super) fn wanted_mounts<'p>(
        &self,
        run: &'p Run,
        result_of: &dyn Fn(StepId) -> Option<Done>,
    ) -> Result<Vec<Wanted<'p>>, Error> {
        let mut all = vec![];
        for mount in &run.mounts {
            let stack = match &mount.from {
                Some(CopyFrom::Stage(id)) => Some(result_of(*id).ok_or(Error::Cancelled)?.stack),
                Some(CopyFrom::Image(image)) => Some(Stack::of(self.bases.get(image).ok_or(Error::Cancelled)?)),
                Some(CopyFrom::Context | CopyFrom::Named(_)) | None => None,
            };
            let files = match (mount.options.kind, stack) {
                (MountKind::Bind, Some(stack)) => Files::Tree(stack),
                (MountKind::Bind, None) => Files::Context,
                (MountKind::Cache, Some(stack)) => Files::Cache(Some(Start::Tree(stack))),
                (MountKind::Cache, None) => Files::Cache(match &mount.from {
                    Some(CopyFrom::Named(id)) => {
                        let files = self.context.named(*id)?;
                        let digest = content::digest(&part(Path::new(""))?, files, self.memo_of(files))?;
                        Some(Start::Context(*id, digest.to_string()))
                    }
                    _ => None,
                }),
                (MountKind::Tmpfs, _) => Files::Memory,
                (MountKind::Secret, _) => Files::Secret,
                (MountKind::Ssh, _) => Files::Agent,
            };
            all.push(Wanted { mount, files });
        }
        all.sort_by_key(|w| w.target().components().count());
        Ok(all)
    }

    /// What of the mounts goes into the step's cache keys: a list for each key. The first names root file systems by their
    /// layers, which needs no look at the files; the second, where there is one, by their content.
    pub(super) fn mount_keys(
        &self,
        wanted: &[Wanted],
        known: &dyn Fn(&[String]) -> bool,
    ) -> Result<Vec<Vec<String>>, Error> {
        let mut by_layers = vec![];
        let mut contexts = vec![];
        for w in wanted {
            let mut options = w.mount.options.clone();
            // How it is called here says nothing about the files.
            options.from = None;
            by_layers.push(format!("{options:?}"));
            by_layers.push(match &w.files {
                Files::Context => {
                    let files = self.files(w.context())?;
                    contexts.push(self.content(w, files, self.memo_of(files))?);
                    format!("content {}", contexts[contexts.len() - 1])
                }
                Files::Tree(stack) => format!("layers {:?}", stack.chain()),
                Files::Cache(from) => format!("cache {:?}", from.as_ref().map(Start::key)),
                Files::Memory | Files::Secret | Files::Agent => String::new(),
            });
        }
        if !wanted.iter().any(|w| matches!(w.files, Files::Tree(_))) || known(&by_layers) {
            return Ok(vec![by_layers]);
        }
        let mut by_content = by_layers.clone();
        for (i, w) in wanted.iter().enumerate() {
            // A stage without layers has no files to look at.
            if let Files::Tree(stack) = &w.files
                && stack.chain().is_some()
            {
                let tree = self.lower(stack)?;
                let digest = self.content(w, &tree.view, None)?;
                if let Some(part) = by_content.get_mut(2 * i + 1) {
                    *part = format!("content {digest}");
                }
            }
        }
        Ok(vec![by_layers, by_content])
    }

    /// The digest of the files that a mount shows.
    fn content(&self, w: &Wanted, tree: &dyn Tree, memo: Option<&dyn Memo>) -> Result<String, Error> {
        let found = tree::resolve(tree, w.source(), true)?;
        let digest = content::digest(&part(&found.path)?, tree, memo)?;
        // A directory's own metadata are no part of what a copy reads, but the command sees them.
        let root = found.meta.map(|m| (m.mode, m.uid, m.gid));
        Ok(format!("{digest} {root:?}"))
    }

    /// Makes what is behind the mounts. `lower` is the image of the step.
    pub(super) fn ready_mounts(&self, wanted: &[Wanted], lower: &Lower) -> Result<Ready, Error> {
        let mut ready = Ready::default();
        let caches = self.caches(wanted, &mut ready)?;
        for (i, w) in wanted.iter().enumerate() {
            let options = &w.mount.options;
            let guard = guard(options);
            let kind = match &w.files {
                Files::Memory if options.copy_up => self.copied_up(w.target(), lower, guard, &mut ready)?,
                Files::Memory => {
                    sandbox::MountKind::Tmpfs { size: options.size, mode: options.mode.unwrap_or(0o1777), guard }
                }
                Files::Cache(_) => sandbox::MountKind::Bind {
                    source: caches.get(&i).cloned().ok_or(Error::Cancelled)?,
                    inside: inside(w.source()),
                    owner: self.owner(&w.mount.options).kept,
                    guard,
                },
                Files::Tree(stack) => {
                    let tree = self.lower(stack)?;
                    self.layers(&tree, inside(w.source()), guard, &mut ready)?
                }
                Files::Context => {
                    let path = tree::resolve(self.files(w.context())?, w.source(), true)?.path;
                    let copy = self.context_copy(w.context(), &path)?;
                    let dir = copy.layer();
                    let kind = match options.read_only {
                        true => sandbox::MountKind::Bind { source: dir.join("fs"), inside: path, owner: None, guard },
                        false => {
                            let view = self.snapshots.view_with(&[], &copy)?;
                            self.layers(&Lower { dirs: vec![dir], view, lazy: None }, path, guard, &mut ready)?
                        }
                    };
                    ready._context.push(copy);
                    kind
                }
                Files::Secret => {
                    let given = self.secrets.mount(options)?;
                    ready.secret_env.extend(given.variable);
                    ready.mounts.extend(given.file);
                    continue;
                }
                Files::Agent => {
                    let Some(kind) = self.agent(options, &mut ready)? else { continue };
                    ready.agents.push(w.target().to_owned());
                    kind
                }
            };
            ready.mounts.push(sandbox::Mount { target: w.target().to_owned(), kind });
        }
        Ok(ready)
    }

    /// What the image has at `target`, with changes that are lost; an empty directory, where it has nothing.
    fn copied_up(
        &self,
        target: &Path,
        lower: &Lower,
        guard: Guard,
        ready: &mut Ready,
    ) -> Result<sandbox::MountKind, Error> {
        let found = lower.view.resolve(target, true)?;
        match found.node {
            Some(_) => self.layers(lower, found.path, guard, ready),
            None => Ok(sandbox::MountKind::Tmpfs { size: None, mode: 0o755, guard }),
        }
    }

    /// Directories of the machine that every step sees (`--volume`).
    pub(super) fn volumes(&self, ready: &mut Ready) -> Result<(), Error> {
        let mut all = vec![];
        for volume in &self.request.security.volumes {
            let failed = |source| Error::File { path: volume.source.clone(), source };
            let source = std::fs::canonicalize(&volume.source).map_err(failed)?;
            let kind = if volume.overlay {
                let active = self.snapshots.prepare()?;
                // The root of the overlay is the upper directory's, which has to look like the source.
                let meta = std::fs::metadata(&source).map_err(failed)?;
                if !meta.is_dir() {
                    return Err(Error::Unsupported {
                        what: format!("the option `O` of the volume `{}`", volume.source.display()),
                        hint: "it goes with directories only: use `ro` for a file".into(),
                    });
                }
                let upper = active.upper();
                let at = |source| Error::File { path: upper.clone(), source };
                std::fs::set_permissions(&upper, meta.permissions()).map_err(at)?;
                let (uid, gid) = (meta.uid(), meta.gid());
                if self.snapshots.map().can_own(uid, gid) {
                    chown(&upper, Some(uid), Some(gid)).map_err(at)?;
                }
                let prepared = self.snapshots.driver()?.prepare_over(&self.snapshots, &source, &active)?;
                let (root, inside) = (prepared.root().into(), PathBuf::new());
                ready._roots.push(prepared);
                ready._layers.push(active);
                sandbox::MountKind::Tree {
                    recorded: Records::default(),
                    root,
                    inside,
                    guard: Guard::read_only(volume.read_only),
                }
            } else {
                sandbox::MountKind::Bind {
                    source,
                    inside: PathBuf::new(),
                    owner: None,
                    guard: Guard::read_only(volume.read_only),
                }
            };
            all.push(sandbox::Mount { target: PathBuf::from(&volume.target), kind });
        }
        ready.mounts.splice(0..0, all);
        Ok(())
    }

    /// Mounts that keep a step's changes out of these directories of its own root file system (`--compat-volumes`).
    pub(super) fn volume_mounts<'v>(
        &self,
        volumes: impl Iterator<Item = &'v String>,
        lower: &Lower,
        ready: &mut Ready,
    ) -> Result<(), Error> {
        let mut all = vec![];
        for volume in volumes {
            let target = Path::new("/").join(lower.view.resolve(Path::new(volume), true)?.path);
            let kind = self.copied_up(&target, lower, Guard::default(), ready)?;
            all.push(sandbox::Mount { target, kind });
        }
        all.sort_by_key(|m| m.target.components().count());
        ready.mounts.splice(0..0, all);
        Ok(())
    }

    fn layers(
        &self,
        tree: &Lower,
        inside: PathBuf,
        guard: Guard,
        ready: &mut Ready,
    ) -> Result<sandbox::MountKind, Error> {
        let active = self.start_layer(tree)?;
        let mut layers = tree.dirs.clone();
        if layers.is_empty() {
            // An overlay wants something below, and an empty stage has nothing.
            let nothing = self.snapshots.prepare()?;
            layers.push(nothing.layer());
            ready._layers.push(nothing);
        }
        // What is there at all: the sandbox says what is wrong with a path that leads nowhere.
        let part = tree.view.resolve(&inside, true).ok().filter(|found| found.node.is_some());
        // Links on the way need not be in a part.
        let inside = part.as_ref().map_or(inside, |found| found.path.clone());
        let (part, links) = (part.map(|found| found.path).unwrap_or_default(), Links::Own);
        let lazy = tree.lazy.as_deref();
        let wanted = RootSpec { layers: &layers, extra: &[], stub: None, top: &active, links, part: &part, lazy };
        let prepared = self.snapshots.root(&wanted)?;
        let root = prepared.root().into();
        let recorded = tree.view.records()?;
        ready._roots.push(prepared);
        ready._layers.push(active);
        Ok(sandbox::MountKind::Tree { recorded, root, inside, guard })
    }

    /// A part of a build context as a layer directory.
    fn context_copy(&self, from: &CopyFrom, path: &Path) -> Result<Arc<Active>, Error> {
        let id = match from {
            CopyFrom::Named(id) => Some(*id),
            _ => None,
        };
        let wanted = (id, path.to_owned());
        // One at a time: of two steps that want the same, the second finds it.
        let mut copies = self.context_copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = copies.get(&wanted) {
            return Ok(found.clone());
        }
        let copy = Arc::new(self.start_layer(&Lower { dirs: vec![], view: self.snapshots.view(&[])?, lazy: None })?);
        self.copy_part(self.files(from)?, path, &copy.layer(), true)?;
        copies.insert(wanted, copy.clone());
        Ok(copy)
    }

    /// Copies what is at `path` of a tree into a layer directory: to the same place, or its content to the root.
    fn copy_part(&self, tree: &dyn Tree, path: &Path, layer: &Path, same_place: bool) -> Result<(), Error> {
        let nothing = self.snapshots.view(&[])?;
        let mut upper = Upper::open(layer, &nothing)?;
        let request = copy::Request { parents: same_place && !path.as_os_str().is_empty(), ..part(path)? };
        copy::copy(&request, tree, &mut upper)?;
        upper.finish()?;
        Ok(())
    }

    /// The directories of the cache mounts, by place in `wanted`. All steps take them in one order, and each once, so that
    /// no two steps wait for each other.
    fn caches(&self, wanted: &[Wanted], ready: &mut Ready) -> Result<HashMap<usize, PathBuf>, Error> {
        let mut order: Vec<(Digest, usize, Option<&Start>)> = vec![];
        for (i, w) in wanted.iter().enumerate() {
            if let Files::Cache(from) = &w.files {
                order.push((cache_key(w.mount, from.as_ref()), i, from.as_ref()));
            }
        }
        order.sort_by_key(|(key, i, _)| (*key, *i));
        let mut paths: HashMap<usize, PathBuf> = HashMap::new();
        let cancel = self.around.cancel;
        let map = self.snapshots.map().key();
        for (n, (key, i, from)) in order.iter().enumerate() {
            let same = |at: usize| order.get(at).filter(|(other, ..)| other == key);
            if let Some(path) = n.checked_sub(1).and_then(same).and_then(|(_, other, _)| paths.get(other)) {
                let path = path.clone();
                paths.insert(*i, path);
                continue;
            }
            let all = order.iter().filter(|(other, ..)| other == key);
            let sharing = all.filter_map(|(_, at, _)| Some(wanted.get(*at)?.mount.options.sharing)).fold(
                Sharing::Shared,
                |strictest, sharing| if sharing == Sharing::Shared { strictest } else { sharing },
            );
            let Some(w) = wanted.get(*i) else { continue };
            let kept = self.keeper_of(w.mount);
            kept.inspect(|kept| kept.uses(key));
            let mut make = |dir: &Path| match kept {
                Some(kept) if self.restored(kept, key, dir)? => Ok(()),
                _ => self.make_cache(dir, w.mount, *from),
            };
            let taken = self.around.store.cache_mount(&map, key, sharing, &|| cancel.is_cancelled(), &mut make)?;
            let cache = taken.ok_or(Error::Cancelled)?;
            paths.insert(*i, cache.path.join("fs"));
            ready._caches.push(cache);
        }
        Ok(paths)
    }

    /// Fills a new cache: with what it starts from, and with the owner and mode that the mount says.
    fn make_cache(&self, dir: &Path, mount: &Mount, from: Option<&Start>) -> Result<(), Error> {
        let files = dir.join("fs");
        let failed = |source| Error::File { path: files.clone(), source };
        std::fs::create_dir(&files).map_err(failed)?;
        match from {
            Some(Start::Tree(stack)) => {
                let tree = self.lower(stack)?;
                self.copy_part(&tree.view, Path::new(""), dir, false)?;
            }
            Some(Start::Context(id, _)) => self.copy_part(self.context.named(*id)?, Path::new(""), dir, false)?,
            None => {}
        }
        let o = &mount.options;
        let (uid, gid) = (o.uid.unwrap_or(0), o.gid.unwrap_or(0));
        if (uid, gid) != (0, 0) && self.snapshots.map().can_own(uid, gid) {
            chown(&files, Some(uid), Some(gid)).map_err(failed)?;
        }
        let mode = std::fs::Permissions::from_mode(o.mode.unwrap_or(0o755));
        std::fs::set_permissions(&files, mode).map_err(failed)
    }

    /// Whose a mount is to be. Says so where that cannot be.
    pub(super) fn owner(&self, options: &dockerfile::Mount) -> Owner {
        let owner = (options.uid.unwrap_or(0), options.gid.unwrap_or(0));
        if owner == (0, 0) {
            return Owner::default();
        }
        match self.snapshots.map() {
            map if map.can_own(owner.0, owner.1) => Owner { on_disk: Some(owner), ..Owner::default() },
            IdMap::One | IdMap::Plain => Owner { kept: Some(owner), ..Owner::default() },
            IdMap::Ranged { .. } => {
                let target = options.target.as_deref().unwrap_or_default();
                let (uid, gid) = owner;
                let text = format!(
                    "`{target}` belongs to 0:0 in place of {uid}:{gid}: the id lies outside of the range that the pod has"
                );
                self.around.sink.event(&Event::Warning { text: &text });
                Owner::default()
            }
        }
    }
}

/// The request that reads what is at `path`.
fn part(path: &Path) -> Result<copy::Request, Error> {
    Ok(copy::Request {
        sources: vec![Item::Path(literal(path))],
        dest: "/".into(),
        chown: None,
        chmod: None,
        exclude: Patterns::new(&[] as &[&str]).map_err(copy::Error::from)?,
        parents: false,
        unpack: false,
        must_match: true,
        implicit_mtime: 0,
    })
}

fn guard(options: &dockerfile::Mount) -> Guard {
    let dockerfile::Mount { read_only, no_suid, no_dev, no_exec, .. } = *options;
    Guard { read_only, no_suid, no_dev, no_exec }
}

/// A source path as the sandbox wants it: empty for everything.
fn inside(source: &Path) -> PathBuf {
    match source.components().all(|c| matches!(c, std::path::Component::RootDir | std::path::Component::CurDir)) {
        true => PathBuf::new(),
        false => source.to_owned(),
    }
}

/// Whose a mount is, where that is somebody else than root.
#[derive(Debug, Default)]
pub(super) struct Owner {
    /// As the disk is to have it.
    pub(super) on_disk: Option<(u32, u32)>,
    /// To be kept up for the step, in a pod with one id.
    pub(super) kept: Option<(u32, u32)>,
}

/// What tells one cache from another: as with BuildKit, its id, what it starts from, and the owner and mode it starts with.
fn cache_key(mount: &Mount, from: Option<&Start>) -> Digest {
    let o = &mount.options;
    let from = from.map(Start::key);
    Digest::of(format!("{:?} {from:?} {:?} {:?} {:?}", o.id, o.uid, o.gid, o.mode))
}
