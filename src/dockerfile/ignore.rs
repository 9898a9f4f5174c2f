//! `.dockerignore` files and lists of exclude patterns.
//!
//! A pattern is that of Go's `filepath.Match` (`*`, `?`, `[a-z]`, `\x`, none of which crosses a `/` but a negated class)
//! plus `**`, which stands for any number of directories. It covers what it matches and everything below. A `!` in front
//! takes out again what earlier patterns covered; the last pattern that covers a path decides.
//!
//! Patterns are matched by following all their states at once: time is at most pattern times path, whatever the pattern.

/// A list of patterns, of which the last that covers a path decides.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

/// A pattern that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid exclude pattern `{0}`: {1}")]
pub struct PatternError(pub String, pub &'static str);

/// What the patterns said of one path; from it the answer for the path's children follows.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    excluded: bool,
    /// For each pattern, whether it covers the path.
    covers: Vec<bool>,
}

impl Matched {
    /// Whether the path is excluded.
    pub fn excluded(&self) -> bool {
        self.excluded
    }
}

#[derive(Clone, Debug)]
struct Pattern {
    /// `!`.
    include: bool,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Char(char),
    /// `?`: any character but `/`.
    One,
    /// `*`: any characters but `/`.
    Many,
    /// `**` before something: nothing, or anything that ends with `/`.
    Directories,
    /// `**` at the end: anything.
    Anything,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A path of Go's `filepath.Clean`: no doubled slashes, no `.`, `..` resolved as far as possible.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = vec![];
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            p => parts.push(p),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

/// The patterns of an ignore file as texts: trimmed, cleaned, relative; comments and empty lines are gone.
pub(super) fn lines(file: &[u8]) -> Vec<String> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let text = String::from_utf8_lossy(file);
    let mut out = vec![];
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        let (sign, rest) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        if line.is_empty() {
            continue;
        }
        let mut rest = if rest.is_empty() { String::new() } else { clean(rest) };
        if rest.len() > 1 && rest.starts_with('/') {
            rest.remove(0);
        }
        out.push(format!("{sign}{rest}"));
    }
    out
}

const UNCLOSED: &str = "`[` without `]`";
const RANGE: &str = "malformed range in `[]`";
const ESCAPE: &str = "it ends with a backslash";

/// The characters of the classes that a backslash before a letter names.
fn named_class(letter: char) -> Option<(bool, &'static [(char, char)])> {
    const DIGIT: &[(char, char)] = &[('0', '9')];
    const SPACE: &[(char, char)] = &[('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')];
    const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
    Some(match letter {
        'd' => (false, DIGIT),
        'D' => (true, DIGIT),
        's' => (false, SPACE),
        'S' => (true, SPACE),
        'w' => (false, WORD),
        'W' => (true, WORD),
        _ => return None,
    })
}

impl Pattern {
    fn parse(text: &str) -> Result<Option<Pattern>, PatternError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(trimmed);
        let fail = |why| PatternError(text.to_owned(), why);
        let (include, body) = match cleaned.strip_prefix('!') {
            Some("") => return Err(fail("nothing behind `!`")),
            Some(rest) => (true, rest),
            None => (false, cleaned.as_str()),
        };
        let mut tokens = tokens(body).map_err(fail)?;
        // `**name` is any path that ends with `name`; only with other wildcards does it stand for whole directories
        let literal = |t: &Token| matches!(t, Token::Char(_));
        if body.starts_with("**")
            && !body.starts_with("**/")
            && !body.contains('\\')
            && tokens.iter().skip(1).all(literal)
            && let Some(first) = tokens.first_mut()
        {
            *first = Token::Anything;
        }
        Ok(Some(Pattern { include, tokens }))
    }

    /// Adds a state and those that follow it for free. State `2n` is before token `n`, `2n + 1` inside of it.
    fn enter(&self, states: &mut [bool], token: usize) {
        let mut t = token;
        loop {
            match states.get_mut(2 * t) {
                Some(slot) if !*slot => *slot = true,
                _ => return,
            }
            match self.tokens.get(t) {
                Some(Token::Many | Token::Directories | Token::Anything) => t += 1,
                _ => return,
            }
        }
    }

    fn start(&self) -> Vec<bool> {
        let mut states = vec![false; 2 * self.tokens.len() + 2];
        self.enter(&mut states, 0);
        states
    }

    fn step(&self, states: &[bool], c: char) -> Vec<bool> {
        let mut next = vec![false; states.len()];
        for (t, (token, pair)) in self.tokens.iter().zip(states.chunks(2)).enumerate() {
            let [before, inside] = pair else { continue };
            if !before && !inside {
                continue;
            }
            match token {
                Token::Directories => {
                    if let Some(slot) = next.get_mut(2 * t + 1) {
                        *slot = true;
                    }
                    if c == '/' {
                        self.enter(&mut next, t + 1);
                    }
                }
                Token::Char(x) if *x == c => self.enter(&mut next, t + 1),
                Token::One if c != '/' => self.enter(&mut next, t + 1),
                Token::Many if c != '/' => self.enter(&mut next, t),
                Token::Anything => self.enter(&mut next, t),
                Token::Class { negated, ranges } if ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != *negated => {
                    self.enter(&mut next, t + 1);
                }
                _ => {}
            }
        }
        next
    }

    fn run(&self, path: &str) -> Vec<bool> {
        let mut states = self.start();
        for c in path.chars() {
            states = self.step(&states, c);
            if !states.contains(&true) {
                break;
            }
        }
        states
    }

    fn accepts(&self, states: &[bool]) -> bool {
        states.get(2 * self.tokens.len()).copied().unwrap_or(false)
    }

    fn matches(&self, path: &str) -> bool {
        self.accepts(&self.run(path))
    }

    /// Whether the pattern matches the path or a directory above it.
    fn covers(&self, path: &str) -> bool {
        let mut states = self.start();
        for c in path.chars() {
            if c == '/' && self.accepts(&states) {
                return true;
            }
            states = self.step(&states, c);
            if !states.contains(&true) {
                return false;
            }
        }
        self.accepts(&states)
    }
}

fn tokens(body: &str) -> Result<Vec<Token>, &'static str> {
    let mut out = vec![];
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_none() { Token::Anything } else { Token::Directories }
            }
            '*' => Token::Many,
            '?' => Token::One,
            '\\' => match chars.next() {
                None => return Err(ESCAPE),
                Some(c) => match named_class(c) {
                    Some((negated, ranges)) => Token::Class { negated, ranges: ranges.to_vec() },
                    None => Token::Char(c),
                },
            },
            '[' => class(&mut chars)?,
            c => Token::Char(c),
        });
    }
    Ok(out)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, &'static str> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = vec![];
    let end = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next() {
        None => Err(UNCLOSED),
        Some('-' | ']') => Err(RANGE),
        Some('\\') => chars.next().ok_or(UNCLOSED),
        Some(c) => Ok(c),
    };
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = end(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { end(chars)? } else { low };
        if high < low {
            return Err(RANGE);
        }
        ranges.push((low, high));
    }
}

impl Patterns {
    /// Reads an ignore file: one pattern a line, `#` comments, a byte order mark is skipped.
    ///
    /// # Errors
    ///
    /// The first pattern that cannot be understood.
    pub fn parse(file: &[u8]) -> Result<Patterns, PatternError> {
        Patterns::new(lines(file))
    }

    /// Takes patterns that are already separated (`--exclude`).
    ///
    /// # Errors
    ///
    /// The first pattern that cannot be understood.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Patterns, PatternError> {
        let parsed = patterns.into_iter().map(|p| Pattern::parse(p.as_ref()));
        Ok(Patterns { patterns: parsed.filter_map(Result::transpose).collect::<Result<_, _>>()? })
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether some pattern takes back what another excludes: `!name`.
    pub fn takes_back(&self) -> bool {
        self.patterns.iter().any(|p| p.include)
    }

    fn decide(&self, covers: impl Iterator<Item = bool>) -> bool {
        let mut excluded = false;
        for (pattern, covers) in self.patterns.iter().zip(covers) {
            if covers {
                excluded = !pattern.include;
            }
        }
        excluded
    }

    /// Whether a path is excluded, itself or by a directory above it. `path` is relative to the root of the context, with
    /// `/` between its parts and none in front.
    pub fn excludes(&self, path: &[u8]) -> bool {
        let path = String::from_utf8_lossy(path);
        self.decide(self.patterns.iter().map(|p| p.covers(&path)))
    }

    /// The same as [`Patterns::excludes`], for a walk from the root down: `parent` is what the directory above gave (for
    /// entries of the root, `Matched::default()`).
    pub fn walk(&self, parent: &Matched, path: &[u8]) -> Matched {
        let path = String::from_utf8_lossy(path);
        let above = |i: usize| parent.covers.get(i).copied().unwrap_or(false);
        let covers: Vec<bool> = self.patterns.iter().enumerate().map(|(i, p)| above(i) || p.matches(&path)).collect();
        Matched { excluded: self.decide(covers.iter().copied()), covers }
    }

    /// Whether something below the directory `path` may be included although `path` itself is excluded: a walk that
    /// skips the directory when this is false loses nothing.
    pub fn may_include_below(&self, path: &[u8]) -> bool {
        let path = format!("{}/", String::from_utf8_lossy(path));
        self.patterns.iter().any(|p| p.include && p.run(&path).contains(&true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(patterns: &[&str], path: &str) -> bool {
        Patterns::new(patterns).unwrap().excludes(path.as_bytes())
    }

    #[test]
    fn single_patterns() {
        for (pattern, path, want) in [
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("*", "a/b", true),
            ("dir", "dir/a/b", true),
            ("dir", "dirs", false),
            ("**/foo", "foo", true),
            ("**/foo", "a/b/foo/c", true),
            ("**/foo", "xfoo", false),
            ("**foo", "xfoo", true),
            ("**/*.txt", "a.txt", true),
            ("a/**", "a", false),
            ("a/**", "a/b/c", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a[b-d]", "ac", true),
            ("a[^b]c", "a/c", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("/a/./b/", "/a/b", true),
            ("a?b", "a\u{263a}b", true),
            (".*", ".git", true),
            ("x\\dy", "x1y", true),
        ] {
            assert_eq!(excludes(&[pattern], path), want, "{pattern} {path}");
        }
        for bad in ["[", "a[x-]", "[-]", "!", "a\\", "[]", "[b-a]"] {
            assert!(Patterns::new([bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_pattern_decides() {
        assert!(!excludes(&["docs", "!docs/README.md"], "docs/README.md"));
        assert!(excludes(&["docs", "!docs/README.md"], "docs/x"));
        assert!(excludes(&["*", "!a", "a/b"], "a/b/c"));
        assert!(!excludes(&["*", "!a", "a/b"], "a/c"));
    }

    #[test]
    fn files_are_cleaned() {
        let got = lines(b"\xef\xbb\xbf# no\n /a/../b/ \r\n\n!/x//y\n #c\n!\n");
        assert_eq!(got, ["b", "!x/y", "#c", "!"]);
        assert!(Patterns::parse(b"!\n").is_err());
    }

    #[test]
    fn a_walk_agrees_and_may_prune() {
        let p = Patterns::new(["*", "!a/*/keep", "!b", "b/no"]).unwrap();
        for path in ["a", "a/x", "a/x/keep", "a/x/keep/f", "a/x/o", "b", "b/no", "b/no/x", "b/yes", "c"] {
            let mut m = Matched::default();
            for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
                m = p.walk(&m, &path.as_bytes()[..at]);
            }
            assert_eq!(m.excluded(), p.excludes(path.as_bytes()), "{path}");
        }
        assert!(p.may_include_below(b"a") && p.may_include_below(b"a/x"));
        assert!(!p.may_include_below(b"c") && !p.may_include_below(b"a/x/o"));
    }

    #[test]
    fn hostile_patterns_take_linear_time() {
        let p = Patterns::new(["a*".repeat(200) + "b"]).unwrap();
        assert!(!p.excludes("a".repeat(5000).as_bytes()));
    }
}
