//! What can be wrong with a Dockerfile, and how the place is shown.

use super::Span;
use crate::error::{Classified, Kind};
use std::fmt;

/// A place in a Dockerfile, with the lines around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Name of the file.
    pub file: String,
    /// The lines that are meant.
    pub span: Span,
    /// The lines around and on it: number, text, whether it is meant.
    pub lines: Vec<(usize, String, bool)>,
    /// Whether the file looks like one in UTF-16.
    pub utf16: bool,
}

impl Location {
    /// The place `span` of the Dockerfile `text`.
    pub fn new(file: &str, text: &str, span: Span) -> Self {
        const AROUND: usize = 2;
        const MOST: usize = 24;
        const WIDTH: usize = 200;
        let first = span.start.saturating_sub(AROUND).max(1);
        let last = span.end.max(span.start).saturating_add(AROUND);
        let lines = text
            .lines()
            .zip(1..)
            .map(|(l, n)| (n, l))
            .skip(first - 1)
            .take(last.saturating_sub(first).saturating_add(1).min(MOST))
            .map(|(n, l)| {
                let l = l.trim_end();
                let mut shown: String = l.chars().take(WIDTH).map(|c| if c == '\t' { ' ' } else { c }).collect();
                if l.chars().nth(WIDTH).is_some() {
                    shown.push('…');
                }
                let shown = shown.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
                (n, shown, n >= span.start && n <= span.end)
            })
            .collect();
        // Half of the bytes of Latin letters are zero then, and two bytes that are no UTF-8 come first.
        let head = || text.chars().take(64);
        let utf16 =
            text.starts_with("\u{fffd}\u{fffd}") || head().filter(|c| *c == '\0').count() * 3 > head().count().max(4);
        Location { file: file.to_owned(), span, lines, utf16 }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, line {}", self.file, self.span.start)?;
        for (n, text, meant) in &self.lines {
            write!(f, "\n{n:5} |{} {text}", if *meant { ">>>" } else { "   " })?;
        }
        Ok(())
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Empty, or only comments.
    #[error("the file has no instructions")]
    NoInstructions,
    /// Any other fault of the text.
    #[error("{message}")]
    Syntax {
        /// What is wrong and what was expected.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// Something wrong with a Dockerfile, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}: {location}")]
pub struct Error {
    /// What.
    pub problem: Problem,
    /// Where.
    pub location: Location,
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        match &self.problem {
            _ if self.location.utf16 => Some("the file seems to be in UTF-16: save it as UTF-8".into()),
            Problem::NoInstructions => Some("a Dockerfile starts with FROM".into()),
            Problem::Syntax { hint, .. } => hint.clone(),
        }
    }
}
