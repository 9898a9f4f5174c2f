//! Says about an image that was built what the request wants to be said: which packages it holds, and how it came about.

use super::{Error, commit::Built, execute::Executor, request::BuildRequest};
use crate::attest::{self, Predicate, Subject, Wanted};
use crate::oci::{Digest, ImageConfig, Location, Reference};
use crate::registry::MAX_CONFIG_BYTES;
use crate::sbom;
use crate::snapshot::LayerRef;
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
    Wanted { names, invocation, ..output.attest.clone() }
}
