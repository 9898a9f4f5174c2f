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
mod command;
mod duration;
mod error;
pub mod expand;
mod frontend;
mod heredoc;
pub mod ignore;
mod instruction;
mod lines;
mod mount;
mod print;
#[cfg(test)]
mod robustness;
pub(crate) mod suggest;
pub mod table;

pub use ast::{
    ArgDef, CommandLine, Copy, Dockerfile, From, Healthcheck, Heredoc, Instruction, KeyValue, Kind, Mount, MountFlag,
    MountKind, Onbuild, Run, RunNetwork, Sharing, Source, Stage, Warning,
};
pub(crate) use command::quote;
pub use error::{Error, Location, Problem};
pub(crate) use frontend::is_own_frontend;
pub(crate) use instruction::is_stage_name;
pub use mount::MountError;

use instruction::Parsed;

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
    parse_located(text).map_err(|(problem, span)| Error { problem, location: Location::new(name, text, span) })
}

fn parse_located(text: &str) -> Result<Dockerfile, lines::Located> {
    let read = lines::read(text)?;
    let mut file = Dockerfile {
        escape: read.directives.escape,
        syntax: read.directives.syntax,
        check: read.directives.check,
        global_args: vec![],
        stages: vec![],
        warnings: read.warnings,
    };
    for line in &read.lines {
        let located = |problem| (problem, line.span);
        match instruction::parse(line).map_err(located)? {
            Parsed::From(from) => file.stages.push(Stage {
                from,
                span: line.span,
                original: line.command.original.trim().to_owned(),
                comments: line.comments.clone(),
                instructions: vec![],
            }),
            Parsed::Other(kind) => {
                let instruction = instruction::instruction(line, kind, line.span);
                match (file.stages.last_mut(), &instruction.kind) {
                    (Some(stage), _) => stage.instructions.push(instruction),
                    (None, Kind::Arg(_)) => file.global_args.push(instruction),
                    (None, kind) => {
                        let message = format!("{} before the first FROM: only ARG may stand there", kind.keyword());
                        return Err(lines::syntax(message, Some("a Dockerfile starts with FROM".into()), line.span));
                    }
                }
            }
        }
    }
    if file.stages.is_empty() {
        let end = text.lines().count().max(1);
        return Err(lines::syntax("the file has no FROM", None, Span { start: end, end }));
    }
    Ok(file)
}

/// Parses the trigger of an ONBUILD, as it is stored in an image.
///
/// # Errors
///
/// What is wrong with it, without a place: a trigger stands in no file.
pub fn parse_trigger(text: &str) -> Result<Instruction, Problem> {
    let read = lines::read(text).map_err(|(problem, _)| problem)?;
    let fault = |message: &str| Problem::Syntax { message: message.to_owned(), hint: None };
    let [line] = read.lines.as_slice() else { return Err(fault("an ONBUILD trigger has to be one instruction")) };
    match instruction::parse(line)? {
        Parsed::Other(Kind::Onbuild(_)) => Err(fault("ONBUILD cannot trigger another ONBUILD")),
        Parsed::Other(kind) => Ok(instruction::instruction(line, kind, line.span)),
        Parsed::From(_) => Err(fault("FROM is not allowed as an ONBUILD trigger")),
    }
}
