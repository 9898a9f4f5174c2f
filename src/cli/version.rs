//! `rbuild version`.

use super::{Error, output};
use crate::oci::Platform;
use serde_json::json;

/// Show the version
#[derive(Clone, Debug, clap::Args)]
pub struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Versions of the specifications that the code follows.
const IMAGE_SPEC: &str = "1.1.1";
const RUNTIME_SPEC: &str = "1.2.1";

/// Prints the version.
pub fn run(args: &VersionArgs) -> Result<(), Error> {
    let (version, platform) = (env!("CARGO_PKG_VERSION"), Platform::host());
    if args.json {
        let value = json!({
            "version": version,
            "imageSpec": IMAGE_SPEC,
            "runtimeSpec": RUNTIME_SPEC,
            "osArch": platform.to_string(),
            "buildPlatform": platform.to_string(),
        });
        return output::print_line(&output::json(&value, "    ", true)?);
    }
    output::print(&format!(
        "Version:         {version}\n\
         Image Spec:      {IMAGE_SPEC}\n\
         Runtime Spec:    {RUNTIME_SPEC}\n\
         OS/Arch:         {platform}\n\
         BuildPlatform:   {platform}\n"
    ))
}
