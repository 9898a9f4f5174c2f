//! Pushing an image: blobs in parallel, then the manifest. Nothing names the image before the last blob has arrived.

use super::{
    Error,
    auth::Access,
    core::{Core, Place},
    host::Request,
    image::{Arrival, LayerSource, PushEvent, PushSource, UploadMemory},
    resolve::Document,
    transport::Payload,
    upload::{Blob, Memory, Uploads},
};
use crate::oci::{Descriptor, Digest, Reference};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::runtime::Handle;

/// Pushes an image with up to `parallel` blobs at a time.
pub(super) fn push(
    core: &Core,
    runtime: Handle,
    to: &Reference,
    image: &dyn PushSource,
    parallel: usize,
    progress: &(dyn Fn(PushEvent) + Sync),
) -> Result<Descriptor, Error> {
    let doing = format!("cannot push `{to}`");
    let place = core.push_place(to)?;
    let stop = AtomicBool::new(false);
    let stopped = || stop.load(Ordering::Relaxed);
    let uploads = Uploads { runtime, place: place.clone(), doing: &doing, stop: &stopped, keeps: true };
    let layers = image.layers();
    let config = image.config();
    let config_descriptor = config.descriptor();

    // a mount works between repositories of one server, under the names that they have there
    let mounts: Vec<Option<String>> =
        layers.iter().map(|layer| mount_repository(core, to, &place, Blob::of(layer).1)).collect::<Result<_, _>>()?;
    let jobs = jobs(&layers);
    let done: Vec<Mutex<Option<Descriptor>>> = layers.iter().map(|_| Mutex::default()).collect();
    let failure: Mutex<Option<Error>> = Mutex::default();
    let next = AtomicUsize::new(0);
    let keep = |error: Error| {
        stop.store(true, Ordering::Relaxed);
        // the first error is the cause; what follows is only interrupted
        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    let work = || {
        while !stopped() {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let outcome = match jobs.get(turn) {
                Some(same) => bring_layers(&uploads, image, &layers, &mounts, same, &done, progress),
                // the config is the job after the last layer
                None if turn == jobs.len() => uploads.bring_bytes(&config_descriptor, &config.bytes).map(|arrival| {
                    progress(PushEvent::ConfigDone { descriptor: config_descriptor.clone(), arrival });
                }),
                None => return,
            };
            if let Err(e) = outcome {
                keep(e);
            }
        }
    };
    let threads = parallel.clamp(1, jobs.len() + 1);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // fewer threads are slower, not wrong
            if let Err(e) = std::thread::Builder::new().name("push".into()).spawn_scoped(scope, work) {
                tracing::debug!("cannot start a thread: {e}");
            }
        }
        work();
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let descriptors: Option<Vec<Descriptor>> =
        done.into_iter().map(|d| d.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
    let descriptors = descriptors
        .ok_or_else(|| Error::Local { doing: doing.clone(), source: std::io::ErrorKind::Interrupted.into() })?;
    let manifest = image
        .finish(&descriptors, &config_descriptor)
        .map_err(|source| Error::Local { doing: doing.clone(), source })?;
    let descriptor = uploads.runtime.block_on(put_manifest(&place, to, &manifest, &doing))?;
    progress(PushEvent::ManifestDone { descriptor: descriptor.clone() });
    Ok(descriptor)
}

/// The layers that are one blob go together: it is sent once.
fn jobs(layers: &[LayerSource<'_>]) -> Vec<Vec<usize>> {
    let mut jobs: Vec<Vec<usize>> = vec![];
    let mut seen: HashMap<Digest, usize> = HashMap::new();
    for (index, layer) in layers.iter().enumerate() {
        if let LayerSource::Known { descriptor, .. } = layer {
            let job = *seen.entry(descriptor.digest).or_insert(jobs.len());
            if let Some(same) = jobs.get_mut(job) {
                same.push(index);
                continue;
            }
        }
        jobs.push(vec![index]);
    }
    jobs
}

/// Brings one layer to a repository, without a manifest that names it. When `stop` says so the upload is ended, and
/// nothing of it stays there.
pub(super) fn push_layer(
    core: &Core,
    runtime: Handle,
    to: &Reference,
    layer: &LayerSource<'_>,
    memory: &dyn UploadMemory,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Descriptor, Error> {
    let doing = format!("cannot push a layer to `{to}`");
    let place = core.push_place(to)?;
    let (blob, from) = Blob::of(layer);
    let from = mount_repository(core, to, &place, from)?;
    let uploads = Uploads { runtime, place, doing: &doing, stop, keeps: false };
    uploads.bring(&blob, from.as_deref(), &Memory { of: Some((memory, 0)) }, &|_| ()).map(|(blob, _)| blob)
}

fn mount_repository(
    core: &Core,
    to: &Reference,
    place: &Place,
    repository: Option<&str>,
) -> Result<Option<String>, Error> {
    let Some(repository) = repository else { return Ok(None) };
    let name = Reference { registry: to.registry.clone(), repository: repository.to_owned(), tag: None, digest: None };
    let from = core.conf.push_endpoint(&name)?;
    let useful = from.host == place.host.name && from.repository != place.repository;
    Ok(useful.then_some(from.repository))
}

fn bring_layers(
    uploads: &Uploads<'_>,
    image: &dyn PushSource,
    layers: &[LayerSource<'_>],
    mounts: &[Option<String>],
    same: &[usize],
    done: &[Mutex<Option<Descriptor>>],
    progress: &(dyn Fn(PushEvent) + Sync),
) -> Result<(), Error> {
    let mut arrived: Option<()> = None;
    for &index in same {
        let (Some(layer), Some(slot)) = (layers.get(index), done.get(index)) else { continue };
        let (blob, _) = Blob::of(layer);
        let known = blob.known();
        progress(PushEvent::LayerStarted {
            layer: index,
            digest: known.map(|d| d.digest),
            size: known.map(|d| d.size),
        });
        let (descriptor, arrival) = match (arrived, known) {
            (Some(()), Some(known)) => (known.clone(), Arrival::Existed),
            _ => {
                let sent = |bytes| progress(PushEvent::LayerSent { layer: index, bytes });
                let memory = Memory { of: Some((image, index)) };
                let (brought, arrival) =
                    uploads.bring(&blob, mounts.get(index).and_then(Option::as_deref), &memory, &sent)?;
                // What was known of it says more: annotations.
                (known.filter(|k| k.digest == brought.digest).cloned().unwrap_or(brought), arrival)
            }
        };
        arrived = Some(());
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(descriptor.clone());
        progress(PushEvent::LayerDone { layer: index, descriptor, arrival });
    }
    Ok(())
}

/// Publishes a manifest under the tag, or the digest, of a reference.
pub(super) async fn put_manifest(
    place: &Place,
    to: &Reference,
    manifest: &Document,
    doing: &str,
) -> Result<Descriptor, Error> {
    let descriptor = manifest.descriptor();
    let name = to.tag.clone().unwrap_or_else(|| descriptor.digest.to_string());
    let corrupt = |why: String| Error::Corrupt { doing: doing.to_owned(), why };
    if let Some(wanted) = to.digest
        && wanted != descriptor.digest
    {
        return Err(corrupt(format!("its manifest has digest `{}`", descriptor.digest)));
    }
    let path = format!("/v2/{}/manifests/{name}", place.repository);
    let access = Access::push(&place.repository);
    let content_type = HeaderValue::from_str(&manifest.media_type)
        .map_err(|_| corrupt(format!("invalid media type `{}`", manifest.media_type)))?;
    let answer = place
        .retry()
        .run(|| {
            let mut request = Request::new(doing, Method::PUT, path.clone(), &access);
            request.headers.insert(CONTENT_TYPE, content_type.clone());
            request.payload = Payload::Bytes(manifest.bytes.clone().into());
            place.host.send(request)
        })
        .await?;
    let announced = answer.header(HeaderName::from_static("docker-content-digest"));
    match announced.and_then(|d| d.parse::<Digest>().ok()) {
        Some(stored) if stored != descriptor.digest => {
            Err(corrupt(format!("the registry stored `{stored}` where `{}` was sent", descriptor.digest)))
        }
        _ => Ok(descriptor),
    }
}
