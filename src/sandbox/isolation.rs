//! Which of the ways there are keeps steps apart from the pod.

use crate::sys::userns::{self, Entered, Rung};
use std::sync::atomic::{AtomicBool, Ordering};

/// What is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The strongest that the pod allows.
    #[default]
    Best,
    /// Namespaces, or no step at all.
    Namespaces,
    /// A supervisor, even where namespaces could be had.
    Supervisor,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Choice, String> {
        match name {
            "" | "auto" | "default" => Ok(Choice::Best),
            // The latter two are what buildah calls two of its ways to do the same.
            "namespaces" | "oci" | "rootless" => Ok(Choice::Namespaces),
            "trace" | "chroot" => Ok(Choice::Supervisor),
            _ => Err(format!("`{name}` is no isolation: there are `auto`, `namespaces`, `chroot` and `trace`")),
        }
    }
}

static SUPERVISED: AtomicBool = AtomicBool::new(true);

/// Prepares this process for steps of this kind. To be called before any thread exists; of several calls the first counts.
///
/// # Errors
/// Those of [`userns::enter`].
pub fn enter(choice: Choice) -> Result<&'static Entered, userns::Error> {
    SUPERVISED.store(choice != Choice::Namespaces, Ordering::Relaxed);
    match choice {
        Choice::Supervisor => Ok(userns::stay()),
        Choice::Best | Choice::Namespaces => userns::enter(),
    }
}

/// Whether a step may be supervised where there is no namespace for it.
pub(super) fn may_supervise() -> bool {
    SUPERVISED.load(Ordering::Relaxed)
}

/// What a user is told of the way that steps are run; `None` for the best.
pub fn note() -> Option<String> {
    let entered = userns::entered()?;
    if entered.rung != Rung::None || !may_supervise() {
        return None;
    }
    let why = entered.reason.as_deref().map_or("as asked for".to_owned(), |reason| format!("no namespaces: {reason}"));
    Some(format!("steps run under a supervisor (`--isolation trace`; {why})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buildahs_names_are_known() {
        for (name, choice) in [
            ("auto", Some(Choice::Best)),
            ("", Some(Choice::Best)),
            ("rootless", Some(Choice::Namespaces)),
            ("oci", Some(Choice::Namespaces)),
            ("chroot", Some(Choice::Supervisor)),
            ("trace", Some(Choice::Supervisor)),
            ("vm", None),
        ] {
            assert_eq!(name.parse::<Choice>().ok(), choice, "{name}");
        }
    }
}
