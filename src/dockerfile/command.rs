//! One logical line as keyword, flags and words: the form of each instruction, before any meaning.

use super::Problem;
use std::fmt::Write;

/// A logical line, split.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Command {
    /// The keyword, lower case.
    pub(super) keyword: String,
    /// The `--flags` in front, quotes resolved.
    pub(super) flags: Vec<String>,
    /// The arguments. ENV and LABEL: three for each pair (name, value, `=` or nothing).
    pub(super) words: Vec<String>,
    /// The arguments were a JSON array.
    pub(super) json: bool,
    /// ONBUILD: the trigger.
    pub(super) trigger: Option<Box<Command>>,
    /// The whole line.
    pub(super) original: String,
}

/// Every keyword.
pub(super) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

fn problem(message: impl Into<String>) -> Problem {
    Problem::Syntax { message: message.into(), hint: None }
}

/// Splits at runs of blanks.
fn split_blanks(text: &str) -> Vec<String> {
    text.split(BLANKS).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

impl Command {
    pub(super) fn parse(line: &str, escape: char) -> Result<Command, Problem> {
        let mut command = Command::parse_one(line, escape)?;
        if command.keyword == "onbuild"
            && let Some(rest) = command.words.pop()
        {
            // a trigger of a trigger stays unparsed: it is refused later
            command.trigger = Some(Box::new(Command::parse_one(&rest, escape)?));
        }
        Ok(command)
    }

    fn parse_one(line: &str, escape: char) -> Result<Command, Problem> {
        let text = line.trim();
        let (keyword, rest) = match text.find(BLANKS) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let (flags, rest) = split_flags(rest);
        let rest = rest.trim();
        let mut command =
            Command { keyword: keyword.to_lowercase(), flags, original: line.to_owned(), ..Default::default() };
        match command.keyword.as_str() {
            "add" | "copy" | "volume" => match json_array(rest)? {
                Some(list) => (command.words, command.json) = (list, true),
                None => command.words = split_blanks(rest),
            },
            "cmd" | "entrypoint" | "run" | "shell" => command.maybe_json(rest)?,
            "expose" | "from" => command.words = split_blanks(rest),
            "arg" => command.words = split_words(rest, escape),
            "env" | "label" => command.words = pairs(rest, &command.keyword.to_uppercase(), escape)?,
            "healthcheck" if !rest.is_empty() => {
                let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                command.maybe_json(rest.trim_start())?;
                command.words.insert(0, kind.to_owned());
            }
            _ if rest.is_empty() => {}
            _ => command.words = vec![rest.to_owned()],
        }
        Ok(command)
    }

    fn maybe_json(&mut self, rest: &str) -> Result<(), Problem> {
        match json_array(rest)? {
            Some(list) => (self.words, self.json) = (list, true),
            None if rest.is_empty() => {}
            None => self.words = vec![rest.to_owned()],
        }
        Ok(())
    }

    /// Whether the line may open a heredoc: RUN, COPY, ADD (also as a trigger), and not in JSON form.
    pub(super) fn may_open_heredoc(&self) -> bool {
        let inner = self.trigger.as_deref().unwrap_or(self);
        matches!(inner.keyword.as_str(), "run" | "copy" | "add") && !inner.json
    }

    /// The line as an S-expression, the way Dockerfile parsers are compared with each other.
    pub(super) fn dump(&self) -> String {
        let mut out = self.keyword.clone();
        if !self.flags.is_empty() {
            let flags: Vec<String> = self.flags.iter().map(|f| quote(f)).collect();
            let _ = write!(out, " [{}]", flags.join(" "));
        }
        if let Some(trigger) = &self.trigger {
            let _ = write!(out, " ({})", trigger.dump());
        }
        let unknown = !KEYWORDS.iter().any(|k| k.eq_ignore_ascii_case(&self.keyword));
        if unknown {
            out.push_str(" \"\"");
        } else {
            for word in &self.words {
                let _ = write!(out, " {}", quote(word));
            }
        }
        out.trim().to_owned()
    }
}

/// The flags in front of the arguments, and the rest. `--` alone ends the flags.
fn split_flags(text: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let mut word = String::new();
        let mut quote = None;
        let mut quoted = false;
        let mut end = rest.len();
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match (c, quote) {
                ('\\', _) => word.extend(chars.next().map(|(_, c)| c)),
                (c, Some(q)) if c == q => quote = None,
                (c, Some(_)) => word.push(c),
                ('\'' | '"', None) => (quote, quoted) = (Some(c), true),
                (c, None) if c.is_whitespace() => {
                    end = at;
                    break;
                }
                (c, None) => word.push(c),
            }
        }
        rest = rest.get(end..).unwrap_or_default().trim_start();
        if word == "--" && !quoted {
            break;
        }
        flags.push(word);
    }
    (flags, rest)
}

/// The strings of a JSON array; `None` where the text is no JSON array at all, an error where not all are strings.
pub(super) fn json_array(text: &str) -> Result<Option<Vec<String>>, Problem> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let strings = values.into_iter().map(|v| match v {
        serde_json::Value::String(s) => Ok(s),
        other => Err(problem(format!("a JSON array of an instruction may only have strings, found `{other}`"))),
    });
    strings.collect::<Result<_, _>>().map(Some)
}

/// Words at blanks outside of quotes; quotes and escapes stay.
fn split_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    let mut seen_quote = false;
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if seen_quote || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                seen_quote = false;
                continue;
            }
            None if c == '\'' || c == '"' => (quote, seen_quote) = (Some(c), true),
            Some(q) if c == q => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            match chars.next() {
                // an escape character at the end of the line means nothing
                None => break,
                Some(next) => {
                    word.push(c);
                    word.push(next);
                }
            }
            continue;
        }
        word.push(c);
    }
    if seen_quote || !word.is_empty() {
        words.push(word);
    }
    words
}

/// `name=value …`, or the legacy `name value`.
fn pairs(text: &str, keyword: &str, escape: char) -> Result<Vec<String>, Problem> {
    let words = split_words(text, escape);
    let Some(first) = words.first() else { return Ok(vec![]) };
    if !first.contains('=') {
        let Some((name, value)) = text.split_once(BLANKS) else {
            return Err(Problem::Syntax {
                message: format!("{keyword} must have two arguments"),
                hint: Some(format!("write `{keyword} {first}=value`")),
            });
        };
        return Ok(vec![name.to_owned(), value.trim_start_matches(BLANKS).to_owned(), String::new()]);
    }
    let mut out = Vec::with_capacity(words.len().saturating_mul(3));
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(Problem::Syntax {
                message: format!("missing `=` in `{word}`: {keyword} expects `name=value` pairs"),
                hint: Some("a value with blanks needs quotes".into()),
            });
        };
        out.extend([name.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(out)
}

/// A string literal of Go.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x80 && c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control()
                || (c.is_whitespace() && c != ' ')
                || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{feff}') =>
            {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(line: &str) -> String {
        Command::parse(line, '\\').unwrap().dump()
    }

    #[test]
    fn forms() {
        for (line, want) in [
            ("run  echo  hi ", r#"run "echo  hi""#),
            ("CMD [\"a\", \"b\"]", r#"cmd "a" "b""#),
            ("CMD [a]", r#"cmd "[a]""#),
            ("COPY --from=x --chown='a b' a\tb c", r#"copy ["--from=x" "--chown=a b"] "a" "b" "c""#),
            ("ENV a b  c", r#"env "a" "b  c" """#),
            ("ENV a=b c='d e' f=\\ g", r#"env "a" "b" "=" "c" "'d e'" "=" "f" "\\ g" "=""#),
            ("ARG a b=\"1 2\"", r#"arg "a" "b=\"1 2\"""#),
            ("ONBUILD RUN x y", r#"onbuild (run "x y")"#),
            ("HEALTHCHECK --interval=5s CMD a b", r#"healthcheck ["--interval=5s"] "CMD" "a b""#),
            ("RUN -- --x", r#"run "--x""#),
        ] {
            assert_eq!(dump(line), want, "{line}");
        }
        for line in ["ENV a", "ENV a=b c", "CMD [1]"] {
            assert!(Command::parse(line, '\\').is_err(), "{line}");
        }
    }
}
