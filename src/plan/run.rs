//! RUN: the command, its heredocs, environment and mounts.

use super::graph::{reads_files, with_shell};
use super::stage::{Builder, Outcome, State};
use super::{CopyFrom, Error, HeredocFile, Mount, Network, Run, StepKind, values};
use crate::dockerfile::expand::{Expander, Lookup};
use crate::dockerfile::{self, CommandLine, Heredoc, MountFlag, MountKind, RunNetwork, Span};

impl Builder<'_> {
    pub(super) fn run(
        &mut self,
        stage: usize,
        state: &mut State,
        run: &dockerfile::Run,
        span: Span,
    ) -> Result<Outcome, Error> {
        if run.security.as_deref() == Some("insecure") {
            return Err(self.unsupported(span, "`RUN --security=insecure`"));
        }
        if !run.devices.is_empty() {
            return Err(self.unsupported(span, "`RUN --device`"));
        }
        let (request, platform) = (self.request(), &state.platform);
        if !platform.accepts(&request.platform) && !platform.accepts(&request.build_platform) {
            return Err(self.unsupported(span, format!("RUN on the foreign platform `{platform}`")));
        }
        let (command, heredocs) = command(run);
        let argv = with_shell(state.image.config.shell.as_ref(), &command);
        if argv.is_empty() {
            return Err(self.invalid(span, "RUN has no command"));
        }
        let mut inputs = vec![];
        let mut mounts = vec![];
        for flag in &run.mounts {
            let mount = self.mount(stage, state, flag, span)?;
            if let Some(CopyFrom::Stage(step)) = mount.from {
                inputs.push(step);
            }
            mounts.push(mount);
        }
        inputs.sort();
        inputs.dedup();
        let history = format!("RUN {} # buildkit", history(&argv, state));
        let config = &state.image.config;
        let known = |name: &str| state.variables.get(name).is_some();
        let kind = StepKind::Run(Run {
            argv,
            env: state.variables.pairs().to_vec(),
            proxy_env: self.proxies.iter().filter(|(n, _)| !known(n)).cloned().collect(),
            cwd: values::join("/", &config.working_dir),
            user: config.user.clone(),
            heredocs,
            network: match run.network {
                None | Some(RunNetwork::Default) => None,
                Some(RunNetwork::None) => Some(Network::None),
                Some(RunNetwork::Host) => Some(Network::Host),
            },
            mounts,
        });
        Ok(Outcome { kind, history: Some((history, true)), inputs })
    }

    fn mount(&mut self, stage: usize, state: &State, flag: &MountFlag, span: Span) -> Result<Mount, Error> {
        let expander = Expander::new(self.escape());
        let resolved = flag.resolve(&mut |v| expander.text(v, &state.variables).map_err(|e| e.to_string()));
        let mut options = resolved.map_err(|e| Error::Invalid {
            message: e.message,
            hint: e.hint,
            location: Box::new(self.request().location(span)),
        })?;
        if options.relabel {
            self.warnings.push(format!("the mount options `z` and `Z` label nothing here: line {}", span.start));
        }
        if options.kind == MountKind::Ssh {
            return Err(self.unsupported(span, "`RUN --mount=type=ssh`"));
        }
        let target = options.target.take().map(|t| values::join(&state.image.config.working_dir, &t));
        options.target = match (options.kind, target) {
            (MountKind::Secret, None) => {
                let id = options.id.as_deref().or(options.source.as_deref()).unwrap_or_default();
                options.env.is_none().then(|| format!("/run/secrets/{id}"))
            }
            (_, Some(t)) => Some(t),
            (_, None) => Some(values::join("/", &state.image.config.working_dir)),
        };
        if options.target.as_deref() == Some("/") {
            return Err(self.invalid(span, "invalid mount target `/`"));
        }
        if options.kind == MountKind::Secret && options.id.is_none() {
            // the name of the secret is the last part of its path
            let path = options.source.as_deref().or(options.target.as_deref()).unwrap_or_default();
            options.id = path.rsplit('/').next().map(str::to_owned);
        }
        if options.kind == MountKind::Cache && options.id.is_none() {
            options.id = options.target.clone();
        }
        let from = match options.from.as_deref().filter(|f| !f.is_empty()) {
            Some(name) if reads_files(options.kind) => Some(self.origin(stage, name, span)?.0),
            _ if options.kind == MountKind::Bind => Some(CopyFrom::Context),
            _ => None,
        };
        Ok(Mount { from, options })
    }
}

/// The command with its heredocs: a lone heredoc is a script for the shell, or a program where it begins with `#!`; any
/// other is put together again for the shell.
fn command(run: &dockerfile::Run) -> (CommandLine, Vec<HeredocFile>) {
    let (CommandLine::Shell(line), Some(first)) = (&run.command, run.heredocs.first()) else {
        return (run.command.clone(), vec![]);
    };
    if Heredoc::opens(line) {
        let text = first.text();
        if !text.starts_with("#!") {
            return (CommandLine::Shell(text), vec![]);
        }
        let file = HeredocFile { name: first.name.clone(), content: text };
        return (CommandLine::Shell(format!("/dev/pipes/{}", first.name)), vec![file]);
    }
    let mut text = line.clone();
    for h in &run.heredocs {
        text = format!("{text}\n{}{}", h.content, h.name);
    }
    (CommandLine::Shell(text), vec![])
}

/// The command as histories have it: the declared ARGs in front.
fn history(argv: &[String], state: &State) -> String {
    let arguments = state.arguments.pairs();
    let mut words = vec![];
    if !arguments.is_empty() {
        words.push(format!("|{}", arguments.len()));
    }
    for (name, value) in arguments {
        let value = state.variables.get(name).or(value.as_deref()).unwrap_or_default();
        words.push(format!("{name}={value}"));
    }
    words.extend(argv.iter().cloned());
    words.join(" ")
}
