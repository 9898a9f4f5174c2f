//! `rbuild check`: whether everything in the store is what its name says.

use super::{Error, Global, output};

/// Check every blob, image, step record and layer directory of the store
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Print nothing but what is wrong
    #[arg(short, long)]
    pub quiet: bool,
}

/// Checks the store.
pub fn run(args: &CheckArgs, global: &Global) -> Result<(), Error> {
    let checked = global.store()?.check()?;
    for problem in &checked.problems {
        output::print_line(&problem.to_string())?;
    }
    if !checked.problems.is_empty() {
        return Err(Error::Corrupt(format!("the store has {} problems", checked.problems.len())));
    }
    if args.quiet {
        return Ok(());
    }
    output::print_line(&format!(
        "{} blobs, {} images, {} steps, {} layer directories: no problem found",
        checked.blobs, checked.images, checked.steps, checked.snapshots
    ))
}
