//! Cuts what steps write into lines, so that lines of steps that run at the same time do not mix.

use super::{StepKey, Stream};
use std::collections::{BTreeMap, VecDeque};

/// An unfinished line that grows beyond this is passed on in pieces, so that memory stays bounded.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Lines that [`Tail`] keeps.
const TAIL_LINES: usize = 10;

/// The unfinished last line of every stream of every running step.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: BTreeMap<(StepKey, bool), Vec<u8>>,
}

impl Lines {
    /// Takes what a step wrote and hands each whole line, without its newline, to `line`.
    pub fn push(&mut self, step: StepKey, stream: Stream, data: &[u8], mut line: impl FnMut(&[u8])) {
        let rest = self.partial.entry((step, stream == Stream::Stderr)).or_default();
        for piece in data.split_inclusive(|b| *b == b'\n') {
            rest.extend_from_slice(piece);
            if let Some(whole) = rest.strip_suffix(b"\n") {
                line(whole);
                rest.clear();
            } else if rest.len() >= MAX_LINE_BYTES {
                line(rest);
                rest.clear();
            }
        }
    }

    /// Hands out what a step left without a newline.
    pub fn finish(&mut self, step: StepKey, mut line: impl FnMut(Stream, &[u8])) {
        for (err, stream) in [(false, Stream::Stdout), (true, Stream::Stderr)] {
            if let Some(rest) = self.partial.remove(&(step, err)).filter(|r| !r.is_empty()) {
                line(stream, &rest);
            }
        }
    }
}

/// The last lines that a step wrote, to be shown when it fails.
#[derive(Debug, Default)]
pub(super) struct Tail(BTreeMap<StepKey, VecDeque<Vec<u8>>>);

impl Tail {
    /// Remembers one line.
    pub fn push(&mut self, step: StepKey, line: &[u8]) {
        let lines = self.0.entry(step).or_default();
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_vec());
    }

    /// Forgets the step and returns its last lines.
    pub fn take(&mut self, step: StepKey) -> impl Iterator<Item = Vec<u8>> {
        self.0.remove(&step).unwrap_or_default().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_and_bounded() {
        let (a, b) = (StepKey { stage: 0, step: 1 }, StepKey { stage: 1, step: 1 });
        let mut lines = Lines::default();
        let mut seen: Vec<Vec<u8>> = vec![];
        lines.push(a, Stream::Stdout, b"on", |l| seen.push(l.into()));
        lines.push(b, Stream::Stdout, b"other\n", |l| seen.push(l.into()));
        lines.push(a, Stream::Stderr, b"err\n", |l| seen.push(l.into()));
        lines.push(a, Stream::Stdout, b"e\n\ntw", |l| seen.push(l.into()));
        lines.finish(a, |_, l| seen.push(l.into()));
        lines.finish(a, |_, l| seen.push(l.into()));
        assert_eq!(seen, [&b"other"[..], b"err", b"one", b"", b"tw"]);
        let mut pieces = 0;
        for _ in 0..100 {
            lines.push(a, Stream::Stdout, &[b'x'; 4096], |_| pieces += 1);
        }
        assert_eq!(pieces, 100 * 4096 / MAX_LINE_BYTES);
    }
}
