//! What this pod allows, what rbuild makes of it, and which fields of the pod would bring more.
//!
//! ```text
//! Situation::read ─┬─► findings   one line for each thing that builds depend on
//!                  └─► advice     what a better rung needs, as changes to the pod ──► patch
//! trial                           one step, run by the code that runs the steps of builds: the verdict
//! ```
//!
//! Everything is found out by trying, in children that are thrown away, while this process has one thread; the rung and
//! the driver are those that a build would get, because they come from the same functions.

pub mod advice;
pub mod explain;
mod findings;
mod newuidmap;
pub mod patch;
mod reach;
mod situation;
mod storage;
mod trial;

pub use findings::findings;
pub use reach::{clock, names};
pub use situation::Situation;
pub use storage::Storage;
pub use trial::{Refused, Trial, trial};

use crate::sys::userns::{Entered, Rung};
use serde::Serialize;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All that rbuild can use is there.
    Yes,
    /// It is there, with something missing.
    Partly,
    /// It is not there; that need not matter.
    No,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name: `user-namespace`.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// In words.
    pub text: String,
}

impl Finding {
    /// A finding.
    pub fn new(name: &'static str, state: State, text: impl Into<String>) -> Finding {
        Finding { name, state, text: text.into() }
    }

    /// A finding of something that is there, or else why not.
    fn of(name: &'static str, result: &Result<String, String>) -> Finding {
        match result {
            Ok(text) => Finding::new(name, State::Yes, text.clone()),
            Err(text) => Finding::new(name, State::No, text.clone()),
        }
    }
}

/// Where steps run, best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nowhere: only images without RUN can be built.
    None,
    /// Under a supervisor, without namespaces; owners are recorded.
    Trace,
    /// Namespaces with a single id.
    One,
    /// Namespaces with a range of ids.
    Range,
    /// The pod's own user namespace, with SYS_ADMIN in it.
    Pod,
}

impl Level {
    /// The level of a process that entered, and whose trial step ran or did not.
    pub fn of(entered: &Entered, runs: bool) -> Level {
        match entered.rung {
            Rung::None if runs => Level::Trace,
            Rung::None => Level::None,
            Rung::OneId => Level::One,
            Rung::Range => Level::Range,
            Rung::Pod => Level::Pod,
        }
    }

    /// What `--isolation` calls it.
    pub fn rung(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Trace => "trace",
            Level::One | Level::Range | Level::Pod => "namespaces",
        }
    }

    /// How ids are held.
    pub fn ids(self) -> &'static str {
        match self {
            Level::None | Level::Trace => "recorded",
            Level::One => "one",
            Level::Range => "range",
            Level::Pod => "pod",
        }
    }

    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Trace => "a supervisor, without namespaces",
            Level::One => "namespaces with one id",
            Level::Range => "namespaces with a range of ids",
            Level::Pod => "namespaces, with the ids of the pod's own user namespace",
        }
    }
}
