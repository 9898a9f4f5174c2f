//! Variables: those that FROM sees, and those of each stage as its instructions go by.
//!
//! This is the plan's view of a Dockerfile without the plan: nothing is resolved, nothing can fail, and what is not known
//! (the environment of a base image that nobody has looked up) is known to be unknown.

use super::{Meaning, Subject};
use crate::dockerfile::expand::{Expanded, Expander, Lookup};
use crate::dockerfile::{ArgDef, Dockerfile, Instruction, Kind, parse_trigger, suggest};
use crate::oci::{ImageConfig, Platform};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Arguments that steer a builder and are never variables.
const SWITCHES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// `PATH` where the base image sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether an argument is never a variable.
pub(super) fn is_switch(name: &str) -> bool {
    SWITCHES.contains(&name)
}

/// How much is still done: an expansion costs its bytes, a copied environment its entries.
pub(super) struct Budget {
    left: usize,
    suggestions: usize,
}

impl Budget {
    const BYTES: usize = 256 << 20;
    const SUGGESTIONS: usize = 200;
    const CANDIDATES: usize = 2000;

    fn spend(&mut self, amount: usize) -> bool {
        self.left = self.left.saturating_sub(amount);
        self.left > 0
    }

    /// The nearest spelling of a name: the same but for its case, or one that is like it.
    pub(super) fn nearest<'a>(&mut self, name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        self.suggestions = self.suggestions.checked_sub(1)?;
        let mut known: Vec<&str> = known.take(Self::CANDIDATES + 1).collect();
        if known.len() > Self::CANDIDATES {
            return None;
        }
        known.sort_unstable();
        let same = known.iter().find(|k| k.eq_ignore_ascii_case(name)).copied();
        same.or_else(|| suggest::nearest(name, known))
    }
}

/// A value of a variable: what was set, or that it was only declared.
type Values = HashMap<String, Option<String>>;

/// Variables with their values; a declared one may have none.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables {
    values: Arc<Values>,
}

impl Lookup for Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_deref()
    }
}

impl Variables {
    pub(super) fn declared(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    fn set(&mut self, name: &str, value: Option<String>, budget: &mut Budget) {
        if Arc::strong_count(&self.values) > 1 && !budget.spend(self.values.len() * 64) {
            return;
        }
        Arc::make_mut(&mut self.values).insert(name.to_owned(), value);
    }
}

/// What is known of a stage between two of its instructions.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) variables: Variables,
    /// Whether the base image is known, and so every variable that there is.
    pub(super) base_known: bool,
    /// A SHELL was set, in the stage or in what it starts from.
    pub(super) shell: bool,
    /// A WORKDIR was set in the stage or in a stage that it starts from.
    pub(super) workdir: bool,
}

/// What a stage starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The end of another stage.
    Stage(usize),
    /// An image, by its name among the bases.
    Image(String),
    /// No image: `scratch`, or files.
    Nothing,
    /// A stage that does not exist.
    Unknown,
}

/// An ARG before the first FROM.
#[derive(Clone, Copy, Debug)]
pub(super) struct GlobalArg<'a> {
    /// Where it is first declared.
    pub(super) instruction: &'a Instruction,
    /// The first default that it is given.
    pub(super) default: Option<&'a str>,
}

/// The variables of the file, its stages, and what may still be spent.
pub(super) struct Scope<'a> {
    pub(super) file: &'a Dockerfile,
    args: HashMap<&'a str, &'a str>,
    /// What FROM sees.
    pub(super) global: Variables,
    /// What FROM sees when no build argument is given.
    pub(super) defaults: Variables,
    /// The ARGs before the first FROM.
    pub(super) global_args: HashMap<&'a str, GlobalArg<'a>>,
    /// Every name that some ARG or ENV of the file sets.
    anywhere: HashSet<&'a str>,
    /// Names of the stages, lower case.
    pub(super) names: Vec<Option<String>>,
    /// The first stage of each name that a number can be looked up by.
    by_name: HashMap<String, Vec<usize>>,
    pub(super) budget: Budget,
}

impl<'a> Scope<'a> {
    pub(super) fn new(file: &'a Dockerfile, subject: &Subject<'a>) -> Scope<'a> {
        let mut args = HashMap::new();
        for (name, value) in subject.build_args {
            match value {
                Some(v) => args.insert(name.as_str(), v.as_str()),
                None => args.remove(name.as_str()),
            };
        }
        let mut global_args: HashMap<&str, GlobalArg<'_>> = HashMap::new();
        for instruction in &file.global_args {
            let Kind::Arg(list) = &instruction.kind else { continue };
            for d in list {
                let known = global_args.entry(&d.name).or_insert(GlobalArg { instruction, default: None });
                known.default = known.default.or(d.default.as_deref());
            }
        }
        let mut scope = Scope {
            file,
            args,
            global: Variables::default(),
            defaults: Variables::default(),
            global_args,
            anywhere: HashSet::new(),
            names: vec![],
            by_name: HashMap::new(),
            budget: Budget { left: Budget::BYTES, suggestions: Budget::SUGGESTIONS },
        };
        for i in file.stages.iter().flat_map(|s| &s.instructions) {
            match &i.kind {
                Kind::Arg(list) => scope.anywhere.extend(list.iter().map(|d| d.name.as_str())),
                Kind::Env(pairs) => scope.anywhere.extend(pairs.iter().map(|p| p.key.as_str())),
                _ => {}
            }
        }
        scope.global = scope.global_variables(subject, true);
        scope.defaults = scope.global_variables(subject, false);
        for (number, stage) in file.stages.iter().enumerate() {
            let written = stage.from.name.as_deref();
            let name = written.and_then(|n| scope.expand_global(n)).map(|e| e.text.to_lowercase());
            if let Some(name) = &name {
                scope.by_name.entry(name.clone()).or_default().push(number);
            }
            scope.names.push(name);
        }
        scope
    }

    fn global_variables(&mut self, subject: &Subject<'_>, given: bool) -> Variables {
        let mut out = Variables::default();
        for (prefix, platform) in [("BUILD", &subject.build_platform), ("TARGET", &subject.platform)] {
            let p = platform.clone().normalized();
            for (suffix, value) in [
                ("PLATFORM", p.to_string()),
                ("OS", p.os),
                ("OSVERSION", p.os_version.unwrap_or_default()),
                ("ARCH", p.architecture),
                ("VARIANT", p.variant.unwrap_or_default()),
            ] {
                out.set(&format!("{prefix}{suffix}"), Some(value), &mut self.budget);
            }
        }
        let target = subject.target.unwrap_or("default").to_owned();
        out.set("TARGETSTAGE", Some(target), &mut self.budget);
        let built_in: Vec<String> = out.names().map(str::to_owned).collect();
        for name in built_in.iter().filter(|_| given) {
            if let Some(value) = self.args.get(name.as_str()) {
                out.set(name, Some((*value).to_owned()), &mut self.budget);
            }
        }
        let file = self.file;
        for i in &file.global_args {
            let Kind::Arg(definitions) = &i.kind else { continue };
            for arg in definitions {
                let value = match (self.args.get(arg.name.as_str()).filter(|_| given), &arg.default) {
                    (Some(v), _) => Some((*v).to_owned()),
                    (None, Some(default)) => self.expand(default, &out).map(|e| e.text),
                    (None, None) => out.get(&arg.name).map(str::to_owned),
                };
                out.set(&arg.name, value, &mut self.budget);
            }
        }
        out
    }

    fn run(&mut self, expander: Expander, word: &str, variables: &Variables) -> Option<Expanded> {
        if !self.budget.spend(word.len()) {
            return None;
        }
        let expanded = expander.expand(word, variables).ok()?;
        self.budget.spend(expanded.text.len()).then_some(expanded)
    }

    /// Expands a word; `None` where it cannot be, which is the plan's to report.
    pub(super) fn expand(&mut self, word: &str, variables: &Variables) -> Option<Expanded> {
        self.run(Expander::new(self.file.escape), word, variables)
    }

    /// Expands a word of FROM.
    pub(super) fn expand_global(&mut self, word: &str) -> Option<Expanded> {
        let variables = self.global.clone();
        self.expand(word, &variables)
    }

    /// Expands the text of a heredoc.
    pub(super) fn expand_text(&mut self, text: &str, variables: &Variables) -> Option<Expanded> {
        self.run(Expander { ignore_quotes: true, ..Expander::new('\\') }, text, variables)
    }

    /// The value that a build argument was given.
    pub(super) fn given(&self, name: &str) -> Option<&'a str> {
        self.args.get(name).copied()
    }

    /// The stage before `before` that `name` means.
    pub(super) fn stage(&self, name: &str, before: usize) -> Option<usize> {
        let named = self.by_name.get(&name.to_lowercase());
        let named = named.and_then(|all| all.get(..all.partition_point(|n| *n < before))?.last().copied());
        named.or_else(|| name.parse().ok().filter(|n| *n < before && name.bytes().all(|b| b.is_ascii_digit())))
    }

    /// The stage that is built.
    pub(super) fn target(&self, subject: &Subject<'_>) -> Option<usize> {
        match subject.target.filter(|t| !t.is_empty()) {
            None => self.file.stages.len().checked_sub(1),
            Some(name) => self.stage(name, self.file.stages.len()),
        }
    }

    /// Whether a variable that is not set is wrong whatever the base image sets: the file itself knows the name, but not
    /// here.
    pub(super) fn known_elsewhere(&self, name: &str) -> bool {
        self.global.declared(name) || self.anywhere.contains(name)
    }

    /// The base of a stage with its variables replaced, and the platform that it is wanted for.
    pub(super) fn base(&mut self, number: usize, subject: &Subject<'_>) -> Option<(String, Platform)> {
        let from = &self.file.stages.get(number)?.from;
        let base = self.expand_global(&from.base)?.text;
        let platform = match &from.platform {
            None => subject.platform.clone(),
            Some(written) => self.expand_global(written)?.text.parse().ok()?,
        };
        Some((base, platform))
    }

    /// What FROM of a stage means. A context with the name of the stage, or of the stage that is its base, takes its place.
    pub(super) fn origin(&mut self, number: usize, subject: &Subject<'_>) -> Option<(Origin, Platform)> {
        let (base, platform) = self.base(number, subject)?;
        let parent = self.stage(&base, number);
        let own = self.file.stages.get(number).and_then(|s| s.from.name.as_deref());
        let names = own.into_iter().chain(Some(base.as_str()).filter(|_| parent.is_none()));
        let meaning = subject.contexts.and_then(|all| names.into_iter().find_map(|n| all.meaning(n, &platform)));
        let origin = match (meaning, parent) {
            (Some(Meaning::Files), _) => Origin::Nothing,
            (Some(Meaning::Image(name)), _) => Origin::Image(name),
            (Some(Meaning::Stage(name)), _) => self.stage(&name, number).map_or(Origin::Unknown, Origin::Stage),
            (None, Some(parent)) => Origin::Stage(parent),
            (None, None) if base == "scratch" => Origin::Nothing,
            (None, None) => Origin::Image(base),
        };
        Some((origin, platform))
    }

    /// What a stage starts with. `finished` has the states of the stages before it.
    pub(super) fn start(&mut self, number: usize, subject: &Subject<'_>, finished: &[State]) -> State {
        let Some((origin, platform)) = self.origin(number, subject) else { return State::default() };
        let (mut state, triggers) = match origin {
            Origin::Stage(parent) => {
                let state = finished.get(parent).cloned().unwrap_or_default();
                let instructions = self.file.stages.get(parent).map(|s| s.instructions.as_slice()).unwrap_or_default();
                let triggers = instructions.iter().filter_map(|i| match &i.kind {
                    Kind::Onbuild(o) => Some((*o.instruction).clone()),
                    _ => None,
                });
                (state, triggers.collect::<Vec<_>>())
            }
            Origin::Nothing => (State { base_known: true, ..State::default() }, vec![]),
            Origin::Unknown => (State::default(), vec![]),
            Origin::Image(name) => match subject.bases.get(&(name, platform)) {
                None => (State::default(), vec![]),
                Some(config) => {
                    let triggers = config.config.on_build.iter().filter_map(|t| parse_trigger(t).ok());
                    (self.image(config), triggers.collect())
                }
            },
        };
        if state.variables.get("PATH").is_none() {
            state.variables.set("PATH", Some(PATH.into()), &mut self.budget);
        }
        for trigger in &triggers {
            self.apply(trigger, &mut state);
        }
        state
    }

    fn image(&mut self, config: &ImageConfig) -> State {
        let mut state = State { base_known: true, ..State::default() };
        for entry in &config.config.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            state.variables.set(name, Some(value.to_owned()), &mut self.budget);
        }
        state.shell = config.config.shell.as_ref().is_some_and(|s| !s.is_empty());
        state
    }

    /// Goes past one argument of an ARG.
    pub(super) fn declare(&mut self, arg: &ArgDef, state: &mut State) {
        let value = match (self.given(&arg.name), &arg.default) {
            (Some(given), _) => Some(given.to_owned()),
            (None, Some(default)) => self.expand(default, &state.variables).map(|e| e.text),
            (None, None) => self.global.get(&arg.name).map(str::to_owned),
        };
        // what is set already stays where the ARG has nothing to say
        if value.is_some() || !state.variables.declared(&arg.name) {
            state.variables.set(&arg.name, value, &mut self.budget);
        }
    }

    /// Goes past an instruction.
    pub(super) fn apply(&mut self, i: &Instruction, state: &mut State) {
        match &i.kind {
            Kind::Arg(definitions) => {
                for arg in definitions {
                    self.declare(arg, state);
                }
            }
            Kind::Env(pairs) => {
                let mut new = vec![];
                for pair in pairs {
                    let key = self.expand(&pair.key, &state.variables).map(|e| e.text);
                    let value = self.expand(&pair.value, &state.variables).map(|e| e.text);
                    new.extend(key.map(|k| (k, value.unwrap_or_default())));
                }
                for (key, value) in new {
                    state.variables.set(&key, Some(value), &mut self.budget);
                }
            }
            Kind::Shell(_) => state.shell = true,
            Kind::Workdir(_) => state.workdir = true,
            _ => {}
        }
    }
}
