//! One pass over the instructions of a stage: each becomes a step.

use super::graph::{Graph, Opened, Origin, Start};
use super::scope::{self, Arguments, Variables};
use super::{Base, CopyFrom, Error, Plan, PlanRequest, Stage, Step, StepId, StepKind};
use crate::dockerfile::expand::{Expander, Lookup};
use crate::dockerfile::{Instruction, Kind, Span};
use crate::oci::{ContainerConfig, History, ImageConfig, Platform, RootFs};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// `PATH` where the base image sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How histories name the program that wrote them; other tools look for this name.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// Most bytes that the steps of one build may take.
const HEAVIEST: usize = 512 << 20;

/// About how many bytes a config takes.
fn weight(c: &ContainerConfig) -> usize {
    /// What a string in a collection costs besides its text.
    const EACH: usize = 64;
    let texts = c.env.iter().chain(&c.on_build).chain(c.exposed_ports.keys()).chain(c.volumes.keys());
    let pairs = c.labels.iter().map(|(k, v)| k.len() + v.len() + 2 * EACH);
    let lists = c.cmd.iter().chain(&c.entrypoint).chain(&c.shell).flatten();
    texts.chain(lists).map(|t| t.len() + EACH).chain(pairs).sum()
}

/// What a stage leaves to those that start from it.
#[derive(Clone)]
struct Finished {
    state: State,
    last: StepId,
    platform: Platform,
}

/// The state between two instructions of a stage.
#[derive(Clone)]
pub(super) struct State {
    pub(super) image: ImageConfig,
    /// ENV and ARG, the later of a name wins.
    pub(super) variables: Variables,
    /// The declared ARGs with their values, in order.
    pub(super) arguments: Arguments,
    /// ENV alone.
    pub(super) environment: Variables,
    /// CMD was set in this stage.
    pub(super) cmd_set: bool,
    /// Platform of the stage.
    pub(super) platform: Platform,
}

impl State {
    /// The container config, for changes.
    pub(super) fn config(&mut self) -> &mut ContainerConfig {
        &mut self.image.config
    }
}

/// What an instruction comes to.
pub(super) struct Outcome {
    pub(super) kind: StepKind,
    /// Text of the history entry, and whether a layer can come of it.
    pub(super) history: Option<(String, bool)>,
    pub(super) inputs: Vec<StepId>,
}

impl Outcome {
    pub(super) fn config(history: impl Into<String>) -> Self {
        Outcome { kind: StepKind::Config, history: Some((history.into(), false)), inputs: vec![] }
    }
}

/// Collects the steps of all stages.
pub(super) struct Builder<'a> {
    graph: Graph<'a>,
    pub(super) args: HashMap<String, String>,
    pub(super) proxies: Vec<(String, String)>,
    pub(super) global: Variables,
    target: usize,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
    /// About how many bytes the steps take.
    weight: usize,
    steps: Vec<Step>,
    stages: Vec<Stage>,
    finished: BTreeMap<usize, Finished>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: Graph<'a>, args: HashMap<String, String>, global: Variables, target: usize) -> Self {
        let proxies = scope::proxies(&args);
        Builder {
            graph,
            args,
            proxies,
            global,
            target,
            warnings: vec![],
            weight: 0,
            steps: vec![],
            stages: vec![],
            finished: BTreeMap::new(),
        }
    }

    pub(super) fn request(&self) -> &'a PlanRequest {
        self.graph.request
    }

    pub(super) fn escape(&self) -> char {
        self.graph.file.escape
    }

    pub(super) fn invalid(&self, span: Span, message: impl Into<String>) -> Error {
        Error::invalid(self.request(), span, message)
    }

    pub(super) fn invalid_hint(&self, span: Span, message: impl Into<String>, hint: &str) -> Error {
        let location = Box::new(self.request().location(span));
        Error::Invalid { message: message.into(), hint: Some(hint.to_owned()), location }
    }

    pub(super) fn unsupported(&self, span: Span, what: impl Into<String>) -> Error {
        Error::unsupported(self.request(), span, what)
    }

    /// Expands a word of an instruction.
    pub(super) fn word(&self, word: &str, variables: &dyn Lookup, span: Span) -> Result<String, Error> {
        Expander::new(self.graph.file.escape).text(word, variables).map_err(|e| self.invalid(span, e.to_string()))
    }

    /// Expands a word and splits it at blanks.
    pub(super) fn words(&self, word: &str, variables: &dyn Lookup, span: Span) -> Result<Vec<String>, Error> {
        let expanded = Expander::new(self.graph.file.escape).expand(word, variables);
        expanded.map(|e| e.words).map_err(|e| self.invalid(span, e.to_string()))
    }

    /// Where `--from=name` reads, and the step that has to be finished first.
    pub(super) fn origin(&mut self, stage: usize, name: &str, span: Span) -> Result<(CopyFrom, Option<StepId>), Error> {
        match self.graph.origin(stage, name, span)? {
            Origin::Image(image) => Ok((CopyFrom::Image(image), None)),
            Origin::Files(context) => Ok((CopyFrom::Named(context), None)),
            Origin::Stage(number) => match self.finished.get(&number) {
                Some(f) => Ok((CopyFrom::Stage(f.last), Some(f.last))),
                None => {
                    Err(self.invalid(span, format!("stage `{name}` has to be defined before the stage that reads it")))
                }
            },
        }
    }

    /// Plans one stage. The stages that it needs have been planned.
    pub(super) fn stage(&mut self, number: usize, opened: Opened) -> Result<(), Error> {
        let (span, name) = match self.graph.file.stages.get(number) {
            Some(s) => (s.span, self.graph.names.get(number).cloned().flatten()),
            None => return Ok(()),
        };
        let (mut state, base, platform, inputs) = self.start(&opened, span)?;
        let index = self.stages.len();
        let from = match &name {
            Some(n) => format!("FROM {} AS {n}", opened.base),
            None => format!("FROM {}", opened.base),
        };
        let history = match &base {
            Base::Files(_) => Some(History {
                created_by: Some(format!("{from} # build context")),
                comment: Some(COMMENT.to_owned()),
                ..Default::default()
            }),
            _ => None,
        };
        let mut config = Arc::new(state.image.config.clone());
        let mut last = self.push(Step {
            id: StepId(0),
            stage: index,
            number: 1,
            name: from,
            span,
            parent: None,
            inputs,
            kind: StepKind::Base(base),
            config: config.clone(),
            history,
        })?;
        for (place, (instruction, _)) in opened.instructions.iter().enumerate() {
            let outcome = self.instruction(number, &mut state, instruction)?;
            if matches!(outcome.kind, StepKind::Config | StepKind::Workdir { .. }) && *config != state.image.config {
                config = Arc::new(state.image.config.clone());
            }
            let history = outcome.history.map(|(text, layer)| History {
                created_by: Some(text),
                comment: Some(COMMENT.to_owned()),
                empty_layer: !layer,
                ..Default::default()
            });
            last = self.push(Step {
                id: StepId(0),
                stage: index,
                number: place + 2,
                name: display(instruction),
                span: instruction.span,
                parent: Some(last),
                inputs: outcome.inputs,
                kind: outcome.kind,
                config: config.clone(),
                history,
            })?;
        }
        let labels = &self.request().labels;
        if number == self.target && !labels.is_empty() {
            let mut text = "LABEL".to_owned();
            for (key, value) in labels {
                state.config().labels.insert(key.clone(), value.clone());
                text.push_str(&format!(" {}={}", crate::dockerfile::quote(key), crate::dockerfile::quote(value)));
            }
            config = Arc::new(state.image.config.clone());
            last = self.push(Step {
                id: StepId(0),
                stage: index,
                number: opened.instructions.len() + 2,
                name: text,
                span,
                parent: Some(last),
                inputs: vec![],
                kind: StepKind::Config,
                config,
                history: None,
            })?;
        }
        self.stages.push(Stage { name, index: number, last, image: state.image.clone(), platform: platform.clone() });
        self.finished.insert(number, Finished { state, last, platform });
        Ok(())
    }

    fn push(&mut self, mut step: Step) -> Result<StepId, Error> {
        let id = StepId(self.steps.len());
        step.id = id;
        // each step owns what it needs, which for thousands of variables in thousands of steps is too much
        let own = match &step.kind {
            StepKind::Run(run) => run.env.iter().map(|(n, v)| n.len() + v.len() + 64).sum(),
            _ => 0,
        };
        let config = match self.steps.last() {
            Some(last) if Arc::ptr_eq(&last.config, &step.config) => 0,
            _ => weight(&step.config),
        };
        let history = step.history.as_ref().and_then(|h| h.created_by.as_ref()).map_or(0, String::len);
        self.weight = self.weight.saturating_add(own).saturating_add(config).saturating_add(history);
        if self.weight > HEAVIEST {
            let what = format!("this is too much for one build: {} steps have come to over 512 MiB", self.steps.len());
            return Err(self.invalid(step.span, what));
        }
        self.steps.push(step);
        Ok(id)
    }

    /// The state that a stage starts with.
    fn start(&self, opened: &Opened, span: Span) -> Result<(State, Base, Platform, Vec<StepId>), Error> {
        let (mut state, base, platform, inputs) = match &opened.start {
            Start::Stage(parent) => {
                let Some(f) = self.finished.get(parent) else {
                    return Err(self.invalid(
                        span,
                        format!("stage {parent} has to be defined before the one that starts from it"),
                    ));
                };
                (f.state.clone(), Base::Stage(f.last), f.platform.clone(), vec![f.last])
            }
            Start::Scratch | Start::Files(_) => {
                let mut image = ImageConfig::scratch(&opened.platform);
                image.config.working_dir = "/".into();
                let base = match opened.start {
                    Start::Files(context) => Base::Files(context),
                    _ => Base::Scratch,
                };
                (State::of(image, &opened.platform), base, opened.platform.clone(), vec![])
            }
            Start::Image(found) => {
                let mut image = found.config.clone();
                // what describes the container that made the base, and fields of nobody's, are not inherited
                image.created = None;
                image.extra.clear();
                image.config.extra.clear();
                image.rootfs = RootFs { diff_ids: image.rootfs.diff_ids, ..RootFs::default() };
                if image.os.is_empty() || image.architecture.is_empty() {
                    image.os = opened.platform.os.clone();
                    image.architecture = opened.platform.architecture.clone();
                    image.variant = opened.platform.variant.clone();
                }
                let platform = image.platform();
                (State::of(image, &platform), Base::Image(found.clone()), platform, vec![])
            }
        };
        state.cmd_set = false;
        let config = state.config();
        config.on_build.clear();
        if !self.request().inherit_labels {
            config.labels.clear();
        }
        if !config.working_dir.is_empty() {
            config.working_dir = super::values::join_as_written("/", &config.working_dir);
        }
        if config.env("PATH").is_none() {
            config.env.push(format!("PATH={PATH}"));
            state.environment.set("PATH", PATH);
            state.variables.set("PATH", PATH);
        }
        Ok((state, base, platform, inputs))
    }

    fn instruction(&mut self, stage: usize, state: &mut State, i: &Instruction) -> Result<Outcome, Error> {
        match &i.kind {
            Kind::Run(run) => self.run(stage, state, run, i.span),
            Kind::Copy(copy) => self.copy(stage, state, copy, false, i.span),
            Kind::Add(copy) => self.copy(stage, state, copy, true, i.span),
            kind => self.config(state, kind, i.span),
        }
    }

    pub(super) fn finish(self, unused_build_args: Vec<String>) -> Result<Plan, Error> {
        let target = self.stages.iter().position(|s| s.index == self.target).unwrap_or(0);
        Ok(Plan { steps: self.steps, stages: self.stages, target, warnings: self.warnings, unused_build_args })
    }
}

impl State {
    fn of(image: ImageConfig, platform: &Platform) -> Self {
        let mut variables = Variables::default();
        for entry in &image.config.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            variables.set(name, value);
        }
        State {
            image,
            arguments: Arguments::default(),
            environment: variables.clone(),
            variables,
            cmd_set: false,
            platform: platform.clone(),
        }
    }
}

/// A text without the passwords that web addresses in it have.
fn without_passwords(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace);
    words
        .map(|word| {
            let bare = word.trim_end();
            let (address, login) = crate::source::split_login(bare);
            let whole = word.get(bare.len()..).unwrap_or_default();
            if login.is_some() && bare.contains("://") { address + whole } else { word.to_owned() }
        })
        .collect()
}

/// The instruction on one line; of heredocs the first line of the first.
fn display(i: &Instruction) -> String {
    let heredoc = match &i.kind {
        Kind::Run(r) => r.heredocs.first(),
        _ => None,
    };
    let Some(h) = heredoc else {
        let is_add = matches!(i.kind, Kind::Add(_));
        return if is_add { without_passwords(&i.original) } else { i.original.clone() };
    };
    let text = h.content.trim();
    let first = text.lines().next().unwrap_or_default();
    let dots = if text.contains('\n') { "..." } else { "" };
    format!("{} ({first}{dots})", i.original)
}
