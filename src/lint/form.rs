//! Rules about how a Dockerfile is written, which need the text of each instruction and nothing else.

use super::rules;
use super::settings::check_comment;
use super::{Linter, Place};
use crate::dockerfile::{Instruction, Kind, Stage};

/// The case of a keyword: `None` where it is mixed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

fn case(word: &str) -> Option<Case> {
    if word == word.to_lowercase() {
        Some(Case::Lower)
    } else if word == word.to_uppercase() {
        Some(Case::Upper)
    } else {
        None
    }
}

/// The keyword of an instruction as it is written.
pub(super) fn keyword(original: &str) -> &str {
    original.split_whitespace().next().unwrap_or_default()
}

/// `complete` is false where the rest of the file could not be parsed.
pub(super) fn check(linter: &mut Linter<'_>, complete: bool) {
    let file = linter.file;
    for stage in &file.stages {
        from(linter, stage);
    }
    for i in file.global_args.iter().chain(file.stages.iter().flat_map(|s| &s.instructions)) {
        match &i.kind {
            Kind::Maintainer(_) => {
                let place = Place::from(i);
                linter.report(rules::MAINTAINER_DEPRECATED, &place, "MAINTAINER is deprecated: use a label instead");
            }
            Kind::Arg(definitions) => {
                let names: Vec<&str> = definitions.iter().map(|d| d.name.as_str()).collect();
                described(linter, "ARG", &names, &i.comments, i);
            }
            _ => {}
        }
    }
    empty_continuations(linter);
    if complete {
        casing(linter);
    }
}

fn from(linter: &mut Linter<'_>, stage: &Stage) {
    let place = Place::from(stage);
    let mut words = stage.original.split_whitespace().rev();
    if let (Some(name), Some(written), Some(as_word)) = (&stage.from.name, words.next(), words.next()) {
        if written != written.to_lowercase() {
            let detail = format!("the name of stage '{written}' is not lower case");
            linter.report(rules::STAGE_NAME_CASING, &place, detail);
        }
        let from = keyword(&stage.original);
        if case(from).is_some_and(|c| case(as_word) != Some(c)) {
            let detail = format!("'{as_word}' and '{from}' are not written in the same case");
            linter.report(rules::FROM_AS_CASING, &place, detail);
        }
        described(linter, "FROM", &[name], &stage.comments, stage);
    }
}

/// A comment right above a definition begins with its name.
fn described(linter: &mut Linter<'_>, keyword: &str, names: &[&str], comments: &[String], place: impl Into<Place>) {
    let Some(comment) = comments.last().filter(|c| check_comment(c).is_none()) else { return };
    let word = comment.split(' ').next().unwrap_or_default();
    let directive = ["syntax=", "escape="].iter().any(|d| word.starts_with(d));
    if directive || names.contains(&word) {
        return;
    }
    let name = match names {
        [one] => one,
        _ => "<name>",
    };
    let detail = format!("the comment above {keyword} does not have the form `# {name} <description>`");
    linter.report(rules::INVALID_DEFINITION_DESCRIPTION, &place.into(), detail);
}

fn empty_continuations(linter: &mut Linter<'_>) {
    let file = linter.file;
    // both are in the order of the file
    let mut instructions = file
        .stages
        .iter()
        .flat_map(|s| std::iter::once(Place::from(s)).chain(s.instructions.iter().map(Place::from)))
        .peekable();
    for warning in &file.warnings {
        while instructions.peek().is_some_and(|p| p.span.end < warning.span.start) {
            instructions.next();
        }
        let own = instructions.peek().filter(|p| p.span.start <= warning.span.start).and_then(|p| p.own.clone());
        let mut span = warning.span;
        span.start = span.end;
        linter.report(rules::NO_EMPTY_CONTINUATION, &Place { span, own }, "an empty line inside an instruction");
    }
}

/// Every keyword is in the case of most.
fn casing(linter: &mut Linter<'_>) {
    fn all(linter: &Linter<'_>) -> Vec<(String, Place)> {
        let of = |i: &Instruction| (keyword(&i.original).to_owned(), Place::from(i));
        let stages = linter.file.stages.iter();
        stages
            .flat_map(|s| {
                let from = (keyword(&s.original).to_owned(), Place::from(s));
                std::iter::once(from).chain(s.instructions.iter().map(of))
            })
            .collect()
    }
    let keywords = all(linter);
    let count = |wanted| keywords.iter().filter(|(word, _)| case(word) == Some(wanted)).count();
    let (most, name) =
        if count(Case::Lower) > count(Case::Upper) { (Case::Lower, "lower case") } else { (Case::Upper, "upper case") };
    for (word, place) in &keywords {
        if case(word) != Some(most) {
            let detail = format!("instruction '{word}' is not in {name} as most others are");
            linter.report(rules::CONSISTENT_INSTRUCTION_CASING, place, detail);
        }
    }
}
