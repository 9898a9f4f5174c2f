//! Builds for several platforms: an image for each, and one index of them.
//!
//! The context is opened once, and the platforms are built one after the other: what does not depend on the platform
//! (stages of `FROM --platform=$BUILDPLATFORM`) comes from the step cache from the second on. The images are no entries of the
//! store: the index is, and keeps them.

use super::commit::Built;
use super::context::OpenContext;
use super::request::BuildRequest;
use super::secrets::Secrets;
use super::{Error, Surroundings, one, plan_request, resolver, store_names};
use crate::attest;
use crate::cache::{Elsewhere, SharedCaches};
use crate::oci::{Descriptor, Digest, ImageConfig, Index, Location, ManifestFormat, Platform, media};
use crate::plan::{self, ContextId, ResolveError, ResolvedImage, Resolver};
use crate::registry::MAX_CONFIG_BYTES;
use crate::source::{image::Images, signature_policy::SignaturePolicy};
use crate::store::Store;
use crate::ui::{Event, Silent};
use std::sync::Arc;

/// Whether the result of a request is an index.
pub(super) fn is_index(request: &BuildRequest) -> bool {
    let (platform, output) = (&request.platform, &request.output);
    !platform.more.is_empty() || platform.all || output.index.is_some() || output.always_index || output.attest.any()
}

/// Builds for each platform, and enters the index into the store under the names of the request.
pub(super) fn build(
    request: &BuildRequest,
    context: &mut OpenContext,
    given: (&Secrets, &SharedCaches<'_>),
    around: Surroundings<'_>,
) -> Result<Built, Error> {
    let platforms = match request.platform.all {
        true => platforms_of_bases(request, context, around)?,
        false => {
            let mut all = vec![];
            for platform in std::iter::once(&request.platform.target).chain(&request.platform.more) {
                if !all.contains(platform) {
                    all.push(platform.clone());
                }
            }
            all
        }
    };
    let index_name =
        request.output.index.as_ref().map(|r| r.clone().with_default_registry("localhost").with_default_tag());
    // An index must not be lost because one of its images cannot be added at the end.
    let mut index =
        existing(around.store, index_name.as_ref().map(ToString::to_string).as_deref(), request.output.format)?;
    // What is said about an image is found through an index only: then that has all names.
    let single = platforms.len() == 1 && index_name.is_some() && !request.output.attest.any();
    let (mut image, mut elsewhere) = (None, Elsewhere::default());
    let attest = super::attest::complete(request, around.store);
    for platform in &platforms {
        let mut part = request.clone();
        part.output.attest = attest.clone();
        part.platform.target = platform.clone();
        part.platform.explicit |= platforms.len() > 1;
        part.output.part = !single;
        if !single {
            part.output.destinations = vec![];
        }
        let label = (platforms.len() > 1).then(|| platform.to_string());
        let built = one(&part, context, given, around, label)?;
        add(around.store, &mut index, &built.manifest)?;
        elsewhere.extend(&built.elsewhere);
        index.manifests.extend(built.attestation.clone());
        image = Some(built);
    }
    let descriptor = around.store.put_index(&index)?;
    let mut names: Vec<String> = index_name.iter().map(ToString::to_string).collect();
    if let Some(built) = image.filter(|_| single) {
        // The image has the tags, the index the name of `--manifest`.
        around.store.publish(&names, &descriptor)?;
        return Ok(built);
    }
    names.extend(store_names(request));
    if around.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let local = request.output.destinations.iter().all(|d| matches!(d, Location::Store(_)));
    if local || !names.is_empty() {
        around.store.publish(&names, &descriptor)?;
    }
    for name in &names {
        around.sink.event(&Event::Tagged { name });
    }
    Ok(Built { id: descriptor.digest, manifest: descriptor, names, elsewhere, attestation: None })
}

/// The index of this name, to be added to; a new one where there is none.
fn existing(store: &Store, name: Option<&str>, format: ManifestFormat) -> Result<Index, Error> {
    let found = name.map(|n| store.get(n)).transpose()?.flatten();
    match (found, name) {
        (Some(found), _) if media::is_index(&found.media_type) => Ok(store.index(&found.digest)?),
        (Some(_), Some(name)) => Err(Error::NoIndex(name.to_owned())),
        _ => {
            let media_type = if format == ManifestFormat::Docker { media::DOCKER_LIST } else { media::OCI_INDEX };
            Ok(Index { media_type: media_type.into(), ..Index::empty() })
        }
    }
}

/// Adds an image, in place of one for the same platform.
fn add(store: &Store, index: &mut Index, manifest: &Descriptor) -> Result<(), Error> {
    let config = store.manifest(&manifest.digest)?.config.digest;
    let bytes = store.read_blob(&config, MAX_CONFIG_BYTES)?;
    let config: ImageConfig =
        serde_json::from_slice(&bytes).map_err(|source| Error::Json { what: "the image config", source })?;
    let platform = config.platform();
    let same =
        |d: &Descriptor| d.platform.as_ref().is_some_and(|p| p.clone().normalized() == platform.clone().normalized());
    let replaced: Vec<Digest> = index.manifests.iter().filter(|d| same(d)).map(|d| d.digest).collect();
    let about_replaced = |d: &Descriptor| attest::subject_of(d).is_some_and(|s| replaced.contains(&s));
    index.manifests.retain(|d| !same(d) && !about_replaced(d));
    // What is said about images comes after all of them.
    index.manifests.sort_by_key(|d| attest::subject_of(d).is_some());
    let end = index.manifests.iter().position(|d| attest::subject_of(d).is_some()).unwrap_or(index.manifests.len());
    index.manifests.insert(end, Descriptor { platform: Some(platform), ..manifest.clone() });
    Ok(())
}

/// Passes questions on, and keeps the names of images that are asked for the platform of the build.
struct Bases<'a> {
    inner: &'a mut dyn Resolver,
    platform: Platform,
    names: Vec<String>,
}

impl Resolver for Bases<'_> {
    fn image(&mut self, reference: &str, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        if *platform == self.platform && !self.names.iter().any(|n| n == reference) {
            self.names.push(reference.to_owned());
        }
        self.inner.image(reference, platform)
    }

    fn layout(&mut self, context: ContextId, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        self.inner.layout(context, platform)
    }
}

/// The platforms that all base images have.
fn platforms_of_bases(
    request: &BuildRequest,
    context: &OpenContext,
    around: Surroundings<'_>,
) -> Result<Vec<Platform>, Error> {
    let signatures = SignaturePolicy::find(request.registry.signature_policy.as_deref())?;
    let images = Images::new(around.store, around.client, super::pull(request.cache.pull), &signatures, &Silent);
    let policy = crate::source::policy::Policy::read(&request.target.source_policies)?;
    let mut inner = &resolver::BaseImages::new(&images, &request.context.named, policy);
    let mut bases = Bases { inner: &mut inner, platform: request.platform.target.clone(), names: vec![] };
    plan::plan(&plan_request(request, context), &mut bases)?;
    let mut common: Option<Vec<Platform>> = None;
    for name in &bases.names {
        let has: Vec<Platform> = images.platforms(name)?.into_iter().map(Platform::normalized).collect();
        common = Some(match common {
            None => has,
            Some(known) => known.into_iter().filter(|p| has.contains(p)).collect(),
        });
    }
    match common {
        Some(platforms) if !platforms.is_empty() => Ok(platforms),
        _ => Err(Error::Unsupported {
            what: "`--all-platforms` without base images that have a platform in common".into(),
            hint: "name the platforms with `--platform`".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, Manifest, RootFs};

    fn image(store: &Store, platform: &str, author: &str) -> Descriptor {
        let config = ImageConfig {
            author: Some(author.to_owned()),
            rootfs: RootFs::default(),
            ..ImageConfig::scratch(&platform.parse().unwrap())
        };
        let config = serde_json::to_vec(&config).unwrap();
        store.put_blob(&config).unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::OCI_MANIFEST.into(),
            artifact_type: None,
            config: Descriptor::of(media::OCI_CONFIG, &config),
            layers: vec![],
            subject: None,
            annotations: Default::default(),
        };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        store.put_blob(&bytes).unwrap();
        Descriptor::of(media::OCI_MANIFEST, &bytes)
    }

    #[test]
    fn a_new_image_takes_the_place_of_the_one_for_its_platform() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut index = existing(&store, Some("localhost/i:latest"), ManifestFormat::Docker).unwrap();
        assert_eq!(index.media_type, media::DOCKER_LIST);
        let (one, arm, two) = (
            image(&store, "linux/amd64", "1"),
            image(&store, "linux/arm64/v8", "1"),
            image(&store, "linux/amd64", "2"),
        );
        for image in [&one, &arm, &two, &arm] {
            add(&store, &mut index, image).unwrap();
        }
        let digests: Vec<Digest> = index.manifests.iter().map(|d| d.digest).collect();
        assert_eq!(digests, [two.digest, arm.digest]);
        let descriptor = store.put_index(&index).unwrap();
        store.publish(&["localhost/i:latest".into()], &descriptor).unwrap();
        store.publish(&["localhost/x:latest".into()], &one).unwrap();
        assert_eq!(existing(&store, Some("localhost/i:latest"), ManifestFormat::Oci).unwrap(), index);
        assert!(existing(&store, Some("localhost/x:latest"), ManifestFormat::Oci).is_err());
    }
}
