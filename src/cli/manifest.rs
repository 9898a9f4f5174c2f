//! `rbuild manifest`: lists of images (indexes) in the store.
//!
//! A list lives in the store with all its images, which have no names of their own. Every change writes a new index and
//! moves the name, so what was pushed before is never half changed.

use super::compression::CompressionArgs;
use super::foreign::{self, Flag, Foreign, Table, Verdict, boolean, text};
use super::names::Naming;
use super::registry_flags::{PolicyArgs, RegistryArgs};
use super::template::Template;
use super::{Error, Global, bud, output, platform::PlatformArgs, push, rmi, values};
use crate::oci::{Descriptor, Digest, ImageConfig, Index, Location, Platform, media};
use crate::registry::MAX_CONFIG_BYTES;
use crate::source::archives;
use crate::source::image::Pull;
use crate::source::signature_policy::SignaturePolicy;
use crate::store::{NamedImage, Store};
use crate::ui::{Buildah, Silent, Sink, Terminal};
use std::path::PathBuf;

/// Make and change lists of images for several platforms
#[derive(Clone, Debug, clap::Args)]
pub struct ManifestArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    Create(Box<CreateArgs>),
    Add(Box<AddArgs>),
    Annotate(AnnotateArgs),
    Inspect(InspectArgs),
    Push(Box<PushArgs>),
    Remove(RemoveArgs),
    Rm(RmArgs),
    Exists(ExistsArgs),
}

/// Make a list, empty or of these images
#[derive(Clone, Debug, clap::Args)]
struct CreateArgs {
    /// Name of the list
    list: String,
    /// Images to add
    images: Vec<String>,
    /// Change the list if it exists
    #[arg(short, long)]
    amend: bool,
    /// Annotation of the list
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// Add every image of those that are lists
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    outside: OutsideArgs,
}

/// How images come that are not in the store, and which may.
#[derive(Clone, Debug, clap::Args)]
struct OutsideArgs {
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    signatures: PolicyArgs,
}

/// Add an image to a list, in place of one for the same platform
#[derive(Clone, Debug, clap::Args)]
struct AddArgs {
    /// The list
    list: String,
    /// The image: of the store, else of a registry; or a place with a transport
    image: String,
    /// Add every image, if it is a list
    #[arg(long)]
    all: bool,
    /// Annotation of the image in the list
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    #[command(flatten)]
    platform: PlatformArgs,
    #[command(flatten)]
    more: MoreArgs,
    #[command(flatten)]
    outside: OutsideArgs,
    #[command(flatten)]
    foreign: Foreign<EntryFlags>,
}

/// What a list can say of a platform beyond its name.
#[derive(Clone, Debug, Default, clap::Args)]
struct MoreArgs {
    /// Version of the operating system
    #[arg(long, value_name = "VERSION")]
    os_version: Option<String>,
    /// Feature of the operating system that the image needs
    #[arg(long, value_name = "FEATURE")]
    os_features: Vec<String>,
}

/// Flags of `add` and `annotate` without a meaning here.
#[derive(Debug)]
struct EntryFlags;

const ARTIFACT: Verdict = Verdict::Refused("lists hold images here; push other artifacts with a tool such as oras");

impl Table for EntryFlags {
    const FLAGS: &'static [Flag] = &[
        text("features", Verdict::Refused("leave it out: no runtime reads features of a processor in a list")),
        boolean("artifact", ARTIFACT),
        text("artifact-type", ARTIFACT),
        text("subject", ARTIFACT),
    ];
}

/// Change what a list says of one of its images
#[derive(Clone, Debug, clap::Args)]
struct AnnotateArgs {
    /// The list
    list: String,
    /// The image: its digest, or its name in the store
    image: Option<String>,
    /// Annotate the list itself
    #[arg(long)]
    index: bool,
    /// Annotation
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// Operating system of the image
    #[arg(long)]
    os: Option<String>,
    /// Architecture of the image
    #[arg(long)]
    arch: Option<String>,
    /// Variant of the architecture
    #[arg(long)]
    variant: Option<String>,
    #[command(flatten)]
    more: MoreArgs,
    #[command(flatten)]
    foreign: Foreign<EntryFlags>,
}

/// Show a list as JSON
#[derive(Clone, Debug, clap::Args)]
struct InspectArgs {
    /// The list, of the store or of a registry
    list: String,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Write a list with all its images to a registry, an archive or a directory
#[derive(Clone, Debug, clap::Args)]
struct PushArgs {
    /// The list
    list: String,
    /// Where to; left out, the registry of its own name
    destination: Option<String>,
    /// Format of the list and the images: oci, docker (v2s2); left out, their own
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    #[command(flatten)]
    compression: CompressionArgs,
    /// File for the digest of the list
    #[arg(long, value_name = "PATH")]
    digestfile: Option<PathBuf>,
    /// Remove the list after it was pushed
    #[arg(long)]
    rm: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    foreign: Foreign<push::PushFlags>,
}

/// Take an image out of a list
#[derive(Clone, Debug, clap::Args)]
struct RemoveArgs {
    /// The list
    list: String,
    /// Digest of the image's manifest
    image: String,
}

/// Remove lists
#[derive(Clone, Debug, clap::Args)]
struct RmArgs {
    /// The lists
    #[arg(required = true)]
    lists: Vec<String>,
}

/// Say by the exit code whether a list exists
#[derive(Clone, Debug, clap::Args)]
struct ExistsArgs {
    /// The list
    list: String,
}

/// Runs a subcommand.
pub fn run(args: &ManifestArgs, global: &Global) -> Result<(), Error> {
    let store = global.store()?;
    match &args.verb {
        Verb::Create(args) => create(&store, args, global),
        Verb::Add(args) => add(&store, args, global),
        Verb::Annotate(args) => annotate(&store, args),
        Verb::Inspect(args) => match inspect(&store, &args.list, None) {
            Err(e) if e.kind() == crate::error::Kind::NotFound => inspect_remote(args, global),
            other => other,
        },
        Verb::Push(args) => push_list(&store, args, global),
        Verb::Remove(args) => {
            let mut list = List::open(&store, &args.list)?;
            let at = list.position(&store, &args.image)?;
            let gone = list.index.manifests.remove(at);
            let id = list.save(&store)?;
            output::print_line(&format!("{}: {}", id.hex(), gone.digest))
        }
        Verb::Rm(args) => {
            for list in &args.lists {
                List::open(&store, list)?;
                rmi::show(&rmi::remove(&store, list, false)?)?;
            }
            Ok(())
        }
        Verb::Exists(args) => match List::open(&store, &args.list) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == crate::error::Kind::NotFound => Err(Error::Silent(1)),
            Err(_) => Err(Error::Silent(1)),
        },
    }
}

/// A list of the store, to be changed.
struct List {
    name: String,
    index: Index,
}

impl List {
    fn open(store: &Store, text: &str) -> Result<List, Error> {
        let found = store.find(text)?;
        if !media::is_index(&found.descriptor.media_type) {
            return Err(Error::usage_hint(
                format!("`{text}` is an image and no manifest list"),
                "make a list with `rbuild manifest create`",
            ));
        }
        let unnamed = || Error::usage("a list without a name cannot be changed: give it one with `rbuild tag`");
        let NamedImage { name, descriptor } = found;
        Ok(List { name: name.ok_or_else(unnamed)?, index: store.index(&descriptor.digest)? })
    }

    /// Writes the list and moves its name. Returns its new id. The one before goes, unless it has another name.
    fn save(&self, store: &Store) -> Result<Digest, Error> {
        let before = store.get(&self.name)?;
        let descriptor = store.put_index(&self.index)?;
        store.publish(std::slice::from_ref(&self.name), &descriptor)?;
        if let Some(before) = before.filter(|b| b.digest != descriptor.digest) {
            let named = store.list()?.iter().any(|e| e.descriptor.digest == before.digest && e.name.is_some());
            if !named {
                store.remove_image(&before.digest)?;
            }
        }
        Ok(descriptor.digest)
    }

    /// Adds an entry, in place of the one with its digest or for its platform.
    fn put(&mut self, entry: Descriptor) {
        let platform = |d: &Descriptor| d.platform.clone().map(Platform::normalized);
        let same =
            |d: &Descriptor| d.digest == entry.digest || platform(d).is_some_and(|p| Some(p) == platform(&entry));
        self.index.manifests.retain(|d| !same(d));
        self.index.manifests.push(entry);
    }

    /// The place of an image: by the digest of its manifest, or the first digits of it, or by a name in the store.
    fn position(&self, store: &Store, text: &str) -> Result<usize, Error> {
        let missing = || Error::NotFound(format!("`{text}` is not in the list `{}`", self.name));
        let hex = text.rsplit('@').next().unwrap_or(text).trim_start_matches("sha256:");
        let is_hex = hex.len() >= 4 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let by_digest = self.index.manifests.iter().position(|d| is_hex && d.digest.hex().starts_with(hex));
        if let Some(at) = by_digest {
            return Ok(at);
        }
        let found = store.find(text).map_err(|_| missing())?.descriptor.digest;
        self.index.manifests.iter().position(|d| d.digest == found).ok_or_else(missing)
    }
}

fn create(store: &Store, args: &CreateArgs, global: &Global) -> Result<(), Error> {
    let name = Naming::Buildah.full(&args.list)?.to_string();
    let mut list = match store.get(&name)? {
        None => List { name, index: Index::empty() },
        Some(_) if args.amend => List::open(store, &name)?,
        Some(_) => {
            return Err(Error::usage_hint(
                format!("the name `{name}` is in use"),
                "add to the list with `--amend`, or remove it with `rbuild manifest rm`",
            ));
        }
    };
    annotate_index(&mut list.index, &args.annotation)?;
    for image in &args.images {
        for entry in entries(store, image, &Platform::host(), args.all, &args.outside, global)? {
            list.put(entry);
        }
    }
    output::print_line(&list.save(store)?.hex())
}

fn add(store: &Store, args: &AddArgs, global: &Global) -> Result<(), Error> {
    args.foreign.check(foreign::warn)?;
    let mut list = List::open(store, &args.list)?;
    let wanted = args.platform.platform()?;
    let found = entries(store, &args.image, &wanted, args.all, &args.outside, global)?;
    let alone = found.len() == 1 && !args.all;
    let mut last = None;
    for mut entry in found {
        if alone {
            describe(
                &mut entry,
                args.platform.os.as_ref(),
                args.platform.arch.as_ref(),
                args.platform.variant.as_ref(),
            );
            more(&mut entry, &args.more);
        }
        for annotation in &args.annotation {
            let (name, value) = values::label(annotation)?;
            entry.annotations.insert(name, value);
        }
        last = Some(entry.digest);
        list.put(entry);
    }
    let id = list.save(store)?.hex();
    output::print_line(&last.map_or_else(|| id.clone(), |digest| format!("{id}: {digest}")))
}

/// The entries that an image makes in a list: itself, or of a list the one for a platform, or all of them.
fn entries(
    store: &Store,
    image: &str,
    platform: &Platform,
    all: bool,
    outside: &OutsideArgs,
    global: &Global,
) -> Result<Vec<Descriptor>, Error> {
    let location: Location = image.parse()?;
    let signatures = || SignaturePolicy::find(outside.signatures.signature_policy.as_deref());
    let (descriptor, name) = match &location {
        Location::Store(_) => match store.find(image) {
            Ok(found) => (found.descriptor, image.to_owned()),
            Err(_) => return remote(store, image, platform, all, outside, global),
        },
        Location::Registry(reference) => {
            return remote(store, &reference.to_string(), platform, all, outside, global);
        }
        place => {
            let mut loaded = archives::open(store, place, platform, &signatures()?)?;
            match (loaded.pop(), loaded.is_empty()) {
                (Some(one), true) => (one.manifest, image.to_owned()),
                _ => return Err(archives::Error::Several(image.to_owned()).into()),
            }
        }
    };
    if !media::is_index(&descriptor.media_type) {
        return Ok(vec![entry(store, &descriptor)?]);
    }
    let images = store.index(&descriptor.digest)?.manifests;
    if all {
        return Ok(images);
    }
    let fits = |d: &Descriptor| d.platform.as_ref().is_some_and(|p| platform.accepts(p));
    let missing = || Error::NotFound(format!("`{name}` has no image for platform `{platform}`"));
    Ok(vec![images.into_iter().find(fits).ok_or_else(missing)?])
}

/// The same for an image of a registry, which comes into the store.
fn remote(
    store: &Store,
    name: &str,
    platform: &Platform,
    all: bool,
    outside: &OutsideArgs,
    global: &Global,
) -> Result<Vec<Descriptor>, Error> {
    let options = outside.registry.lower()?;
    let client = super::registry_flags::client(&options, global)?;
    let signatures = SignaturePolicy::find(outside.signatures.signature_policy.as_deref())?;
    let images = crate::source::image::Images::new(store, &client, Pull::Always, &signatures, &Silent);
    let platforms = if all { images.platforms(name)? } else { vec![platform.clone()] };
    let mut found = vec![];
    for platform in &platforms {
        let image = images.resolve(name, platform)?;
        images.fetch(&image, &|_| ())?;
        let plain = Descriptor::new(&image.descriptor.media_type, image.descriptor.digest, image.descriptor.size);
        let platform = image.descriptor.platform.clone().unwrap_or_else(|| image.config.platform());
        found.push(Descriptor { platform: Some(platform), ..plain });
    }
    Ok(found)
}

/// The entry of an image of the store, with the platform that its config says.
fn entry(store: &Store, descriptor: &Descriptor) -> Result<Descriptor, Error> {
    let config = store.manifest(&descriptor.digest)?.config.digest;
    let bytes = store.read_blob(&config, MAX_CONFIG_BYTES)?;
    let config: ImageConfig =
        serde_json::from_slice(&bytes).map_err(|e| Error::Corrupt(format!("cannot parse config `{config}`: {e}")))?;
    let plain = Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size);
    Ok(Descriptor { platform: Some(config.platform()), ..plain })
}

fn describe(entry: &mut Descriptor, os: Option<&String>, arch: Option<&String>, variant: Option<&String>) {
    let platform = entry.platform.get_or_insert_with(Platform::host);
    if let Some(os) = os {
        platform.os.clone_from(os);
    }
    if let Some(arch) = arch {
        (platform.architecture, platform.variant) = (arch.clone(), None);
    }
    if let Some(variant) = variant {
        platform.variant = Some(variant.clone()).filter(|v| !v.is_empty());
    }
}

fn more(entry: &mut Descriptor, more: &MoreArgs) {
    let platform = entry.platform.get_or_insert_with(Platform::host);
    if let Some(version) = &more.os_version {
        platform.os_version = Some(version.clone()).filter(|v| !v.is_empty());
    }
    if !more.os_features.is_empty() {
        platform.os_features = values::commas(&more.os_features);
    }
}

fn annotate_index(index: &mut Index, annotations: &[String]) -> Result<(), Error> {
    for annotation in annotations {
        let (name, value) = values::label(annotation)?;
        index.annotations.insert(name, value);
    }
    Ok(())
}

fn annotate(store: &Store, args: &AnnotateArgs) -> Result<(), Error> {
    args.foreign.check(foreign::warn)?;
    let mut list = List::open(store, &args.list)?;
    let docker = list.index.media_type == media::DOCKER_LIST;
    if docker && !args.annotation.is_empty() {
        return Err(Error::unsupported(
            "annotations of a list in Docker's format",
            "make the list with `rbuild manifest create`, which writes OCI's",
        ));
    }
    if args.index {
        annotate_index(&mut list.index, &args.annotation)?;
        return output::print_line(&list.save(store)?.hex());
    }
    let image = args.image.as_deref();
    let image = image.ok_or_else(|| Error::usage("which image? Name it by its digest, or pass `--index`"))?;
    let at = list.position(store, image)?;
    let mut digest = None;
    if let Some(entry) = list.index.manifests.get_mut(at) {
        describe(entry, args.os.as_ref(), args.arch.as_ref(), args.variant.as_ref());
        more(entry, &args.more);
        for annotation in &args.annotation {
            let (name, value) = values::label(annotation)?;
            entry.annotations.insert(name, value);
        }
        digest = Some(entry.digest);
    }
    let id = list.save(store)?.hex();
    output::print_line(&digest.map_or_else(|| id.clone(), |digest| format!("{id}: {digest}")))
}

/// Prints a list of the store.
///
/// # Errors
/// Where it is not there, or is an image.
pub fn inspect(store: &Store, name: &str, format: Option<&str>) -> Result<(), Error> {
    let found = store.find(name)?;
    if !media::is_index(&found.descriptor.media_type) {
        return Err(Error::usage_hint(
            format!("`{name}` is an image and no manifest list"),
            format!("show it with `rbuild inspect {name}`"),
        ));
    }
    let value = serde_json::to_value(store.index(&found.descriptor.digest)?).unwrap_or_default();
    match format {
        None => output::print_line(&output::json(&value, "    ", true)?),
        Some(template) => output::print_line(&Template::parse(template)?.render(&value)?),
    }
}

fn inspect_remote(args: &InspectArgs, global: &Global) -> Result<(), Error> {
    let client = super::registry_flags::client(&args.registry.lower()?, global)?;
    let mut first = None;
    for candidate in client.candidates(args.list.trim_start_matches("docker://"))? {
        match client.fetch_manifest(&candidate) {
            Ok(document) => {
                let value: serde_json::Value = serde_json::from_slice(&document.bytes)
                    .map_err(|e| Error::Corrupt(format!("cannot parse the manifest of `{candidate}`: {e}")))?;
                return output::print_line(&output::json(&value, "    ", true)?);
            }
            Err(e) => drop(first.get_or_insert(e)),
        }
    }
    Err(first.map_or_else(|| Error::NotFound(format!("{}: manifest list not known", args.list)), Error::from))
}

fn push_list(store: &Store, args: &PushArgs, global: &Global) -> Result<(), Error> {
    args.foreign.check(foreign::warn)?;
    let list = List::open(store, &args.list)?;
    let form = args.compression.lower()?.form(args.format.as_deref().map(bud::manifest_format).transpose()?);
    let sink: Box<dyn Sink> = match args.quiet {
        true => Box::new(Silent),
        false => Box::new(Buildah::new(Terminal::stdio(), true)),
    };
    let to = args.destination.as_deref();
    let doing = format!("pushing manifest list `{}`", args.list);
    let pushed = push::push(store, &list.name, to, (&form, None), &args.registry.lower()?, global, &*sink);
    let pushed = pushed.map_err(|e| e.doing(doing))?;
    if let Some(path) = &args.digestfile {
        std::fs::write(path, pushed.digest.to_string()).map_err(Error::file("write", path))?;
    }
    if args.rm {
        rmi::show(&rmi::remove(store, &list.name, false)?)?;
    }
    Ok(())
}
