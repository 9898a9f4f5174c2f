//! `-q`: the image id, and what a step wrote last when it fails.

use super::lines::{Lines, Tail};
use super::{Event, Sink, Terminal};
use std::sync::{Mutex, PoisonError};

/// How the id of the image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdForm {
    /// Not at all: it goes into a file.
    Hidden,
    /// 64 hexadecimal digits, as buildah prints it.
    Hex,
    /// `sha256:` and 64 hexadecimal digits, as Docker prints it.
    Digest,
}

/// Writes nothing but the id, warnings, and the end of the output of a step that fails.
#[derive(Debug)]
pub struct Quiet {
    state: Mutex<(Terminal, Lines, Tail)>,
    id: IdForm,
}

impl Quiet {
    /// A sink that writes to `terminal`.
    pub fn new(terminal: Terminal, id: IdForm) -> Self {
        Quiet { state: Mutex::new((terminal, Lines::default(), Tail::default())), id }
    }
}

impl Sink for Quiet {
    fn event(&self, event: &Event<'_>) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (terminal, lines, tail) = &mut *guard;
        match *event {
            Event::Output { step, stream, data } => lines.push(step, stream, data, |line| tail.push(step, line)),
            Event::StepDone { step, .. } | Event::StepCancelled { step } => {
                lines.finish(step, |_, _| {});
                drop(tail.take(step));
            }
            Event::StepFailed { step, .. } => {
                lines.finish(step, |_, line| tail.push(step, line));
                for mut line in tail.take(step) {
                    line.push(b'\n');
                    terminal.err(&line);
                }
            }
            Event::Built { id } => match self.id {
                IdForm::Hidden => {}
                IdForm::Hex => terminal.out(format!("{id}\n").as_bytes()),
                IdForm::Digest => terminal.out(format!("sha256:{id}\n").as_bytes()),
            },
            Event::Warning { text } => terminal.err(format!("warning: {text}\n").as_bytes()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Capture, StepKey, Stream};
    use super::*;

    #[test]
    fn only_the_id_and_the_end_of_a_failure_are_shown() {
        let capture = Capture::default();
        let sink = Quiet::new(capture.terminal(), IdForm::Digest);
        let step = StepKey { stage: 0, step: 1 };
        sink.event(&Event::StepStarted { step });
        for n in 0..12 {
            sink.event(&Event::Output { step, stream: Stream::Stdout, data: format!("line {n}\n").as_bytes() });
        }
        sink.event(&Event::StepDone { step, id: None });
        sink.event(&Event::Output { step, stream: Stream::Stderr, data: b"no such file" });
        sink.event(&Event::StepFailed { step, message: "exit code 1", command: None, source: None });
        sink.event(&Event::Built { id: "ab" });
        assert_eq!(capture.text(), "no such file\nsha256:ab\n");
    }
}
