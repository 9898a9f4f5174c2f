//! BuildKit's plain form, on standard error: each vertex has a number, `#5 [stage 2/3] RUN …`, its lines begin with it,
//! and a vertex that loses the screen to another says `#5 ...`.
//!
//! Only FROM an image, RUN, COPY, ADD and WORKDIR are vertices and are counted; ENV and its like show nothing. Times are
//! seconds since the vertex began.

use super::lines::{Lines, Tail};
use super::{BlobState, Event, FailedCommand, Outline, Sink, SourceExcerpt, StepKey, Terminal, Verb, human};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Writes events the way `docker build --progress=plain` does.
#[derive(Debug)]
pub struct Buildkit {
    state: Mutex<State>,
}

/// What a vertex is about: two events with the same subject are lines of one vertex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Dockerfile,
    Ignorefile,
    Context,
    Lookup(String),
    Fetch(String),
    Step(StepKey),
    Export,
}

#[derive(Debug)]
struct Vertex {
    number: usize,
    name: String,
    started: Duration,
    over: bool,
}

#[derive(Debug)]
struct State {
    terminal: Terminal,
    clock: Clock,
    outline: Outline,
    vertices: BTreeMap<Subject, Vertex>,
    current: Option<Subject>,
    lines: Lines,
    tail: Tail,
    warnings: Vec<String>,
}

/// Time since the build began.
enum Clock {
    Real(Instant),
    #[cfg(test)]
    Still,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Buildkit {
    /// A sink that writes to the standard error of `terminal`.
    pub fn new(terminal: Terminal) -> Self {
        Buildkit::with_clock(terminal, Clock::Real(Instant::now()))
    }

    fn with_clock(mut terminal: Terminal, clock: Clock) -> Self {
        terminal.err(b"#0 building with \"default\" instance using docker driver\n");
        Buildkit {
            state: Mutex::new(State {
                terminal,
                clock,
                outline: Outline::default(),
                vertices: BTreeMap::new(),
                current: None,
                lines: Lines::default(),
                tail: Tail::default(),
                warnings: vec![],
            }),
        }
    }
}

fn seconds(d: Duration) -> String {
    format!("{:.1}s", d.as_secs_f64())
}

/// Whether BuildKit has a vertex for a step like this.
fn counts(verb: &Verb) -> bool {
    matches!(verb, Verb::FromImage(_) | Verb::Run | Verb::Files)
}

/// `[stage 2/3] RUN …`; `None` for a step that is no vertex.
fn vertex_name(outline: &Outline, key: StepKey) -> Option<String> {
    let stage = outline.stages.get(key.stage)?;
    let step = outline.step(key)?;
    if !counts(&step.verb) {
        return None;
    }
    let total = stage.steps.iter().filter(|s| counts(&s.verb)).count();
    let number = stage.steps.iter().take(key.step + 1).filter(|s| counts(&s.verb)).count();
    let name = match (&stage.name, outline.stages.len()) {
        (Some(name), _) => format!("{name} "),
        (None, 0 | 1) => String::new(),
        (None, _) => format!("stage-{} ", stage.index),
    };
    let text = match &step.verb {
        Verb::FromImage(reference) => format!("FROM {reference}"),
        _ => step.text.clone(),
    };
    // Counts of ten and more are aligned: `[ 2/12]`.
    let width = total.to_string().len();
    Some(format!("[{name}{number:>width$}/{total}] {text}"))
}

/// How BuildKit words a failure.
pub fn buildkit_failure(message: &str, command: Option<FailedCommand<'_>>) -> String {
    match command {
        Some(c) => format!("process \"{}\" did not complete successfully: exit code: {}", c.line, c.code),
        None => message.to_owned(),
    }
}

impl State {
    fn now(&self) -> Duration {
        match &self.clock {
            Clock::Real(start) => start.elapsed(),
            #[cfg(test)]
            Clock::Still => Duration::ZERO,
        }
    }

    fn write(&mut self, line: &str) {
        self.terminal.err(format!("{line}\n").as_bytes());
    }

    /// Gives the screen to a vertex, which is made where it does not exist, and returns its number and its age.
    fn show(&mut self, subject: Subject, name: impl FnOnce() -> String) -> (usize, Duration) {
        let now = self.now();
        if !self.vertices.contains_key(&subject) {
            let number = self.vertices.len() + 1;
            self.vertices.insert(subject.clone(), Vertex { number, name: name(), started: now, over: false });
        }
        if self.current.as_ref() != Some(&subject) {
            let left = self.current.as_ref().and_then(|c| self.vertices.get(c)).filter(|v| !v.over).map(|v| v.number);
            if let Some(n) = left {
                self.write(&format!("#{n} ..."));
            }
            let header = self.vertices.get(&subject).map(|v| format!("\n#{} {}", v.number, v.name));
            self.write(&header.unwrap_or_default());
            self.current = Some(subject.clone());
        }
        self.vertices.get(&subject).map_or((0, Duration::ZERO), |v| (v.number, now.saturating_sub(v.started)))
    }

    fn line(&mut self, subject: Subject, text: &str) {
        let (n, _) = self.show(subject, String::new);
        self.write(&format!("#{n} {text}"));
    }

    fn over(&mut self, subject: Subject, how: impl FnOnce(Duration) -> String) {
        let (n, age) = self.show(subject.clone(), String::new);
        self.write(&format!("#{n} {}", how(age)));
        if let Some(v) = self.vertices.get_mut(&subject) {
            v.over = true;
        }
    }

    fn internal(&mut self, subject: Subject, name: String, line: Option<String>) {
        self.show(subject.clone(), || name);
        if let Some(line) = line {
            self.line(subject.clone(), &line);
        }
        self.over(subject, |age| format!("DONE {}", seconds(age)));
    }

    fn start(&mut self, key: StepKey) -> bool {
        let Some(name) = vertex_name(&self.outline, key) else { return false };
        self.show(Subject::Step(key), || name);
        true
    }

    /// Lines that end a log: `#5 0.123 text`.
    fn log(&mut self, key: StepKey, lines: Vec<Vec<u8>>) {
        for line in lines {
            let (n, age) = self.show(Subject::Step(key), String::new);
            let mut text = format!("#{n} {:.3} ", age.as_secs_f64()).into_bytes();
            text.extend_from_slice(&line);
            text.push(b'\n');
            self.terminal.err(&text);
            self.tail.push(key, &line);
        }
    }

    fn finish_log(&mut self, key: StepKey) {
        let mut rest = vec![];
        self.lines.finish(key, |_, line| rest.push(line.to_vec()));
        self.log(key, rest);
    }

    fn show_warnings(&mut self) {
        let warnings = std::mem::take(&mut self.warnings);
        if !warnings.is_empty() {
            let plural = if warnings.len() == 1 { "" } else { "s" };
            self.write(&format!("\n {} warning{plural} found:", warnings.len()));
            warnings.iter().for_each(|w| self.write(&format!(" - {w}")));
        }
    }

    fn epilogue(&mut self, key: StepKey, source: Option<SourceExcerpt<'_>>) {
        if let Some(name) = vertex_name(&self.outline, key) {
            self.write(&format!("------\n > {name}:"));
            let lines: Vec<_> = self.tail.take(key).collect();
            for line in lines {
                self.write(&String::from_utf8_lossy(&line));
            }
            self.write("------");
        }
        let Some(source) = source else { return };
        let place = if source.start == source.end {
            format!("{}:{}", source.file, source.start)
        } else {
            format!("{}:{}-{}", source.file, source.start, source.end)
        };
        self.write(&format!("{place}\n--------------------"));
        // Four lines around the instruction, and never more than a screenful of it.
        let (first, last) = (source.start.saturating_sub(4).max(1), source.end.saturating_add(4));
        for (n, text) in (1..).zip(source.text.lines()).skip(first - 1).take((last - first + 1).min(60)) {
            let mark = if (source.start..=source.end).contains(&n) { ">>>" } else { "   " };
            self.write(format!("{n:>4} | {mark} {text}").trim_end());
        }
        self.write("--------------------");
    }
}

impl Sink for Buildkit {
    fn event(&self, event: &Event<'_>) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let s = &mut *guard;
        match *event {
            Event::DockerfileRead { name, size } => {
                let line = format!("transferring dockerfile: {} done", human::size(size, "", 4));
                s.internal(Subject::Dockerfile, format!("[internal] load build definition from {name}"), Some(line));
            }
            Event::IgnorefileRead { size } => {
                let line = format!("transferring context: {} done", human::size(size, "", 4));
                s.internal(Subject::Ignorefile, "[internal] load .dockerignore".into(), Some(line));
            }
            Event::ContextRead { size } => {
                let line = format!("transferring context: {} done", human::size(size, "", 4));
                s.internal(Subject::Context, "[internal] load build context".into(), Some(line));
            }
            Event::ImageLookup { name } => {
                s.internal(Subject::Lookup(name.to_owned()), format!("[internal] load metadata for {name}"), None);
            }
            Event::Fetching { name } => {
                s.internal(Subject::Fetch(name.to_owned()), format!("[internal] load remote source {name}"), None);
            }
            Event::Planned(outline) => s.outline = outline.clone(),
            Event::StepStarted { step } => {
                s.start(step);
            }
            Event::CacheHit { step, .. } => {
                if s.start(step) {
                    s.over(Subject::Step(step), |_| "CACHED".into());
                }
            }
            Event::Output { step, stream, data } => {
                let mut whole = vec![];
                s.lines.push(step, stream, data, |line| whole.push(line.to_vec()));
                if s.start(step) {
                    s.log(step, whole);
                }
            }
            Event::StepUsage { step, usage } => {
                s.finish_log(step);
                s.log(step, vec![format!("usage: {}", usage.text()).into_bytes()]);
            }
            Event::StepDone { step, .. } => {
                s.finish_log(step);
                let over = s.vertices.get(&Subject::Step(step)).is_none_or(|v| v.over);
                if !over {
                    s.over(Subject::Step(step), |age| format!("DONE {}", seconds(age)));
                }
                drop(s.tail.take(step));
            }
            Event::StepCancelled { step } => {
                s.finish_log(step);
                if s.start(step) {
                    s.over(Subject::Step(step), |_| "CANCELED".into());
                }
            }
            Event::StepFailed { step, message, command, source } => {
                s.finish_log(step);
                let message = buildkit_failure(message, command);
                if s.start(step) {
                    s.over(Subject::Step(step), |_| format!("ERROR: {message}"));
                }
                s.epilogue(step, source);
            }
            Event::CommitStarted { .. } => {
                s.show(Subject::Export, || "exporting to image".into());
            }
            Event::Committed { id } => {
                s.show(Subject::Export, || "exporting to image".into());
                s.line(Subject::Export, "exporting layers done");
                s.line(Subject::Export, &format!("writing image sha256:{id} done"));
            }
            Event::Tagged { name } => s.line(Subject::Export, &format!("naming to {name} done")),
            Event::Built { .. } => {
                s.over(Subject::Export, |age| format!("DONE {}", seconds(age)));
                s.show_warnings();
            }
            Event::Failed => s.show_warnings(),
            Event::UnusedBuildArgs { names } => {
                s.warnings.push(format!("one or more build-args [{}] were not consumed", names.join(" ")));
            }
            Event::Finding { text } | Event::Note { text } | Event::Warning { text } => {
                s.warnings.push(text.to_owned())
            }
            Event::Blob { digest, size, state: BlobState::Done, .. } => {
                // Lines of a pull belong to the vertex that has the screen, where there is one.
                if let Some(current) = s.current.clone().filter(|c| s.vertices.get(c).is_some_and(|v| !v.over)) {
                    let size = human::size(size, "", 4);
                    s.line(current, &format!("{digest} {size} / {size} done"));
                }
            }
            Event::Blob { .. }
            | Event::TransferStarted { .. }
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

    fn shown(events: &[Event<'_>]) -> String {
        let capture = Capture::default();
        let sink = Buildkit::with_clock(capture.terminal(), Clock::Still);
        events.iter().for_each(|e| sink.event(e));
        capture.text()
    }

    fn key(stage: usize, step: usize) -> StepKey {
        StepKey { stage, step }
    }

    #[test]
    fn a_build_of_one_stage() {
        insta::assert_snapshot!(shown(&[
            Event::DockerfileRead { name: "Dockerfile", size: 227 },
            Event::ImageLookup { name: "docker.io/library/alpine:latest" },
            Event::IgnorefileRead { size: 2 },
            Event::Planned(&example::one_stage()),
            Event::StepStarted { step: key(0, 0) },
            Event::StepDone { step: key(0, 0), id: None },
            Event::StepStarted { step: key(0, 1) },
            Event::Output { step: key(0, 1), stream: Stream::Stdout, data: b"hi\nthere" },
            Event::StepDone { step: key(0, 1), id: Some(ID) },
            Event::StepStarted { step: key(0, 2) },
            Event::StepDone { step: key(0, 2), id: Some(ID) },
            Event::CommitStarted { name: None },
            Event::Committed { id: ID },
            Event::Tagged { name: "docker.io/library/x:latest" },
            Event::Warning { text: "CopyIgnoredFile: no (line 3)" },
            Event::Built { id: ID },
        ]), @r#"
        #0 building with "default" instance using docker driver

        #1 [internal] load build definition from Dockerfile
        #1 transferring dockerfile: 227B done
        #1 DONE 0.0s

        #2 [internal] load metadata for docker.io/library/alpine:latest
        #2 DONE 0.0s

        #3 [internal] load .dockerignore
        #3 transferring context: 2B done
        #3 DONE 0.0s

        #4 [1/2] FROM docker.io/library/alpine:latest
        #4 DONE 0.0s

        #5 [2/2] RUN echo hi
        #5 0.000 hi
        #5 0.000 there
        #5 DONE 0.0s

        #6 exporting to image
        #6 exporting layers done
        #6 writing image sha256:4f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8 done
        #6 naming to docker.io/library/x:latest done
        #6 DONE 0.0s

         1 warning found:
         - CopyIgnoredFile: no (line 3)
        "#);
    }

    #[test]
    fn a_failure_among_stages_that_run_at_once() {
        let text = "FROM alpine AS b\n# comment\nRUN echo hi\nFROM scratch\nCOPY --from=b /x /\n";
        insta::assert_snapshot!(shown(&[
            Event::Planned(&example::two_stages()),
            Event::StepStarted { step: key(0, 0) },
            Event::CacheHit { step: key(0, 0), id: ID },
            Event::StepDone { step: key(0, 0), id: None },
            Event::StepStarted { step: key(0, 1) },
            Event::StepStarted { step: key(1, 1) },
            Event::Output { step: key(0, 1), stream: Stream::Stdout, data: b"hi\n" },
            Event::StepCancelled { step: key(1, 1) },
            Event::StepFailed {
                step: key(0, 1),
                message: "exit status 1",
                command: Some(FailedCommand { line: "/bin/sh -c echo hi", code: 1 }),
                source: Some(SourceExcerpt { file: "Dockerfile", text, start: 3, end: 3 }),
            },
        ]), @r#"
        #0 building with "default" instance using docker driver

        #1 [b 1/2] FROM docker.io/library/alpine:latest
        #1 CACHED

        #2 [b 2/2] RUN echo hi
        #2 ...

        #3 [stage-1 1/1] COPY --from=b /x /
        #3 ...

        #2 [b 2/2] RUN echo hi
        #2 0.000 hi
        #2 ...

        #3 [stage-1 1/1] COPY --from=b /x /
        #3 CANCELED

        #2 [b 2/2] RUN echo hi
        #2 ERROR: process "/bin/sh -c echo hi" did not complete successfully: exit code: 1
        ------
         > [b 2/2] RUN echo hi:
        hi
        ------
        Dockerfile:3
        --------------------
           1 |     FROM alpine AS b
           2 |     # comment
           3 | >>> RUN echo hi
           4 |     FROM scratch
           5 |     COPY --from=b /x /
        --------------------
        "#);
    }
}
