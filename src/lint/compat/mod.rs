//! What kaniko, buildah and BuildKit make of a Dockerfile where they do not do what is written.
//!
//! The Dockerfile's meaning is the language's, as rbuild builds it. Each finding says where another builder leaves it: it
//! drops something without failing, refuses to build, or builds something else. [`features`] finds what a Dockerfile uses;
//! [`table`] says what each tool makes of it.

mod features;
mod table;
#[cfg(test)]
mod tests;

use super::{Fault, Subject};
use crate::dockerfile::{self, Span, suggest};
use features::Feature;
use std::fmt;
use std::str::FromStr;

/// A builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// kaniko, the maintained fork.
    Kaniko,
    /// buildah, and so podman.
    Buildah,
    /// BuildKit, and so Docker.
    Buildkit,
}

impl Tool {
    /// All of them.
    pub const ALL: [Tool; 3] = [Tool::Kaniko, Tool::Buildah, Tool::Buildkit];
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tool::Kaniko => "kaniko",
            Tool::Buildah => "buildah",
            Tool::Buildkit => "buildkit",
        })
    }
}

/// A name that is no builder's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown builder `{name}`: expected `kaniko`, `buildah` or `buildkit`")]
pub struct UnknownTool {
    /// The name.
    pub name: String,
    /// The one that is like it.
    pub hint: Option<String>,
}

impl FromStr for Tool {
    type Err = UnknownTool;

    fn from_str(text: &str) -> Result<Tool, UnknownTool> {
        match text.trim().to_ascii_lowercase().as_str() {
            "kaniko" => Ok(Tool::Kaniko),
            "buildah" | "podman" => Ok(Tool::Buildah),
            "buildkit" | "docker" => Ok(Tool::Buildkit),
            other => {
                let hint = suggest::hint(other, ["kaniko", "buildah", "buildkit"]);
                Err(UnknownTool { name: text.to_owned(), hint })
            }
        }
    }
}

/// How a builder leaves what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It is accepted and not done: the image differs and nothing failed.
    Drops,
    /// The build fails.
    Refuses,
    /// Something else is done.
    Differs,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::Drops => "drops",
            Effect::Refuses => "refuses",
            Effect::Differs => "differs",
        })
    }
}

/// One place where a builder does something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Where.
    pub span: Span,
    /// Who.
    pub tool: Tool,
    /// How.
    pub effect: Effect,
    /// What, as one sentence without a full stop.
    pub detail: &'static str,
}

/// What `tools` would not do as written, by line.
///
/// # Errors
/// The Dockerfile cannot be parsed.
pub fn compare(subject: &Subject<'_>, tools: &[Tool]) -> Result<Vec<Conflict>, Fault> {
    let file = dockerfile::parse(subject.text, subject.name)?;
    let mut conflicts = vec![];
    for (feature, span) in features::used(&file, subject) {
        for (_, tool, effect, detail) in
            table::TABLE.iter().filter(|(f, tool, ..)| *f == feature && tools.contains(tool))
        {
            conflicts.push(Conflict { span, tool: *tool, effect: *effect, detail });
        }
    }
    conflicts.sort_by_key(|c| (c.span.start, c.tool));
    Ok(conflicts)
}
