//! Answers single questions about the language as lines of JSON, for conformance tables.
//!
//! A question is `{"id": …, "op": …, "in": {…}}`; the answer has the same `id`, and the results or an `error`.
//!
//! | op | in | out |
//! |---|---|---|
//! | `expand` | `word`, `env` | `result`: text |
//! | `words` | `word`, `env` | `result`: list |
//! | `parse` | `dockerfile` | `ast`: one S-expression a line |
//! | `lines` | `dockerfile` | `lines`: first and last line of each instruction |
//! | `json-array` | `text` | `result`: list |
//! | `heredocs` | `line` | `names` |
//! | `match` | `patterns`, `path` | `match` |
//! | `ignorefile` | `text` | `patterns` |

use super::expand::Expander;
use super::ignore::{self, Patterns};
use super::{command, heredoc, lines};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The answer to one line. Never panics: whatever is wrong with the line is an `error` of the answer.
pub fn answer(line: &str) -> String {
    let question: Value = match serde_json::from_str(line) {
        Ok(q) => q,
        Err(e) => return json!({ "error": format!("not JSON: {e}") }).to_string(),
    };
    let mut out = Map::new();
    if let Some(id) = question.get("id") {
        out.insert("id".into(), id.clone());
    }
    let input = question.get("in").cloned().unwrap_or_default();
    match result(question.get("op").and_then(Value::as_str).unwrap_or_default(), &input) {
        Ok((key, value)) => out.insert(key.into(), value),
        Err(e) => out.insert("error".into(), Value::String(e)),
    };
    Value::Object(out).to_string()
}

fn text<'a>(input: &'a Value, key: &str) -> Result<&'a str, String> {
    input.get(key).and_then(Value::as_str).ok_or_else(|| format!("missing text `{key}`"))
}

fn result(op: &str, input: &Value) -> Result<(&'static str, Value), String> {
    Ok(match op {
        "expand" | "words" => {
            let variables: BTreeMap<String, String> = match input.get("env") {
                Some(env) => serde_json::from_value(env.clone()).map_err(|e| e.to_string())?,
                None => BTreeMap::new(),
            };
            let escape = input.get("escape").and_then(Value::as_str).and_then(|e| e.chars().next()).unwrap_or('\\');
            let expanded = Expander::new(escape).expand(text(input, "word")?, &variables).map_err(|e| e.to_string())?;
            let value = if op == "words" { json!(expanded.words) } else { json!(expanded.text) };
            ("result", value)
        }
        "parse" => {
            let read =
                lines::read(text(input, "dockerfile")?).map_err(|(p, span)| format!("line {}: {p}", span.start))?;
            let all: String = read.lines.iter().map(|l| format!("({})\n", l.command.dump())).collect();
            ("ast", Value::String(all))
        }
        "lines" => {
            let read =
                lines::read(text(input, "dockerfile")?).map_err(|(p, span)| format!("line {}: {p}", span.start))?;
            let all: Vec<[usize; 2]> = read.lines.iter().map(|l| [l.span.start, l.span.end]).collect();
            ("lines", json!(all))
        }
        "json-array" => match command::json_array(text(input, "text")?) {
            Ok(Some(list)) => ("result", json!(list)),
            Ok(None) => return Err("not a JSON array".into()),
            Err(p) => return Err(p.to_string()),
        },
        "heredocs" => {
            let names: Vec<String> = heredoc::openings(text(input, "line")?).into_iter().map(|h| h.name).collect();
            ("names", json!(names))
        }
        "match" => {
            let patterns: Vec<String> = match input.get("patterns") {
                Some(p) => serde_json::from_value(p.clone()).map_err(|e| e.to_string())?,
                None => vec![],
            };
            let patterns = Patterns::new(patterns).map_err(|e| e.to_string())?;
            ("match", json!(patterns.excludes(text(input, "path")?.as_bytes())))
        }
        "ignorefile" => ("patterns", json!(ignore::lines(text(input, "text")?.as_bytes()))),
        other => return Err(format!("unknown op `{other}`")),
    })
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn questions_are_answered() {
        for (q, a) in [
            (r#"{"id":1,"op":"expand","in":{"word":"$A","env":{"A":"x"}}}"#, r#"{"id":1,"result":"x"}"#),
            (r#"{"id":2,"op":"words","in":{"word":"a b"}}"#, r#"{"id":2,"result":["a","b"]}"#),
            (r#"{"id":3,"op":"parse","in":{"dockerfile":"FROM x"}}"#, r#"{"id":3,"ast":"(from \"x\")\n"}"#),
            (r#"{"id":4,"op":"match","in":{"patterns":["a"],"path":"a/b"}}"#, r#"{"id":4,"match":true}"#),
            (r#"{"id":5,"op":"heredocs","in":{"line":"RUN <<A"}}"#, r#"{"id":5,"names":["A"]}"#),
            (r#"{"id":6,"op":"what"}"#, r#"{"id":6,"error":"unknown op `what`"}"#),
        ] {
            assert_eq!(answer(q), a);
        }
        assert!(answer("{").contains("error"));
    }
}
