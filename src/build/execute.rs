//! Executes the steps of a plan.

use super::{
    Error, Surroundings,
    agents::Agents,
    authorities::Authorities,
    commit::Built,
    context::OpenContext,
    copy::everything,
    keys,
    layers::made_layer,
    mounts::ContextCopies,
    remotes::Remotes,
    request::BuildRequest,
    resolver::BaseImages,
    rootfs::Lower,
    schedule,
    secrets::Secrets,
    stack::{Layer, Stack},
};
use crate::archive::{content::FileMemo, merged::Merged};
use crate::cache::inline::Steps;
use crate::cache::{CacheKey, Hit, SharedCaches, StepCache};
use crate::oci::{ChainId, History};
use crate::plan::{Base, Plan, Step, StepId, StepKind};
use crate::sandbox;
use crate::snapshot::{Active, Snapshots};
use crate::source::image::Images;
use crate::sys::idmap::IdMap;
use crate::ui::{Event, FailedCommand, SourceExcerpt, StepKey};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};

/// Steps that run at once where the user does not say: a step mostly waits for the network, a disk or a compiler, and the
/// pod's own limits hold whatever this number is.
const DEFAULT_JOBS: usize = 32;
/// How often a build starts again with what the caches still have, before it does without them.
const MAX_ROUNDS: usize = 4;

/// What a step leaves for the steps that build on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    pub stack: Stack,
    /// When the step was executed, RFC 3339; `None` for the start of a stage.
    pub created: Option<String>,
    /// Whether the step made a layer.
    pub layered: bool,
    /// A layer that a cache had promised did not come: there is no result, and what builds on it has none either.
    pub lost: bool,
}

impl Done {
    fn lost() -> Done {
        Done { lost: true, ..Done::default() }
    }
}

/// What is known of a step.
pub(super) struct Found {
    /// Its layer; `None` where it changed no file.
    pub layer: Option<Layer>,
    /// When it was executed, RFC 3339.
    pub created: String,
    /// The shared cache that knew it; `None`: the store did.
    pub from: Option<String>,
}

/// What the command line gives the steps.
pub(super) type Given<'a> = (&'a Secrets, Agents, Authorities, &'a SharedCaches<'a>);

/// Everything that the steps of one build share.
pub(super) struct Executor<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) around: Surroundings<'a>,
    pub(super) plan: &'a Plan,
    pub(super) context: &'a OpenContext,
    pub(super) remotes: &'a Remotes,
    pub(super) images: &'a Images<'a>,
    pub(super) bases: &'a BaseImages<'a>,
    /// Whether the user was told of the storage driver.
    pub(super) driver_said: Once,
    pub(super) snapshots: Snapshots<'a>,
    cache: StepCache<'a>,
    pub(super) shared: &'a SharedCaches<'a>,
    /// Steps whose layers are in the image.
    pub(super) in_image: HashSet<StepId>,
    /// What the image's steps made, for its own entries.
    pub(super) inline: Mutex<Steps>,
    /// With one layer a stage: the layer that the stage's steps fill one after the other.
    pub(super) stage_layers: Vec<Mutex<Option<Active>>>,
    /// When the build began, RFC 3339.
    pub(super) started: String,
    /// Digests of files of the build context, from this build and earlier ones.
    pub(super) memo: OnceLock<FileMemo>,
    /// Parts of the build context that steps mount.
    pub(super) context_copies: ContextCopies,
    pub(super) secrets: &'a Secrets,
    pub(super) agents: Agents,
    pub(super) authorities: Authorities,
    /// Held by whoever gives a layer other times.
    pub(super) retiming: Arc<Mutex<()>>,
}

/// A place where a step changes files.
pub(super) struct Site<'s> {
    /// What is below the layer that the step fills.
    pub lower: &'s Lower,
    /// Takes the changes.
    pub active: &'s Active,
    /// Files as they are before the step.
    pub view: &'s Merged,
}

impl<'a> Executor<'a> {
    pub fn new(
        request: &'a BuildRequest,
        around: Surroundings<'a>,
        plan: &'a Plan,
        context: &'a OpenContext,
        remotes: &'a Remotes,
        (images, bases): (&'a Images<'a>, &'a BaseImages<'a>),
        (secrets, agents, authorities, shared): Given<'a>,
    ) -> Result<Self, Error> {
        let now = jiff::Timestamp::now();
        Ok(Executor {
            request,
            around,
            plan,
            context,
            remotes,
            images,
            bases,
            snapshots: Snapshots::new(around.store, IdMap::current())?.with_driver(around.driver),
            driver_said: Once::new(),
            cache: StepCache::new(around.store, request.cache.ttl),
            shared,
            inline: Mutex::default(),
            in_image: chain(plan, plan.stages[plan.target].last).into_iter().collect(),
            stage_layers: plan.stages.iter().map(|_| Mutex::new(None)).collect(),
            started: now.to_string(),
            memo: OnceLock::new(),
            context_copies: ContextCopies::default(),
            secrets,
            agents,
            authorities,
            retiming: Arc::default(),
        })
    }

    /// Executes all steps and commits the target. Where a cache does not keep what it promised, it all starts again: what was
    /// executed meanwhile is in the store.
    pub fn run(&self) -> Result<Built, Error> {
        for _ in 0..MAX_ROUNDS {
            match self.round() {
                Err(Error::Lost(_)) => {}
                other => return other,
            }
        }
        self.shared.give_up();
        self.round()
    }

    fn round(&self) -> Result<Built, Error> {
        self.inline.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
        if results.iter().any(|done| done.lost) {
            return Err(Error::Lost(crate::cache::Lost));
        }
        if let Some(Err(e)) = self.memo.get().map(FileMemo::save) {
            tracing::debug!(error = %e, "cannot keep the digests of context files");
        }
        self.commit(&results)
    }

    fn step(&self, step: &Step, result_of: &dyn Fn(StepId) -> Option<Done>) -> Result<Done, Error> {
        let key = StepKey { stage: step.stage, step: step.number.saturating_sub(1) };
        let inputs = step.parent.iter().chain(&step.inputs);
        if inputs.filter_map(|id| result_of(*id)).any(|done| done.lost) {
            return Ok(Done::lost());
        }
        let sink = self.around.sink;
        sink.event(&Event::StepStarted { step: key });
        let done = self.execute(step, key, result_of).and_then(|done| self.end_of_stage(step, done));
        // A step whose files are gone again (it was explained already) or that failed while its base was extracted.
        let done = done.map_err(|e| self.explain_shortage(e));
        match done {
            Ok(done) => {
                self.tell_layers(step, &done);
                let id = done.stack.chain().map(|c| c.0.hex());
                sink.event(&Event::StepDone { step: key, id: id.as_deref() });
                Ok(done)
            }
            Err(Error::Lost(_)) => {
                sink.event(&Event::StepCancelled { step: key });
                Ok(Done::lost())
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
            None => Done::default(),
        };
        let layer = match &step.kind {
            StepKind::Base(Base::Files(context)) => self.copy(step, key, &everything(*context), &parent, result_of)?,
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
                    let mut mounts = self.ready_mounts(&wanted, site.lower)?;
                    if self.request.security.compat_volumes {
                        self.volume_mounts(step.config.volumes.keys(), site.lower, &mut mounts)?;
                    }
                    self.run_command(key, run, platform, site, mounts)
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
            Some(layer) => Done { stack: parent.stack.with(layer), created: Some(created), layered: true, lost: false },
            None => Done { created: Some(created), layered: false, ..parent },
        })
    }

    fn base(&self, base: &Base, result_of: &dyn Fn(StepId) -> Option<Done>) -> Result<Done, Error> {
        let stack = match base {
            Base::Scratch | Base::Files(_) => Stack::default(),
            Base::Image(image) => Stack::of(self.bases.get(image).ok_or(Error::Cancelled)?),
            Base::Stage(id) => return Ok(Done { layered: false, ..result_of(*id).ok_or(Error::Cancelled)? }),
        };
        Ok(Done { stack, ..Done::default() })
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
    pub(super) fn first_time(&self, step: &Step, below: Option<ChainId>, history: Option<&History>) -> String {
        let key = keys::config(below, history);
        if let Some(found) = self.lookup(step, &key) {
            self.note_inline(step, &key, &found.created, None);
            return found.created;
        }
        // A record that cannot be written costs a stable id next time, not the build.
        if let Err(e) = self.cache.remember(&key, None, &self.started) {
            tracing::debug!(error = %e, "cannot remember a step");
        }
        self.shared.remember(&key, &self.started, None, self.in_image.contains(&step.id));
        self.note_inline(step, &key, &self.started, None);
        self.started.clone()
    }

    /// Takes note of a step for the image's own entries: by the first of its keys, which does not depend on how it was found.
    fn note_inline(&self, step: &Step, key: &CacheKey, created: &str, layer: Option<&Layer>) {
        if self.in_image.contains(&step.id) {
            let made = (created.to_owned(), layer.map(|l| (l.diff_id, l.size)));
            self.inline.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), made);
        }
    }

    /// Whether a step may come from a cache.
    pub(super) fn looks_up(&self, step: &Step) -> bool {
        let cache = &self.request.cache;
        let stage = self.plan.stages[step.stage].name.as_deref().unwrap_or_default();
        !cache.no_cache && self.request.output.layers && cache.no_cache_stages.iter().all(|s| s != stage)
    }

    /// What is known of a step: here, or in a shared cache. It is passed on to the caches that are written.
    pub(super) fn lookup(&self, step: &Step, key: &CacheKey) -> Option<Found> {
        if !self.looks_up(step) {
            return None;
        }
        let in_image = self.in_image.contains(&step.id);
        if let Some(record) = self.cache.lookup(key) {
            let layer = record.layer.map(|id| (id, record.size));
            self.shared.remember(key, &record.created, layer, in_image);
            let layer = layer.map(|(id, size)| made_layer(id, size));
            return Some(Found { layer, created: record.created, from: None });
        }
        let hit = self.shared.lookup(key)?;
        self.shared.pass_on(key, &hit, in_image);
        let Hit { layer, created, from } = hit;
        let layer =
            layer.map(|remote| Layer { remote: Some(remote.clone()), ..made_layer(remote.diff_id, remote.size) });
        Some(Found { layer, created, from: Some(from) })
    }

    /// The layer of a step: from the cache under any of `keys`, or by doing the `work`. The layer is `None` where nothing
    /// changed and `always` is not set, or where the stage's one layer is not finished yet.
    pub(super) fn cached(
        &self,
        step: &Step,
        key: StepKey,
        parent: &Done,
        keys: &[CacheKey],
        always: bool,
        work: impl Fn(&Site) -> Result<(), Error>,
    ) -> Result<(Option<Layer>, String), Error> {
        if let Some(Found { layer, created, from }) = keys.iter().find_map(|k| self.lookup(step, k)) {
            self.explain_hit(step, from.as_deref());
            let id = match &layer {
                Some(layer) => parent.stack.with(layer.clone()).chain(),
                None => parent.stack.chain(),
            };
            if let Some(first) = keys.first() {
                self.note_inline(step, first, &created, layer.as_ref());
            }
            self.around.sink.event(&Event::CacheHit { step: key, id: &id.map(|c| c.0.hex()).unwrap_or_default() });
            return Ok((layer, created));
        }
        self.explain_miss(step, keys);
        let created = jiff::Timestamp::now().to_string();
        let early = match step.kind {
            StepKind::Run(_) => {
                self.on_demand(&parent.stack, &|site| work(site).map_err(|e| self.explain_shortage(e)))?
            }
            _ => None,
        };
        if let Some(layer) = early {
            self.remember(step, keys, layer.as_ref(), &created)?;
            return Ok((layer, created));
        }
        let lower = self.lower(&parent.stack)?;
        if !self.request.output.layers {
            let mut slot = self.stage_layers[step.stage].lock().unwrap_or_else(PoisonError::into_inner);
            let active = match slot.take() {
                Some(active) => active,
                None => self.start_layer(&lower)?,
            };
            let view = &self.snapshots.view_with(&lower.dirs, &active)?;
            work(&Site { lower: &lower, active: &active, view }).map_err(|e| self.explain_shortage(e))?;
            *slot = Some(active);
            return Ok((None, created));
        }
        let active = self.start_layer(&lower)?;
        work(&Site { lower: &lower, active: &active, view: &lower.view }).map_err(|e| self.explain_shortage(e))?;
        let layer = self.finish_layer(active, &parent.stack, &lower, always)?;
        self.remember(step, keys, layer.as_ref(), &created)?;
        Ok((layer, created))
    }

    /// Enters what a step made into the caches.
    fn remember(&self, step: &Step, keys: &[CacheKey], layer: Option<&Layer>, created: &str) -> Result<(), Error> {
        for k in keys {
            let made = layer.map(|l| (l.diff_id, l.size));
            self.cache.remember(k, made, created)?;
            self.shared.remember(k, created, made, self.in_image.contains(&step.id));
        }
        if let Some(first) = keys.first() {
            self.note_inline(step, first, created, layer);
        }
        Ok(())
    }
}

/// The steps that lead to `last`, first one first, through the stages that a stage is FROM.
pub(super) fn chain(plan: &Plan, last: StepId) -> Vec<StepId> {
    let mut chain = vec![];
    let mut at = Some(last);
    while let Some(id) = at {
        chain.push(id);
        let step = &plan.steps[id.0];
        at = match &step.kind {
            StepKind::Base(Base::Stage(other)) => Some(*other),
            _ => step.parent,
        };
    }
    chain.reverse();
    chain
}
