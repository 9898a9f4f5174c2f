//! The machine behind [`Expander::expand`]: reads the word from left to right, with a stack of open substitutions.

use super::glob::Glob;
use super::{ExpandError, Expanded, Expander, LIMIT, Lookup};

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

pub(super) struct Machine<'a> {
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

impl<'a> Machine<'a> {
    pub(super) fn new(options: Expander, word: &'a str, variables: &'a dyn Lookup) -> Self {
        Machine {
            options,
            chars: word.chars().collect(),
            at: 0,
            word,
            variables,
            stack: vec![Frame::new(Open::Word, options.raw_escapes)],
            words: Words::default(),
            result: Expanded::default(),
            budget: LIMIT.saturating_add(word.len().saturating_mul(2)),
        }
    }

    /// Expands the whole word.
    pub(super) fn run(mut self) -> Result<Expanded, ExpandError> {
        self.read()?;
        self.result.text = self.stack.pop().map(|f| f.out).unwrap_or_default();
        self.result.words = self.words.finish();
        Ok(self.result)
    }

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

    fn read(&mut self) -> Result<(), ExpandError> {
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
