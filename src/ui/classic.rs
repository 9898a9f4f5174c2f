//! The form of Docker's classic builder: `Step 1/3 : FROM …`, everything on standard output.

use super::human;
use super::lines::Lines;
use super::{Event, Outline, Sink, StepKey, Terminal, Verb};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Writes events the way `docker build` does with `DOCKER_BUILDKIT=0`.
#[derive(Debug)]
pub struct Classic {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    terminal: Terminal,
    outline: Outline,
    lines: Lines,
    /// RUN steps of which it is not known yet whether the cache has them.
    undecided: BTreeSet<StepKey>,
    /// Steps that came from the cache.
    cached: BTreeSet<StepKey>,
}

impl Classic {
    /// A sink that writes to `terminal`, `docker build` without `-q`.
    pub fn new(terminal: Terminal) -> Self {
        let state = State {
            terminal,
            outline: Outline::default(),
            lines: Lines::default(),
            undecided: BTreeSet::new(),
            cached: BTreeSet::new(),
        };
        Classic { state: Mutex::new(state) }
    }
}

/// What Docker shows for a full reference: the default registry and its default path are left out.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// An id for the container that the classic builder would have made for a step: rbuild has none, but the lines that show
/// one are part of the form. Twelve digits that depend on place and text of the step.
fn container_id(step: StepKey, text: &str) -> String {
    // FNV-1a: stable over runs, which a hasher of the standard library does not promise.
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for b in text.bytes().chain([step.stage as u8, step.step as u8]) {
        h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{:012x}", h & 0xffff_ffff_ffff)
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl State {
    fn say(&mut self, line: &str) {
        self.terminal.out(format!("{line}\n").as_bytes());
    }

    fn total(&self) -> usize {
        self.outline.global_args.len() + self.outline.stages.iter().map(|s| s.steps.len()).sum::<usize>()
    }

    fn number(&self, step: StepKey) -> usize {
        let before: usize = self.outline.stages.iter().take(step.stage).map(|s| s.steps.len()).sum();
        self.outline.global_args.len() + before + step.step + 1
    }

    /// Says in which container a RUN step runs, unless that was said.
    fn running(&mut self, step: StepKey) {
        if self.undecided.remove(&step) {
            let id = self.container(step);
            self.say(&format!(" ---> Running in {id}"));
        }
    }

    fn container(&self, step: StepKey) -> String {
        container_id(step, self.outline.step(step).map_or("", |st| &st.text))
    }

    fn finish_lines(&mut self, step: StepKey) {
        let mut text = vec![];
        self.lines.finish(step, |_, line| {
            text.extend_from_slice(line);
            text.push(b'\n');
        });
        self.terminal.out(&text);
    }
}

impl Sink for Classic {
    fn event(&self, event: &Event<'_>) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let s = &mut *guard;
        match *event {
            Event::Planned(outline) => {
                s.outline = outline.clone();
                let total = s.total();
                for (n, text) in outline.global_args.iter().enumerate() {
                    s.say(&format!("Step {}/{total} : {text}", n + 1));
                }
            }
            Event::ContextRead { size } => {
                s.say(&format!("Sending build context to Docker daemon  {}", human::size(size, "", 4)));
            }
            Event::Fetching { name } => s.say(&format!("Downloading {name}")),
            Event::StepStarted { step } => {
                let text = s.outline.step(step).map_or(String::new(), |st| st.text.clone());
                let line = format!("Step {}/{} : {text}", s.number(step), s.total());
                s.say(&line);
                if s.outline.step(step).is_some_and(|st| matches!(st.verb, Verb::Run)) {
                    s.undecided.insert(step);
                }
            }
            Event::CacheHit { step, .. } => {
                s.undecided.remove(&step);
                s.cached.insert(step);
                s.say(" ---> Using cache");
            }
            Event::Output { step, stream, data } => {
                s.running(step);
                let mut text = vec![];
                s.lines.push(step, stream, data, |line| {
                    text.extend_from_slice(line);
                    text.push(b'\n');
                });
                s.terminal.out(&text);
            }
            Event::StepUsage { step, usage } => {
                s.running(step);
                s.finish_lines(step);
                s.say(&format!("usage: {}", usage.text()));
            }
            Event::StepDone { step, id } => {
                s.running(step);
                s.finish_lines(step);
                let runs = s.outline.step(step).is_some_and(|st| matches!(st.verb, Verb::Run));
                if runs && !s.cached.contains(&step) {
                    let container = s.container(step);
                    s.say(&format!(" ---> Removed intermediate container {container}"));
                }
                if let Some(id) = id {
                    s.say(&format!(" ---> {}", short(id)));
                }
            }
            Event::StepFailed { step, .. } | Event::StepCancelled { step } => {
                s.running(step);
                s.finish_lines(step);
            }
            Event::Committed { id } => s.say(&format!("Successfully built {}", short(id))),
            Event::Tagged { name } => s.say(&format!("Successfully tagged {}", familiar(name))),
            Event::UnusedBuildArgs { names } => {
                s.say(&format!("[Warning] One or more build-args [{}] were not consumed", names.join(" ")));
            }
            Event::Note { text } => s.terminal.err(format!("note: {text}\n").as_bytes()),
            Event::Warning { text } => s.terminal.err(format!("warning: {text}\n").as_bytes()),
            Event::CommitStarted { .. }
            | Event::DockerfileRead { .. }
            | Event::IgnorefileRead { .. }
            | Event::ImageLookup { .. }
            | Event::Built { .. }
            | Event::Finding { .. }
            | Event::Failed
            | Event::TransferStarted { .. }
            | Event::Blob { .. }
            | Event::TransferConfig { .. }
            | Event::TransferDone { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Capture, Stream, outline::example};
    use super::*;

    const ID: &str = "4f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8";

    #[test]
    fn a_build_of_one_stage() {
        let capture = Capture::default();
        let sink = Classic::new(capture.terminal());
        let outline = Outline { global_args: vec!["ARG V=1".into()], ..example::one_stage() };
        let key = |step| StepKey { stage: 0, step };
        for e in [
            Event::ContextRead { size: 2048 },
            Event::Planned(&outline),
            Event::StepStarted { step: key(0) },
            Event::StepDone { step: key(0), id: Some(ID) },
            Event::StepStarted { step: key(1) },
            Event::Output { step: key(1), stream: Stream::Stderr, data: b"hi" },
            Event::StepDone { step: key(1), id: Some(ID) },
            Event::StepStarted { step: key(2) },
            Event::CacheHit { step: key(2), id: ID },
            Event::StepDone { step: key(2), id: Some(ID) },
            Event::UnusedBuildArgs { names: &["FOO".to_owned()] },
            Event::Committed { id: ID },
            Event::Tagged { name: "docker.io/library/x:latest" },
            Event::Built { id: ID },
        ] {
            sink.event(&e);
        }
        insta::assert_snapshot!(capture.text(), @r#"
        Sending build context to Docker daemon  2.048kB
        Step 1/4 : ARG V=1
        Step 2/4 : FROM alpine
         ---> 4f0a1b2c3d4e
        Step 3/4 : RUN echo hi
         ---> Running in 7d8f6217ee85
        hi
         ---> Removed intermediate container 7d8f6217ee85
         ---> 4f0a1b2c3d4e
        Step 4/4 : CMD ["sh"]
         ---> Using cache
         ---> 4f0a1b2c3d4e
        [Warning] One or more build-args [FOO] were not consumed
        Successfully built 4f0a1b2c3d4e
        Successfully tagged x:latest
        "#);
    }
}
