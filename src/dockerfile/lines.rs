//! From text to logical lines: directives, comments, continuations and heredocs.
//!
//! A logical line is what stands between two line ends that no escape character takes away, with comment lines and empty
//! lines inside it left out, plus the bodies of the heredocs that it opens. What the line says is
//! [`super::command`]'s business, but for one thing that has to be known here: whether it may open a heredoc.

use super::ast::{Heredoc, Warning};
use super::command::Command;
use super::{Problem, Span};

/// A logical line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) span: Span,
    pub(super) command: Command,
    /// The comment lines above, without `#`.
    pub(super) comments: Vec<String>,
    pub(super) heredocs: Vec<Heredoc>,
}

/// What a file consists of.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    pub(super) directives: Directives,
    pub(super) warnings: Vec<Warning>,
}

/// The parser directives: `# name=value` lines at the very top.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Directives {
    pub(super) escape: char,
    pub(super) syntax: Option<String>,
    pub(super) check: Option<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Directives { escape: '\\', syntax: None, check: None }
    }
}

/// A problem and the lines it is about.
pub(super) type Located = (Problem, Span);

pub(super) fn syntax(message: impl Into<String>, hint: Option<String>, span: Span) -> Located {
    (Problem::Syntax { message: message.into(), hint }, span)
}

/// The name and value of a directive line (`text` begins after leading blanks).
fn directive(text: &str) -> Option<(String, &str)> {
    let (name, value) = text.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    (valid && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

impl Directives {
    /// Takes a directive in; `Ok(false)` where the line is none, which ends the directives.
    fn take(&mut self, text: &str, seen: &mut Vec<String>, span: Span) -> Result<bool, Located> {
        let Some((name, value)) = directive(text) else { return Ok(false) };
        if !matches!(name.as_str(), "syntax" | "escape" | "check") {
            return Ok(false);
        }
        if seen.contains(&name) {
            return Err(syntax(format!("the parser directive `{name}` may only be given once"), None, span));
        }
        match name.as_str() {
            "escape" => {
                self.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => {
                        let m = format!("invalid escape character `{value}`: expected a backslash or a backquote");
                        return Err(syntax(m, None, span));
                    }
                }
            }
            "syntax" => self.syntax = Some(value.to_owned()),
            _ => self.check = Some(value.to_owned()),
        }
        seen.push(name);
        Ok(true)
    }
}

/// The line without its continuation, and whether it is continued. A doubled escape character is an escaped one.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

/// Whether the next line would belong to this one.
pub(super) fn is_continued(line: &str, escape: char) -> bool {
    continuation(line, escape).1
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Reads a whole file.
pub(super) fn read(text: &str) -> Result<Lines, Located> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut physical = text.split_inclusive('\n');
    let mut number = 0;
    let mut out = Lines::default();
    let mut seen = Vec::new();
    let mut directives_over = false;
    let executable = text.starts_with("#!");
    let mut comments = Vec::new();

    while let Some(raw) = physical.next() {
        number += 1;
        let start = number;
        let first = raw.trim_end_matches(['\r', '\n']).trim_start();
        // A Dockerfile that can be executed has the line for the kernel before its directives; an `escape` behind that is
        // none, as in BuildKit.
        if executable && number == 1 {
            continue;
        }
        if !directives_over {
            let escape = directive(first).is_some_and(|(name, _)| name == "escape");
            if !(executable && escape) && out.directives.take(first, &mut seen, Span { start, end: start })? {
                continue;
            }
            directives_over = true;
        }
        if is_comment(first) {
            match first.trim_start_matches('#').trim() {
                "" => comments.clear(),
                c => comments.push(c.to_owned()),
            }
            continue;
        }
        let escape = out.directives.escape;
        let (part, mut more) = continuation(first, escape);
        if part.is_empty() && !more {
            // an empty line parts comments from what follows
            comments.clear();
            continue;
        }
        let mut line = part.to_owned();
        let mut blank_inside = false;
        while more {
            let Some(raw) = physical.next() else { break };
            number += 1;
            let raw = raw.trim_end_matches(['\r', '\n']);
            if is_comment(raw) {
                continue;
            }
            if raw.trim_start().is_empty() {
                blank_inside = true;
                continue;
            }
            let (part, goes_on) = continuation(raw, escape);
            line.push_str(part);
            more = goes_on;
        }
        if line.trim().is_empty() {
            continue;
        }
        let mut span = Span { start, end: number };
        if blank_inside {
            out.warnings.push(Warning { span, message: "empty continuation line".into() });
        }
        let command = Command::parse(&line, escape).map_err(|problem| (problem, span))?;
        let mut heredocs = Vec::new();
        if command.may_open_heredoc() {
            for mut heredoc in super::heredoc::openings(&line) {
                let mut closed = false;
                for raw in physical.by_ref() {
                    number += 1;
                    let bare = raw.trim_end_matches(['\r', '\n']);
                    let bare = if heredoc.chomp { bare.trim_start_matches('\t') } else { bare };
                    if bare == heredoc.name {
                        closed = true;
                        break;
                    }
                    heredoc.content.push_str(raw);
                }
                if !closed {
                    let m = format!("unterminated heredoc: expected a line with only `{}`", heredoc.name);
                    return Err(syntax(m, None, span));
                }
                heredocs.push(heredoc);
            }
        }
        span.end = number;
        out.lines.push(Line { span, command, comments: std::mem::take(&mut comments), heredocs });
    }
    if out.lines.is_empty() {
        return Err((Problem::NoInstructions, Span { start: number.max(1), end: number.max(1) }));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_come_first() {
        let l = read("# syntax=a/b:1\n# ESCAPE = `\nFROM x\nRUN a `\n b\\\n").unwrap();
        assert_eq!(l.directives.escape, '`');
        assert_eq!(l.directives.syntax.as_deref(), Some("a/b:1"));
        assert_eq!(l.lines[1].command.original, "RUN a  b\\");
        let l = read("# other=1\n# escape=`\nFROM x\n").unwrap();
        assert_eq!(l.directives.escape, '\\');
        let l = read("#!/usr/bin/env builder\n# check=skip=all\n# syntax=a/b\n# escape=`\nFROM x\n").unwrap();
        assert_eq!((l.directives.syntax.as_deref(), l.directives.escape), (Some("a/b"), '\\'));
        assert_eq!(l.directives.check.as_deref(), Some("skip=all"));
        assert!(read("# escape=x\nFROM x\n").is_err());
        assert!(read("# escape=\\\n# escape=\\\nFROM x\n").is_err());
    }

    #[test]
    fn lines_continue() {
        let l = read("\u{feff}FROM x\r\n# note\nRUN a \\  \n  # gone\n\n  b \\\\\nRUN c \\").unwrap();
        assert_eq!(l.lines.len(), 3);
        assert_eq!(l.lines[1].command.original, "RUN a   b \\\\");
        assert_eq!(l.lines[1].span, Span { start: 3, end: 6 });
        assert_eq!(l.lines[1].comments, ["note"]);
        assert_eq!(l.warnings.len(), 1);
        assert!(read("\n# only\n").is_err());
    }

    #[test]
    fn heredoc_bodies_belong_to_the_line() {
        let l = read("FROM x\nRUN <<A && <<-B\n1\nA\n\t2\n\tB\nRUN [\"<<A\"]\nENV <<A=b\n").unwrap();
        assert_eq!(l.lines.len(), 4);
        assert_eq!(l.lines[1].heredocs[0].content, "1\n");
        assert_eq!(l.lines[1].heredocs[1].text(), "2\n");
        assert_eq!(l.lines[1].span, Span { start: 2, end: 6 });
        assert!(read("FROM x\nRUN <<A\n").is_err());
    }
}
