//! The instructions that only change the config, and WORKDIR.

use super::graph::with_shell;
use super::stage::{Builder, Outcome, State};
use super::{Error, StepKind, scope, values};
use crate::dockerfile::expand::Lookup;
use crate::dockerfile::{ArgDef, CommandLine, Healthcheck, Kind, Span};
use crate::oci::{Empty, Health};

impl Builder<'_> {
    pub(super) fn config(&mut self, state: &mut State, kind: &Kind, span: Span) -> Result<Outcome, Error> {
        match kind {
            Kind::Arg(definitions) => self.arg(state, definitions, span),
            Kind::Env(pairs) => {
                let mut text = "ENV".to_owned();
                let mut new = Vec::with_capacity(pairs.len());
                // all of one ENV see the variables as they were before it
                for pair in pairs {
                    let key = self.word(&pair.key, &state.variables, span)?;
                    let value = self.word(&pair.value, &state.variables, span)?;
                    if key.is_empty() {
                        return Err(self.invalid(span, "the name of an ENV cannot be blank"));
                    }
                    new.push((key, value));
                }
                for (key, value) in new {
                    text.push_str(&format!(" {key}={value}"));
                    state.environment.set(&key, value.clone());
                    state.variables.set(&key, value);
                }
                state.config().env = state.environment.pairs().iter().map(|(n, v)| format!("{n}={v}")).collect();
                Ok(Outcome::config(text))
            }
            Kind::Label(pairs) => {
                let mut text = "LABEL".to_owned();
                for pair in pairs {
                    let key = self.word(&pair.key, &state.variables, span)?;
                    let value = self.word(&pair.value, &state.variables, span)?;
                    text.push_str(&format!(" {key}={value}"));
                    state.config().labels.insert(key, value);
                }
                Ok(Outcome::config(text))
            }
            Kind::Cmd(command) => {
                let argv = with_shell(state.image.config.shell.as_ref(), command);
                let text = format!("CMD {}", values::quoted_list(&argv));
                state.cmd_set = true;
                state.config().cmd = Some(argv).filter(|a| !a.is_empty());
                Ok(Outcome::config(text))
            }
            Kind::Entrypoint(command) => {
                let argv = with_shell(state.image.config.shell.as_ref(), command);
                let text = format!("ENTRYPOINT {}", values::quoted_list(&argv));
                if !state.cmd_set {
                    state.config().cmd = None;
                }
                state.config().entrypoint = Some(argv).filter(|a| !a.is_empty());
                Ok(Outcome::config(text))
            }
            Kind::Shell(shell) => {
                state.config().shell = Some(shell.clone());
                Ok(Outcome::config(format!("SHELL [{}]", shell.join(" "))))
            }
            Kind::Expose(words) => {
                let mut ports = values::Ports::default();
                for word in words {
                    for port in self.words(word, &state.variables, span)? {
                        ports.add(&port).map_err(|m| self.invalid(span, m))?;
                    }
                }
                let ports = ports.names;
                state.config().exposed_ports.extend(ports.iter().map(|p| (p.clone(), Empty {})));
                Ok(Outcome::config(format!("EXPOSE [{}]", ports.join(" "))))
            }
            Kind::User(user) => {
                let user = self.word(user, &state.variables, span)?;
                state.config().user.clone_from(&user);
                Ok(Outcome::config(format!("USER {user}")))
            }
            Kind::Volume(paths) => {
                let mut expanded = vec![];
                for path in paths {
                    let path = self.word(path, &state.variables, span)?;
                    if path.is_empty() {
                        return Err(self.invalid(span, "a VOLUME cannot be an empty string"));
                    }
                    expanded.push(path);
                }
                state.config().volumes.extend(expanded.iter().map(|p| (p.clone(), Empty {})));
                Ok(Outcome::config(format!("VOLUME [{}]", expanded.join(" "))))
            }
            Kind::StopSignal(signal) => {
                let signal = self.word(signal, &state.variables, span)?;
                if !values::is_signal(&signal) {
                    return Err(self.invalid(span, format!("invalid signal `{signal}`")));
                }
                state.config().stop_signal = Some(signal.clone());
                Ok(Outcome::config(format!("STOPSIGNAL {signal}")))
            }
            Kind::Healthcheck(check) => Ok(healthcheck(state, check)),
            Kind::Maintainer(author) => {
                state.image.author = Some(author.clone());
                Ok(Outcome::config(format!("MAINTAINER {author}")))
            }
            Kind::Onbuild(trigger) => {
                state.config().on_build.push(trigger.trigger.clone());
                Ok(Outcome { kind: StepKind::Config, history: None, inputs: vec![] })
            }
            Kind::Workdir(path) => {
                let path = self.word(path, &state.variables, span)?;
                let path = values::join_as_written(&state.image.config.working_dir, &path);
                state.config().working_dir.clone_from(&path);
                let text = format!("WORKDIR {path}");
                let path = values::join("/", &path);
                if path == "/" {
                    return Ok(Outcome::config(text));
                }
                let user = state.image.config.user.clone();
                Ok(Outcome { kind: StepKind::Workdir { path, user }, history: Some((text, true)), inputs: vec![] })
            }
            Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) => Err(self.invalid(span, "not an instruction of the config")),
        }
    }

    fn arg(&mut self, state: &mut State, definitions: &[ArgDef], span: Span) -> Result<Outcome, Error> {
        let mut texts = vec![];
        for arg in definitions {
            let value = match (self.args.get(&arg.name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.word(default, &state.variables, span)?),
                (None, None) => self.global.get(&arg.name).map(str::to_owned),
            };
            texts.push(match &value {
                Some(v) => format!("{}={v}", arg.name),
                None => arg.name.clone(),
            });
            if let Some(v) = &value
                && !scope::is_switch(&arg.name)
            {
                state.variables.set(&arg.name, v.clone());
            }
            state.arguments.declare(&arg.name, value);
        }
        Ok(Outcome::config(format!("ARG {}", texts.join(" "))))
    }
}

fn healthcheck(state: &mut State, check: &Healthcheck) -> Outcome {
    let test = match &check.command {
        None => vec!["NONE".to_owned()],
        Some(CommandLine::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.clone()],
        Some(CommandLine::Exec(argv)) => ["CMD".to_owned()].into_iter().chain(argv.iter().cloned()).collect(),
    };
    let health = Health {
        test,
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    };
    let text = format!("HEALTHCHECK {}", values::health(&health));
    state.config().healthcheck = Some(health);
    Outcome::config(text)
}
