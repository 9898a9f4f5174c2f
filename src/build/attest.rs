//! Says about an image that was built what the request wants to be said: which packages it holds, and how it came about.

use super::request::{BuildRequest, Context, DockerfileSource};
use super::{Error, commit::Built, execute::Executor};
use crate::attest::{self, Predicate, Subject, Wanted};
use crate::oci::{Digest, ImageConfig, Location, Reference};
use crate::registry::MAX_CONFIG_BYTES;
use crate::sbom;
use crate::snapshot::LayerRef;
use crate::source::git::WorkTree;
use crate::store::Store;
use crate::ui::Event;

impl Executor<'_> {
    /// The same image, with its attestations in the store.
    pub(super) fn attested(&self, built: Built) -> Result<Built, Error> {
        let wanted = &self.request.output.attest;
        if !wanted.any() {
            return Ok(built);
        }
        let store = self.around.store;
        let manifest = store.manifest(&built.manifest.digest)?;
        let bytes = store.read_blob(&built.id, MAX_CONFIG_BYTES)?;
        let config: ImageConfig =
            serde_json::from_slice(&bytes).map_err(|source| Error::Json { what: "the image config", source })?;
        let mut predicates: Vec<Predicate<'_>> = vec![];
        if let Some(format) = wanted.sbom {
            let pairs = manifest.layers.iter().zip(&config.rootfs.diff_ids);
            let layers: Vec<LayerRef> = pairs.map(|(l, d)| LayerRef { diff_id: *d, blob: l.digest }).collect();
            let dirs = self.snapshots.ensure::<Error>(&layers, |_| Ok(()))?;
            let inventory = sbom::inventory(&self.snapshots.view(&dirs)?).map_err(attest::Error::from)?;
            inventory.notes.iter().for_each(|text| self.around.sink.event(&Event::Warning { text }));
            let time = config.created.as_deref().and_then(|t| t.parse::<jiff::Timestamp>().ok());
            let subject = sbom::Subject {
                name: wanted.names.first().map_or_else(|| built.id.to_string(), Reference::familiar),
                id: built.id,
                created: time.map(|t| t.as_second()).unwrap_or_default(),
            };
            let write = move |out: &mut dyn std::io::Write| sbom::write(format, &subject, &inventory, out);
            predicates.push((format.predicate_type(), Box::new(write)));
        }
        if let Some(form) = &wanted.provenance {
            let predicate = self.facts(&manifest)?.predicate(form);
            let write = move |out: &mut dyn std::io::Write| Ok(serde_json::to_writer(out, &predicate)?);
            predicates.push((form.version.predicate_type(), Box::new(write)));
        }
        let subjects = Subject::of_image(&wanted.names, &config.platform(), built.manifest.digest);
        let entry = attest::attach(store, &built.manifest, &subjects, predicates)?;
        Ok(Built { attestation: Some(entry), ..built })
    }
}

/// The same wishes, with what all images of this build have in common filled in.
pub(super) fn complete(request: &BuildRequest, store: &Store) -> Wanted {
    let output = &request.output;
    let of_places = output.destinations.iter().filter_map(|d| match d {
        Location::Store(name) | Location::Registry(name) => Some(name.clone()),
        _ => None,
    });
    let mut names: Vec<Reference> = of_places.chain(output.index.clone()).collect();
    names.sort_by_key(ToString::to_string);
    names.dedup();
    // No other process of this boot has the number at this time.
    let run = format!("{} {} {}", store.boot_id(), std::process::id(), jiff::Timestamp::now());
    let invocation = Digest::of(&run).hex().chars().take(25).collect();
    let vcs = if output.attest.provenance.is_some() { vcs(request) } else { vec![] };
    Wanted { names, invocation, vcs, ..output.attest.clone() }
}

/// What git knows of a context that is a directory, before the build: where it came from, and which parts are read. Nothing where
/// the user does not want it to be said, as with buildx.
fn vcs(request: &BuildRequest) -> Vec<(String, String)> {
    let unwanted =
        std::env::var("BUILDX_GIT_INFO").is_ok_and(|v| ["0", "f", "false"].contains(&&*v.to_ascii_lowercase()));
    let Context::Dir(context) = &request.context.main else { return vec![] };
    let Some(tree) = Some(context).filter(|dir| !unwanted && dir.is_dir()).and_then(|dir| WorkTree::of(dir)) else {
        return vec![];
    };
    let dockerfile = match request.file.files.first() {
        None => Some(context.clone()),
        Some(DockerfileSource::Path(path)) => {
            let path = if path.exists() { path.clone() } else { context.join(path) };
            path.parent().map(|dir| if dir.as_os_str().is_empty() { ".".into() } else { dir.to_owned() })
        }
        Some(_) => None,
    };
    let mut all = vec![];
    all.extend(tree.source.map(|source| ("source".to_owned(), source)));
    all.extend(tree.revision.map(|revision| ("revision".to_owned(), revision)));
    for (name, dir) in [("context", Some(context.clone())), ("dockerfile", dockerfile)] {
        let dir = dir.and_then(|dir| dir.canonicalize().ok());
        // What is elsewhere is not kept there.
        if let Some(below) = dir.as_deref().and_then(|dir| dir.strip_prefix(&tree.root).ok()) {
            let below = if below.as_os_str().is_empty() { ".".into() } else { below.to_string_lossy() };
            all.push((format!("localdir:{name}"), below.into_owned()));
        }
    }
    all
}
