//! What a Dockerfile offers to who builds it: its targets, and for one of them the arguments, secrets, agents and caches.
//!
//! A comment `# NAME text` right above the definition of `NAME` is its description.

use super::scope::{Origin, Scope, State};
use super::stages::global_args_used;
use super::{Fault, Subject};
use crate::dockerfile::expand::Lookup;
use crate::dockerfile::{self, Dockerfile, Instruction, Kind, Mount, MountKind, Span};
use std::collections::{BTreeSet, HashMap, HashSet};

/// A stage that can be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name; `None` where it has none.
    pub name: Option<String>,
    /// It is built when none is named.
    pub default: bool,
    /// What its comment says.
    pub description: Option<String>,
    /// What it starts from, as written.
    pub base: String,
    /// Its platform, as written.
    pub platform: Option<String>,
    /// Where its FROM stands.
    pub span: Span,
}

/// An argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// What its comment says.
    pub description: Option<String>,
    /// Its value: what was given, else the default.
    pub value: Option<String>,
    /// Where it is declared.
    pub span: Span,
}

/// A secret, an agent or a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its id.
    pub name: String,
    /// The build fails without it.
    pub required: bool,
    /// Where it is first used.
    pub span: Span,
}

/// What a target takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Name of the target; `None` where it has none.
    pub name: Option<String>,
    /// What its comment says.
    pub description: Option<String>,
    /// Arguments, by line.
    pub args: Vec<Arg>,
    /// Secrets, by line.
    pub secrets: Vec<Need>,
    /// Agents, by line.
    pub ssh: Vec<Need>,
    /// Caches, by line.
    pub caches: Vec<Need>,
}

/// What the comments above definitions say of each name.
struct Descriptions<'a>(HashMap<&'a str, &'a str>);

impl<'a> Descriptions<'a> {
    fn of(comments: &'a [String]) -> Descriptions<'a> {
        let described = comments.iter().rev().filter_map(|c| c.split_once(' '));
        Descriptions(described.map(|(name, text)| (name, text.trim())).collect())
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|t| !t.is_empty()).map(|t| (*t).to_owned())
    }
}

fn parse(subject: &Subject<'_>) -> Result<Dockerfile, Fault> {
    dockerfile::parse(subject.text, subject.name).map_err(Fault::from)
}

/// Every stage, in order.
///
/// # Errors
/// The Dockerfile cannot be parsed.
pub fn targets(subject: &Subject<'_>) -> Result<Vec<Target>, Fault> {
    let file = parse(subject)?;
    let last = file.stages.len().saturating_sub(1);
    let target = |(number, stage): (usize, &dockerfile::Stage)| Target {
        name: stage.from.name.clone(),
        default: number == last,
        description: stage.from.name.as_deref().and_then(|n| Descriptions::of(&stage.comments).get(n)),
        base: stage.from.base.clone(),
        platform: stage.from.platform.clone(),
        span: stage.span,
    };
    Ok(file.stages.iter().enumerate().map(target).collect())
}

/// What the target of `subject` takes, with all stages that it needs.
///
/// # Errors
/// The Dockerfile cannot be parsed, or has no such target.
pub fn outline(subject: &Subject<'_>) -> Result<Outline, Fault> {
    let file = parse(subject)?;
    let mut scope = Scope::new(&file, subject);
    let Some(target) = scope.target(subject) else {
        let wanted = subject.target.unwrap_or_default();
        let names: Vec<&str> = scope.names.iter().flatten().map(String::as_str).collect();
        return Err(Fault {
            message: format!("target stage `{wanted}` could not be found"),
            hint: dockerfile::suggest::hint(wanted, names),
            location: None,
        });
    };
    let needed = needed(&mut scope, subject, target);
    let mut collected = Collected::default();
    let mut finished: Vec<State> = vec![];
    for number in 0..=target {
        let mut state = scope.start(number, subject, &finished);
        let Some(stage) = file.stages.get(number) else { continue };
        if needed.contains(&number) {
            for name in global_args_used(&mut scope, stage) {
                collected.global(&scope, &name);
            }
        }
        for i in &stage.instructions {
            scope.apply(i, &mut state);
            if needed.contains(&number) {
                collected.instruction(&mut scope, &state, i);
            }
        }
        finished.push(state);
    }
    let stage = file.stages.get(target);
    let name = scope.names.get(target).cloned().flatten();
    let description = name.as_deref().and_then(|n| Descriptions::of(&stage?.comments).get(n));
    Ok(collected.outline(name, description))
}

/// The stages that a target needs, itself included.
fn needed(scope: &mut Scope<'_>, subject: &Subject<'_>, target: usize) -> BTreeSet<usize> {
    let file = scope.file;
    let mut needed = BTreeSet::new();
    let mut waiting = vec![target];
    while let Some(number) = waiting.pop() {
        if !needed.insert(number) {
            continue;
        }
        if let Some((Origin::Stage(parent), _)) = scope.origin(number, subject) {
            waiting.push(parent);
        }
        for i in file.stages.get(number).iter().flat_map(|s| &s.instructions) {
            let names: Vec<String> = match &i.kind {
                Kind::Copy(c) => c.from.iter().cloned().collect(),
                Kind::Run(r) => r.mounts.iter().filter_map(|m| m.from()).collect(),
                _ => vec![],
            };
            waiting.extend(names.iter().filter_map(|n| scope.stage(n, number)));
        }
    }
    needed
}

#[derive(Default)]
struct Collected<'a> {
    /// Descriptions above the ARGs before the first FROM, by line.
    global: HashMap<usize, Descriptions<'a>>,
    args: Vec<Arg>,
    seen: HashSet<String>,
    needs: [(Vec<Need>, HashMap<String, usize>); 3],
}

impl<'a> Collected<'a> {
    /// An ARG before the first FROM.
    fn global(&mut self, scope: &Scope<'a>, name: &str) {
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        let Some(arg) = scope.global_args.get(name) else { return };
        let i = arg.instruction;
        let descriptions = self.global.entry(i.span.start).or_insert_with(|| Descriptions::of(&i.comments));
        self.args.push(Arg {
            name: name.to_owned(),
            description: descriptions.get(name),
            value: scope.global.get(name).map(str::to_owned),
            span: i.span,
        });
    }

    fn instruction(&mut self, scope: &mut Scope<'a>, state: &State, i: &Instruction) {
        match &i.kind {
            Kind::Arg(definitions) => {
                let descriptions = Descriptions::of(&i.comments);
                for d in definitions {
                    let own = d.default.is_some() || scope.given(&d.name).is_some();
                    if !own && scope.global.declared(&d.name) {
                        // what is said of it is said where it gets its value
                        self.global(scope, &d.name);
                    } else if self.seen.insert(d.name.clone()) {
                        self.args.push(Arg {
                            name: d.name.clone(),
                            description: descriptions.get(&d.name),
                            value: state.variables.get(&d.name).map(str::to_owned),
                            span: i.span,
                        });
                    }
                }
            }
            Kind::Run(run) => {
                for flag in &run.mounts {
                    let resolved = flag
                        .resolve(&mut |v| scope.expand(v, &state.variables).map(|e| e.text).ok_or_else(String::new));
                    if let Ok(mount) = resolved {
                        self.mount(&mount, i.span);
                    }
                }
            }
            _ => {}
        }
    }

    fn mount(&mut self, mount: &Mount, span: Span) {
        let last = |path: &Option<String>| path.as_deref().and_then(|p| p.rsplit('/').next()).map(str::to_owned);
        let (slot, id) = match mount.kind {
            MountKind::Secret => {
                let id = mount.id.clone().or_else(|| last(&mount.source)).or_else(|| last(&mount.target));
                (0, id.or_else(|| mount.env.clone()).unwrap_or_default())
            }
            MountKind::Ssh => (1, mount.id.clone().unwrap_or_else(|| "default".into())),
            MountKind::Cache => (2, mount.id.clone().or_else(|| mount.target.clone()).unwrap_or_default()),
            MountKind::Bind | MountKind::Tmpfs => return,
        };
        let Some((list, places)) = self.needs.get_mut(slot) else { return };
        match places.get(&id).and_then(|at| list.get_mut(*at)) {
            Some(known) => known.required |= mount.required,
            None => {
                places.insert(id.clone(), list.len());
                list.push(Need { name: id, required: mount.required, span });
            }
        }
    }

    fn outline(self, name: Option<String>, description: Option<String>) -> Outline {
        let mut args = self.args;
        args.sort_by_key(|a| a.span.start);
        let [secrets, ssh, caches] = self.needs.map(|(mut list, _)| {
            list.sort_by_key(|n| n.span.start);
            list
        });
        Outline { name, description, args, secrets, ssh, caches }
    }
}
