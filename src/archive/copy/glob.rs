//! Wildcards of COPY and ADD sources: the rules of Go's `filepath.Match`, one path component at a time.
//!
//! `*` stands for any run of characters, `?` for one, `[a-z]` and `[^a-z]` for one of (or not of) a class, and `\` takes
//! the next character as it is. None of them ever stands for a `/`, and a leading dot is a character like others.

/// A pattern that cannot be understood: an open `[`, an empty range, or a `\` at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPattern;

/// Whether `text` has a wildcard, so that it is a pattern and not a plain path.
pub fn has_wildcards(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

/// One piece of a pattern.
enum Token {
    Star,
    Any,
    Class { negated: bool, ranges: Vec<(u32, u32)> },
    Char(u32),
}

/// A pattern for one component of a path.
pub struct Pattern {
    tokens: Vec<Token>,
}

/// Takes the first character off `text`. A byte that is no UTF-8 counts as one character of its own, outside Unicode, so
/// that names of any encoding can be matched.
fn next_char(text: &[u8]) -> Option<(u32, &[u8])> {
    const NOT_UNICODE: u32 = 0x11_0000;
    let (&first, rest) = text.split_first()?;
    if first < 0x80 {
        return Some((u32::from(first), rest));
    }
    for len in 2..=4 {
        let Some((head, tail)) = text.split_at_checked(len) else { break };
        if let Ok(one) = std::str::from_utf8(head)
            && let Some(c) = one.chars().next()
        {
            return Some((u32::from(c), tail));
        }
    }
    Some((NOT_UNICODE + u32::from(first), rest))
}

/// A character inside a class, with `\` taken off.
fn class_char(text: &[u8]) -> Result<(u32, &[u8]), BadPattern> {
    match text {
        [] | [b'-' | b']', ..] => Err(BadPattern),
        [b'\\', rest @ ..] => next_char(rest).ok_or(BadPattern),
        _ => next_char(text).ok_or(BadPattern),
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// [`BadPattern`].
    pub fn parse(pattern: &[u8]) -> Result<Pattern, BadPattern> {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((c, tail)) = next_char(rest) {
            rest = tail;
            let token = match u8::try_from(c) {
                Ok(b'*') => Token::Star,
                Ok(b'?') => Token::Any,
                Ok(b'\\') => {
                    let (c, tail) = next_char(rest).ok_or(BadPattern)?;
                    rest = tail;
                    Token::Char(c)
                }
                Ok(b'[') => {
                    let negated = rest.first() == Some(&b'^');
                    if negated {
                        rest = rest.get(1..).unwrap_or_default();
                    }
                    let mut ranges = Vec::new();
                    loop {
                        if let [b']', tail @ ..] = rest
                            && !ranges.is_empty()
                        {
                            rest = tail;
                            break;
                        }
                        let (low, tail) = class_char(rest)?;
                        rest = tail;
                        let mut high = low;
                        if let [b'-', tail @ ..] = rest {
                            (high, rest) = class_char(tail)?;
                        }
                        ranges.push((low, high));
                    }
                    Token::Class { negated, ranges }
                }
                _ => Token::Char(c),
            };
            // Several stars in a row say no more than one.
            if !(matches!(token, Token::Star) && matches!(tokens.last(), Some(Token::Star))) {
                tokens.push(token);
            }
        }
        Ok(Pattern { tokens })
    }

    /// Whether the whole of `name`, one component of a path, fits.
    ///
    /// Linear in memory, and in time at most the product of both lengths: on a mismatch only the last star is tried again.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut token, mut rest) = (0, name);
        let mut retry: Option<(usize, &[u8])> = None;
        loop {
            let fits = match (self.tokens.get(token), next_char(rest)) {
                (None, None) => return true,
                (Some(Token::Star), _) => {
                    retry = Some((token + 1, rest));
                    token += 1;
                    continue;
                }
                (Some(t), Some((c, tail))) => match t {
                    Token::Star => false,
                    Token::Any => true,
                    Token::Char(want) => *want == c,
                    Token::Class { negated, ranges } => {
                        ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
                    }
                }
                .then_some(tail)
                .is_some_and(|tail| {
                    rest = tail;
                    true
                }),
                _ => false,
            };
            if fits {
                token += 1;
                continue;
            }
            match retry {
                Some((after, from)) => match next_char(from) {
                    Some((_, tail)) => {
                        retry = Some((after, tail));
                        token = after;
                        rest = tail;
                    }
                    None => return false,
                },
                None => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_go_does() {
        for (pattern, name, fits) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("**", "abc", true),
            ("a*b*c*d*e*", "axbxcxdxe", true),
            ("a*b*c*d*e*", "axbxcxdxexxx", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^b-d]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[x\\-]", "z", false),
            ("[\\-x]", "a", false),
            ("*x", "xxx", true),
            ("[[]0].txt", "[0].txt", true),
            (".*", ".hidden", true),
            ("?", ".", true),
        ] {
            assert_eq!(Pattern::parse(pattern.as_bytes()).unwrap().matches(name.as_bytes()), fits, "{pattern} {name}");
        }
        assert!(Pattern::parse(b"?").unwrap().matches(b"\xff"));
        assert!(!Pattern::parse(b"\xc3\xbf").unwrap().matches(b"\xff"));
    }

    #[test]
    fn malformed_patterns_are_errors() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "\\", "[a-", "[\\"] {
            assert!(Pattern::parse(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = Pattern::parse("a*".repeat(200).as_bytes()).unwrap();
        assert!(!pattern.matches(format!("{}b", "a".repeat(199)).as_bytes()));
    }

    #[test]
    fn escaped_characters_are_no_wildcards() {
        assert!(!has_wildcards(b"a\\*b"));
        assert!(has_wildcards(b"a\\\\*b"));
        assert!(has_wildcards(b"x/[a]"));
    }
}
