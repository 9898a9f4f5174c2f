//! `rbuild push`: an image of the store to a registry, an archive or a directory.

use super::foreign::{self, Flag, Foreign, Table, Verdict, boolean, text};
use super::names::{self, Naming};
use super::{
    Error, Global, bud,
    compression::{CompressionArgs, Wanted},
    registry_flags::{self, RegistryArgs},
};
use crate::attest::signature::SigningKey;
use crate::build::request::RegistryOptions;
use crate::export::{self, Form};
use crate::oci::{Compression, Descriptor, Location, Reference};
use crate::store::Store;
use crate::ui::{Buildah, Event, Silent, Sink, Terminal};
use std::path::PathBuf;

/// Write an image to a registry, an archive or a directory
#[derive(Clone, Debug, clap::Args)]
pub struct PushArgs {
    /// The image: name or id
    pub image: String,
    /// Where to: a name, or a place with a transport; left out, the registry of the image's own name
    pub destination: Option<String>,
    /// Format of the manifest: oci, docker (v2s2); left out, the image's own
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// How layers are compressed.
    #[command(flatten)]
    pub compression: CompressionArgs,
    /// Send layers as they lie in the store
    #[arg(short = 'D', long)]
    pub disable_compression: bool,
    /// File for the digest of the manifest
    #[arg(long, value_name = "PATH")]
    pub digestfile: Option<PathBuf>,
    /// Sign the image in the registry with this private key, as cosign does: PEM (PKCS#8), ECDSA over P-256
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
    /// Remove the image after it was pushed
    #[arg(long)]
    pub rm: bool,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// How registries are spoken to.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// What buildah has beyond this.
    #[command(flatten)]
    pub foreign: Foreign<PushFlags>,
}

/// Flags of `push` without a meaning here, or without one yet.
#[derive(Debug)]
pub struct PushFlags;

const ENCRYPT: Verdict = Verdict::Refused("encrypt the image with skopeo after the push");

impl Table for PushFlags {
    const FLAGS: &'static [Flag] = &[
        boolean("all", Verdict::Only(&["true"], "leave it out: an index is pushed with all its images")),
        text("add-compression", Verdict::Refused("push twice, under two tags, with `--compression-format`")),
        text("encryption-key", ENCRYPT),
        text("encrypt-layer", ENCRYPT),
        text(
            "sign-by",
            Verdict::Refused("sign with `--sign-key`, as cosign does, or with GPG by skopeo after the push"),
        ),
        text(
            "signature-policy",
            Verdict::Refused("a policy is asked about what comes from outside: give it to the build or the pull"),
        ),
        boolean("remove-signatures", Verdict::NoEffect),
        text("blob-cache", Verdict::NoEffect),
    ];
}

/// Pushes an image.
pub fn run(args: &PushArgs, global: &Global) -> Result<(), Error> {
    args.foreign.check(foreign::warn)?;
    let wanted = match args.disable_compression {
        true => Wanted::new(Some(Compression::None), args.compression.compression_level, false)?,
        false => args.compression.lower()?,
    };
    let form = wanted.form(args.format.as_deref().map(bud::manifest_format).transpose()?);
    let sink: Box<dyn Sink> = match args.quiet {
        true => Box::new(Silent),
        false => Box::new(Buildah::new(Terminal::stdio(), true)),
    };
    let store = global.store()?;
    let to = args.destination.as_deref();
    let doing = format!("pushing image `{}` to `{}`", args.image, to.unwrap_or(&args.image));
    let key = args.sign_key.as_deref().map(super::delivery::read_key).transpose()?;
    let pushed = push(&store, &args.image, to, (&form, key.as_ref()), &args.registry.lower()?, global, &*sink);
    let manifest = pushed.map_err(|e| e.doing(doing))?;
    if let Some(path) = &args.digestfile {
        std::fs::write(path, manifest.digest.to_string()).map_err(Error::file("write", path))?;
    }
    if args.rm {
        super::rmi::show(&super::rmi::remove(&store, &args.image, false)?)?;
    }
    Ok(())
}

/// Pushes an image of the store, and returns its manifest at the destination.
pub fn push(
    store: &Store,
    image: &str,
    to: Option<&str>,
    (form, key): (&Form, Option<&SigningKey>),
    registry: &RegistryOptions,
    global: &Global,
    sink: &dyn Sink,
) -> Result<Descriptor, Error> {
    let found = store.find(image)?;
    let name: Option<Reference> = found.name.as_deref().and_then(|n| n.parse().ok());
    let destination = match to {
        None => Location::Registry(own_name(image, name.as_ref())?),
        Some(text) if Location::has_transport(text) => names::place(text, Naming::Buildah)?,
        // A bare name is a registry's: pushing from the store to itself would be `tag`.
        Some(text) => Location::Registry(text.parse::<Reference>()?.docker_normalized().with_default_tag()),
    };
    let to_sign = match (&destination, key) {
        (Location::Registry(to), Some(key)) => Some((to.clone(), key)),
        (_, None) => None,
        (other, Some(_)) => {
            return Err(Error::usage_hint(
                format!("`--sign-key` with `{other}`: a signature is put beside an image in a registry"),
                "leave it out",
            ));
        }
    };
    if export::is_in_vain(form, std::slice::from_ref(&destination)) {
        sink.event(&Event::Warning { text: super::delivery::NOT_COMPRESSED });
    }
    let client = registry_flags::client(registry, global)?;
    let around = export::Surroundings { client: &client, sink, elsewhere: &Default::default() };
    match export::deliver(store, &found.descriptor, &destination, name.as_ref(), form, around)? {
        Some(written) => {
            if let Some((to, key)) = to_sign {
                export::sign(&client, &to, &written, key)
                    .map_err(|e| Error::from(e).doing(format!("signing `{to}`")))?;
            }
            Ok(written)
        }
        None => {
            let Location::Store(to) = destination else {
                return Err(Error::usage("nothing to push to"));
            };
            store.publish(&[to.to_string()], &found.descriptor)?;
            Ok(found.descriptor)
        }
    }
}

/// The name under which an image goes to a registry when no other is given: its own.
fn own_name(typed: &str, found: Option<&Reference>) -> Result<Reference, Error> {
    let by_id = || {
        Error::usage_hint(
            format!("`{typed}` says no registry to push to"),
            format!("write where to: `rbuild push {typed} REGISTRY/NAME:TAG`"),
        )
    };
    let name = found.cloned().ok_or_else(by_id)?;
    // `localhost/x` is the name of an image that no registry has, not a registry on this machine.
    if name.registry.as_deref() == Some("localhost") { Err(by_id()) } else { Ok(name) }
}
