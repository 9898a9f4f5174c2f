//! Entering a user namespace: the first thing the builder does.

use super::idmap::{self, IdMap};
use std::sync::OnceLock;

/// How the process got the privilege to mount and to give files to other users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// A new user namespace with a range of ids.
    Range,
    /// A new user namespace that holds the process's own id only.
    OneId,
    /// The user namespace that the pod itself has, with SYS_ADMIN in it.
    Pod,
    /// No user namespace: nothing can be mounted.
    None,
}

/// What [`enter`] achieved.
#[derive(Debug, Clone)]
pub struct Entered {
    /// The rung.
    pub rung: Rung,
    /// The ids that can be stored natively.
    pub map: IdMap,
    /// Why a better rung could not be had: the call, its error, the permission that is missing.
    pub reason: Option<String>,
    /// The pod field that would help.
    pub hint: Option<String>,
}

/// Entering left the process in a state in which it must not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More than one thread runs.
    #[error("cannot enter a user namespace: other threads are running")]
    Threads,
}

impl crate::error::Classified for Error {
    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::System
    }
}

static ENTERED: OnceLock<Entered> = OnceLock::new();

/// What [`enter`] achieved in this process, if it was called.
pub fn entered() -> Option<&'static Entered> {
    ENTERED.get()
}

/// Enters the best user namespace that the pod allows. To be called once, before any thread exists.
pub fn enter() -> Result<&'static Entered, Error> {
    let map = IdMap::current();
    let _ = idmap::own();
    Ok(ENTERED.get_or_init(|| Entered { rung: Rung::None, map, reason: None, hint: None }))
}
