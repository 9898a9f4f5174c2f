//! The syntax tree as a Dockerfile that parses to the same tree.
//!
//! What a tree does not hold is lost: where things stood, the case of keywords, line breaks, and comments that stand above
//! nothing. Values come out as they went in: a word that the plain form would split is written as JSON, a flag gets the
//! escapes that it needs, and a heredoc whose terminator was quoted is quoted again.

use super::ast::{CommandLine, Copy, Dockerfile, Healthcheck, Heredoc, Instruction, Kind, Source, Stage};
use super::{command, heredoc, lines};
use std::collections::HashMap;
use std::fmt::{self, Write as _};

/// What parts words where a blank would make JSON of them, and ends a line that the escape character would continue.
const OTHER_BLANK: char = '\u{b}';

impl fmt::Display for Dockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(syntax) = &self.syntax {
            writeln!(f, "# syntax={syntax}")?;
        }
        if self.escape != '\\' {
            writeln!(f, "# escape={}", self.escape)?;
        }
        if let Some(check) = &self.check {
            writeln!(f, "# check={check}")?;
        }
        // what follows is no directive, whatever it looks like
        f.write_str("#\n")?;
        for i in &self.global_args {
            write_instruction(f, i, self.escape)?;
        }
        for stage in &self.stages {
            f.write_char('\n')?;
            write_from(f, stage, self.escape)?;
            for i in &stage.instructions {
                write_instruction(f, i, self.escape)?;
            }
        }
        Ok(())
    }
}

fn comments(f: &mut fmt::Formatter<'_>, comments: &[String]) -> fmt::Result {
    comments.iter().try_for_each(|c| writeln!(f, "# {c}"))
}

/// A line, protected from being continued.
fn end_line(f: &mut fmt::Formatter<'_>, line: &str, escape: char) -> fmt::Result {
    f.write_str(line)?;
    if lines::is_continued(line, escape) {
        f.write_char(OTHER_BLANK)?;
    }
    f.write_char('\n')
}

fn write_from(f: &mut fmt::Formatter<'_>, stage: &Stage, escape: char) -> fmt::Result {
    comments(f, &stage.comments)?;
    let from = &stage.from;
    let mut line = Line::new("FROM");
    line.value("platform", from.platform.as_deref());
    line.rest(&match &from.name {
        Some(name) => format!("{} AS {name}", from.base),
        None => from.base.clone(),
    });
    end_line(f, &line.text, escape)
}

fn write_instruction(f: &mut fmt::Formatter<'_>, i: &Instruction, escape: char) -> fmt::Result {
    comments(f, &i.comments)?;
    if let Kind::Onbuild(onbuild) = &i.kind {
        // the trigger is its own text, bodies of heredocs included
        let (first, bodies) = match onbuild.trigger.split_once('\n') {
            Some((first, bodies)) => (first, Some(bodies)),
            None => (onbuild.trigger.as_str(), None),
        };
        end_line(f, &format!("ONBUILD {first}"), escape)?;
        return bodies.map_or(Ok(()), |bodies| writeln!(f, "{bodies}"));
    }
    let (line, heredocs) = instruction(&i.kind);
    end_line(f, &line.text, escape)?;
    if !line.may_open {
        return Ok(());
    }
    let bodies: HashMap<&str, &str> = heredocs.iter().map(|h| (h.name.as_str(), h.content.as_str())).collect();
    for (n, opened) in heredoc::openings(&line.text).iter().enumerate() {
        let own = heredocs.get(n).filter(|h| h.name == opened.name).map(|h| h.content.as_str());
        let body = own.or_else(|| bodies.get(opened.name.as_str()).copied()).unwrap_or_default();
        writeln!(f, "{body}{}", opened.name)?;
    }
    Ok(())
}

/// A line that grows.
struct Line {
    text: String,
    /// Words on it may open heredocs.
    may_open: bool,
}

impl Line {
    fn new(keyword: &str) -> Line {
        Line { text: keyword.to_owned(), may_open: false }
    }

    /// A flag; its value is quoted where it has blanks.
    fn flag(&mut self, name: &str, value: &str) {
        let quote = if value.contains(char::is_whitespace) { "\"" } else { "" };
        let _ = write!(self.text, " --{name}={quote}");
        for c in value.chars() {
            if matches!(c, '\'' | '"' | '\\') {
                self.text.push('\\');
            }
            self.text.push(c);
        }
        self.text.push_str(quote);
    }

    fn value(&mut self, name: &str, value: Option<&str>) {
        if let Some(v) = value {
            self.flag(name, v);
        }
    }

    fn switch(&mut self, name: &str, on: bool) {
        if on {
            let _ = write!(self.text, " --{name}");
        }
    }

    /// What stands behind the flags.
    fn rest(&mut self, text: &str) {
        if text.starts_with("--") {
            self.text.push_str(" --");
        }
        if !text.is_empty() {
            let _ = write!(self.text, " {text}");
        }
    }

    fn json(&mut self, words: &[String]) {
        let list = serde_json::Value::from(words.to_vec());
        self.rest(&list.to_string());
    }

    fn words(&mut self, words: &[String]) {
        let plain = words.join(" ");
        let is_plain = matches!(command::json_array(&plain), Ok(None));
        self.rest(&if is_plain { plain } else { words.join(&OTHER_BLANK.to_string()) });
    }

    fn command(&mut self, command: &CommandLine) {
        match command {
            CommandLine::Shell(text) => self.rest(text),
            CommandLine::Exec(argv) => self.json(argv),
        }
    }
}

/// The line of an instruction, and the heredocs whose bodies follow it.
fn instruction(kind: &Kind) -> (Line, Vec<&Heredoc>) {
    let mut line = Line::new(kind.keyword());
    match kind {
        Kind::Add(copy) | Kind::Copy(copy) => return copied(line, copy),
        Kind::Arg(definitions) => {
            let word = |d: &super::ArgDef| match &d.default {
                Some(default) => format!("{}={default}", d.name),
                None => d.name.clone(),
            };
            line.rest(&definitions.iter().map(word).collect::<Vec<_>>().join(" "));
        }
        Kind::Cmd(command) | Kind::Entrypoint(command) => line.command(command),
        Kind::Env(pairs) | Kind::Label(pairs) => {
            let pair = |p: &super::KeyValue| format!("{}{}{}", p.key, if p.legacy { ' ' } else { '=' }, p.value);
            line.rest(&pairs.iter().map(pair).collect::<Vec<_>>().join(" "));
        }
        Kind::Expose(words) => line.rest(&words.join(" ")),
        Kind::Healthcheck(check) => healthcheck(&mut line, check),
        Kind::Maintainer(text) | Kind::StopSignal(text) | Kind::User(text) | Kind::Workdir(text) => line.rest(text),
        Kind::Onbuild(onbuild) => line.rest(&onbuild.trigger),
        Kind::Run(run) => {
            run.mounts.iter().for_each(|m| line.flag("mount", &m.text));
            line.value(
                "network",
                run.network.map(|n| match n {
                    super::RunNetwork::Default => "default",
                    super::RunNetwork::None => "none",
                    super::RunNetwork::Host => "host",
                }),
            );
            line.value("security", run.security.as_deref());
            run.devices.iter().for_each(|d| line.flag("device", d));
            line.command(&run.command);
            line.may_open = matches!(run.command, CommandLine::Shell(_));
            return (line, run.heredocs.iter().collect());
        }
        Kind::Shell(words) | Kind::Volume(words) => line.json(words),
    }
    (line, vec![])
}

fn healthcheck(line: &mut Line, check: &Healthcheck) {
    for (name, nanoseconds) in [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("start-period", check.start_period),
        ("start-interval", check.start_interval),
    ] {
        if nanoseconds != 0 {
            line.flag(name, &format!("{nanoseconds}ns"));
        }
    }
    if check.retries != 0 {
        line.flag("retries", &check.retries.to_string());
    }
    match &check.command {
        None => line.rest("NONE"),
        Some(CommandLine::Shell(text)) => line.rest(&format!("CMD {text}")),
        Some(CommandLine::Exec(argv)) => {
            line.rest("CMD");
            line.rest(&serde_json::Value::from(argv.clone()).to_string());
        }
    }
}

fn copied(mut line: Line, copy: &Copy) -> (Line, Vec<&Heredoc>) {
    line.value("from", copy.from.as_deref());
    line.value("chown", copy.chown.as_deref());
    line.value("chmod", copy.chmod.as_deref());
    line.switch("link", copy.link);
    line.switch("parents", copy.parents);
    copy.exclude.iter().for_each(|e| line.flag("exclude", e));
    let boolean = |b: bool| if b { "true" } else { "false" };
    line.value("keep-git-dir", copy.keep_git_dir.map(boolean));
    line.value("checksum", copy.checksum.as_deref());
    line.value("unpack", copy.unpack.map(boolean));
    let heredocs: Vec<&Heredoc> = copy
        .sources
        .iter()
        .filter_map(|s| match s {
            Source::Heredoc(h) => Some(h),
            Source::Path(_) => None,
        })
        .collect();
    let word = |s: &Source| match s {
        Source::Path(path) => path.clone(),
        Source::Heredoc(h) => opening(h),
    };
    let words: Vec<String> = copy.sources.iter().map(word).chain([copy.dest.clone()]).collect();
    if heredocs.is_empty() {
        line.json(&words);
    } else {
        line.words(&words);
        line.may_open = true;
    }
    (line, heredocs)
}

/// The word that opens a heredoc.
fn opening(h: &Heredoc) -> String {
    let fd = h.fd.map(|n| n.to_string()).unwrap_or_default();
    let chomp = if h.chomp { "-" } else { "" };
    let escaped = |special: &[char]| -> String {
        let mut out = String::new();
        for c in h.name.chars() {
            if special.contains(&c) {
                out.push('\\');
            }
            out.push(c);
        }
        out
    };
    let name = match (h.expand, h.name.contains('\'')) {
        (true, _) => escaped(&['\'', '"', '\\']),
        (false, false) => format!("'{}'", h.name),
        (false, true) => format!("\"{}\"", escaped(&['"', '\\'])),
    };
    format!("{fd}<<{chomp}{name}")
}

#[cfg(test)]
mod tests {
    use crate::dockerfile::parse;

    #[test]
    fn a_dockerfile_is_printed() {
        let text = "# syntax=docker/dockerfile:1\n# escape=`\nARG A=1\nfrom a as b\n# words\n#\n# more\nrun --mount=type=cache,target=/x \
                    --network=none cat <<-E >x\n\t1\n\tE\ncopy --chown=\"a b\" [\"x y\", \"/z\"]\ncopy <<'F' /g\n$H\nF\n\
                    healthcheck --interval=5s cmd [\"a\"]\nonbuild run <<E\nx\nE\nenv a b  c\nlabel a='b c' d=e\nvolume /a /b\n";
        insta::assert_snapshot!(parse(text, "Dockerfile").unwrap(), @r#"
        # syntax=docker/dockerfile:1
        # escape=`
        #
        ARG A=1

        FROM a AS b
        # more
        RUN --mount=type=cache,target=/x --network=none cat <<-E >x
        	1
        E
        COPY --chown="a b" ["x y","/z"]
        COPY <<'F' /g
        $H
        F
        HEALTHCHECK --interval=5000000000ns CMD ["a"]
        ONBUILD run <<E
        x
        E
        ENV a b  c
        LABEL a='b c' d=e
        VOLUME ["/a","/b"]
        "#);
    }
}
