//! Flags that other tools have and rbuild does not act on. Each is known by name: it is either refused with a hint, or
//! accepted with one `warning:` line where it means nothing in this design. None is unknown, and none is dropped
//! silently.
//!
//! A verb flattens `Foreign<Table>` into its flags; a [`Table`] is one constant list.

use super::Error;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::marker::PhantomData;

/// How a flag takes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// `--rm` or `--rm=false`.
    Bool,
    /// `--memory 2g` or `--memory=2g`.
    Text,
}

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It asks for what is so anyway, or for the tuning of a part that rbuild does not have.
    NoEffect,
    /// The same, with what is so instead.
    Ignored(&'static str),
    /// A boolean that asks for what is so anyway; only `false` would be something else, and has no effect.
    AsIs,
    /// These values ask for what is so anyway; every other one is refused with the hint.
    Only(&'static [&'static str], &'static str),
    /// Refused, with what to do instead.
    Refused(&'static str),
    /// Refused, unless the value is `false`.
    RefusedIfTrue(&'static str),
}

/// One flag of another tool.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name behind `--`.
    pub long: &'static str,
    /// Letter behind `-`.
    pub short: Option<char>,
    /// How it takes its value.
    pub value: Value,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// A flag with a text value.
pub const fn text(long: &'static str, verdict: Verdict) -> Flag {
    Flag { long, short: None, value: Value::Text, verdict }
}

/// A boolean flag.
pub const fn boolean(long: &'static str, verdict: Verdict) -> Flag {
    Flag { long, short: None, value: Value::Bool, verdict }
}

/// A flag that also has a letter.
pub const fn short(letter: char, flag: Flag) -> Flag {
    Flag { short: Some(letter), ..flag }
}

/// A verb's list of such flags.
pub trait Table {
    /// The flags.
    const FLAGS: &'static [Flag];
}

/// The flags of a [`Table`] that were given, with their values, in the order of the table.
#[derive(Debug)]
pub struct Foreign<T> {
    given: Vec<(&'static Flag, Vec<String>)>,
    table: PhantomData<T>,
}

impl<T> Clone for Foreign<T> {
    fn clone(&self) -> Self {
        Foreign { given: self.given.clone(), table: PhantomData }
    }
}

impl<T> Default for Foreign<T> {
    fn default() -> Self {
        Foreign { given: vec![], table: PhantomData }
    }
}

impl<T: Table> Args for Foreign<T> {
    fn augment_args(cmd: Command) -> Command {
        T::FLAGS.iter().fold(cmd, |cmd, flag| {
            let mut arg = Arg::new(flag.long).long(flag.long).hide(true).action(ArgAction::Append);
            if let Some(letter) = flag.short {
                arg = arg.short(letter);
            }
            cmd.arg(match flag.value {
                Value::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Value::Text => arg.num_args(1).allow_hyphen_values(true),
            })
        })
    }

    fn augment_args_for_update(cmd: Command) -> Command {
        Self::augment_args(cmd)
    }
}

impl<T: Table> FromArgMatches for Foreign<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = T::FLAGS.iter().filter_map(|flag| {
            let values = matches.get_many::<String>(flag.long)?;
            Some((flag, values.cloned().collect()))
        });
        Ok(Foreign { given: given.collect(), table: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<T> Foreign<T> {
    /// Whether a boolean flag was given, and not as `false`.
    pub fn is_on(&self, long: &str) -> bool {
        let given = self.given.iter().find(|(flag, _)| flag.long == long).and_then(|(_, values)| values.last());
        given.is_some_and(|value| super::values::boolean(value) == Ok(true))
    }

    /// Refuses what must be refused, and hands the name of each flag without effect to `warn`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for the first flag that is refused.
    pub fn check(&self, mut warn: impl FnMut(String)) -> Result<(), Error> {
        for (flag, values) in &self.given {
            let name = format!("`--{}`", flag.long);
            match flag.verdict {
                Verdict::Refused(hint) => return Err(Error::unsupported(name, hint)),
                Verdict::RefusedIfTrue(hint) => {
                    if values.last().is_some_and(|v| super::values::boolean(v) != Ok(false)) {
                        return Err(Error::unsupported(name, hint));
                    }
                }
                Verdict::Only(allowed, hint) => {
                    if let Some(other) = values.iter().find(|v| !allowed.contains(&v.as_str())) {
                        return Err(Error::unsupported(format!("`--{}={other}`", flag.long), hint));
                    }
                }
                Verdict::NoEffect => warn(format!("--{} has no effect here", flag.long)),
                Verdict::Ignored(instead) => warn(format!("--{} has no effect here: {instead}", flag.long)),
                Verdict::AsIs => match values.last().map(|v| super::values::boolean(v)) {
                    Some(Ok(true)) => {}
                    _ => warn(format!("--{}=false has no effect here", flag.long)),
                },
            }
        }
        Ok(())
    }
}

/// Prints each warning of [`Foreign::check`] on standard error.
pub fn warn(text: String) {
    super::output::note(&format!("warning: {text}"));
}

/// Checks that a table can be handed to clap and says something of each flag: for tests of the verbs.
#[cfg(test)]
pub fn assert_sound<T: Table>() {
    let mut seen = std::collections::BTreeSet::new();
    for flag in T::FLAGS {
        assert!(seen.insert(flag.long), "--{} is listed twice", flag.long);
        use Verdict::{Ignored, Only, Refused, RefusedIfTrue};
        if let Ignored(hint) | Refused(hint) | Only(_, hint) | RefusedIfTrue(hint) = flag.verdict {
            assert!(hint.len() > 10, "--{} has no hint", flag.long);
            assert!(!hint.ends_with('.'), "--{}: {hint}", flag.long);
        }
    }
}
