//! The layers below a step, as a list that steps share.

use crate::cache::RemoteLayer;
use crate::oci::{ChainId, DiffId, Digest};
use crate::snapshot::LayerRef;
use crate::source::image::Image;
use std::sync::Arc;

/// A layer of an image in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the blob.
    pub blob: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Media type of the blob, OCI spelling.
    pub media_type: String,
    /// Where it can be had, where it need not be in the store.
    pub remote: Option<RemoteLayer>,
}

impl Layer {
    fn reference(&self) -> LayerRef {
        LayerRef { diff_id: self.diff_id, blob: self.blob }
    }
}

/// A stack of layers: those of a base image, and those that steps made on top. Cheap to clone; each step's stack shares the
/// list of the one below.
#[derive(Clone, Debug, Default)]
pub(super) struct Stack {
    base: Option<Arc<Image>>,
    base_chain: Option<ChainId>,
    top: Option<Arc<Link>>,
}

#[derive(Debug)]
struct Link {
    below: Option<Arc<Link>>,
    layer: Layer,
    chain: ChainId,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Links are dropped one by one: a long list must not become a deep recursion.
        let mut next = self.below.take();
        while let Some(link) = next {
            next = Arc::into_inner(link).and_then(|mut link| link.below.take());
        }
    }
}

impl Stack {
    /// The layers of an image.
    pub fn of(image: Arc<Image>) -> Stack {
        let base_chain = ChainId::of(&image.config.rootfs.diff_ids);
        Stack { base: Some(image), base_chain, top: None }
    }

    /// This stack with one layer more.
    pub fn with(&self, layer: Layer) -> Stack {
        let chain = ChainId::child(self.chain(), layer.diff_id);
        let top = Some(Arc::new(Link { below: self.top.clone(), layer, chain }));
        Stack { top, ..self.clone() }
    }

    /// The chain ID of the whole stack; `None` for no layers.
    pub fn chain(&self) -> Option<ChainId> {
        self.top.as_ref().map(|l| l.chain).or(self.base_chain)
    }

    /// The base image.
    pub fn base(&self) -> Option<&Arc<Image>> {
        self.base.as_ref()
    }

    /// The base image's layers, lowest first.
    pub fn base_layers(&self) -> Vec<Layer> {
        let Some(image) = &self.base else { return vec![] };
        let layers = image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids);
        layers
            .map(|(d, diff_id)| Layer {
                diff_id: *diff_id,
                blob: d.digest,
                size: d.size,
                media_type: super::commit::oci_layer_type(&d.media_type).to_owned(),
                remote: None,
            })
            .collect()
    }

    /// The layers that steps made, lowest first.
    pub fn made(&self) -> Vec<Layer> {
        let mut all = vec![];
        let mut link = self.top.as_ref();
        while let Some(l) = link {
            all.push(l.layer.clone());
            link = l.below.as_ref();
        }
        all.reverse();
        all
    }

    /// All layers, lowest first.
    pub fn references(&self) -> Vec<LayerRef> {
        self.base_layers().iter().chain(&self.made()).map(Layer::reference).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: usize) -> Layer {
        let digest = Digest::of(n.to_string());
        Layer { diff_id: DiffId(digest), blob: digest, size: 1, media_type: "x".into(), remote: None }
    }

    #[test]
    fn a_stack_knows_its_chain_and_order() {
        let one = Stack::default().with(layer(1));
        let two = one.with(layer(2));
        assert_eq!(two.made(), [layer(1), layer(2)]);
        assert_eq!(two.chain(), ChainId::of(&[layer(1).diff_id, layer(2).diff_id]));
        assert_eq!(one.made(), [layer(1)]);
    }

    #[test]
    fn a_very_long_stack_can_be_dropped() {
        drop((0..50_000).fold(Stack::default(), |s, n| s.with(layer(n))));
    }
}
