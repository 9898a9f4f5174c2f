//! The patterns of `${v#p}` and its kin: `*` and `?`, and a backslash that takes their meaning away.
//!
//! A pattern is matched by following all its states at once, so the time is at most pattern times text.

/// A parsed pattern.
pub(super) struct Glob(Vec<Token>);

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Char(char),
    /// Any one character but a line end.
    Any,
    /// Any number of characters but line ends.
    Star,
}

impl Glob {
    /// Parses a pattern; the error says what is wrong.
    pub(super) fn parse(pattern: &str) -> Result<Glob, String> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                // `}` and `/` have to be escaped to stand inside of `${}` at all
                '\\' if matches!(chars.peek(), Some('}' | '/')) => continue,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\')) => Token::Char(c),
                    Some(c) => return Err(format!("invalid escape `\\{c}`")),
                    None => return Err("it ends with an escape character".into()),
                },
                c => Token::Char(c),
            });
        }
        Ok(Glob(tokens))
    }

    /// Adds state `state` and those that follow it for free. `starts[s]` is the smallest start of a match that has come to `s`.
    fn enter(&self, starts: &mut [Option<usize>], state: usize, start: usize) {
        let mut s = state;
        loop {
            match starts.get_mut(s) {
                Some(slot) if slot.is_none_or(|old| start < old) => *slot = Some(start),
                _ => return,
            }
            if self.0.get(s) != Some(&Token::Star) {
                return;
            }
            s += 1;
        }
    }

    fn step(&self, now: &[Option<usize>], c: char) -> Vec<Option<usize>> {
        let mut next = vec![None; now.len()];
        for (s, (token, start)) in self.0.iter().zip(now).enumerate() {
            let Some(start) = *start else { continue };
            match token {
                Token::Char(x) if *x == c => self.enter(&mut next, s + 1, start),
                Token::Any if c != '\n' => self.enter(&mut next, s + 1, start),
                Token::Star if c != '\n' => self.enter(&mut next, s, start),
                _ => {}
            }
        }
        next
    }

    /// End of the shortest or longest match that begins at the first character.
    fn prefix(&self, text: &[char], longest: bool) -> Option<usize> {
        let accept = self.0.len();
        let mut states = vec![None; accept + 1];
        self.enter(&mut states, 0, 0);
        let mut found = None;
        for i in 0..=text.len() {
            if states.get(accept).copied().flatten().is_some() {
                found = Some(i);
                if !longest {
                    return found;
                }
            }
            match text.get(i) {
                Some(c) if states.iter().any(Option::is_some) => states = self.step(&states, *c),
                _ => break,
            }
        }
        found
    }

    /// The leftmost match at or after `from`, as long as possible.
    fn find(&self, text: &[char], from: usize) -> Option<(usize, usize)> {
        let accept = self.0.len();
        let mut states = vec![None; accept + 1];
        let mut found: Option<(usize, usize)> = None;
        for i in from..=text.len() {
            if found.is_none() {
                self.enter(&mut states, 0, i);
            }
            if let Some(start) = states.get(accept).copied().flatten()
                && found.is_none_or(|(s, _)| start <= s)
            {
                found = Some((start, i));
            }
            if let Some((s, _)) = found {
                states.iter_mut().for_each(|x| *x = x.filter(|start| *start <= s));
                if states.iter().all(Option::is_none) {
                    break;
                }
            }
            match text.get(i) {
                Some(c) => states = self.step(&states, *c),
                None => break,
            }
        }
        found
    }

    pub(super) fn trim_prefix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let end = self.prefix(&chars, longest).unwrap_or(0);
        chars.into_iter().skip(end).collect()
    }

    pub(super) fn trim_suffix(&self, value: &str, longest: bool) -> String {
        let reversed = Glob(self.0.iter().rev().copied().collect());
        let mut chars: Vec<char> = value.chars().collect();
        chars.reverse();
        let end = reversed.prefix(&chars, longest).unwrap_or(0);
        chars.drain(..end);
        chars.reverse();
        chars.into_iter().collect()
    }

    /// `value` with the first match, or all, replaced; `None` where that takes more than `limit` bytes.
    pub(super) fn replace(&self, value: &str, with: &str, all: bool, limit: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        let mut copied = 0;
        let mut last_end = None;
        while let Some((start, end)) = self.find(&chars, at) {
            // an empty match right behind another one does not count
            if !(start == end && last_end == Some(start)) {
                out.extend(chars.get(copied..start).unwrap_or_default());
                out.push_str(with);
                copied = end;
                last_end = Some(end);
            }
            at = if end > start { end } else { end + 1 };
            if !all || at > chars.len() {
                break;
            }
            if out.len() > limit {
                return None;
            }
        }
        out.extend(chars.get(copied..).unwrap_or_default());
        (out.len() <= limit).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_leftmost_and_longest() {
        for (pattern, value, all, want) in [
            ("a*c", "xabcabcy", false, "x-y"),
            ("a?c", "xabcabcy", true, "x--y"),
            ("b", "abab", true, "a-a-"),
            ("b", "abab", false, "a-ab"),
            ("", "ab", true, "-a-b-"),
            ("*", "ab", true, "-"),
            ("\\*", "a*b", true, "a-b"),
        ] {
            let g = Glob::parse(pattern).unwrap();
            assert_eq!(g.replace(value, "-", all, 100).unwrap(), want, "{pattern}");
        }
        assert!(Glob::parse("\\q").is_err());
        assert!(Glob::parse("\\").is_err());
        assert_eq!(Glob::parse("x").unwrap().replace("xxx", "long", true, 5), None);
    }
}
