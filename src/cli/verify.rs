//! `rbuild verify`: whether an image in a registry was signed with a key.

use super::registry_flags::{self, RegistryArgs};
use super::{Error, Global, output};
use crate::attest::signature::VerifyingKey;
use crate::export;
use crate::oci::Reference;
use std::path::PathBuf;

/// Check the signatures of an image in a registry
///
/// At least one must be made with the key, for the digest that the name leads to: as `cosign verify --key` does it, without a
/// transparency log. The payloads of those go to standard output, as JSON.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// Public key: PEM, ECDSA over P-256
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// How registries are spoken to.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The image: a name with its registry, by tag or digest
    pub image: String,
}

/// Verifies.
pub fn run(args: &VerifyArgs, global: &Global) -> Result<(), Error> {
    let text = std::fs::read_to_string(&args.key).map_err(Error::file("read", &args.key))?;
    let key = VerifyingKey::parse(&args.key, &text)?;
    let name = args.image.strip_prefix("docker://").unwrap_or(&args.image);
    let name = name.parse::<Reference>()?.docker_normalized().with_default_tag();
    if name.registry.is_none() {
        return Err(Error::usage_hint(
            format!("`{}` says no registry", args.image),
            "write the full name, such as `docker.io/library/NAME`",
        ));
    }
    let client = registry_flags::client(&args.registry.lower()?, global)?;
    // The digest is that of the bytes which came, whatever the registry says of them.
    let image = client.fetch_manifest(&name)?.descriptor();
    let payloads = export::verify(&client, &name, &image.digest, &key)?;
    let verified = Reference { tag: None, digest: Some(image.digest), ..name };
    output::note(&format!("verified: `{verified}` is signed with this key"));
    let payloads: Vec<String> = payloads.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect();
    output::print_line(&format!("[{}]", payloads.join(",")))
}
