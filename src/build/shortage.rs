//! Steps that run out of the pod's memory or storage.

use super::{Error, execute::Executor};
use crate::sys::limits::Space;
use crate::ui::human;

/// A limit that a step ran into: what it needed so far, and what it may have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The kernel killed a process because the pod's memory was used up.
    Memory {
        /// The largest process of the step.
        used: u64,
        /// The pod's limit.
        limit: u64,
    },
    /// The file system that holds the store is full.
    Storage {
        /// What the step had written.
        used: u64,
        /// What the file system can hold.
        limit: u64,
    },
}

impl Shortage {
    /// What the user can do.
    pub(super) fn hint(&self) -> String {
        match self {
            Shortage::Memory { .. } => {
                "raise `resources.limits.memory` of the container, or give the command fewer parallel jobs".into()
            }
            Shortage::Storage { .. } => {
                "raise the `sizeLimit` of the emptyDir or the size of the volume that holds the store \
                                         (`RBUILD_ROOT`), or free space with `rbuild prune`, and that of caches with `rbuild prune --all`"
                    .into()
            }
        }
    }
}

/// The end of a message about a step that failed: why, if it is known.
pub(super) fn because(shortage: &Option<Shortage>) -> String {
    match shortage {
        None => String::new(),
        Some(Shortage::Memory { used, limit }) => {
            format!(
                ": out of memory: the largest process used {}, the limit of the pod is {}",
                bytes(*used),
                bytes(*limit)
            )
        }
        Some(Shortage::Storage { used, limit }) => format!(
            ": no space left: the step wrote {} so far, the file system of the store holds {}",
            bytes(*used),
            bytes(*limit)
        ),
    }
}

fn bytes(n: u64) -> String {
    human::size(n, " ", 3)
}

impl Executor<'_> {
    /// Says of an error for lack of space how much was needed. To be called while the step's files are still there.
    pub(super) fn explain_shortage(&self, e: Error) -> Error {
        if matches!(e, Error::NoSpace { .. }) || !e.is_storage_full() {
            return e;
        }
        match Space::at(self.around.store.root()) {
            Some(space) => Error::NoSpace { source: Box::new(e), shortage: self.storage(&space) },
            None => e,
        }
    }

    /// Whether a command may have failed because the store's file system is full.
    pub(super) fn storage_shortage(&self) -> Option<Shortage> {
        let space = Space::at(self.around.store.root())?;
        // The last blocks are often kept back, so "full" is a little more than nothing.
        let full = space.free < (space.total / 100).min(4 << 20);
        full.then(|| self.storage(&space))
    }

    fn storage(&self, space: &Space) -> Shortage {
        Shortage::Storage { used: self.around.store.unfinished_bytes(), limit: space.total }
    }
}
