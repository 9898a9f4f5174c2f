//! `rbuild load`: images of an archive or a layout into the store.

use super::names::Naming;
use super::registry_flags::PolicyArgs;
use super::{Error, Global, output, pull};
use crate::oci::{Location, Platform};
use crate::source::archives::{self, Loaded};
use crate::source::signature_policy::SignaturePolicy;
use crate::store::Store;
use std::io;
use std::path::{Path, PathBuf};

/// Bring the images of an archive into the store
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// The archive, or a directory with an OCI image layout; left out, standard input
    pub path: Option<PathBuf>,
    /// The archive
    #[arg(short, long, value_name = "PATH", conflicts_with = "path")]
    pub input: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Which images may be used.
    #[command(flatten)]
    pub signatures: PolicyArgs,
}

/// Loads images.
pub fn run(args: &LoadArgs, naming: Naming, global: &Global) -> Result<(), Error> {
    let store = global.store()?;
    let path = args.path.as_deref().or(args.input.as_deref()).filter(|p| *p != Path::new("-"));
    let policy = SignaturePolicy::find(args.signatures.signature_policy.as_deref())?;
    let loaded = load(&store, path, &policy)?;
    for image in &loaded {
        pull::name_loaded(&store, image, naming)?;
        if args.quiet {
            continue;
        }
        if image.names.is_empty() {
            output::print_line(&format!("Loaded image ID: {}", image.id))?;
        }
        for name in &image.names {
            let full = naming.complete(name.clone());
            let shown = if naming == Naming::Docker { full.familiar() } else { full.to_string() };
            output::print_line(&format!("Loaded image: {shown}"))?;
        }
    }
    Ok(())
}

fn load(store: &Store, path: Option<&Path>, policy: &SignaturePolicy) -> Result<Vec<Loaded>, Error> {
    let host = Platform::host();
    Ok(match path {
        None => archives::load(store, io::stdin(), Path::new("-"), &host, policy)?,
        Some(dir) if dir.is_dir() => {
            archives::open(store, &Location::OciDir { path: dir.to_owned(), name: None }, &host, policy)?
        }
        Some(file) => {
            let input = std::fs::File::open(file).map_err(Error::file("open", file))?;
            archives::load(store, input, file, &host, policy)?
        }
    })
}
