//! Substitution of variables in one word, with the shell's quotes: `$v`, `${v}` and the forms of `${v…}`.
//!
//! | form | value |
//! |---|---|
//! | `${v:-w}` `${v-w}` | `w` where `v` is unset (with `:`, also where it is empty) |
//! | `${v:+w}` `${v+w}` | `w` where `v` is set (and not empty), else nothing |
//! | `${v:?m}` `${v?m}` | an error with the message `m` where `v` is unset (or empty) |
//! | `${v#p}` `${v##p}` | `v` without the shortest, longest prefix that matches `p` |
//! | `${v%p}` `${v%%p}` | `v` without the shortest, longest suffix that matches `p` |
//! | `${v/p/r}` `${v//p/r}` | `v` with the first, with every match of `p` replaced by `r` |
//!
//! The words `w`, `m`, `p`, `r` may hold variables themselves, to any depth: open substitutions are kept on a stack in the
//! heap, never on the program's. The output is bounded ([`LIMIT`]), since a few lines of `ENV a=$a$a` ask for more memory
//! than there is.

use super::glob::Glob;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most bytes that the expansion of one word may have, on top of twice its own length.
pub const LIMIT: usize = 1 << 20;

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A quote or a brace is not closed.
    #[error("cannot expand `{word}`: missing {what}")]
    Unclosed {
        /// The word.
        word: String,
        /// What is missing.
        what: &'static str,
    },
    /// Not a form of substitution.
    #[error("cannot expand `{word}`: bad substitution{what}")]
    BadSubstitution {
        /// The word.
        word: String,
        /// What is bad, with a colon and a space in front.
        what: String,
    },
    /// `${v?message}`.
    #[error("cannot expand `{word}`: {name}: {message}")]
    Required {
        /// The word.
        word: String,
        /// The variable.
        name: String,
        /// The message.
        message: String,
    },
    /// More than [`LIMIT`].
    #[error("cannot expand `{word}`: the result is longer than 1 MiB")]
    TooLong {
        /// The beginning of the word.
        word: String,
    },
}

/// Where values come from.
pub trait Lookup {
    /// The value of a variable; `None` where it is not set.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Lookup for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }
}

impl Lookup for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(String::as_str)
    }
}

/// No variables at all.
pub struct NoVariables;

impl Lookup for NoVariables {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// How a word is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expander {
    /// The escape character.
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// Quotes mean nothing (the text of a heredoc).
    pub ignore_quotes: bool,
    /// Substitutions of unset variables stay as they are.
    pub keep_unset: bool,
}

/// An expanded word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// The text split at blanks that are neither quoted nor escaped; blanks that came out of a variable split too.
    pub words: Vec<String>,
    /// The variables that were asked for and are set.
    pub used: BTreeSet<String>,
    /// The variables that were asked for and are not set.
    pub unset: BTreeSet<String>,
}

/// What an open `${` waits for.
enum Open {
    /// The whole word.
    Word,
    /// `${name<modifier>…}`: the operand.
    Operand { name: String, modifier: Modifier },
    /// `${name/…/`: the pattern.
    Pattern { name: String, all: bool },
    /// `${name/pattern/…}`: the replacement.
    Replacement { name: String, all: bool, pattern: String },
}

#[derive(Clone, Copy)]
struct Modifier {
    colon: bool,
    sign: char,
}

struct Frame {
    open: Open,
    raw_escapes: bool,
    out: String,
    /// The text since an opening double quote.
    quoted: Option<String>,
}

impl Frame {
    fn new(open: Open, raw_escapes: bool) -> Self {
        Frame { open, raw_escapes, out: String::new(), quoted: None }
    }

    fn end(&self) -> Option<char> {
        match self.open {
            Open::Word => None,
            Open::Pattern { .. } => Some('/'),
            Open::Operand { .. } | Open::Replacement { .. } => Some('}'),
        }
    }
}

/// Splits the outermost text into words while it is made.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
    inside: bool,
}

impl Words {
    fn raw(&mut self, text: &str) {
        self.word.push_str(text);
        self.inside = true;
    }

    fn splitting(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
            self.inside = true;
        } else if self.inside && !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

impl Expander {
    /// The usual way: quotes and escapes are resolved, unset variables are empty.
    pub fn new(escape: char) -> Self {
        Expander { escape, raw_quotes: false, raw_escapes: false, ignore_quotes: false, keep_unset: false }
    }

    /// Expands a word.
    ///
    /// # Errors
    ///
    /// A quote or brace that is not closed, a form that does not exist, `${v?}`, or a result that is too long.
    pub fn expand(&self, word: &str, variables: &dyn Lookup) -> Result<Expanded, ExpandError> {
        let mut machine = Machine {
            options: *self,
            chars: word.chars().collect(),
            at: 0,
            word,
            variables,
            stack: vec![Frame::new(Open::Word, self.raw_escapes)],
            words: Words::default(),
            result: Expanded::default(),
            budget: LIMIT.saturating_add(word.len().saturating_mul(2)),
        };
        machine.run()?;
        let Machine { mut result, words, mut stack, .. } = machine;
        result.text = stack.pop().map(|f| f.out).unwrap_or_default();
        result.words = words.finish();
        Ok(result)
    }

    /// The text of [`Expander::expand`].
    ///
    /// # Errors
    ///
    /// As [`Expander::expand`].
    pub fn text(&self, word: &str, variables: &dyn Lookup) -> Result<String, ExpandError> {
        self.expand(word, variables).map(|e| e.text)
    }
}

struct Machine<'a> {
    options: Expander,
    chars: Vec<char>,
    at: usize,
    word: &'a str,
    variables: &'a dyn Lookup,
    stack: Vec<Frame>,
    words: Words,
    result: Expanded,
    budget: usize,
}

impl Machine<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        if c.is_some() {
            self.at += 1;
        }
        c
    }

    fn shown(&self) -> String {
        let mut s: String = self.word.chars().take(200).collect();
        if s.len() < self.word.len() {
            s.push('…');
        }
        s
    }

    fn unclosed(&self, what: &'static str) -> ExpandError {
        ExpandError::Unclosed { word: self.shown(), what }
    }

    fn bad(&self, what: impl Into<String>) -> ExpandError {
        ExpandError::BadSubstitution { word: self.shown(), what: what.into() }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), ExpandError> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(ExpandError::TooLong { word: self.shown() }),
        }
    }

    fn outermost(&self) -> bool {
        self.stack.len() == 1
    }

    fn top(&mut self) -> &mut Frame {
        if self.stack.is_empty() {
            self.stack.push(Frame::new(Open::Word, self.options.raw_escapes));
        }
        let last = self.stack.len() - 1;
        &mut self.stack[last]
    }

    /// Adds the value of a substitution: it splits words where it stands unquoted.
    fn value(&mut self, text: &str) -> Result<(), ExpandError> {
        self.spend(text.len())?;
        let outermost = self.outermost();
        let frame = self.top();
        if let Some(quoted) = &mut frame.quoted {
            quoted.push_str(text);
            return Ok(());
        }
        frame.out.push_str(text);
        if outermost {
            text.chars().for_each(|c| self.words.splitting(c));
        }
        Ok(())
    }

    /// Adds text that never splits words.
    fn literal(&mut self, text: &str) {
        let outermost = self.outermost();
        self.top().out.push_str(text);
        if outermost {
            self.words.raw(text);
        }
    }

    fn literal_char(&mut self, c: char) {
        self.literal(c.encode_utf8(&mut [0; 4]));
    }

    fn run(&mut self) -> Result<(), ExpandError> {
        let quotes = !self.options.ignore_quotes;
        while let Some(c) = self.peek() {
            if self.top().quoted.is_some() {
                self.in_double_quotes(c)?;
                continue;
            }
            if self.top().end() == Some(c) {
                self.at += 1;
                self.close()?;
                continue;
            }
            match c {
                '$' => self.dollar()?,
                '\'' if quotes => self.single_quotes()?,
                '"' if quotes => {
                    self.at += 1;
                    let raw = self.options.raw_quotes;
                    self.top().quoted = Some(if raw { "\"".to_owned() } else { String::new() });
                }
                '<' => self.maybe_heredoc(),
                c if c == self.options.escape => {
                    self.at += 1;
                    if self.top().raw_escapes {
                        self.literal_char(c);
                    }
                    if let Some(next) = self.next() {
                        self.literal_char(next);
                    }
                }
                c => {
                    self.at += 1;
                    let outermost = self.outermost();
                    self.top().out.push(c);
                    if outermost {
                        self.words.splitting(c);
                    }
                }
            }
        }
        match self.stack.as_slice() {
            [] | [Frame { open: Open::Word, quoted: None, .. }] => Ok(()),
            [Frame { open: Open::Word, .. }] => Err(self.unclosed("the closing double quote")),
            [.., Frame { open: Open::Pattern { .. }, .. }] => Err(self.unclosed("`/` in `${}`")),
            _ => Err(self.unclosed("`}`")),
        }
    }

    /// `<<` and the blanks after it stay one word with what follows.
    fn maybe_heredoc(&mut self) {
        self.at += 1;
        let mut text = "<".to_owned();
        if self.peek() == Some('<') {
            self.at += 1;
            text.push('<');
            while let Some(c) = self.peek().filter(|c| c.is_whitespace()) {
                self.at += 1;
                text.push(c);
            }
        }
        self.literal(&text);
    }

    fn single_quotes(&mut self) -> Result<(), ExpandError> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(self.unclosed("the closing single quote")),
                Some('\'') => break,
                Some(c) => text.push(c),
            }
        }
        if self.options.raw_quotes {
            text = format!("'{text}'");
        }
        self.literal(&text);
        Ok(())
    }

    fn in_double_quotes(&mut self, c: char) -> Result<(), ExpandError> {
        match c {
            '"' => {
                self.at += 1;
                let raw = self.options.raw_quotes;
                let mut text = self.top().quoted.take().unwrap_or_default();
                if raw {
                    text.push('"');
                }
                self.literal(&text);
            }
            '$' => self.dollar()?,
            _ => {
                self.at += 1;
                let escape = self.options.escape;
                let next = self.peek();
                let frame = self.top();
                let raw = frame.raw_escapes;
                let Some(quoted) = &mut frame.quoted else { return Ok(()) };
                if c != escape {
                    quoted.push(c);
                    return Ok(());
                }
                if raw {
                    quoted.push(c);
                }
                match next {
                    // an escape character at the end of the word means nothing
                    None => {}
                    Some(n) if n == '"' || n == '$' || n == escape => {
                        quoted.push(n);
                        self.at += 1;
                    }
                    Some(_) => quoted.push(c),
                }
            }
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_numeric() => {
                while self.peek().is_some_and(char::is_numeric) {
                    self.at += 1;
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => self.at += 1,
            _ => {
                while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    self.at += 1;
                }
            }
        }
        self.chars.get(start..self.at).unwrap_or_default().iter().collect()
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name).map(str::to_owned);
        match value {
            Some(_) => self.result.used.insert(name.to_owned()),
            None => self.result.unset.insert(name.to_owned()),
        };
        value
    }

    fn dollar(&mut self) -> Result<(), ExpandError> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return self.value("$");
            }
            return match self.lookup(&name) {
                Some(v) => self.value(&v),
                None if self.options.keep_unset => self.value(&format!("${name}")),
                None => Ok(()),
            };
        }
        self.at += 1;
        match self.peek() {
            None => return Err(self.unclosed("`}`")),
            Some('{' | '}' | ':') => return Err(self.bad("")),
            _ => {}
        }
        let name = self.name();
        match self.next() {
            None => Err(self.unclosed("`}`")),
            Some('}') => match self.lookup(&name) {
                Some(v) => self.value(&v),
                None if self.options.keep_unset => self.value(&format!("${{{name}}}")),
                None => Ok(()),
            },
            Some(':') => match self.next() {
                Some(sign @ ('-' | '+' | '?')) => {
                    self.stack
                        .push(Frame::new(Open::Operand { name, modifier: Modifier { colon: true, sign } }, false));
                    Ok(())
                }
                Some(c) => Err(self.bad(format!(": unsupported modifier `:{c}`"))),
                None => Err(self.unclosed("`}`")),
            },
            Some(sign @ ('-' | '+' | '?' | '#' | '%')) => {
                let raw = matches!(sign, '#' | '%');
                self.stack.push(Frame::new(Open::Operand { name, modifier: Modifier { colon: false, sign } }, raw));
                Ok(())
            }
            Some('/') => {
                let all = self.peek() == Some('/');
                if all {
                    self.at += 1;
                }
                self.stack.push(Frame::new(Open::Pattern { name, all }, true));
                Ok(())
            }
            Some(c) => Err(self.bad(format!(": unsupported modifier `{c}`"))),
        }
    }

    /// The innermost open substitution is complete.
    fn close(&mut self) -> Result<(), ExpandError> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let operand = frame.out;
        match frame.open {
            Open::Word => Ok(()),
            Open::Pattern { name, all } => {
                self.stack.push(Frame::new(Open::Replacement { name, all, pattern: operand }, true));
                Ok(())
            }
            Open::Replacement { name, all, pattern } => {
                let Some(value) = self.lookup(&name) else {
                    if self.options.keep_unset {
                        return self.value(&format!("${{{name}/{pattern}/{operand}}}"));
                    }
                    // an empty value can still match an empty pattern
                    return self.replaced("", &pattern, &operand, all);
                };
                self.replaced(&value, &pattern, &operand, all)
            }
            Open::Operand { name, modifier } => self.operand(&name, modifier, &operand),
        }
    }

    fn replaced(&mut self, value: &str, pattern: &str, with: &str, all: bool) -> Result<(), ExpandError> {
        let glob = Glob::parse(pattern).map_err(|why| self.bad(format!(": invalid pattern `{pattern}`: {why}")))?;
        let room = self.budget;
        match glob.replace(value, with, all, room) {
            Some(text) => self.value(&text),
            None => Err(ExpandError::TooLong { word: self.shown() }),
        }
    }

    fn operand(&mut self, name: &str, modifier: Modifier, operand: &str) -> Result<(), ExpandError> {
        let Modifier { colon, sign } = modifier;
        let value = self.lookup(name);
        if self.options.keep_unset && value.is_none() {
            let colon = if colon { ":" } else { "" };
            return self.value(&format!("${{{name}{colon}{sign}{operand}}}"));
        }
        let missing = value.is_none() || (colon && value.as_deref() == Some(""));
        match sign {
            '-' if missing => self.value(operand),
            '+' if missing => Ok(()),
            '+' => self.value(operand),
            '?' if missing => {
                let message = match (operand, &value) {
                    ("", None) => "is not allowed to be unset",
                    ("", Some(_)) => "is not allowed to be empty",
                    (m, _) => m,
                };
                Err(ExpandError::Required { word: self.shown(), name: name.to_owned(), message: message.to_owned() })
            }
            '#' | '%' => {
                let value = value.unwrap_or_default();
                let (pattern, longest) = match operand.strip_prefix(sign) {
                    Some(rest) => (rest, true),
                    None => (operand, false),
                };
                let glob =
                    Glob::parse(pattern).map_err(|why| self.bad(format!(": invalid pattern `{pattern}`: {why}")))?;
                let rest =
                    if sign == '#' { glob.trim_prefix(&value, longest) } else { glob.trim_suffix(&value, longest) };
                self.value(&rest)
            }
            _ => self.value(&value.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> BTreeMap<String, String> {
        [("FOO", "xxyy"), ("E", ""), ("P", "/a/b.tar.gz"), ("S", "a b")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    #[test]
    fn forms_of_substitution() {
        for (word, want) in [
            ("$FOO-${FOO}", "xxyy-xxyy"),
            ("${X:-a}${E:-b}${E-c}", "ab"),
            ("${FOO:+a}${E:+b}${E+c}${X+d}", "ac"),
            ("${P##*/}", "b.tar.gz"),
            ("${P#*/}", "a/b.tar.gz"),
            ("${P%.*}", "/a/b.tar"),
            ("${P%%.*}", "/a/b"),
            ("${P/a/z}${P//\\//_}", "/z/b.tar.gz_a_b.tar.gz"),
            ("${X:-${Y:-'q r'}}", "q r"),
            ("\\$FOO '$FOO' \"$FOO\"", "$FOO $FOO xxyy"),
            ("a$", "a$"),
        ] {
            assert_eq!(Expander::new('\\').text(word, &env()).unwrap(), want, "{word}");
        }
        for word in ["${", "${}", "${FOO", "${X?gone}", "${E:?}", "${FOO~}", "'", "\"", "${FOO/x}", "${FOO:#x}"] {
            assert!(Expander::new('\\').text(word, &env()).is_err(), "{word}");
        }
    }

    #[test]
    fn unset_variables_can_stay() {
        let e = Expander { keep_unset: true, raw_quotes: true, ..Expander::new('\\') };
        for word in ["$X", "${X}", "${X:-a}", "${X%b}", "${X/a/b}", "\"$X\" '$FOO'"] {
            assert_eq!(e.text(word, &env()).unwrap(), word);
        }
    }

    #[test]
    fn words_split_at_blanks_of_values() {
        let e = Expander::new('\\').expand("x$S \"$S\" y\\ z", &env()).unwrap();
        assert_eq!(e.words, ["xa", "b", "a b", "y z"]);
    }

    #[test]
    fn deep_and_wide_input_is_bounded() {
        let deep = "${X:-".repeat(100_000) + &"}".repeat(100_000);
        assert_eq!(Expander::new('\\').text(&deep, &env()).unwrap(), "");
        let big: BTreeMap<_, _> = [("A".to_owned(), "a".repeat(1 << 20))].into();
        let e = Expander::new('\\').text(&"$A".repeat(1000), &big);
        assert!(matches!(e, Err(ExpandError::TooLong { .. })));
    }
}
