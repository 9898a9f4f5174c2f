//! What is suspicious in a Dockerfile that builds, what it offers, and what other builders make of it.
//!
//! ```text
//!               ┌ form          how it is written: cases, comments, empty lines
//! check ────────┼ stages        FROM: names, variables, platforms
//!  (settings)   └ instructions  what an instruction means where it stands: variables, paths, secrets
//! outline       arguments, secrets, agents and caches of a target; the targets
//! compat        what kaniko, buildah and BuildKit drop, refuse or do differently
//! report        findings as text and as JSON
//! ```
//!
//! The names of the rules, the directive, the comments that skip a rule and the shape of the JSON are BuildKit's, so that
//! what reads those reads this. Nothing here asks for anything: what is known of base images is handed in, and where a
//! base is not known, rules that depend on it only report what is wrong whatever the base is.
//!
//! Work is bounded (`scope::Budget`): past a limit that no sane Dockerfile comes near, rules about values go quiet.

pub mod compat;
mod form;
mod instructions;
pub mod outline;
pub mod report;
mod rules;
mod scope;
mod settings;
mod stages;
#[cfg(test)]
mod tests;

pub use rules::{ALL, Rule};
pub use settings::{BUILD_ARG, Settings};

use crate::dockerfile::ignore::Patterns;
use crate::dockerfile::{self, Dockerfile, Instruction, Location, Span, Stage};
use crate::error::{Classified, Kind};
use crate::oci::{ImageConfig, Platform};
use std::collections::{BTreeSet, HashMap};

/// Configs of base images, by the name in FROM (variables replaced) and the platform that it is wanted for.
pub type Bases = HashMap<(String, Platform), ImageConfig>;

/// What a name stands for because somebody says so on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// An image; the name under which it is among the [`Bases`], where it is known.
    Image(String),
    /// A stage of the Dockerfile.
    Stage(String),
    /// Files, and no config.
    Files,
}

/// The named contexts of a build.
pub trait Contexts: std::fmt::Debug {
    /// What the name means on a platform; `None`: what the Dockerfile says.
    fn meaning(&self, name: &str, platform: &Platform) -> Option<Meaning>;
}

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Text of the Dockerfile.
    pub text: &'a str,
    /// How messages call the Dockerfile.
    pub name: &'a str,
    /// Build arguments, in order; `None` where one has no value.
    pub build_args: &'a [(String, Option<String>)],
    /// Name or number of the stage to build.
    pub target: Option<&'a str>,
    /// Platform of the image.
    pub platform: Platform,
    /// Platform of the machine that builds.
    pub build_platform: Platform,
    /// What the ignore file excludes from the context.
    pub ignore: &'a Patterns,
    /// What is known of base images.
    pub bases: &'a Bases,
    /// What stands in for images and stages.
    pub contexts: Option<&'a dyn Contexts>,
    /// Numbers of the stages that a build needs: rules about the meaning of instructions leave out all others. `None`:
    /// every stage.
    pub needed: Option<BTreeSet<usize>>,
}

impl<'a> Subject<'a> {
    /// A Dockerfile alone, for this machine.
    pub fn new(text: &'a str, name: &'a str, ignore: &'a Patterns, bases: &'a Bases) -> Subject<'a> {
        Subject {
            text,
            name,
            build_args: &[],
            target: None,
            platform: Platform::host(),
            build_platform: Platform::host(),
            ignore,
            bases,
            contexts: None,
            needed: None,
        }
    }
}

/// Something that a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// What it found, as one sentence without a full stop.
    pub detail: String,
    /// Where.
    pub span: Span,
}

impl Finding {
    /// On one line, as builds show it at their end.
    pub fn line(&self) -> String {
        format!("{}: {} (line {})", self.rule.name, self.detail, self.span.start)
    }
}

/// What keeps a Dockerfile from being built at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, as one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where; `None` where it is about no line.
    pub location: Option<Location>,
}

impl From<dockerfile::Error> for Fault {
    fn from(e: dockerfile::Error) -> Fault {
        Fault { message: e.problem.to_string(), hint: e.hint(), location: Some(e.location) }
    }
}

/// What a look at a Dockerfile gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What the rules found, by line.
    pub found: Vec<Finding>,
    /// Why the Dockerfile cannot be built.
    pub fault: Option<Fault>,
    /// `error=true`: a build with findings has to fail.
    pub fatal: bool,
}

impl Findings {
    /// The error of a build with `error=true`; `None` where it may go on.
    pub fn violation(&self, subject: &Subject<'_>) -> Option<Violation> {
        let first = self.found.first().filter(|_| self.fatal)?;
        let rules: BTreeSet<&str> = self.found.iter().map(|f| f.rule.name).collect();
        Some(Violation {
            rules: rules.into_iter().collect::<Vec<_>>().join(", "),
            location: Location::new(subject.name, subject.text, first.span),
        })
    }
}

/// Findings where the Dockerfile says that there must be none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lint violation found for rules: {rules}: {location}")]
pub struct Violation {
    /// Names of the rules, sorted, with commas.
    pub rules: String,
    /// The first place.
    pub location: Location,
}

impl Classified for Violation {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        Some("`rbuild lint` shows each; `# check=error=true` makes them errors".into())
    }
}

/// Applies the rules. A Dockerfile that cannot be parsed is looked at up to the line where it breaks.
pub fn check(subject: &Subject<'_>) -> Findings {
    let mut findings = Findings::default();
    let (file, complete) = match dockerfile::parse(subject.text, subject.name) {
        Ok(file) => (file, true),
        Err(e) => {
            let end = e.location.span.start.saturating_sub(1);
            let sound: String = subject.text.split_inclusive('\n').take(end).collect();
            findings.fault = Some(e.into());
            match dockerfile::parse(&sound, subject.name) {
                Ok(file) => (file, false),
                Err(_) => return findings,
            }
        }
    };
    let given = subject.build_args.iter().rev().find(|(name, _)| name == BUILD_ARG).and_then(|(_, v)| v.as_deref());
    let settings = match Settings::parse(given.or(file.check.as_deref()).unwrap_or_default()) {
        Ok(settings) => settings,
        Err(message) => {
            let line = subject.text.lines().position(|l| l.trim_start().starts_with('#') && l.contains("check"));
            let at = Span { start: line.unwrap_or(0) + 1, end: line.unwrap_or(0) + 1 };
            let location = given.is_none().then(|| Location::new(subject.name, subject.text, at));
            let hint = Some("write `# check=skip=RULE,RULE;error=true`".to_owned());
            findings.fault.get_or_insert(Fault { message, hint, location });
            return findings;
        }
    };
    findings.fatal = settings.fatal;
    let mut linter = Linter { file: &file, settings, found: vec![] };
    form::check(&mut linter, complete);
    if complete {
        let mut scope = scope::Scope::new(&file, subject);
        stages::check(&mut linter, subject, &mut scope);
        instructions::check(&mut linter, subject, &mut scope);
    }
    findings.found = linter.found;
    findings.found.sort_by_key(|f| f.span.start);
    findings
}

/// Collects what the rules find, but for what is skipped.
struct Linter<'a> {
    file: &'a Dockerfile,
    settings: Settings,
    found: Vec<Finding>,
}

/// An instruction or a FROM, with the settings that hold there.
struct Place {
    span: Span,
    own: Option<Settings>,
}

impl From<&Instruction> for Place {
    fn from(i: &Instruction) -> Place {
        Place { span: i.span, own: Settings::of_comments(&i.comments) }
    }
}

impl From<&Stage> for Place {
    fn from(s: &Stage) -> Place {
        Place { span: s.span, own: Settings::of_comments(&s.comments) }
    }
}

impl Linter<'_> {
    fn report(&mut self, rule: &'static Rule, place: &Place, detail: impl Into<String>) {
        let runs = match &place.own {
            // an experimental rule that either side asks for runs
            Some(own) if rule.experimental => self.settings.runs(rule) || own.runs(rule),
            Some(own) => self.settings.runs(rule) && own.runs(rule),
            None => self.settings.runs(rule),
        };
        if runs {
            self.found.push(Finding { rule, detail: detail.into(), span: place.span });
        }
    }
}
