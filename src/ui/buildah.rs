//! The form of `buildah bud`: `STEP 1/3: FROM …` on standard output, transfers on standard error, and the image id as
//! the last line.
//!
//! What a step writes passes through as it comes while it runs alone; while several run, it passes line by line.

use super::lines::Lines;
use super::{BlobState, Direction, Event, Outline, Sink, StepKey, Stream, Terminal};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Writes events the way buildah does.
#[derive(Debug)]
pub struct Buildah {
    state: Mutex<State>,
    ids: bool,
}

#[derive(Debug)]
struct State {
    terminal: Terminal,
    outline: Outline,
    running: BTreeSet<StepKey>,
    lines: Lines,
    /// A line that a step which runs alone has not ended yet.
    open: Option<(StepKey, Stream)>,
    /// Blobs of the current transfer that were announced.
    blobs: BTreeSet<String>,
}

impl Buildah {
    /// A sink that writes to `terminal`. `ids`: whether ids of steps and of the image are shown (`--iidfile` hides them).
    pub fn new(terminal: Terminal, ids: bool) -> Self {
        let state = State {
            terminal,
            outline: Outline::default(),
            running: BTreeSet::new(),
            lines: Lines::default(),
            open: None,
            blobs: BTreeSet::new(),
        };
        Buildah { state: Mutex::new(state), ids }
    }
}

/// `[linux/arm64] [2/3] `, where there is more than one platform, and more than one stage.
fn prefix(outline: &Outline, stage: usize) -> String {
    let platform = outline.platform.as_ref().map(|p| format!("[{p}] ")).unwrap_or_default();
    match outline.stages.len() {
        0 | 1 => platform,
        n => format!("{platform}[{}/{n}] ", stage + 1),
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl State {
    fn say(&mut self, line: &str) {
        self.end_open_line();
        self.terminal.out(format!("{line}\n").as_bytes());
    }

    fn say_err(&mut self, line: &str) {
        self.end_open_line();
        self.terminal.err(format!("{line}\n").as_bytes());
    }

    fn end_open_line(&mut self) {
        if let Some((_, stream)) = self.open.take() {
            self.raw(stream, b"\n");
        }
    }

    fn raw(&mut self, stream: Stream, data: &[u8]) {
        match stream {
            Stream::Stdout => self.terminal.out(data),
            Stream::Stderr => self.terminal.err(data),
        }
    }

    fn output(&mut self, step: StepKey, stream: Stream, data: &[u8]) {
        if self.running.len() <= 1 {
            self.flush(step);
            if self.open.is_some_and(|(s, _)| s != step) {
                self.end_open_line();
            }
            self.raw(stream, data);
            // An unfinished line on one stream is not ended by a whole one on the other.
            match data.last() {
                Some(b'\n') if self.open == Some((step, stream)) => self.open = None,
                Some(b'\n') | None => {}
                Some(_) => self.open = Some((step, stream)),
            }
            return;
        }
        self.end_open_line();
        let mut text = vec![];
        self.lines.push(step, stream, data, |line| {
            text.extend_from_slice(line);
            text.push(b'\n');
        });
        self.raw(stream, &text);
    }

    /// Writes what a step has left in the line buffer.
    fn flush(&mut self, step: StepKey) {
        let mut rest = vec![];
        self.lines.finish(step, |stream, line| rest.push((stream, line.to_vec())));
        for (stream, line) in rest {
            self.raw(stream, &line);
            self.open = Some((step, stream));
        }
    }

    fn step_over(&mut self, step: StepKey) {
        self.flush(step);
        self.end_open_line();
        self.running.remove(&step);
    }

    /// Whether the id of a finished step has a line of its own: the last one of the target has that of the commit.
    fn shows_id(&self, step: StepKey) -> bool {
        let last = self.outline.is_last(step);
        if step.stage == self.outline.target && last {
            return false;
        }
        last || (self.outline.layers && step.step > 0)
    }
}

impl Sink for Buildah {
    fn event(&self, event: &Event<'_>) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let s = &mut *guard;
        match *event {
            Event::Planned(outline) => s.outline = outline.clone(),
            Event::StepStarted { step } => {
                s.running.insert(step);
                let total = s.outline.stages.get(step.stage).map_or(0, |st| st.steps.len());
                let text = s.outline.step(step).map_or(String::new(), |st| st.text.clone());
                let line = format!("{}STEP {}/{total}: {text}", prefix(&s.outline, step.stage), step.step + 1);
                s.say(&line);
            }
            Event::CacheHit { id, .. } => s.say(&format!("--> Using cache {id}")),
            Event::Output { step, stream, data } => s.output(step, stream, data),
            Event::StepUsage { step, usage } => {
                let line = format!("{}usage: {}", prefix(&s.outline, step.stage), usage.text());
                s.say_err(&line);
            }
            Event::StepDone { step, id } => {
                s.step_over(step);
                if let Some(id) = id.filter(|_| self.ids && s.shows_id(step)) {
                    s.say(&format!("--> {}", short(id)));
                }
            }
            Event::StepFailed { step, .. } | Event::StepCancelled { step } => s.step_over(step),
            Event::CommitStarted { name } => {
                if self.ids {
                    let prefix = prefix(&s.outline, s.outline.target);
                    let line = format!("{prefix}COMMIT {}", name.unwrap_or_default());
                    s.say(line.trim_end());
                }
            }
            Event::Committed { id } => {
                if self.ids {
                    s.say(&format!("--> {}", short(id)));
                }
            }
            Event::Tagged { name } => s.say(&format!("Successfully tagged {name}")),
            Event::UnusedBuildArgs { names } => {
                s.say(&format!("[Warning] one or more build args were not consumed: [{}]", names.join(" ")));
            }
            Event::Built { id } => {
                if self.ids {
                    s.say(id);
                }
            }
            Event::Fetching { name } => s.say_err(&format!("Fetching {name}...")),
            Event::TransferStarted { direction, name } => {
                s.blobs.clear();
                if direction == Direction::Pull {
                    s.say_err(&format!("Trying to pull {name}..."));
                }
                s.say_err("Getting image source signatures");
            }
            Event::Blob { digest, state, .. } => {
                if !matches!(state, BlobState::Waiting) && s.blobs.insert(digest.to_owned()) {
                    let skipped = if state == BlobState::Exists { " skipped: already exists" } else { "" };
                    s.say_err(&format!("Copying blob {digest}{skipped}"));
                }
            }
            Event::TransferConfig { digest } => s.say_err(&format!("Copying config {digest}")),
            Event::TransferDone { .. } => s.say_err("Writing manifest to image destination"),
            Event::Note { text } => s.say_err(&format!("note: {text}")),
            Event::Finding { text } | Event::Warning { text } => s.say_err(&format!("warning: {text}")),
            Event::Failed
            | Event::ContextRead { .. }
            | Event::DockerfileRead { .. }
            | Event::IgnorefileRead { .. }
            | Event::ImageLookup { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Capture, outline::example};
    use super::*;

    const ID: &str = "4f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8";

    fn key(stage: usize, step: usize) -> StepKey {
        StepKey { stage, step }
    }

    fn shown(outline: &Outline, ids: bool, events: &[Event<'_>]) -> String {
        let capture = Capture::default();
        let sink = Buildah::new(capture.terminal(), ids);
        sink.event(&Event::Planned(outline));
        events.iter().for_each(|e| sink.event(e));
        capture.text()
    }

    fn build() -> Vec<Event<'static>> {
        vec![
            Event::StepStarted { step: key(0, 0) },
            Event::TransferStarted { direction: Direction::Pull, name: "docker.io/library/alpine:latest" },
            Event::Blob { direction: Direction::Pull, digest: "sha256:aa", size: 3, state: BlobState::Waiting },
            Event::Blob { direction: Direction::Pull, digest: "sha256:aa", size: 3, state: BlobState::Moving(1) },
            Event::Blob { direction: Direction::Pull, digest: "sha256:aa", size: 3, state: BlobState::Done },
            Event::TransferConfig { digest: "sha256:bb" },
            Event::TransferDone {
                direction: Direction::Pull,
                name: "docker.io/library/alpine:latest",
                digest: "sha256:cc",
                size: 4,
                changed: true,
            },
            Event::StepDone { step: key(0, 0), id: Some(ID) },
            Event::StepStarted { step: key(0, 1) },
            Event::Output { step: key(0, 1), stream: Stream::Stdout, data: b"hi" },
            Event::StepDone { step: key(0, 1), id: Some(ID) },
            Event::StepStarted { step: key(0, 2) },
            Event::CacheHit { step: key(0, 2), id: ID },
            Event::StepDone { step: key(0, 2), id: Some(ID) },
            Event::CommitStarted { name: Some("x") },
            Event::Committed { id: ID },
            Event::Tagged { name: "localhost/x:latest" },
            Event::Built { id: ID },
        ]
    }

    #[test]
    fn a_build_of_one_stage() {
        insta::assert_snapshot!(shown(&example::one_stage(), true, &build()), @r#"
        STEP 1/3: FROM alpine
        Trying to pull docker.io/library/alpine:latest...
        Getting image source signatures
        Copying blob sha256:aa
        Copying config sha256:bb
        Writing manifest to image destination
        STEP 2/3: RUN echo hi
        hi
        --> 4f0a1b2c3d4e
        STEP 3/3: CMD ["sh"]
        --> Using cache 4f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8
        COMMIT x
        --> 4f0a1b2c3d4e
        Successfully tagged localhost/x:latest
        4f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8
        "#);
    }

    #[test]
    fn an_iidfile_hides_the_ids() {
        insta::assert_snapshot!(shown(&example::one_stage(), false, &build()), @r#"
        STEP 1/3: FROM alpine
        Trying to pull docker.io/library/alpine:latest...
        Getting image source signatures
        Copying blob sha256:aa
        Copying config sha256:bb
        Writing manifest to image destination
        STEP 2/3: RUN echo hi
        hi
        STEP 3/3: CMD ["sh"]
        --> Using cache 4f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8
        Successfully tagged localhost/x:latest
        "#);
    }

    #[test]
    fn stages_that_run_at_once_do_not_mix_their_lines() {
        let names = ["FOO".to_owned(), "BAR".to_owned()];
        insta::assert_snapshot!(shown(&example::two_stages(), true, &[
            Event::StepStarted { step: key(0, 1) },
            Event::Output { step: key(0, 1), stream: Stream::Stdout, data: b"al" },
            Event::StepStarted { step: key(1, 1) },
            Event::Output { step: key(0, 1), stream: Stream::Stdout, data: b"one\nhal" },
            Event::Output { step: key(1, 1), stream: Stream::Stdout, data: b"other\n" },
            Event::Output { step: key(0, 1), stream: Stream::Stdout, data: b"f\n" },
            Event::StepDone { step: key(1, 1), id: Some(ID) },
            Event::Output { step: key(0, 1), stream: Stream::Stdout, data: b"end" },
            Event::StepDone { step: key(0, 1), id: Some(ID) },
            Event::CommitStarted { name: None },
            Event::UnusedBuildArgs { names: &names },
        ]), @r#"
        [1/2] STEP 2/2: RUN echo hi
        al
        [2/2] STEP 2/2: COPY --from=b /x /
        one
        other
        half
        end
        --> 4f0a1b2c3d4e
        [2/2] COMMIT
        [Warning] one or more build args were not consumed: [FOO BAR]
        "#);
    }
}
