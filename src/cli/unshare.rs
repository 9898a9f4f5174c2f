//! `rbuild unshare`: a command in the user namespace that builds run in.

use super::Error;
use std::ffi::OsString;

/// Run a command in the user namespace that builds use
#[derive(Clone, Debug, clap::Args)]
pub struct UnshareArgs {
    /// Refused: there are no working containers
    #[arg(short, long, value_name = "CONTAINER", hide = true)]
    pub mount: Vec<String>,
    /// Program and arguments; left out, the shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// Replaces this process. Returns only on failure.
pub fn run(args: &UnshareArgs) -> Result<(), Error> {
    if !args.mount.is_empty() {
        return Err(Error::unsupported("`--mount`", "there are no working containers: use `rbuild run IMAGE`"));
    }
    match crate::sandbox::unshare(&args.command)? {}
}
