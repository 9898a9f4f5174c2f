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

mod glob;
mod machine;

use machine::Machine;
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
        Machine::new(*self, word, variables).run()
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
