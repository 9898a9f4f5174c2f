//! `rbuild pull`: an image from a registry, an archive or a directory into the store.

use super::foreign::{self, Flag, Foreign, Table, Verdict, boolean, text};
use super::names::Naming;
use super::{
    Error, Global, output,
    platform::PlatformArgs,
    registry_flags::{self, PolicyArgs, RegistryArgs},
    store_limit::StoreLimit,
};
use crate::build::request::RegistryOptions;
use crate::oci::{Digest, Location, Platform, Reference};
use crate::source::archives;
use crate::source::image::{Images, Pull};
use crate::source::signature_policy::SignaturePolicy;
use crate::store::Store;
use crate::ui::{Buildah, Silent, Sink, Terminal};

/// Bring an image into the store
#[derive(Clone, Debug, clap::Args)]
pub struct PullArgs {
    /// The image: a name, or a place with a transport
    pub image: String,
    /// When to ask the registry: always, missing, newer, never
    #[arg(long, value_name = "POLICY", default_value = "always")]
    pub policy: String,
    /// For which platform the image is.
    #[command(flatten)]
    pub platform: PlatformArgs,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// How registries are spoken to.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Which images may be used.
    #[command(flatten)]
    pub signatures: PolicyArgs,
    /// What buildah has beyond this.
    #[command(flatten)]
    pub foreign: Foreign<PullFlags>,
}

/// Flags of `pull` without a meaning here.
#[derive(Debug)]
pub struct PullFlags;

impl Table for PullFlags {
    const FLAGS: &'static [Flag] = &[
        foreign::short('a', boolean("all-tags", Verdict::RefusedIfTrue("pull each tag by its name"))),
        text("decryption-key", Verdict::Refused("decrypt the image with skopeo first")),
        boolean("remove-signatures", Verdict::NoEffect),
        text("blob-cache", Verdict::NoEffect),
    ];
}

/// Pulls an image and prints its id.
pub fn run(args: &PullArgs, global: &Global) -> Result<(), Error> {
    args.foreign.check(foreign::warn)?;
    let policy = match super::bud::pull_policy(&args.policy)? {
        crate::build::request::PullPolicy::Missing => Pull::Missing,
        crate::build::request::PullPolicy::Always => Pull::Always,
        crate::build::request::PullPolicy::Newer => Pull::Newer,
        crate::build::request::PullPolicy::Never => Pull::Never,
    };
    let platform = args.platform.platform()?;
    let sink: Box<dyn Sink> = match args.quiet {
        true => Box::new(Silent),
        false => Box::new(Buildah::new(Terminal::stdio(), true)),
    };
    let limit = StoreLimit::of(global)?;
    let store = global.store()?;
    let signature_policy = args.signatures.signature_policy.clone();
    let registry = RegistryOptions { signature_policy, ..args.registry.lower()? };
    let id = match args.image.parse::<Location>()? {
        Location::Store(_) => from_registry(&store, &args.image, policy, &platform, &registry, global, &*sink)?.0,
        Location::Registry(r) => from_registry(&store, &r.to_string(), policy, &platform, &registry, global, &*sink)?.0,
        place => {
            let signatures = SignaturePolicy::find(registry.signature_policy.as_deref())?;
            let loaded = archives::open(&store, &place, &platform, &signatures).map_err(Error::from)?;
            if loaded.len() > 1 {
                return Err(archives::Error::Several(place.to_string()).into());
            }
            let image = loaded.into_iter().next().ok_or_else(|| archives::Error::NoImage(place.to_string()))?;
            name_loaded(&store, &image, Naming::Buildah)?;
            image.id
        }
    };
    limit.apply(&store);
    output::print_line(&id.hex())
}

/// Pulls from a registry. Returns image id and full name.
pub fn from_registry(
    store: &Store,
    name: &str,
    policy: Pull,
    platform: &Platform,
    registry: &RegistryOptions,
    global: &Global,
    sink: &dyn Sink,
) -> Result<(Digest, Reference), Error> {
    let client = registry_flags::client(registry, global)?;
    let signatures = SignaturePolicy::find(registry.signature_policy.as_deref())?;
    let images = Images::new(store, &client, policy, &signatures, sink);
    let image = images.resolve(name, platform)?;
    images.fetch(&image, &|_| ())?;
    Ok((image.manifest.config.digest, image.reference))
}

/// Gives a loaded image the names that its archive has for it.
pub fn name_loaded(store: &Store, image: &archives::Loaded, naming: Naming) -> Result<(), Error> {
    let names: Vec<String> = image.names.iter().map(|n| naming.complete(n.clone()).to_string()).collect();
    Ok(store.publish(&names, &image.manifest)?)
}
