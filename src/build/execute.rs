//! Executes the steps of a plan.

use super::{
    Error, OpenContext, Shortage, Surroundings,
    commit::{self, Built},
    keys::{self, Read},
    mounts::ContextCopies,
    request::BuildRequest,
    resolver::BaseImages,
    rootfs, schedule,
    stack::{Layer, Stack},
    store_names,
};
use crate::archive::{
    Time,
    content::{self, FileMemo},
    copy::{self, Item, Mode, Tree},
    diff,
    merged::Merged,
    retime,
    upper::{Attrs, Upper},
};
use crate::cache::{CacheKey, StepCache};
use crate::dockerfile::ignore::Patterns;
use crate::oci::{ChainId, Descriptor, DiffId, History, Location, media};
use crate::plan::{Base, Copy, CopyFrom, CopySource, Plan, Step, StepId, StepKind};
use crate::sandbox;
use crate::snapshot::{Active, Snapshots};
use crate::source::image::Images;
use crate::sys::{idmap::IdMap, limits::Space, passwd};
use crate::ui::{Event, FailedCommand, SourceExcerpt, StepKey};
use std::{
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

/// Steps that run at once where the user does not say: a step mostly waits for the network, a disk or a compiler, and the
/// pod's own limits hold whatever this number is.
const DEFAULT_JOBS: usize = 32;
/// Longest passwd or group file of an image that is read, in bytes.
const PASSWD_LIMIT: u64 = 16 << 20;

/// What a step leaves for the steps that build on it.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub stack: Stack,
    /// When the step was executed, RFC 3339; `None` for the start of a stage.
    created: Option<String>,
    /// Whether the step made a layer.
    layered: bool,
}

/// Everything that the steps of one build share.
pub(super) struct Executor<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) around: Surroundings<'a>,
    plan: &'a Plan,
    pub(super) context: &'a OpenContext,
    pub(super) images: &'a Images<'a>,
    pub(super) bases: &'a BaseImages<'a>,
    pub(super) snapshots: Snapshots<'a>,
    cache: StepCache<'a>,
    /// With one layer a stage: the layer that the stage's steps fill one after the other.
    stage_layers: Vec<Mutex<Option<Active>>>,
    started: String,
    /// Digests of files of the build context, from this build and earlier ones.
    memo: OnceLock<FileMemo>,
    /// Parts of the build context that steps mount.
    pub(super) context_copies: ContextCopies,
}

/// A place where a step changes files.
pub(super) struct Site<'s> {
    /// Layer directories below, lowest first.
    pub below: &'s [PathBuf],
    /// Takes the changes.
    pub active: &'s Active,
    /// Files as they are before the step.
    pub view: Merged,
}

impl<'a> Executor<'a> {
    pub fn new(
        request: &'a BuildRequest,
        around: Surroundings<'a>,
        plan: &'a Plan,
        context: &'a OpenContext,
        images: &'a Images<'a>,
        bases: &'a BaseImages<'a>,
    ) -> Result<Self, Error> {
        let now = jiff::Timestamp::now();
        Ok(Executor {
            request,
            around,
            plan,
            context,
            images,
            bases,
            snapshots: Snapshots::new(around.store, IdMap::current())?,
            cache: StepCache::new(around.store, request.cache.ttl),
            stage_layers: plan.stages.iter().map(|_| Mutex::new(None)).collect(),
            started: now.to_string(),
            memo: OnceLock::new(),
            context_copies: ContextCopies::default(),
        })
    }

    /// Executes all steps and commits the target.
    pub fn run(&self) -> Result<Built, Error> {
        let edges = self.plan.steps.iter().map(|s| s.parent.into_iter().chain(s.inputs.iter().copied()).collect());
        let jobs = self.request.target.jobs.filter(|j| *j > 0).unwrap_or(DEFAULT_JOBS);
        // A stage is a chain: more workers than stages would only wait.
        let jobs = jobs.min(self.plan.stages.len());
        let results = schedule::run(
            &edges.collect(),
            jobs,
            self.around.cancel,
            || Error::Cancelled,
            |id, result_of| self.step(&self.plan.steps[id.0], result_of),
        )?;
        if let Some(Err(e)) = self.memo.get().map(FileMemo::save) {
            tracing::debug!(error = %e, "cannot keep the digests of context files");
        }
        self.commit(&results)
    }

    fn step(&self, step: &Step, result_of: &dyn Fn(StepId) -> Option<Done>) -> Result<Done, Error> {
        let key = StepKey { stage: step.stage, step: step.number.saturating_sub(1) };
        let sink = self.around.sink;
        sink.event(&Event::StepStarted { step: key });
        let done = self.execute(step, key, result_of).and_then(|done| self.end_of_stage(step, done));
        // A step whose files are gone again (it was explained already) or that failed while its base was extracted.
        let done = done.map_err(|e| self.explain_shortage(e));
        match done {
            Ok(done) => {
                let id = done.stack.chain().map(|c| c.0.hex());
                sink.event(&Event::StepDone { step: key, id: id.as_deref() });
                Ok(done)
            }
            Err(Error::Cancelled | Error::Sandbox(sandbox::Error::Cancelled)) => {
                sink.event(&Event::StepCancelled { step: key });
                Err(Error::Cancelled)
            }
            Err(e) => {
                let message = e.to_string();
                let source = SourceExcerpt {
                    file: &self.context.dockerfile_name,
                    text: &self.context.dockerfile,
                    start: step.span.start,
                    end: step.span.end,
                };
                let command = match &e {
                    Error::RunFailed { command, code, .. } => Some(FailedCommand { line: command, code: *code }),
                    _ => None,
                };
                sink.event(&Event::StepFailed { step: key, message: &message, command, source: Some(source) });
                Err(Error::Step { step: step.name.clone(), span: step.span, source: Box::new(e) })
            }
        }
    }

    fn execute(&self, step: &Step, key: StepKey, result_of: &dyn Fn(StepId) -> Option<Done>) -> Result<Done, Error> {
        let parent = match step.parent {
            Some(id) => result_of(id).ok_or(Error::Cancelled)?,
            None => Done { stack: Stack::default(), created: None, layered: false },
        };
        let layer = match &step.kind {
            StepKind::Base(base) => return self.base(base, result_of),
            StepKind::Config => return Ok(self.config(step, parent)),
            StepKind::Run(run) => {
                let wanted = self.wanted_mounts(run, result_of)?;
                let platform = &self.plan.stages[step.stage].platform;
                let (network, options) = (self.network(run), self.run_options(step));
                let key_of =
                    |mounts: &[String]| keys::run(parent.stack.chain(), run, network, &options, platform, mounts);
                let known = |mounts: &[String]| self.lookup(step, &key_of(mounts)).is_some();
                let cache_keys: Vec<CacheKey> =
                    self.mount_keys(&wanted, &known)?.iter().map(|mounts| key_of(mounts)).collect();
                self.cached(step, key, &parent, &cache_keys, true, |site| {
                    let mut mounts = self.ready_mounts(&wanted)?;
                    if self.request.security.compat_volumes {
                        self.volume_mounts(step.config.volumes.keys(), site.below, &mut mounts)?;
                    }
                    self.run_command(key, run, site, mounts)
                })?
            }
            StepKind::Copy(copy) => self.copy(step, key, copy, &parent, result_of)?,
            StepKind::Workdir { path, user } => {
                let cache_key = keys::workdir(parent.stack.chain(), path, user);
                self.cached(step, key, &parent, &[cache_key], false, |site| self.make_workdir(path, user, site))?
            }
        };
        let (layer, created) = layer;
        Ok(match layer {
            Some(layer) => Done { stack: parent.stack.with(layer), created: Some(created), layered: true },
            None => Done { created: Some(created), layered: false, ..parent },
        })
    }

    fn base(&self, base: &Base, result_of: &dyn Fn(StepId) -> Option<Done>) -> Result<Done, Error> {
        let stack = match base {
            Base::Scratch => Stack::default(),
            Base::Image(image) => Stack::of(self.bases.get(image).ok_or(Error::Cancelled)?),
            Base::Stage(id) => return Ok(Done { layered: false, ..result_of(*id).ok_or(Error::Cancelled)? }),
        };
        Ok(Done { stack, created: None, layered: false })
    }

    /// A step that changes no file: what it needs is a time that stays the same as long as the step is cached.
    fn config(&self, step: &Step, parent: Done) -> Done {
        let created = match &parent.created {
            Some(created) => created.clone(),
            None => self.first_time(step, parent.stack.chain(), step.history.as_ref()),
        };
        Done { created: Some(created), layered: false, ..parent }
    }

    /// When this was first done on top of these layers; now, if the cache does not know it.
    fn first_time(&self, step: &Step, below: Option<ChainId>, history: Option<&History>) -> String {
        let key = keys::config(below, history);
        if let Some(record) = self.lookup(step, &key) {
            return record.created;
        }
        // A record that cannot be written costs a stable id next time, not the build.
        if let Err(e) = self.cache.remember(&key, None, &self.started) {
            tracing::debug!(error = %e, "cannot remember a step");
        }
        self.started.clone()
    }

    fn lookup(&self, step: &Step, key: &CacheKey) -> Option<crate::cache::Record> {
        let off = &self.request.cache;
        let stage = self.plan.stages[step.stage].name.as_deref().unwrap_or_default();
        if off.no_cache || !self.request.output.layers || off.no_cache_stages.iter().any(|s| s == stage) {
            return None;
        }
        self.cache.lookup(key)
    }

    /// The layer of a step: from the cache under any of `keys`, or by doing the `work`. The layer is `None` where nothing
    /// changed and `always` is not set, or where the stage's one layer is not finished yet.
    fn cached(
        &self,
        step: &Step,
        key: StepKey,
        parent: &Done,
        keys: &[CacheKey],
        always: bool,
        work: impl FnOnce(&Site) -> Result<(), Error>,
    ) -> Result<(Option<Layer>, String), Error> {
        if let Some(record) = keys.iter().find_map(|k| self.lookup(step, k)) {
            let layer = record.layer.map(|id| made_layer(id, record.size));
            let id = match &layer {
                Some(layer) => parent.stack.with(layer.clone()).chain(),
                None => parent.stack.chain(),
            };
            self.around.sink.event(&Event::CacheHit { step: key, id: &id.map(|c| c.0.hex()).unwrap_or_default() });
            return Ok((layer, record.created));
        }
        let created = jiff::Timestamp::now().to_string();
        let dirs = rootfs::directories(&self.snapshots, self.images, &parent.stack)?;
        if !self.request.output.layers {
            let mut slot = self.stage_layers[step.stage].lock().unwrap_or_else(PoisonError::into_inner);
            let active = match slot.take() {
                Some(active) => active,
                None => self.start_layer(&dirs)?,
            };
            let mut seen = dirs.clone();
            seen.push(active.layer());
            work(&Site { below: &dirs, active: &active, view: rootfs::view(&self.snapshots, &seen)? })
                .map_err(|e| self.explain_shortage(e))?;
            *slot = Some(active);
            return Ok((None, created));
        }
        let active = self.start_layer(&dirs)?;
        work(&Site { below: &dirs, active: &active, view: rootfs::view(&self.snapshots, &dirs)? })
            .map_err(|e| self.explain_shortage(e))?;
        let layer = self.finish_layer(active, &parent.stack, &dirs, always)?;
        for k in keys {
            self.cache.remember(k, layer.as_ref().map(|l| (l.diff_id, l.size)), &created)?;
        }
        Ok((layer, created))
    }

    /// An empty layer on top of `dirs`. Its root directory is the one that steps see, so it has the metadata of the root below.
    pub(super) fn start_layer(&self, dirs: &[PathBuf]) -> Result<Active, Error> {
        let active = self.snapshots.prepare()?;
        let view = rootfs::view(&self.snapshots, dirs)?;
        Upper::create(&active.layer(), &view)?.finish()?;
        Ok(active)
    }

    /// Makes a layer of what a step changed: the blob, and the directory for the steps above.
    fn finish_layer(
        &self,
        active: Active,
        below: &Stack,
        dirs: &[PathBuf],
        always: bool,
    ) -> Result<Option<Layer>, Error> {
        let view = rootfs::view(&self.snapshots, dirs)?;
        let mut blob = self.around.store.hashed_blob_writer()?;
        let stats = diff::write_layer(&active.layer(), &view, &diff::Times::default(), &mut blob)
            .map_err(|e| self.explain_shortage(e.into()))?;
        if stats.entries == 0 && !always {
            return Ok(None);
        }
        blob.commit(&stats.diff_id.0)?;
        let layer = made_layer(stats.diff_id, stats.size);
        if let Some(chain) = below.with(layer.clone()).chain() {
            self.snapshots.publish(active, chain)?;
        }
        Ok(Some(layer))
    }

    /// With one layer a stage: makes it when the stage's last step is done.
    fn end_of_stage(&self, step: &Step, done: Done) -> Result<Done, Error> {
        let stage = &self.plan.stages[step.stage];
        let active = match self.request.output.layers || stage.last != step.id {
            true => None,
            false => self.stage_layers[step.stage].lock().unwrap_or_else(PoisonError::into_inner).take(),
        };
        let Some(active) = active else { return Ok(done) };
        let dirs = rootfs::directories(&self.snapshots, self.images, &done.stack)?;
        match self.finish_layer(active, &done.stack, &dirs, true)? {
            Some(layer) => Ok(Done { stack: done.stack.with(layer), layered: true, ..done }),
            None => Ok(done),
        }
    }

    /// Says of an error for lack of space how much was needed. To be called while the step's files are still there.
    fn explain_shortage(&self, e: Error) -> Error {
        if matches!(e, Error::NoSpace { .. }) || !e.is_storage_full() {
            return e;
        }
        match self.storage() {
            Some((used, space)) => {
                Error::NoSpace { source: Box::new(e), shortage: Shortage::Storage { used, limit: space.total } }
            }
            None => e,
        }
    }

    /// What this build has written in steps that are not finished, and the room on the store's file system.
    fn storage(&self) -> Option<(u64, Space)> {
        let store = self.around.store;
        Some((store.unfinished_bytes(), Space::at(store.root())?))
    }

    /// Whether a command may have failed because the store's file system is full.
    pub(super) fn storage_shortage(&self) -> Option<Shortage> {
        let space = Space::at(self.around.store.root())?;
        // The last blocks are often kept back, so "full" is a little more than nothing.
        let full = space.free < (space.total / 100).min(4 << 20);
        full.then(|| Shortage::Storage { used: self.around.store.unfinished_bytes(), limit: space.total })
    }

    fn copy(
        &self,
        step: &Step,
        key: StepKey,
        copy: &Copy,
        parent: &Done,
        result_of: &dyn Fn(StepId) -> Option<Done>,
    ) -> Result<(Option<Layer>, String), Error> {
        let below = parent.stack.chain();
        let source = match &copy.from {
            CopyFrom::Context => None,
            CopyFrom::Stage(id) => Some(result_of(*id).ok_or(Error::Cancelled)?.stack),
            CopyFrom::Image(image) => Some(Stack::of(self.bases.get(image).ok_or(Error::Cancelled)?)),
        };
        let mut keys = vec![];
        if let Some(source) = &source {
            keys.push(keys::copy(below, copy, &Read::Layers(source.chain())));
            if self.lookup(step, &keys[0]).is_some() {
                return self.cached(step, key, parent, &keys, true, |_| Ok(()));
            }
        }
        let merged;
        let tree: &dyn Tree = match &source {
            Some(source) => {
                let dirs = rootfs::directories(&self.snapshots, self.images, source)?;
                merged = rootfs::view(&self.snapshots, &dirs)?;
                &merged
            }
            None => &self.context.files,
        };
        let request = self.copy_request(copy)?;
        let from_context = matches!(copy.from, CopyFrom::Context);
        let memo = from_context.then(|| self.file_memo());
        if self.request.output.layers {
            let digest = content::digest(&request, tree, memo)?;
            keys.push(keys::copy(below, copy, &Read::Content(digest)));
        }
        self.cached(step, key, parent, &keys, true, |site| {
            let mut request = request.clone();
            if let Some(spec) = &copy.chown {
                let (passwd, group) = (read_etc(&site.view, "passwd")?, read_etc(&site.view, "group")?);
                request.chown = Some(passwd::resolve_chown(spec, &passwd, &group)?);
            }
            let view = rootfs::view(&self.snapshots, site.below)?;
            let mut upper = Upper::open(&site.active.layer(), &view)?;
            copy::copy(&request, tree, &mut upper)?;
            upper.finish()?;
            Ok(())
        })
    }

    /// Digests of files of the build context.
    pub(super) fn file_memo(&self) -> &dyn content::Memo {
        self.memo.get_or_init(|| FileMemo::open(&self.around.store.file_memo_path()))
    }

    fn copy_request(&self, copy: &Copy) -> Result<copy::Request, Error> {
        let item = |s: &CopySource| match s {
            CopySource::Path(p) => Item::Path(p.clone()),
            CopySource::Inline { name, content } => {
                Item::Inline { name: name.clone(), content: content.clone().into_bytes() }
            }
        };
        let chmod = match &copy.chmod {
            Some(text) => Some(Mode::parse(text)?),
            None => None,
        };
        Ok(copy::Request {
            sources: copy.sources.iter().map(item).collect(),
            dest: copy.dest.clone(),
            chown: None,
            chmod,
            exclude: Patterns::new(&copy.exclude).map_err(copy::Error::from)?,
            parents: copy.parents,
            unpack: copy.add,
            must_match: false,
            implicit_mtime: self.epoch().unwrap_or_else(|| jiff::Timestamp::now().as_second()),
        })
    }

    fn make_workdir(&self, path: &str, user: &str, site: &Site) -> Result<(), Error> {
        let (uid, gid) = workdir_owner(user, &read_etc(&site.view, "passwd")?, &read_etc(&site.view, "group")?)?;
        let view = rootfs::view(&self.snapshots, site.below)?;
        let mut upper = Upper::open(&site.active.layer(), &view)?;
        let mtime = Some(Time::seconds(self.epoch().unwrap_or_else(|| jiff::Timestamp::now().as_second())));
        let attrs = Attrs { mode: 0o755, uid, gid, mtime, ..Attrs::default() };
        upper.ensure_dir(Path::new(path), &attrs)?;
        upper.finish()?;
        Ok(())
    }

    /// `SOURCE_DATE_EPOCH` or `--timestamp`.
    fn epoch(&self) -> Option<i64> {
        self.request.metadata.timestamp.or(self.request.metadata.source_date_epoch)
    }

    fn commit(&self, results: &[Done]) -> Result<Built, Error> {
        let stage = &self.plan.stages[self.plan.target];
        let last = &results[stage.last.0];
        let config = &self.plan.steps[stage.last.0].config;
        let names = store_names(self.request);
        let sink = self.around.sink;
        let first = self.request.output.destinations.first().map(ToString::to_string);
        sink.event(&Event::CommitStarted { name: first.as_deref() });
        if let Some(base) = last.stack.base() {
            self.images.fetch(base, &|_| {})?;
        }
        let epoch = self.epoch().and_then(|s| jiff::Timestamp::from_second(s).ok()).map(|t| t.to_string());
        let (mut history, mut newest) = (self.history(stage.last, results, epoch.as_deref()), None::<String>);
        for done in self.chain(stage.last).iter().map(|id| &results[id.0]) {
            newest = newest.max(done.created.clone());
        }
        let layers = if self.request.output.squash {
            history.iter_mut().for_each(|h| h.empty_layer = true);
            let layer = self.squash(&last.stack)?;
            match history.last_mut() {
                Some(entry) => entry.empty_layer = false,
                None => history.push(History { created: epoch.clone(), ..History::default() }),
            }
            vec![layer]
        } else {
            let mut layers = last.stack.base_layers();
            for layer in last.stack.made() {
                layers.push(self.retimed(layer)?);
            }
            layers
        };
        let parts = commit::Parts {
            image: stage.image.clone(),
            config: (**config).clone(),
            // An image of nothing but FROM is as old as its base.
            created: epoch
                .or(newest)
                .or_else(|| last.stack.base()?.config.created.clone())
                .unwrap_or_else(|| self.first_time(&self.plan.steps[stage.last.0], last.stack.chain(), None)),
            layers,
            history,
            base: last.stack.base().map(|b| &**b),
        };
        let (id, manifest) = commit::write(
            self.around.store,
            parts,
            &self.request.metadata,
            &self.request.platform,
            self.request.output.format,
        )?;
        if self.around.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let local = self.request.output.destinations.iter().all(|d| matches!(d, Location::Store(_)));
        if local || !names.is_empty() {
            self.around.store.publish(&names, &manifest)?;
        }
        sink.event(&Event::Committed { id: &id.hex() });
        for name in &names {
            sink.event(&Event::Tagged { name });
        }
        Ok(Built { id, manifest, names })
    }

    /// The steps that lead to `last`, first one first, through the stages that a stage is FROM.
    fn chain(&self, last: StepId) -> Vec<StepId> {
        let mut chain = vec![];
        let mut at = Some(last);
        while let Some(id) = at {
            chain.push(id);
            let step = &self.plan.steps[id.0];
            at = match &step.kind {
                StepKind::Base(Base::Stage(other)) => Some(*other),
                _ => step.parent,
            };
        }
        chain.reverse();
        chain
    }

    fn history(&self, last: StepId, results: &[Done], epoch: Option<&str>) -> Vec<History> {
        let mut history = self.plan.stages[self.plan.target].image.history.clone();
        for id in self.chain(last) {
            let (step, done) = (&self.plan.steps[id.0], &results[id.0]);
            if let Some(entry) = &step.history {
                history.push(History {
                    created: epoch.map(str::to_owned).or_else(|| done.created.clone()),
                    empty_layer: !done.layered,
                    ..entry.clone()
                });
            }
        }
        history
    }

    /// All files in one layer.
    fn squash(&self, stack: &Stack) -> Result<Layer, Error> {
        let dirs = rootfs::directories(&self.snapshots, self.images, stack)?;
        let view = rootfs::view(&self.snapshots, &dirs)?;
        let mut blob = self.around.store.hashed_blob_writer()?;
        let stats = diff::write_tree(&view, &self.times(), &mut blob)?;
        blob.commit(&stats.diff_id.0)?;
        Ok(made_layer(stats.diff_id, stats.size))
    }

    fn times(&self) -> diff::Times {
        let m = &self.request.metadata;
        diff::Times { set_to: m.timestamp, clamp_to: m.source_date_epoch }
    }

    /// The layer with its times as the user wants them. Steps and their cache work with the times as they were; only what
    /// leaves the build is changed, so the cache serves builds of every `SOURCE_DATE_EPOCH`.
    fn retimed(&self, layer: Layer) -> Result<Layer, Error> {
        let times = self.times();
        let memo = match (times.set_to, times.clamp_to) {
            (None, None) => return Ok(layer),
            (Some(t), _) => format!("set{t}"),
            (None, Some(t)) => format!("clamp{t}"),
        };
        let store = self.around.store;
        if let Some(known) = store.compressed(&layer.diff_id, &memo)
            && store.blob_size(&known.digest)? == Some(known.size)
        {
            return Ok(made_layer(DiffId(known.digest), known.size));
        }
        let mut blob = store.hashed_blob_writer()?;
        let stats = retime::retime(store.open_blob(&layer.blob)?, &times, &mut blob)?;
        let (digest, size) = (stats.diff_id.0, stats.size);
        blob.commit(&digest)?;
        store.remember_compressed(&layer.diff_id, &memo, &Descriptor::new(media::OCI_LAYER, digest, size))?;
        Ok(made_layer(DiffId(digest), size))
    }
}

/// A layer that a step made: it lies uncompressed in the store.
fn made_layer(diff_id: DiffId, size: u64) -> Layer {
    Layer { diff_id, blob: diff_id.0, size, media_type: media::OCI_LAYER.into() }
}

/// Who owns the directory that WORKDIR makes. As with BuildKit, a user that the image does not know is root here (it is an
/// error only where a command is to run), and a number without a group is the group's number, too.
fn workdir_owner(user: &str, passwd: &[u8], group: &[u8]) -> Result<(u32, u32), passwd::Error> {
    let (name, group_name) = user.split_once(':').unwrap_or((user, ""));
    let (uid, own_gid) = match passwd::resolve_chown(name, passwd, group) {
        Err(passwd::Error::NoUser(_)) => (0, 0),
        other => other?,
    };
    let gid = match passwd::resolve_chown(&format!(":{group_name}"), passwd, group) {
        _ if group_name.is_empty() => own_gid,
        Err(passwd::Error::NoGroup(_)) => own_gid,
        other => other?.1,
    };
    Ok((uid, gid))
}

/// The content of `/etc/passwd` or `/etc/group` of an image; empty where there is none.
pub(super) fn read_etc(view: &Merged, name: &str) -> Result<Vec<u8>, Error> {
    let found = view.resolve(&Path::new("etc").join(name), true)?;
    let Some(node) = found.node.filter(|n| n.is_file()) else { return Ok(vec![]) };
    let mut bytes = vec![];
    view.open_file(&node)?
        .take(PASSWD_LIMIT)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::File { path: Path::new("/etc").join(name), source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_of_working_directories() {
        let (passwd, group) = (&b"foo:x:10000:10001::/home/foo:/bin/sh\n"[..], &b"bar:x:77:\n"[..]);
        let owner = |user| workdir_owner(user, passwd, group).unwrap();
        for (user, want) in [
            ("", (0, 0)),
            ("9999", (9999, 9999)),
            ("9999:5", (9999, 5)),
            ("foo", (10000, 10001)),
            ("foo:bar", (10000, 77)),
            ("10000:bar", (10000, 77)),
            ("nobody-knows", (0, 0)),
            ("nobody-knows:bar", (0, 77)),
            ("foo:nobody-knows", (10000, 10001)),
        ] {
            assert_eq!(owner(user), want, "{user}");
        }
        assert!(workdir_owner("4294967295", passwd, group).is_err());
    }
}
