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
        let insecure = run.security.as_deref() == Some("insecure");
        if insecure && !self.request().allow_insecure {
            return Err(Error::Invalid {
                message: "`RUN --security=insecure` is not allowed".into(),
                hint: Some("allow it with `--allow security.insecure`".into()),
                location: Box::new(self.request().location(span)),
            });
        }
        // The network of the pod is there for all, so it takes no leave, but where the command line took it away.
        if run.network == Some(RunNetwork::Host) && self.request().forbid_network {
            return Err(Error::Invalid {
                message: "`RUN --network=host` is not allowed: the build has `--network=none`".into(),
                hint: Some("allow it with `--allow network.host`".into()),
                location: Box::new(self.request().location(span)),
            });
        }
        self.devices(run, span)?;
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
        let mut mounts: Vec<Mount> = vec![];
        for flag in &run.mounts {
            let agents = mounts.iter().filter(|m| m.options.kind == MountKind::Ssh).count();
            let mount = self.mount(stage, state, flag, agents, span)?;
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
            insecure,
        });
        Ok(Outcome { kind, history: Some((history, true)), inputs })
    }

    /// Devices that are not required may be missing, and there is nothing here that could give them.
    fn devices(&mut self, run: &dockerfile::Run, span: Span) -> Result<(), Error> {
        for device in &run.devices {
            let mut fields = device.split(',');
            let name = fields.next().unwrap_or_default();
            let name = name.strip_prefix("name=").unwrap_or(name);
            if fields.any(|f| f == "required" || f == "required=true") {
                return Err(Error::Unsupported {
                    what: format!("the required device `{name}` of `RUN --device`"),
                    hint: Some(
                        "CDI names are not known here: give the device's path to every step with `--device`, and leave \
                         `required` out"
                            .into(),
                    ),
                    location: Box::new(self.request().location(span)),
                });
            }
            self.warnings.push(format!("the step runs without the device `{name}`: line {}", span.start));
        }
        Ok(())
    }

    /// One mount; `agents` is the number of agents that the step has already.
    fn mount(
        &mut self,
        stage: usize,
        state: &State,
        flag: &MountFlag,
        agents: usize,
        span: Span,
    ) -> Result<Mount, Error> {
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
        let target = options.target.take().map(|t| values::join(&state.image.config.working_dir, &t));
        if options.kind == MountKind::Secret {
            let alias = options.source.take();
            let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
            options.id = options
                .id
                .take()
                .or(alias)
                .or_else(|| target.as_deref().map(base))
                .or_else(|| options.env.clone())
                .filter(|id| !id.is_empty());
            let Some(id) = &options.id else { return Err(self.invalid(span, "a secret mount needs an `id`")) };
            options.target = target.or_else(|| options.env.is_none().then(|| format!("/run/secrets/{}", base(id))));
        } else {
            options.target = target.or_else(|| {
                Some(match options.kind {
                    MountKind::Ssh => format!("/run/buildkit/ssh_agent.{agents}"),
                    _ => values::join("/", &state.image.config.working_dir),
                })
            });
        }
        if options.target.as_deref() == Some("/") {
            return Err(self.invalid(span, "invalid mount target `/`"));
        }
        if options.kind == MountKind::Ssh && options.id.as_deref().is_none_or(str::is_empty) {
            options.id = Some("default".into());
        }
        if options.kind == MountKind::Cache {
            let id = options.id.take().or_else(|| options.target.clone()).unwrap_or_default();
            let namespace = self.args.get("BUILDKIT_CACHE_MOUNT_NS").filter(|ns| !ns.is_empty());
            options.id = Some(namespace.map_or(id.clone(), |ns| format!("{ns}/{id}")));
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
