//! The verdict: one step, on an empty root file system, by the code that runs the steps of builds.

use crate::sandbox::{self, Guard, Mount, MountKind, StepSpec};
use crate::snapshot::{Choice, Links, RootSpec, Snapshots};
use crate::store::Store;
use crate::sys::idmap::IdMap;
use crate::sys::signal::Cancel;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the trial went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The driver that made the root file system, where one could be had.
    pub driver: Option<String>,
    /// Why it is that driver, where it is not the best one.
    pub driver_note: Option<String>,
    /// How long the step took, or why it did not run.
    pub step: Result<Duration, Refused>,
    /// What it warned of.
    pub warnings: Vec<String>,
}

impl Default for Trial {
    fn default() -> Trial {
        Trial { driver: None, driver_note: None, step: Err(Refused::default()), warnings: Vec::new() }
    }
}

/// A step that did not run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refused {
    /// Why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Refused {
    fn of(e: &(impl crate::error::Classified + ?Sized)) -> Refused {
        Refused { message: e.to_string(), hint: e.hint() }
    }

    fn io(what: &str) -> impl Fn(std::io::Error) -> Refused {
        move |e| Refused { message: format!("{what}: {e}"), hint: None }
    }
}

/// Where the step finds this program.
const PROGRAM: &str = "/rbuild";

/// Runs this program as the command of a step, in a store. To be called after a user namespace was entered.
pub fn trial(store: &Store, driver: Choice) -> Trial {
    let mut made = Trial::default();
    made.step = attempt(store, driver, &mut made);
    made
}

fn attempt(store: &Store, driver: Choice, made: &mut Trial) -> Result<Duration, Refused> {
    let snapshots = Snapshots::new(store, IdMap::current()).map_err(|e| Refused::of(&e))?.with_driver(driver);
    made.driver = Some(snapshots.driver().map_err(|e| Refused::of(&e))?.name().to_owned());
    made.driver_note = snapshots.driver_note().map_err(|e| Refused::of(&e))?;
    let active = snapshots.prepare().map_err(|e| Refused::of(&e))?;
    let stub = store.mount_points_dir();
    sandbox::make_stub(&stub).map_err(Refused::io("cannot make the layer of mount points"))?;
    let (links, part) = (Links::Own, Path::new(""));
    let wanted = RootSpec { layers: &[], extra: &[], stub: Some(&stub), top: &active, links, part, lazy: None };
    let prepared = snapshots.root(&wanted).map_err(|e| Refused::of(&e))?;
    let mut spec = StepSpec::new(prepared.root().into(), vec![PROGRAM.into(), "version".into()]);
    let source = std::fs::read_link("/proc/self/exe").map_err(Refused::io("cannot find this program"))?;
    let kind = MountKind::Bind { source, inside: PathBuf::new(), owner: None, guard: Guard::read_only(true) };
    spec.mounts.push(Mount { target: PROGRAM.into(), kind });
    let cancel = Cancel::new().map_err(Refused::io("cannot watch a step"))?;
    let mut output = Vec::new();
    let exit =
        sandbox::run(&spec, &mut |_, piece| output.extend_from_slice(piece), &cancel).map_err(|e| Refused::of(&e))?;
    made.warnings = exit.warnings;
    if exit.code != 0 {
        let said = String::from_utf8_lossy(&output);
        let said = said.lines().last().unwrap_or_default();
        return Err(Refused { message: format!("a command ended with {}: {said}", exit.code), hint: None });
    }
    Ok(exit.duration)
}
