//! Rules about what an instruction means where it stands.

use super::form::keyword;
use super::scope::{self, Scope, State};
use super::{Linter, Place, Subject, rules};
use crate::dockerfile::expand::Expanded;
use crate::dockerfile::{CommandLine, Copy, Instruction, Kind, Source, Stage};

pub(super) fn check(linter: &mut Linter<'_>, subject: &Subject<'_>, scope: &mut Scope<'_>) {
    let file = linter.file;
    let mut finished: Vec<State> = Vec::with_capacity(file.stages.len());
    for (number, stage) in file.stages.iter().enumerate() {
        let mut state = scope.start(number, subject, &finished);
        let needed = subject.needed.as_ref().is_none_or(|n| n.contains(&number));
        if needed {
            used_once(linter, stage);
        }
        for i in &stage.instructions {
            if needed {
                instruction(linter, subject, scope, &state, i);
            }
            scope.apply(i, &mut state);
        }
        finished.push(state);
    }
}

/// Of several CMD, ENTRYPOINT and HEALTHCHECK the last counts: each before it is reported.
fn used_once(linter: &mut Linter<'_>, stage: &Stage) {
    let mut last: [Option<&Instruction>; 3] = [None; 3];
    for i in &stage.instructions {
        let slot = match &i.kind {
            Kind::Cmd(_) => 0,
            Kind::Entrypoint(_) => 1,
            Kind::Healthcheck(_) => 2,
            _ => continue,
        };
        if let Some(earlier) = last.get_mut(slot).and_then(|l| l.replace(i)) {
            let detail = format!("the stage has several {}, of which only the last one counts", i.kind.keyword());
            linter.report(rules::MULTIPLE_INSTRUCTIONS_DISALLOWED, &Place::from(earlier), detail);
        }
    }
}

fn instruction(linter: &mut Linter<'_>, subject: &Subject<'_>, scope: &mut Scope<'_>, state: &State, i: &Instruction) {
    let place = Place::from(i);
    match &i.kind {
        Kind::Cmd(CommandLine::Shell(text)) | Kind::Entrypoint(CommandLine::Shell(text))
            if !text.is_empty() && !state.shell =>
        {
            let detail = format!("{} is not written as JSON: signals go to a shell", i.kind.keyword());
            linter.report(rules::JSON_ARGS_RECOMMENDED, &place, detail);
        }
        Kind::Env(pairs) | Kind::Label(pairs) => {
            let word = keyword(&i.original);
            if pairs.iter().any(|p| p.legacy) {
                let detail = format!("write \"{word} key=value\" in place of \"{word} key value\"");
                linter.report(rules::LEGACY_KEY_VALUE_FORMAT, &place, detail);
            }
            if matches!(i.kind, Kind::Env(_)) {
                pairs.iter().for_each(|p| secret(linter, &place, "ENV", &p.key));
            }
        }
        Kind::Arg(definitions) => definitions.iter().for_each(|d| secret(linter, &place, "ARG", &d.name)),
        Kind::Workdir(path) if !state.workdir => {
            let path = scope.expand(path, &state.variables).map_or_else(|| path.clone(), |e| e.text);
            if !path.starts_with('/') {
                let detail = format!("the relative path \"{path}\" depends on the working directory of the base image");
                linter.report(rules::WORKDIR_RELATIVE_PATH, &place, detail);
            }
        }
        Kind::Expose(words) => {
            for word in words {
                let Some(expanded) = scope.expand(word, &state.variables) else { continue };
                expanded.words.iter().for_each(|port| exposed(linter, &place, port));
            }
        }
        Kind::Copy(copy) if copy.from.is_none() => ignored(linter, subject, scope, state, copy, &place, "COPY"),
        Kind::Add(copy) => ignored(linter, subject, scope, state, copy, &place, "ADD"),
        _ => {}
    }
    undefined(linter, scope, state, i, &place);
}

/// Whether a name says that its value is a secret: one of its words does, and none says that it is not.
fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "passwd", "pword", "secret", "token"];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let has = |list: &[&str]| name.split('_').any(|word| list.iter().any(|w| w.eq_ignore_ascii_case(word)));
    has(&SECRET) && !has(&HARMLESS)
}

fn secret(linter: &mut Linter<'_>, place: &Place, keyword: &str, name: &str) {
    if is_secret(name) {
        let detail = format!("{keyword} \"{name}\" looks like a secret: use `RUN --mount=type=secret`");
        linter.report(rules::SECRETS_USED_IN_ARG_OR_ENV, place, detail);
    }
}

fn exposed(linter: &mut Linter<'_>, place: &Place, port: &str) {
    let protocol = port.rsplit(':').next().and_then(|p| p.split_once('/')).map(|(_, p)| p);
    if protocol.is_some_and(|p| p != p.to_lowercase()) {
        let detail = format!("the protocol of '{port}' is not lower case");
        linter.report(rules::EXPOSE_PROTO_CASING, place, detail);
    }
    if port.contains(':') {
        let detail = format!("'{port}' names more than a port of the container");
        linter.report(rules::EXPOSE_INVALID_FORMAT, place, detail);
    }
}

/// A path of the context without `.`, `..` and doubled slashes; `.` for the context itself.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = vec![];
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p => parts.push(p),
        }
    }
    if parts.is_empty() { ".".into() } else { parts.join("/") }
}

fn ignored(
    linter: &mut Linter<'_>,
    subject: &Subject<'_>,
    scope: &mut Scope<'_>,
    state: &State,
    copy: &Copy,
    place: &Place,
    keyword: &str,
) {
    /// A name that no ignore file lists: it is excluded only where everything is.
    const ANY: &str = "\u{1}any file of the context";
    if subject.ignore.is_empty() {
        return;
    }
    for source in &copy.sources {
        let Source::Path(path) = source else { continue };
        let Some(path) = scope.expand(path, &state.variables).map(|e| e.text) else { continue };
        let remote = ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|p| path.starts_with(p));
        if keyword == "ADD" && remote {
            continue;
        }
        let path = clean(&path);
        let looked_at = if path == "." { ANY } else { path.as_str() };
        // what a pattern takes back may be what is wanted
        let fixed = path.split('/').take_while(|part| !part.contains(['*', '?', '['])).collect::<Vec<_>>().join("/");
        let taken_back = match fixed.as_str() {
            "" | "." => subject.ignore.takes_back(),
            dir => subject.ignore.may_include_below(dir.as_bytes()),
        };
        if subject.ignore.excludes(looked_at.as_bytes()) && !taken_back {
            let detail = format!("{keyword} reads \"{path}\", which the ignore file excludes");
            linter.report(rules::COPY_IGNORED_FILE, place, detail);
        }
    }
}

/// A variable that is used and neither set nor declared.
fn undefined(linter: &mut Linter<'_>, scope: &mut Scope<'_>, state: &State, i: &Instruction, place: &Place) {
    let mut unset = std::collections::BTreeSet::new();
    let mut add = |e: Option<Expanded>| unset.extend(e.into_iter().flat_map(|e| e.unset));
    let variables = &state.variables;
    match &i.kind {
        Kind::Copy(copy) | Kind::Add(copy) => {
            for source in &copy.sources {
                match source {
                    Source::Path(path) => add(scope.expand(path, variables)),
                    Source::Heredoc(h) if h.expand => add(scope.expand_text(&h.content, variables)),
                    Source::Heredoc(_) => {}
                }
            }
            let flags = copy.chown.iter().chain(&copy.chmod).chain(&copy.checksum).chain(&copy.exclude);
            for word in std::iter::once(&copy.dest).chain(flags) {
                add(scope.expand(word, variables));
            }
        }
        Kind::Env(pairs) | Kind::Label(pairs) => {
            for pair in pairs {
                add(scope.expand(&pair.key, variables));
                add(scope.expand(&pair.value, variables));
            }
        }
        Kind::Arg(definitions) => {
            // one argument of an ARG sees those before it
            let mut inner = State { variables: variables.clone(), ..State::default() };
            for (n, definition) in definitions.iter().enumerate() {
                if let Some(default) = definition.default.as_ref().filter(|_| scope.given(&definition.name).is_none()) {
                    add(scope.expand(default, &inner.variables));
                }
                if n + 1 < definitions.len() {
                    scope.declare(definition, &mut inner);
                }
            }
        }
        Kind::Expose(words) | Kind::Volume(words) => words.iter().for_each(|w| add(scope.expand(w, variables))),
        Kind::StopSignal(word) | Kind::User(word) | Kind::Workdir(word) => add(scope.expand(word, variables)),
        Kind::Run(run) => {
            for mount in run.mounts.iter().filter(|m| m.has_variables()) {
                let _ = mount.resolve(&mut |value| {
                    let expanded = scope.expand(value, variables);
                    let text = expanded.as_ref().map(|e| e.text.clone());
                    add(expanded);
                    text.ok_or_else(String::new)
                });
            }
        }
        _ => {}
    }
    for name in unset.iter().filter(|n| !variables.declared(n) && !scope::is_switch(n)) {
        let elsewhere = scope.known_elsewhere(name);
        let near = scope.budget.nearest(name, variables.names());
        // a base that nobody looked up may set anything: then only what the file itself shows to be wrong counts
        if !state.base_known && !elsewhere && near.is_none() {
            continue;
        }
        let hint = near.map(|n| format!(" (did you mean ${n}?)")).unwrap_or_default();
        linter.report(rules::UNDEFINED_VAR, place, format!("the variable '${name}' is not defined here{hint}"));
    }
}
