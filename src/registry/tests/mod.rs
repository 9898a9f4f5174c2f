//! Whole exchanges: with Debian's `docker-registry`, and with a small registry that misbehaves on purpose.

mod fake;
mod faulty;
mod login;
mod pieces;
mod real;
mod server;
mod token_files;

use super::*;
use crate::oci::{Descriptor, DiffId, Digest, ImageConfig, Manifest, Platform, Reference, RootFs, media};
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Options that see nothing of this machine's configuration and lose no time.
fn options(dir: &Path) -> Options {
    Options {
        retry_delay: Duration::from_millis(5),
        environment: Environment {
            home: Some(dir.join("home")),
            etc: dir.join("etc"),
            runtime_dir: Some(dir.join("run")),
            path: std::env::var_os("PATH"),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn client(dir: &Path) -> Client {
    Client::new(options(dir)).unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Bytes that look like nothing and differ by `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(step).collect()
}

/// An image made up of byte strings. Odd layers are streams.
struct Image {
    layers: Vec<Vec<u8>>,
    streams: bool,
    known: bool,
    mount_from: Option<String>,
    produced: AtomicUsize,
    format: &'static str,
    uploads: Mutex<HashMap<usize, String>>,
}

impl Image {
    fn new(layers: Vec<Vec<u8>>) -> Image {
        let produced = AtomicUsize::new(0);
        Image {
            layers,
            streams: false,
            known: false,
            mount_from: None,
            produced,
            format: media::OCI_MANIFEST,
            uploads: Mutex::default(),
        }
    }

    fn config(&self) -> ImageConfig {
        let diff_ids = self.layers.iter().map(|l| DiffId(Digest::of(l))).collect();
        ImageConfig { rootfs: RootFs { diff_ids, ..Default::default() }, ..ImageConfig::scratch(&Platform::host()) }
    }
}

impl UploadMemory for Image {
    fn upload(&self, layer: usize) -> Option<String> {
        self.uploads.lock().unwrap().get(&layer).cloned()
    }

    fn remember_upload(&self, layer: usize, address: Option<&str>) {
        let mut uploads = self.uploads.lock().unwrap();
        match address {
            Some(address) => uploads.insert(layer, address.to_owned()),
            None => uploads.remove(&layer),
        };
    }
}

impl PushSource for Image {
    fn layers(&self) -> Vec<LayerSource<'_>> {
        let layer = |(i, bytes): (usize, &'_ Vec<u8>)| {
            let descriptor = Descriptor::of(media::OCI_LAYER, bytes);
            let mount_from = self.mount_from.clone();
            let bytes = &self.layers[i];
            if self.streams {
                LayerSource::Stream {
                    media_type: media::OCI_LAYER.into(),
                    known: self.known.then_some(descriptor),
                    mount_from,
                    write: Box::new(move |out| {
                        self.produced.fetch_add(1, Ordering::Relaxed);
                        bytes.chunks(777).try_for_each(|c| out.write_all(c))
                    }),
                }
            } else {
                LayerSource::Known {
                    descriptor,
                    mount_from,
                    open: Box::new(move || {
                        self.produced.fetch_add(1, Ordering::Relaxed);
                        Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>)
                    }),
                }
            }
        };
        self.layers.iter().enumerate().map(layer).collect()
    }

    fn config(&self) -> Document {
        let media_type = media::OCI_CONFIG.into();
        Document { media_type, bytes: serde_json::to_vec(&Image::config(self)).unwrap() }
    }

    fn finish(&self, layers: &[Descriptor], config: &Descriptor) -> io::Result<Document> {
        let manifest = Manifest {
            schema_version: 2,
            media_type: self.format.into(),
            artifact_type: None,
            config: config.clone(),
            layers: layers.to_vec(),
            subject: None,
            annotations: Default::default(),
        };
        Ok(Document { media_type: self.format.into(), bytes: serde_json::to_vec(&manifest)? })
    }
}

/// Pushes and returns the manifest's descriptor and how each layer arrived.
fn push(client: &Client, to: &str, image: &Image) -> Result<(Descriptor, Vec<Arrival>), Error> {
    let arrivals = Mutex::new(vec![None; image.layers.len()]);
    let pushed = client.push(&reference(to), image, &|event| {
        if let PushEvent::LayerDone { layer, arrival, .. } = event {
            arrivals.lock().unwrap()[layer] = Some(arrival);
        }
    })?;
    Ok((pushed, arrivals.into_inner().unwrap().into_iter().flatten().collect()))
}

/// Pulls an image and compares it with what was pushed.
fn assert_pulls(client: &Client, from: &str, image: &Image) {
    let resolved = client.resolve(&reference(from), &Platform::host()).unwrap();
    assert_eq!(resolved.config, Image::config(image));
    for (layer, bytes) in resolved.manifest.layers.iter().zip(&image.layers) {
        assert_eq!(&fetch(client, &resolved.reference, layer).unwrap(), bytes);
    }
}

fn fetch(client: &Client, repo: &Reference, blob: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![];
    client.fetch_blob(repo, blob, &mut bytes).map(|()| bytes)
}

/// A writer that takes its time and counts.
struct Slow(u64);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::thread::yield_now();
        let taken = bytes.len().min(1000);
        self.0 += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
