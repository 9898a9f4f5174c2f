//! `rbuild check`: whether everything in the store is what its name says, and how to be rid of what is not.

use super::{Error, Global, output};
use crate::snapshot::{Compared, Snapshots};
use crate::store::Problem;
use crate::sys::idmap::IdMap;

/// Check every blob, image, step record and layer directory of the store
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Print nothing but what is wrong
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not compare the files of layer directories with their layers
    #[arg(long)]
    pub quick: bool,
    /// Remove damaged blobs, step records and layer directories, so that the next pull or build brings them again
    #[arg(long)]
    pub repair: bool,
}

/// Checks the store.
pub fn run(args: &CheckArgs, global: &Global) -> Result<(), Error> {
    let store = global.store()?;
    let mut checked = store.check()?;
    let mut compared = Compared::default();
    if !args.quick {
        let path = |p: &Problem| match p {
            Problem::BrokenSnapshot { path, .. } => Some(path.clone()),
            _ => None,
        };
        let broken = checked.problems.iter().filter_map(path).collect();
        compared = Snapshots::new(&store, IdMap::current())?.check(&broken)?;
        checked.problems.append(&mut compared.problems);
    }
    for problem in &checked.problems {
        output::print_line(&problem.to_string())?;
    }
    // What was looked at is held as long as this is open.
    drop(store);
    if args.repair && !checked.problems.is_empty() {
        return repair(&checked.problems, global);
    }
    match checked.problems.len() {
        0 => {}
        1 => return Err(Error::Damaged("the store has 1 problem".into())),
        n => return Err(Error::Damaged(format!("the store has {n} problems"))),
    }
    if args.quiet {
        return Ok(());
    }
    let files = match args.quick {
        true => "files not compared".to_owned(),
        false => format!("{} compared with their layers, {} not comparable", compared.sound, compared.unknown),
    };
    output::print_line(&format!(
        "{} blobs, {} images, {} steps, {} layer directories ({files}): no problem found",
        checked.blobs, checked.images, checked.steps, checked.snapshots
    ))
}

/// Takes away what is damaged, and says so.
fn repair(problems: &[Problem], global: &Global) -> Result<(), Error> {
    let store = global.store()?;
    let gone = store.repair(problems)?;
    for problem in &gone {
        let what = match problem {
            Problem::DamagedBlob(digest) => format!("blob `{digest}`"),
            Problem::StrayFile(path) => format!("`{}`", path.display()),
            Problem::BrokenStep(path) => format!("step record `{}`", path.display()),
            Problem::BrokenSnapshot { path, .. } => format!("snapshot `{}`", path.display()),
            Problem::BrokenImage { .. } => continue,
        };
        output::print_line(&format!("removed {what}"))?;
    }
    for problem in store.broken_images()? {
        if let Problem::BrokenImage { image, .. } = problem {
            output::print_line(&format!("image `{image}` is incomplete: pull it or build it again"))?;
        }
    }
    let images = |p: &&Problem| !matches!(p, Problem::BrokenImage { .. });
    match problems.iter().filter(images).count() - gone.len() {
        0 => Ok(()),
        n => Err(Error::Damaged(format!(
            "{n} of the problems could not be removed: it is in use, or not ours to remove"
        ))),
    }
}
