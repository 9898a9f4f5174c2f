//! Hidden verb: the FUSE overlay on layer directories of one's own, in a mount namespace of its own, for tests of the file
//! system by itself.

use super::Error;
use crate::snapshot::fuse::{self, Layers, Lower};
use std::ffi::OsString;
use std::path::PathBuf;

/// Mount an overlay of layer directories and run a command beside it
#[derive(Clone, Debug, clap::Args)]
pub struct FuseArgs {
    /// Layer directory (holds `fs/`); the first is the uppermost
    #[arg(long, value_name = "DIR")]
    pub lower: Vec<PathBuf>,
    /// Layer directory that takes the changes
    #[arg(long, value_name = "DIR")]
    pub upper: PathBuf,
    /// Empty directory on the same file system
    #[arg(long, value_name = "DIR")]
    pub work: PathBuf,
    /// Where to mount
    #[arg(long, value_name = "DIR")]
    pub mountpoint: PathBuf,
    /// Program and arguments, whose end ends the mount
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<OsString>,
}

/// Runs the command; its code is this program's.
pub fn run(args: &FuseArgs) -> Result<(), Error> {
    let layers = Layers {
        lowers: args.lower.iter().cloned().map(Lower::Layer).collect(),
        upper: args.upper.clone(),
        work: args.work.clone(),
    };
    let status =
        fuse::run_beside(&layers, &args.mountpoint, &args.command).map_err(Error::file("mount", &args.mountpoint))?;
    match status.code() {
        Some(0) => Ok(()),
        code => Err(Error::Silent(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125))),
    }
}
