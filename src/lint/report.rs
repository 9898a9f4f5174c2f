//! Findings, outlines and targets as people and programs read them.
//!
//! The JSON is BuildKit's: `warnings` and `sources` (with the text in base64), where a location names its source by index
//! and lines by ranges; fields that are empty or zero are left out.

use super::compat::Conflict;
use super::outline::{Need, Outline, Target};
use super::{Fault, Findings};
use crate::dockerfile::Span;
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// A Dockerfile whose lines are shown.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// How messages call it.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// The lines around a place, between two rules.
fn excerpt(out: &mut String, name: &str, lines: &[&str], span: Span) {
    const AROUND: usize = 4;
    const MOST: usize = 40;
    const WIDTH: usize = 200;
    const RULE: &str = "--------------------";
    let first = span.start.max(1);
    let last = span.end.max(first);
    let begin = first.saturating_sub(AROUND).max(1);
    let end = last.saturating_add(AROUND).min(begin.saturating_add(MOST)).min(lines.len());
    let _ = writeln!(out, "{name}:{first}\n{RULE}");
    for (n, line) in (begin..=end).zip(lines.get(begin - 1..).unwrap_or_default()) {
        let mark = if (first..=last).contains(&n) { ">>>" } else { "   " };
        let printable = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
        let mut shown: String = line.chars().take(WIDTH).map(printable).collect();
        if line.chars().nth(WIDTH).is_some() {
            shown.push('…');
        }
        let _ = writeln!(out, "{}", format!("{n:4} | {mark} {shown}").trim_end());
    }
    let _ = writeln!(out, "{RULE}");
}

/// The findings of one Dockerfile as text.
pub fn text(findings: &Findings, source: Source<'_>) -> String {
    let mut out = String::new();
    let lines: Vec<&str> = source.text.lines().map(str::trim_end).collect();
    for f in &findings.found {
        let url = f.rule.url().map(|u| format!(" - {u}")).unwrap_or_default();
        let _ = writeln!(out, "\nWARNING: {}{url}\n{}", f.rule.name, f.detail);
        excerpt(&mut out, source.name, &lines, f.span);
    }
    out
}

/// Why a Dockerfile cannot be built, as text: the first line goes behind `Error: `.
pub fn fault_text(fault: &Fault) -> String {
    let place = fault.location.as_ref().map(|l| format!(": {l}")).unwrap_or_default();
    let hint = fault.hint.as_ref().map(|h| format!("\nhint: {h}")).unwrap_or_default();
    format!("{}{place}{hint}", fault.message)
}

/// The last line of a check: how much was found.
pub fn verdict(found: usize) -> String {
    match found {
        0 => "Check complete, no warnings found.".into(),
        1 => "Check complete, 1 warning has been found!".into(),
        n => format!("Check complete, {n} warnings have been found!"),
    }
}

fn location(index: usize, span: Span) -> Value {
    let mut location = Map::new();
    if index > 0 {
        location.insert("sourceIndex".into(), json!(index));
    }
    location.insert("ranges".into(), json!([{ "start": { "line": span.start }, "end": { "line": span.end } }]));
    Value::Object(location)
}

fn encoded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The findings of several Dockerfiles as one JSON document.
pub fn json(all: &[(Source<'_>, Findings)]) -> Value {
    let mut warnings = vec![];
    let mut sources = vec![];
    let mut error = None;
    for (index, (source, findings)) in all.iter().enumerate() {
        for f in &findings.found {
            let mut warning = Map::new();
            warning.insert("ruleName".into(), json!(f.rule.name));
            warning.insert("description".into(), json!(f.rule.description));
            if let Some(url) = f.rule.url() {
                warning.insert("url".into(), json!(url));
            }
            warning.insert("detail".into(), json!(f.detail));
            warning.insert("location".into(), location(index, f.span));
            warnings.push(Value::Object(warning));
        }
        sources.push(json!({ "filename": source.name, "language": "Dockerfile", "data": encoded(source.text) }));
        if let (None, Some(fault)) = (&error, &findings.fault) {
            error = Some(build_error(index, fault));
        }
    }
    let mut out = Map::new();
    out.insert("warnings".into(), Value::Array(warnings));
    out.insert("sources".into(), Value::Array(sources));
    out.extend(error.map(|e| ("buildError".to_owned(), e)));
    Value::Object(out)
}

fn build_error(index: usize, fault: &Fault) -> Value {
    let span = fault.location.as_ref().map(|l| l.span);
    let place = span.map_or_else(|| json!({}), |span| location(index, span));
    json!({ "message": fault.message, "location": place })
}

/// Columns as wide as their widest cell, but for the last.
fn table(out: &mut String, rows: &[Vec<String>], gap: usize) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}", width = width + gap);
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// An outline as text.
pub fn outline_text(outline: &Outline) -> String {
    let mut out = String::new();
    let cell = |text: &Option<String>| text.clone().unwrap_or_default();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.clone().unwrap_or_else(|| "(default)".into());
        let mut rows = vec![vec!["TARGET:".into(), name]];
        rows.extend(outline.description.iter().map(|d| vec!["DESCRIPTION:".into(), d.clone()]));
        table(&mut out, &rows, 1);
        out.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned).to_vec()];
        rows.extend(outline.args.iter().map(|a| vec![a.name.clone(), cell(&a.value), cell(&a.description)]));
        table(&mut out, &rows, 3);
        out.push('\n');
    }
    for (title, needs) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if needs.is_empty() {
            continue;
        }
        let mut rows = vec![vec![title.to_owned(), "REQUIRED".into()]];
        let required = |n: &Need| if n.required { "true".to_owned() } else { String::new() };
        rows.extend(needs.iter().map(|n| vec![n.name.clone(), required(n)]));
        table(&mut out, &rows, 3);
        out.push('\n');
    }
    out
}

/// An outline as JSON.
pub fn outline_json(outline: &Outline, source: Source<'_>) -> Value {
    let mut out = Map::new();
    let text = |out: &mut Map<String, Value>, key: &str, text: &Option<String>| {
        if let Some(t) = text.as_ref().filter(|t| !t.is_empty()) {
            out.insert(key.into(), json!(t));
        }
    };
    text(&mut out, "name", &outline.name);
    text(&mut out, "description", &outline.description);
    let args: Vec<Value> = outline
        .args
        .iter()
        .map(|a| {
            let mut arg = Map::new();
            arg.insert("name".into(), json!(a.name));
            text(&mut arg, "description", &a.description);
            text(&mut arg, "value", &a.value);
            arg.insert("location".into(), location(0, a.span));
            Value::Object(arg)
        })
        .collect();
    let needs = |list: &[Need], key: &str| -> Vec<Value> {
        let one = |n: &Need| {
            let mut need = Map::new();
            need.insert(key.into(), json!(n.name));
            if n.required {
                need.insert("required".into(), json!(true));
            }
            need.insert("location".into(), location(0, n.span));
            Value::Object(need)
        };
        list.iter().map(one).collect()
    };
    let lists = [
        ("args", args),
        ("secrets", needs(&outline.secrets, "name")),
        ("ssh", needs(&outline.ssh, "name")),
        ("cache", needs(&outline.caches, "ID")),
    ];
    for (key, list) in lists {
        if !list.is_empty() {
            out.insert(key.into(), Value::Array(list));
        }
    }
    out.insert("sources".into(), json!([encoded(source.text)]));
    Value::Object(out)
}

/// Targets as text.
pub fn targets_text(targets: &[Target]) -> String {
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for t in targets {
        let name = match (&t.name, t.default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".into(),
            (None, false) => String::new(),
        };
        rows.push(vec![name, t.description.clone().unwrap_or_default()]);
    }
    let mut out = String::new();
    table(&mut out, &rows, 4);
    out
}

/// Targets as JSON.
pub fn targets_json(targets: &[Target], source: Source<'_>) -> Value {
    let one = |t: &Target| {
        let mut out = Map::new();
        let mut text = |key: &str, value: Option<&String>| {
            if let Some(v) = value {
                out.insert(key.into(), json!(v));
            }
        };
        text("name", t.name.as_ref());
        text("description", t.description.as_ref());
        text("base", Some(&t.base));
        text("platform", t.platform.as_ref());
        if t.default {
            out.insert("default".into(), json!(true));
        }
        out.insert("location".into(), location(0, t.span));
        Value::Object(out)
    };
    json!({ "targets": targets.iter().map(one).collect::<Vec<_>>(), "sources": [encoded(source.text)] })
}

/// What other builders make of one Dockerfile, as text: a line each, as compilers write them.
pub fn compat_text(conflicts: &[Conflict], source: Source<'_>) -> String {
    let mut out = String::new();
    for c in conflicts {
        let _ = writeln!(out, "{}:{}: {} {}: {}", source.name, c.span.start, c.tool, c.effect, c.detail);
    }
    out
}

/// What other builders make of several Dockerfiles, as JSON.
pub fn compat_json(all: &[(Source<'_>, Vec<Conflict>)]) -> Value {
    let one = |name: &str, c: &Conflict| {
        json!({
            "file": name, "line": c.span.start, "endLine": c.span.end,
            "tool": c.tool.to_string(), "effect": c.effect.to_string(), "detail": c.detail,
        })
    };
    let list: Vec<Value> = all.iter().flat_map(|(s, list)| list.iter().map(|c| one(s.name, c))).collect();
    json!({ "conflicts": list })
}
