//! `rbuild tag`.

use super::names::Naming;
use super::{Error, Global};

/// Give an image of the store further names
#[derive(Clone, Debug, clap::Args)]
pub struct TagArgs {
    /// The image: name or id
    pub image: String,
    /// The names
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// Gives names.
pub fn run(args: &TagArgs, naming: Naming, global: &Global) -> Result<(), Error> {
    let names = args.names.iter().map(|n| Ok(naming.full(n)?.to_string())).collect::<Result<Vec<_>, Error>>()?;
    let store = global.store()?;
    let found = store.find(&args.image)?;
    Ok(store.publish(&names, &found.descriptor)?)
}
