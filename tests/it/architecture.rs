//! The shape of the source: arrows between modules point down, `unsafe` has one place, and nothing is a drawer.

use std::fs;
use std::path::{Path, PathBuf};

/// Level of each top-level module; see the table in `docs/architecture.md`. `error` lies below all.
const LEVELS: [(&str, i8); 21] = [
    ("error", -1),
    ("sys", 0),
    ("oci", 0),
    ("dockerfile", 0),
    ("ui", 0),
    ("archive", 1),
    ("store", 2),
    ("sbom", 2),
    ("supervisor", 2),
    ("attest", 3),
    ("snapshot", 3),
    ("registry", 3),
    ("source", 4),
    ("sandbox", 4),
    ("cache", 5),
    ("doctor", 5),
    ("plan", 6),
    ("lint", 6),
    ("build", 7),
    ("export", 7),
    ("cli", 8),
];

fn level(module: &str) -> Option<i8> {
    LEVELS.iter().find(|(name, _)| *name == module).map(|(_, level)| *level)
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every `.rs` file below `src/`, as (path relative to `src/`, code without comments and literals).
fn sources() -> Vec<(PathBuf, String)> {
    let root = source_dir();
    let mut found = Vec::new();
    let mut pending = vec![root.clone()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("cannot read `{}`: {e}", dir.display())) {
            let path = entry.expect("directory entry").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text =
                    fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read `{}`: {e}", path.display()));
                found.push((path.strip_prefix(&root).expect("below src").to_owned(), code_only(&text)));
            }
        }
    }
    found.sort();
    assert!(found.len() > 10, "found only {} source files", found.len());
    found
}

/// The same text with comments, strings and character literals blanked; lines stay where they are.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let end = literal_or_comment(bytes, at);
        if end > at {
            blank(&mut out, at, end);
            at = end;
        } else {
            at += 1;
        }
    }
    String::from_utf8(out).expect("blanks keep the text valid")
}

/// End of the comment or literal that begins at `at`, or `at` where none does.
fn literal_or_comment(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let end = bytes.len();
    if rest.starts_with(b"//") {
        return rest.iter().position(|b| *b == b'\n').map_or(end, |n| at + n);
    }
    if rest.starts_with(b"/*") {
        let (mut depth, mut i) = (0, at);
        while i < end {
            if bytes[i..].starts_with(b"/*") {
                depth += 1;
                i += 2;
            } else if bytes[i..].starts_with(b"*/") {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            } else {
                i += 1;
            }
        }
        return end;
    }
    let starts_word = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if starts_word && matches!(rest.first(), Some(b'r' | b'b' | b'c')) {
        let prefix = rest.iter().take(2).take_while(|b| matches!(b, b'r' | b'b' | b'c')).count();
        let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
        let raw = rest[..prefix].contains(&b'r');
        if raw && rest.get(prefix + hashes) == Some(&b'"') {
            let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let body = prefix + hashes + 1;
            let close_at = rest[body..].windows(close.len()).position(|w| w == close);
            return close_at.map_or(end, |n| at + body + n + close.len());
        }
    }
    match rest.first() {
        Some(b'"') => quoted(bytes, at, b'"'),
        // A lifetime has no second quote right behind its first character; a character literal does, or a backslash.
        Some(b'\'') if rest.get(1) == Some(&b'\\') => quoted(bytes, at, b'\''),
        Some(b'\'') => {
            let width = std::str::from_utf8(&rest[1..]).ok().and_then(|s| s.chars().next()).map_or(0, char::len_utf8);
            if width > 0 && rest.get(1 + width) == Some(&b'\'') { at + width + 2 } else { at }
        }
        _ => at,
    }
}

fn quoted(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut i = at + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b if b == quote => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// The top-level modules that `code` names through `crate::`, with the line of each.
fn modules_named(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            // The first segment of each member of the group.
            let (mut depth, mut start, mut firsts) = (1, 0, Vec::new());
            for (i, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if (c == ',' && depth == 1) || depth == 0 {
                    firsts.push(first_segment(group[start..i].trim_start()));
                    start = i + 1;
                }
                if depth == 0 {
                    break;
                }
            }
            found.extend(firsts.into_iter().filter(|s| !s.is_empty()).map(|s| (line, s)));
        } else {
            found.push((line, first_segment(rest)));
        }
    }
    found
}

fn first_segment(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn code_only_drops_comments_and_literals() {
    let code =
        code_only("a /* unsafe /* x */ */ b // unsafe\n\"uns\\\"afe\" r#\"unsafe\"# '\"' 'x <'a> b\"x\" br\"y\" c");
    assert!(!code.contains("unsafe"), "{code}");
    assert!(code.contains("<'a>") && code.ends_with('c') && code.contains('\n'), "{code}");
}

#[test]
fn modules_named_reads_groups_and_paths() {
    let names = |code| modules_named(code).into_iter().map(|(_, m)| m).collect::<Vec<_>>();
    assert_eq!(names("use crate::oci::{Digest, Index};"), ["oci"]);
    assert_eq!(names("use crate::{oci::{A, B}, sys, store as s};"), ["oci", "sys", "store"]);
    assert_eq!(names("fn f() -> crate::error::Kind; pub(crate) use $crate::x;"), ["error"]);
}

#[test]
fn arrows_point_down() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        let first = path.iter().next().expect("a component").to_string_lossy().into_owned();
        let module = first.trim_end_matches(".rs").to_owned();
        if path.components().count() == 1 && (module == "lib" || module == "main") {
            continue;
        }
        let Some(own) = level(&module) else {
            wrong.push(format!("src/{}: module `{module}` has no level", path.display()));
            continue;
        };
        for (line, named) in modules_named(&code) {
            if named == module {
                continue;
            }
            match level(&named) {
                Some(other) if other < own => {}
                Some(other) => wrong.push(format!(
                    "src/{}:{line}: `{module}` (level {own}) names `{named}` (level {other})",
                    path.display()
                )),
                None => {
                    wrong.push(format!("src/{}:{line}: `crate::{named}` is not a module with a level", path.display()))
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that do not point down:\n{}", wrong.join("\n"));
}

#[test]
fn the_documented_levels_are_the_tested_ones() {
    let doc = include_str!("../../docs/architecture.md");
    for (module, level) in LEVELS {
        if !source_dir().join(module).exists() && !source_dir().join(format!("{module}.rs")).exists() {
            continue;
        }
        let level = if level < 0 { "–".to_owned() } else { level.to_string() };
        let row = format!("| {level} | `{module}` |");
        assert!(doc.contains(&row), "docs/architecture.md lacks the row `{row}`");
    }
}

#[test]
fn unsafe_has_one_place() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        if path.starts_with("sys") {
            continue;
        }
        let words = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
        wrong.extend(
            code.lines()
                .enumerate()
                .filter(|(_, line)| words(line))
                .map(|(i, _)| format!("src/{}:{}", path.display(), i + 1)),
        );
    }
    assert!(wrong.is_empty(), "`unsafe` outside src/sys:\n{}", wrong.join("\n"));
}

#[test]
fn no_module_is_a_drawer() {
    const DRAWERS: [&str; 7] = ["util", "utils", "common", "helper", "helpers", "misc", "shared"];
    for (path, _) in sources() {
        for part in path.iter() {
            let name = part.to_string_lossy();
            let name = name.trim_end_matches(".rs");
            assert!(!DRAWERS.contains(&name), "src/{}: `{name}` names no subject", path.display());
        }
    }
}
