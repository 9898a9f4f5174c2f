//! Runs a build and brings its result where the request says: into the store (the build does that), then to registries
//! and archives, then into the files that scripts read. Every command line that builds ends up here.

use super::meter::Meter;
use super::{Error, Global, registry_flags, store_limit::StoreLimit};
use crate::attest::signature::SigningKey;
use crate::build::{
    self, Built, Coming, Watcher,
    request::{BuildRequest, CacheOptions, OutputOptions, RootfsPlace},
};
use crate::cache::spec::Place;
use crate::export::{self, Early, Form, RootfsTo};
use crate::oci::{Compression, Descriptor, Location, Reference, media};
use crate::registry::Client;
use crate::store::Store;
use crate::sys::signal::{self, Cancel};
use crate::ui::{Event, Sink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Builds and delivers.
///
/// # Errors
/// Whatever kept the image from being built or delivered. What was delivered before stays.
pub fn build(request: &BuildRequest, global: &Global, sink: &dyn Sink) -> Result<Built, Error> {
    let limit = StoreLimit::of(global)?;
    let store = Arc::new(global.store()?);
    let delivered = build_in(&store, request, global, sink);
    limit.apply(&store);
    delivered
}

fn build_in(store: &Arc<Store>, request: &BuildRequest, global: &Global, sink: &dyn Sink) -> Result<Built, Error> {
    let key = signing_key(&request.output)?;
    check_forms(request, sink)?;
    let client = registry_flags::client(&request.registry, global)?;
    check_destinations(&request.output, &client)?;
    let cancel = cancel_on_signals()?;
    let driver = global.storage_driver(&super::values::process_var)?;
    let meter = Meter::new(sink, request.output.step_usage);
    let early = Early::new(store, (&client, &cancel), form(&request.output), registries(&request.output))?;
    let send = early.as_ref().map(|early| |coming: Coming| send_early(early, coming, &meter));
    let watcher = send.as_ref().map(|send| send as Watcher<'_>);
    let around = build::Surroundings { store, client: &client, driver, sink: &meter, cancel: &cancel, coming: watcher };
    let request = &BuildRequest {
        output: OutputOptions { only_pushed: is_only_pushed(&request.output), ..request.output.clone() },
        ..request.clone()
    };
    let mut built = build::build(request, around)?;
    if let Some(early) = &early {
        let waiting = |layers: usize| {
            let text = format!("{layers} layers are on their way to the registry");
            sink.event(&Event::Note { text: &text });
        };
        early.finish(&waiting);
        show_news(early, sink);
    }
    // What was built is safe in the store, and a transfer can be left anywhere.
    end_on_signals()?;
    if let Some(code) = super::error::signal_code() {
        // It came too late for the build to hear.
        return Err(Error::Silent(code));
    }
    let delivered = deliver(store, &built, request, (&client, key.as_ref()), sink);
    let manifest = match delivered {
        Err(_) if built.elsewhere.is_lost() => {
            // A cache had promised layers that it does not have: then they are made here.
            let without = BuildRequest {
                cache: CacheOptions { from: vec![], ..request.cache.clone() },
                output: OutputOptions { only_pushed: false, ..request.output.clone() },
                ..request.clone()
            };
            built = build::build(&without, around)?;
            deliver(store, &built, &without, (&client, key.as_ref()), sink)?
        }
        other => other?,
    };
    write_files(request, &built, &manifest, &meter)?;
    Ok(built)
}

/// The key that signs, read before anything is built.
fn signing_key(output: &OutputOptions) -> Result<Option<SigningKey>, Error> {
    let Some(path) = &output.sign_key else { return Ok(None) };
    if !output.destinations.iter().any(|d| matches!(d, Location::Registry(_))) {
        return Err(Error::usage_hint(
            "`--sign-key` without a registry: a signature is put beside an image that is pushed",
            "name a registry with `-t docker://NAME`, or sign with `rbuild push --sign-key`",
        ));
    }
    read_key(path).map(Some)
}

/// Reads a private key.
///
/// # Errors
/// Where it cannot be read, or is none that signs.
pub fn read_key(path: &Path) -> Result<SigningKey, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    Ok(SigningKey::parse(path, &text)?)
}

/// Whether the image goes to registries and nowhere else, so that nothing of it has to be here.
fn is_only_pushed(output: &OutputOptions) -> bool {
    let pushed = |d: &Location| matches!(d, Location::Registry(_));
    let anything = !output.destinations.is_empty() && output.destinations.iter().all(pushed);
    // A list of packages is read from the files.
    anything && output.rootfs.is_empty() && output.index.is_none() && output.attest.sbom.is_none()
}

/// Fails where the image could not be pushed, while that has cost nothing yet.
fn check_destinations(output: &OutputOptions, client: &Client) -> Result<(), Error> {
    let checked = output.destinations.iter().filter(|_| !output.skip_push_check);
    for destination in checked {
        if let Location::Containers(_) | Location::DockerDaemon(_) = destination {
            crate::source::skopeo::check(&destination.to_string()).map_err(crate::export::Error::from)?;
        }
        if let Location::Registry(to) = destination {
            let doing = format!("asking before the build whether `{destination}` takes an image");
            client.check_push(to).map_err(|e| Error::from(e).doing(doing))?;
        }
    }
    Ok(())
}

/// The names that an image gets in registries.
fn registries(output: &OutputOptions) -> impl Iterator<Item = Reference> {
    output.destinations.iter().filter_map(|d| if let Location::Registry(to) = d { Some(to.clone()) } else { None })
}

/// Lets a layer leave before the rest of its image is there.
fn send_early(early: &Early, coming: Coming, sink: &dyn Sink) {
    early.layer(coming.layer, coming.diff_id, coming.at, coming.settle);
    show_news(early, sink);
}

fn show_news(early: &Early, sink: &dyn Sink) {
    for text in early.news() {
        sink.event(&Event::Warning { text: &text });
    }
}

/// How the image leaves.
fn form(output: &OutputOptions) -> Form {
    Form {
        format: Some(output.format),
        compression: output.compression,
        level: output.compression_level,
        force: output.force_compression,
    }
}

/// Said where compression was asked for and no destination has it.
pub(super) const NOT_COMPRESSED: &str =
    "the compression has no effect: where the image goes, layers are kept as plain tars";

/// Refuses forms that have no place where the image or its cache goes, while that has cost nothing yet.
fn check_forms(request: &BuildRequest, sink: &dyn Sink) -> Result<(), Error> {
    let inline = request.cache.to.iter().any(|spec| spec.place == Place::Inline);
    if inline && request.output.compression == Some(Compression::Estargz) {
        return Err(Error::unsupported(
            "`--cache-to type=inline` with layers in eStargz",
            "their diff IDs are not those of the steps: write the cache with `type=registry`",
        ));
    }
    let form = form(&request.output);
    if export::is_in_vain(&form, &request.output.destinations) {
        sink.event(&Event::Warning { text: NOT_COMPRESSED });
    }
    request.output.destinations.iter().try_for_each(|to| Ok(export::check_form(to, &form)?))
}

/// Brings a built image to its destinations, and returns what it became at the last one.
fn deliver(
    store: &Store,
    built: &Built,
    request: &BuildRequest,
    (client, key): (&Client, Option<&SigningKey>),
    sink: &dyn Sink,
) -> Result<Descriptor, Error> {
    let mut manifest = built.manifest.clone();
    let form = form(&request.output);
    let name = built.names.first().and_then(|n| n.parse().ok());
    for destination in &request.output.destinations {
        let around = export::Surroundings { client, sink, elsewhere: &built.elsewhere };
        let delivered = export::deliver(store, &built.manifest, destination, name.as_ref(), &form, around);
        let delivered = delivered.map_err(|e| Error::from(e).doing(format!("writing image to `{destination}`")))?;
        manifest = delivered.unwrap_or(manifest);
        if let (Some(key), Location::Registry(to)) = (key, destination) {
            let signed = export::sign(client, to, &manifest, key);
            signed.map_err(|e| Error::from(e).doing(format!("signing image `{destination}`")))?;
        }
    }
    for rootfs in &request.output.rootfs {
        let (to, shown) = match &rootfs.place {
            RootfsPlace::Directory(path) => (RootfsTo::Directory(path), path),
            RootfsPlace::Tar(path) => (RootfsTo::Tar(path), path),
        };
        let written = export::write_rootfs(store, &built.manifest, (to, &rootfs.attestation_prefix), sink);
        written.map_err(|e| Error::from(e).doing(format!("writing files to `{}`", shown.display())))?;
    }
    Ok(manifest)
}

/// A flag that the signals which end a program raise.
///
/// # Errors
/// Where the system has no descriptor or no handler left.
pub fn cancel_on_signals() -> Result<Cancel, Error> {
    let failed = |e| Error::file("watch", Path::new("signals"))(e);
    let cancel = Cancel::new().map_err(failed)?;
    signal::cancel_on_termination(&cancel, GRACE).map_err(failed)?;
    Ok(cancel)
}

/// How long a build that was told to end may tidy up: enough to kill its steps, less than people wait. Fetching, extracting
/// and copying do not look at the flag; what they leave is dropped by the next build, as after a kill.
const GRACE: Duration = Duration::from_millis(1200);

/// Lets the signals that end a program end this one at once.
///
/// # Errors
/// Where the system allows no handler.
pub fn end_on_signals() -> Result<(), Error> {
    signal::end_on_termination().map_err(|e| Error::file("watch", Path::new("signals"))(e))
}

fn write_files(request: &BuildRequest, built: &Built, manifest: &Descriptor, meter: &Meter<'_>) -> Result<(), Error> {
    let write = |path: &Path, text: String| std::fs::write(path, text).map_err(Error::file("write", path));
    if let Some(path) = &request.output.iidfile {
        write(path, built.id.to_string())?;
    }
    if let Some(path) = &request.output.iidfile_raw {
        write(path, built.id.hex())?;
    }
    if let Some(path) = &request.output.metadata_file {
        // An archive or a directory is a place, and no name.
        let pushed = request.output.destinations.iter().filter_map(|d| match d {
            Location::Registry(name) => Some(name.to_string()),
            _ => None,
        });
        let names: Vec<String> = built.names.iter().cloned().chain(pushed).collect();
        let mut metadata = serde_json::json!({
            "containerimage.descriptor": {
                "mediaType": manifest.media_type,
                "digest": manifest.digest.to_string(),
                "size": manifest.size,
            },
            "containerimage.digest": manifest.digest.to_string(),
        });
        // An index has a config for each of its images, and eStargz another one than the image in the store.
        let other = request.output.compression == Some(Compression::Estargz) && *manifest != built.manifest;
        if !media::is_index(&manifest.media_type) && !other {
            metadata["containerimage.config.digest"] = built.id.to_string().into();
        }
        if !names.is_empty() {
            metadata["image.name"] = names.join(",").into();
        }
        if request.output.step_usage {
            metadata["rbuild.steps"] = meter.json();
        }
        write(path, super::output::json(&metadata, "  ", false)? + "\n")?;
    }
    Ok(())
}
