//! Takes secrets out of what a step prints.
//!
//! A stream is cut into pieces anywhere, so what may be the beginning of a secret is held back until the next piece shows
//! whether it is. Every secret of the build is masked in every step: a cache mount can carry one from step to step. Of a
//! secret with several lines each line is masked, too, since programs print them one by one. Encodings of a secret (base64,
//! URLs) are not known here.

use std::collections::HashMap;

/// What stands for a secret.
const STARS: &[u8] = b"***";

/// Shorter values would mask words that have nothing to do with them.
const LEAST_BYTES: usize = 4;
/// The same for one line of several.
const LEAST_LINE_BYTES: usize = 8;

/// The values to look for.
#[derive(Default)]
pub(super) struct Patterns {
    /// By first byte, longest first.
    by_first: HashMap<u8, Vec<Vec<u8>>>,
}

impl Patterns {
    pub(super) fn new<'s>(secrets: impl Iterator<Item = &'s [u8]>) -> Patterns {
        let mut by_first: HashMap<u8, Vec<Vec<u8>>> = HashMap::new();
        let mut add = |value: &[u8], least: usize| {
            if let (Some(first), true) = (value.first(), value.len() >= least) {
                by_first.entry(*first).or_default().push(value.to_vec());
            }
        };
        for secret in secrets {
            let whole = secret.trim_ascii();
            add(whole, LEAST_BYTES);
            if whole.contains(&b'\n') {
                whole.split(|b| *b == b'\n').for_each(|line| add(line.trim_ascii(), LEAST_LINE_BYTES));
            }
        }
        for list in by_first.values_mut() {
            list.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
            list.dedup();
        }
        Patterns { by_first }
    }

    /// What of `rest` is to be done next.
    fn at(&self, rest: &[u8], more_may_come: bool) -> Next {
        let candidates = rest.first().and_then(|b| self.by_first.get(b)).map(Vec::as_slice).unwrap_or_default();
        for pattern in candidates {
            if rest.starts_with(pattern) {
                return Next::Mask(pattern.len());
            }
            if more_may_come && pattern.starts_with(rest) {
                return Next::Wait;
            }
        }
        Next::Pass
    }

    /// A text without the secrets.
    pub(super) fn text(&self, text: &str) -> String {
        let mut out = vec![];
        let mut masker = Masker::new(self);
        masker.piece(text.as_bytes(), &mut |bytes| out.extend_from_slice(bytes));
        masker.end(&mut |bytes| out.extend_from_slice(bytes));
        String::from_utf8_lossy(&out).into_owned()
    }
}

enum Next {
    /// So many bytes are a secret.
    Mask(usize),
    /// What follows may be one.
    Wait,
    /// This byte is not the first of one.
    Pass,
}

/// One stream.
pub(super) struct Masker<'p> {
    patterns: &'p Patterns,
    held: Vec<u8>,
}

impl<'p> Masker<'p> {
    pub(super) fn new(patterns: &'p Patterns) -> Masker<'p> {
        Masker { patterns, held: vec![] }
    }

    /// Passes on what of this piece, and of what was held back, is no secret.
    pub(super) fn piece(&mut self, piece: &[u8], out: &mut dyn FnMut(&[u8])) {
        if self.patterns.by_first.is_empty() {
            return out(piece);
        }
        self.held.extend_from_slice(piece);
        self.pass(true, out);
    }

    /// Passes on what is held back still.
    pub(super) fn end(&mut self, out: &mut dyn FnMut(&[u8])) {
        self.pass(false, out);
    }

    fn pass(&mut self, more_may_come: bool, out: &mut dyn FnMut(&[u8])) {
        let (mut plain, mut at) = (0, 0);
        let mut clean: Vec<u8> = vec![];
        while let Some(rest) = self.held.get(at..).filter(|rest| !rest.is_empty()) {
            match self.patterns.at(rest, more_may_come) {
                Next::Pass => at += 1,
                Next::Wait => break,
                Next::Mask(length) => {
                    clean.extend_from_slice(self.held.get(plain..at).unwrap_or_default());
                    clean.extend_from_slice(STARS);
                    at += length;
                    plain = at;
                }
            }
        }
        clean.extend_from_slice(self.held.get(plain..at).unwrap_or_default());
        self.held.drain(..at.min(self.held.len()));
        if !clean.is_empty() {
            out(&clean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&str], pieces: &[&str]) -> String {
        let patterns = Patterns::new(secrets.iter().map(|s| s.as_bytes()));
        let mut masker = Masker::new(&patterns);
        let mut out = vec![];
        for piece in pieces {
            masker.piece(piece.as_bytes(), &mut |b| out.extend_from_slice(b));
        }
        masker.end(&mut |b| out.extend_from_slice(b));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_are_masked_however_the_stream_is_cut() {
        let text = "a swordfish b swordswordfish swordfis";
        let want = "a *** b sword*** swordfis";
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(masked(&["swordfish\n"], &[a, b]), want, "{cut}");
        }
        let single: Vec<&str> = text.split_inclusive(|_| true).collect();
        assert_eq!(masked(&["swordfish"], &single), want);
    }

    #[test]
    fn the_longest_of_several_is_masked_and_short_ones_are_not() {
        assert_eq!(masked(&["pass", "password"], &["pass", "word pass passwor"]), "*** *** ***wor");
        assert_eq!(masked(&["abc", ""], &["abc"]), "abc");
        assert_eq!(masked(&["key one is long\nab\nkey two is long\n"], &["x key two is long ab\n"]), "x *** ab\n");
        assert_eq!(masked(&[], &["any", "thing"]), "anything");
    }

    #[test]
    fn what_cannot_be_a_secret_is_passed_on_at_once() {
        let patterns = Patterns::new([&b"swordfish"[..]].into_iter());
        let mut masker = Masker::new(&patterns);
        let mut seen = vec![];
        masker.piece(b"Password: sw", &mut |b| seen.extend_from_slice(b));
        assert_eq!(seen, b"Password: ");
        assert_eq!(patterns.text("no swordfish here"), "no *** here");
    }
}
