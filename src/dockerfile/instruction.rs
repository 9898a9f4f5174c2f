//! From the form of a line to what it says: flags, counts of arguments, and the values that can be checked without
//! expanding anything.

use super::ast::{
    ArgDef, CommandLine, Copy, From, Healthcheck, Heredoc, Instruction, KeyValue, Kind, MountFlag, Onbuild, Run,
    RunNetwork, Source,
};
use super::command::{Command, KEYWORDS};
use super::lines::Line;
use super::{Problem, Span, duration, heredoc, suggest};

fn wrong<T>(message: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Syntax { message: message.into(), hint: None })
}

fn wrong_hint<T>(message: impl Into<String>, hint: Option<String>) -> Result<T, Problem> {
    Err(Problem::Syntax { message: message.into(), hint })
}

/// The flags of one instruction, taken out one by one.
struct Flags<'a> {
    keyword: &'a str,
    known: &'a [&'a str],
    given: Vec<(String, Option<String>)>,
}

impl<'a> Flags<'a> {
    fn new(command: &Command, keyword: &'a str, known: &'a [&'a str]) -> Result<Self, Problem> {
        let mut given: Vec<(String, Option<String>)> = Vec::new();
        for flag in &command.flags {
            let body = flag.strip_prefix("--").unwrap_or(flag);
            let (name, value) = match body.split_once('=') {
                Some((n, v)) => (n, Some(v.to_owned())),
                None => (body, None),
            };
            if !known.contains(&name) {
                let hint = match suggest::nearest(name, known.iter().copied()) {
                    Some(near) => Some(format!("did you mean `--{near}`?")),
                    None if known.is_empty() => Some(format!("{keyword} has no flags")),
                    None => {
                        let all: Vec<String> = known.iter().map(|k| format!("`--{k}`")).collect();
                        Some(format!("{keyword} knows {}", all.join(", ")))
                    }
                };
                return wrong_hint(format!("unknown flag `--{name}` of {keyword}"), hint);
            }
            let repeatable = matches!(name, "mount" | "exclude" | "device");
            if !repeatable && given.iter().any(|(n, _)| n == name) {
                return wrong(format!("flag `--{name}` is given twice"));
            }
            given.push((name.to_owned(), value));
        }
        Ok(Flags { keyword, known, given })
    }

    fn all(&self, name: &str) -> Result<Vec<String>, Problem> {
        debug_assert!(self.known.contains(&name));
        let values = self.given.iter().filter(|(n, _)| n == name);
        values
            .map(|(_, v)| match v {
                Some(v) => Ok(v.clone()),
                None => wrong(format!("flag `--{name}` of {} needs a value: `--{name}=…`", self.keyword)),
            })
            .collect()
    }

    fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        Ok(self.all(name)?.pop().filter(|v| !v.is_empty()))
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, Problem> {
        debug_assert!(self.known.contains(&name));
        match self.given.iter().find(|(n, _)| n == name) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            Some((_, Some(v))) => match v.to_ascii_lowercase().as_str() {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => wrong(format!("invalid value `{v}` of flag `--{name}`: expected `true` or `false`")),
            },
        }
    }
}

/// A FROM, or anything else.
pub(super) enum Parsed {
    From(From),
    Other(Kind),
}

/// Gives a line its meaning.
pub(super) fn parse(line: &Line) -> Result<Parsed, Problem> {
    let c = &line.command;
    let keyword = c.keyword.to_uppercase();
    let none: &[&str] = &[];
    if keyword == "FROM" {
        return from(c).map(Parsed::From);
    }
    if !KEYWORDS.contains(&keyword.as_str()) {
        let shown: String = c.original.split_whitespace().next().unwrap_or_default().chars().take(64).collect();
        let hint = match shown.starts_with("//") {
            true => {
                Some("comments begin with `#`; files for frontends other than the Dockerfile's are not read".into())
            }
            false => suggest::hint(&c.keyword, KEYWORDS),
        };
        return wrong_hint(format!("unknown instruction `{shown}`"), hint);
    }
    let plain = || Flags::new(c, &keyword, none).map(drop);
    Ok(Parsed::Other(match keyword.as_str() {
        "RUN" => Kind::Run(run(c, &line.heredocs)?),
        "COPY" => Kind::Copy(copy(c, &line.heredocs, false)?),
        "ADD" => Kind::Add(copy(c, &line.heredocs, true)?),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck(c)?),
        "ONBUILD" => {
            plain()?;
            Kind::Onbuild(onbuild(line)?)
        }
        "ARG" => {
            plain()?;
            Kind::Arg(args(c)?)
        }
        "ENV" | "LABEL" => {
            plain()?;
            let pairs = key_values(c, &keyword)?;
            if keyword == "ENV" { Kind::Env(pairs) } else { Kind::Label(pairs) }
        }
        "CMD" => {
            plain()?;
            Kind::Cmd(command_line(&c.words, c.json))
        }
        "ENTRYPOINT" => {
            plain()?;
            Kind::Entrypoint(command_line(&c.words, c.json))
        }
        "SHELL" => {
            plain()?;
            match (c.words.is_empty(), c.json) {
                (true, _) => return wrong("SHELL requires at least one argument"),
                (false, false) => {
                    let hint = Some("write `SHELL [\"/bin/bash\", \"-c\"]`".into());
                    return wrong_hint("SHELL requires its arguments in JSON form", hint);
                }
                (false, true) => Kind::Shell(c.words.clone()),
            }
        }
        "EXPOSE" => {
            plain()?;
            Kind::Expose(at_least_one(c, &keyword)?)
        }
        "VOLUME" => {
            plain()?;
            let paths: Vec<String> = at_least_one(c, &keyword)?.iter().map(|p| p.trim().to_owned()).collect();
            if paths.iter().any(String::is_empty) {
                return wrong("a VOLUME cannot be an empty string");
            }
            Kind::Volume(paths)
        }
        other => {
            plain()?;
            let [one] = c.words.as_slice() else { return wrong(format!("{other} requires exactly one argument")) };
            match other {
                "MAINTAINER" => Kind::Maintainer(one.clone()),
                "STOPSIGNAL" => Kind::StopSignal(one.clone()),
                "USER" => Kind::User(one.clone()),
                _ => Kind::Workdir(one.clone()),
            }
        }
    }))
}

fn at_least_one(c: &Command, keyword: &str) -> Result<Vec<String>, Problem> {
    if c.words.is_empty() {
        return wrong(format!("{keyword} requires at least one argument"));
    }
    Ok(c.words.clone())
}

fn command_line(words: &[String], json: bool) -> CommandLine {
    if json { CommandLine::Exec(words.to_vec()) } else { CommandLine::Shell(words.join(" ")) }
}

/// Whether a lower-case text can be the name of a stage.
pub(crate) fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_./".contains(&b))
}

fn from(c: &Command) -> Result<From, Problem> {
    let flags = Flags::new(c, "FROM", &["platform"])?;
    let platform = flags.text("platform")?;
    let (base, name) = match c.words.as_slice() {
        [base] => (base.clone(), None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => {
            // a name with variables is checked when they are replaced
            let lower = if name.contains('$') { name.clone() } else { name.to_lowercase() };
            if !name.contains('$') && !is_stage_name(&lower) {
                return wrong(format!(
                    "invalid name `{name}` for a build stage: it begins with a letter and has letters, digits, `-`, `_`, `.` and `/`"
                ));
            }
            (base.clone(), Some(lower))
        }
        _ => return wrong("FROM requires either one or three arguments: `FROM image` or `FROM image AS name`"),
    };
    Ok(From { base, name, platform })
}

fn run(c: &Command, heredocs: &[Heredoc]) -> Result<Run, Problem> {
    let flags = Flags::new(c, "RUN", &["mount", "network", "security", "device"])?;
    let mounts: Vec<MountFlag> = flags.all("mount")?.into_iter().map(|text| MountFlag { text }).collect();
    for m in mounts.iter().filter(|m| !m.has_variables()) {
        m.resolve(&mut |v| Ok(v.to_owned())).or_else(|e| wrong_hint(e.message, e.hint))?;
    }
    let network = match flags.text("network")?.as_deref() {
        None => None,
        Some("default") => Some(RunNetwork::Default),
        Some("none") => Some(RunNetwork::None),
        Some("host") => Some(RunNetwork::Host),
        Some(other) => {
            let hint = suggest::hint(other, ["default", "none", "host"]);
            let m = format!("unsupported network `{other}` of RUN: expected `default`, `none` or `host`");
            return wrong_hint(m, hint);
        }
    };
    let security = flags.text("security")?;
    if let Some(s) = security.as_deref().filter(|s| !matches!(*s, "sandbox" | "insecure")) {
        let m = format!("unsupported security `{s}` of RUN: expected `sandbox` or `insecure`");
        return wrong_hint(m, suggest::hint(s, ["sandbox", "insecure"]));
    }
    Ok(Run {
        command: command_line(&c.words, c.json),
        heredocs: heredocs.to_vec(),
        mounts,
        network,
        security,
        devices: flags.all("device")?,
    })
}

fn copy(c: &Command, heredocs: &[Heredoc], add: bool) -> Result<Copy, Problem> {
    let (keyword, known): (_, &[&str]) = if add {
        ("ADD", &["chown", "chmod", "link", "exclude", "keep-git-dir", "checksum", "unpack"])
    } else {
        ("COPY", &["from", "chown", "chmod", "link", "parents", "exclude"])
    };
    let flags = Flags::new(c, keyword, known)?;
    let Some((dest, sources)) = c.words.split_last().filter(|(_, s)| !s.is_empty()) else {
        return wrong(format!("{keyword} requires at least two arguments: a source and a destination"));
    };
    if heredoc::opening(dest).is_some() && !c.json {
        return wrong(format!("{keyword} cannot have a heredoc as its destination"));
    }
    let source = |word: &String| match heredoc::opening(word) {
        Some(opened) if !c.json => {
            let body = heredocs.iter().rev().find(|h| h.name == opened.name);
            Source::Heredoc(Heredoc { content: body.map(|h| h.content.clone()).unwrap_or_default(), ..opened })
        }
        _ => Source::Path(word.clone()),
    };
    let mut copy = Copy {
        sources: sources.iter().map(source).collect(),
        dest: dest.clone(),
        chown: flags.text("chown")?,
        chmod: flags.text("chmod")?,
        link: flags.boolean("link")?.unwrap_or(false),
        exclude: flags.all("exclude")?,
        ..Default::default()
    };
    if add {
        copy.keep_git_dir = flags.boolean("keep-git-dir")?;
        copy.checksum = flags.text("checksum")?;
        copy.unpack = flags.boolean("unpack")?;
    } else {
        copy.from = flags.text("from")?;
        copy.parents = flags.boolean("parents")?.unwrap_or(false);
    }
    Ok(copy)
}

fn args(c: &Command) -> Result<Vec<ArgDef>, Problem> {
    at_least_one(c, "ARG")?
        .iter()
        .map(|word| {
            let (name, default) = match word.split_once('=') {
                Some((n, v)) => (n, Some(v.to_owned())),
                None => (word.as_str(), None),
            };
            if name.is_empty() {
                return wrong("the name of an ARG cannot be blank");
            }
            Ok(ArgDef { name: name.to_owned(), default })
        })
        .collect()
}

fn key_values(c: &Command, keyword: &str) -> Result<Vec<KeyValue>, Problem> {
    at_least_one(c, keyword)?
        .chunks(3)
        .map(|triple| match triple {
            [key, value, separator] if !key.is_empty() => {
                Ok(KeyValue { key: key.clone(), value: value.clone(), legacy: separator.is_empty() })
            }
            _ => wrong(format!("the name of {keyword} cannot be blank")),
        })
        .collect()
}

fn healthcheck(c: &Command) -> Result<Healthcheck, Problem> {
    /// The least time that makes sense to a container engine, in nanoseconds.
    const LEAST: i64 = 1_000_000;
    let flags = Flags::new(c, "HEALTHCHECK", &["interval", "timeout", "start-period", "start-interval", "retries"])?;
    let Some((kind, rest)) = c.words.split_first() else {
        return wrong("HEALTHCHECK requires at least one argument: `CMD command` or `NONE`");
    };
    let time = |name: &str| -> Result<i64, Problem> {
        let Some(text) = flags.text(name)? else { return Ok(0) };
        match duration::parse(&text) {
            Ok(0) => Ok(0),
            Ok(t) if t < LEAST => wrong(format!("flag `--{name}` cannot be less than 1ms")),
            Ok(t) => Ok(t),
            Err(m) => wrong(m),
        }
    };
    let retries = match flags.text("retries")? {
        None => 0,
        Some(text) => match text.parse::<i32>() {
            Ok(n) if n >= 0 => i64::from(n),
            _ => return wrong(format!("invalid value `{text}` of flag `--retries`: expected a number from 0")),
        },
    };
    let command = match kind.to_ascii_uppercase().as_str() {
        "NONE" if rest.is_empty() => None,
        "NONE" => return wrong("HEALTHCHECK NONE takes no arguments"),
        "CMD" if rest.is_empty() => return wrong("missing command after HEALTHCHECK CMD"),
        "CMD" => Some(command_line(rest, c.json)),
        _ => return wrong_hint(format!("unknown type `{kind}` of HEALTHCHECK"), Some("try CMD or NONE".into())),
    };
    Ok(Healthcheck {
        command,
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries,
    })
}

fn onbuild(line: &Line) -> Result<Onbuild, Problem> {
    let Some(inner) = line.command.trigger.as_deref() else {
        return wrong("ONBUILD requires at least one argument");
    };
    match inner.keyword.to_uppercase().as_str() {
        "ONBUILD" => return wrong("ONBUILD cannot trigger another ONBUILD"),
        word @ ("MAINTAINER" | "FROM") => return wrong(format!("{word} is not allowed as an ONBUILD trigger")),
        _ => {}
    }
    let mut trigger = inner.original.trim().to_owned();
    for h in &line.heredocs {
        trigger = format!("{trigger}\n{}{}", h.content, h.name);
    }
    let line = Line { command: inner.clone(), ..line.clone() };
    match parse(&line)? {
        Parsed::Other(kind) => {
            let instruction =
                Instruction { span: line.span, original: inner.original.trim().to_owned(), comments: vec![], kind };
            Ok(Onbuild { trigger, instruction: Box::new(instruction) })
        }
        Parsed::From(_) => wrong("FROM is not allowed as an ONBUILD trigger"),
    }
}

/// The instruction of a line that is no FROM.
pub(super) fn instruction(line: &Line, kind: Kind, span: Span) -> Instruction {
    Instruction { span, original: line.command.original.trim().to_owned(), comments: line.comments.clone(), kind }
}

#[cfg(test)]
mod tests {
    use super::KEYWORDS;
    use crate::dockerfile::parse;
    use crate::error::Classified as _;

    fn hint(line: &str) -> String {
        let text = if line.starts_with("FROM") { format!("{line}\n") } else { format!("FROM a\n{line}\n") };
        let e = parse(&text, "Dockerfile").expect_err(line);
        assert!(e.to_string().contains(">>>"), "{line}: no lines are shown: {e}");
        e.hint().unwrap_or_default()
    }

    /// The word with its second and third letter swapped.
    fn misspelt(word: &str) -> String {
        let mut letters: Vec<char> = word.chars().collect();
        if letters.get(1) == letters.get(2) {
            letters.push('x');
        } else {
            letters.swap(1, 2);
        }
        letters.into_iter().collect()
    }

    #[test]
    fn every_name_is_suggested_for_a_misspelt_one() {
        for word in KEYWORDS {
            let wrong = if word == "ADD" { "ADDD".to_owned() } else { misspelt(word) };
            assert_eq!(hint(&format!("{wrong} x")), format!("did you mean `{word}`?"), "{wrong}");
        }
        let flags: [(&str, &[&str]); 5] = [
            ("FROM", &["platform"]),
            ("RUN", &["mount", "network", "security", "device"]),
            ("COPY", &["from", "chown", "chmod", "link", "parents", "exclude"]),
            ("ADD", &["chown", "chmod", "link", "exclude", "keep-git-dir", "checksum", "unpack"]),
            ("HEALTHCHECK", &["interval", "timeout", "start-period", "start-interval", "retries"]),
        ];
        for (keyword, flags) in flags {
            for flag in flags {
                let wrong = misspelt(flag);
                assert_eq!(hint(&format!("{keyword} --{wrong}=1 a b")), format!("did you mean `--{flag}`?"), "{wrong}");
            }
        }
        for option in ["type", "from", "source", "target", "readonly", "sharing", "size", "required", "mode", "env"] {
            let wrong = misspelt(option);
            let line = format!("RUN --mount={wrong}=1,target=/x true");
            assert_eq!(hint(&line), format!("did you mean `{option}`?"), "{wrong}");
        }
        for (line, want) in [
            ("RUN --mount=type=cahce,target=/x true", "cache"),
            ("RUN --mount=type=cache,target=/x,sharing=lokced true", "locked"),
            ("RUN --network=hots true", "host"),
            ("RUN --security=insceure true", "insecure"),
            ("ONBUILD COYP a b", "COPY"),
        ] {
            assert_eq!(hint(line), format!("did you mean `{want}`?"), "{line}");
        }
    }
}
