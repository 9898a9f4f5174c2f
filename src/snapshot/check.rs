//! Whether layer directories hold what their layers say.
//!
//! A layer directory is named by its chain; which blobs make a chain is known from the images of the store and from the
//! records of the step cache. A directory is right when it makes the layer's own bytes again: so it is with what steps made
//! here. Where a layer was written by another tool it is extracted once more, and both directories are compared by the
//! layer that each makes: names, kinds, modes, owners, times, attributes, link targets, whiteouts and content. One layer at
//! a time, and in constant memory.

use super::{Error, LayerRef, Snapshots};
use crate::archive::diff;
use crate::error::{Classified as _, Kind};
use crate::oci::{ChainId, DiffId, Digest};
use crate::store::Problem;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// What is known of layer directories after a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Directories that hold what their layers say.
    pub sound: usize,
    /// Directories that could not be compared: no image and no step says which layers they are, something below them is
    /// missing or broken, or another id map or boot of the machine made them.
    pub unknown: usize,
    /// Directories that differ from their layers.
    pub problems: Vec<Problem>,
}

/// A chain whose layers are known.
struct Link {
    parent: Option<ChainId>,
    layer: LayerRef,
}

impl Snapshots<'_> {
    /// Compares every layer directory but those in `broken`, of which it is known already.
    ///
    /// # Errors
    /// Where the store cannot be read or has no room for one more layer.
    pub fn check(&self, broken: &BTreeSet<PathBuf>) -> Result<Compared, Error> {
        let here = self.present()?;
        let mut compared = Compared { unknown: self.foreign()?, ..Compared::default() };
        let links = self.links(&here)?;
        let mut verdicts: HashMap<ChainId, bool> = HashMap::new();
        for (chain, path) in &here {
            // From the lowest layer that was not looked at yet up to this one.
            let mut todo = vec![];
            let mut at = Some(*chain);
            while let Some(next) = at.filter(|next| !verdicts.contains_key(next)) {
                let Some(link) = links.get(&next).filter(|_| here.contains_key(&next)) else { break };
                todo.push(next);
                at = link.parent;
            }
            for next in todo.into_iter().rev() {
                let below = self.below(next, &links, &here);
                let below = below.filter(|all| all.iter().all(|(c, _)| verdicts.get(c) == Some(&true)));
                let (Some(link), Some(path), Some(below)) = (links.get(&next), here.get(&next), below) else {
                    continue;
                };
                if broken.contains(path) {
                    verdicts.insert(next, false);
                    continue;
                }
                let dirs: Vec<PathBuf> = below.into_iter().map(|(_, dir)| dir).collect();
                match self.compare(next, path, &link.layer, &dirs)? {
                    None => {}
                    Some(Ok(())) => drop(verdicts.insert(next, true)),
                    Some(Err(reason)) => {
                        verdicts.insert(next, false);
                        compared.problems.push(Problem::BrokenSnapshot { path: path.clone(), reason });
                    }
                }
            }
            match verdicts.get(chain) {
                Some(true) => compared.sound += 1,
                Some(false) => {}
                None => compared.unknown += usize::from(!broken.contains(path)),
            }
        }
        Ok(compared)
    }

    /// The layer directories of this id map and boot.
    fn present(&self) -> Result<BTreeMap<ChainId, PathBuf>, Error> {
        let dir = self.store.snapshots_dir().join(&self.key);
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("cannot read directory", &dir))? {
            let entry = entry.map_err(Error::io("cannot read directory", &dir))?;
            let chain = entry.file_name().to_str().and_then(|n| format!("sha256:{n}").parse().ok());
            if let Some(chain) = chain.filter(|_| entry.path().is_dir()) {
                all.insert(ChainId(chain), entry.path());
            }
        }
        Ok(all)
    }

    /// How many layer directories other id maps and boots made.
    fn foreign(&self) -> Result<usize, Error> {
        let dir = self.store.snapshots_dir();
        let keys = fs::read_dir(&dir).map_err(Error::io("cannot read directory", &dir))?.flatten();
        let others = keys.filter(|key| key.file_name().to_str() != Some(&self.key));
        Ok(others.flat_map(|key| fs::read_dir(key.path()).into_iter().flatten().flatten()).filter(is_layer).count())
    }

    /// The chains that images make, and those that steps made on top of them.
    fn links(&self, here: &BTreeMap<ChainId, PathBuf>) -> Result<HashMap<ChainId, Link>, Error> {
        let mut links: HashMap<ChainId, Link> = HashMap::new();
        for stack in self.store.layer_stacks()? {
            let mut parent = None;
            for (diff_id, blob) in stack {
                let chain = ChainId::child(parent, diff_id);
                links.entry(chain).or_insert(Link { parent, layer: LayerRef { diff_id, blob } });
                parent = Some(chain);
            }
        }
        let made: BTreeSet<Digest> = self.store.step_layers()?.into_iter().collect();
        let mut todo: Vec<Option<ChainId>> = links.keys().copied().map(Some).chain([None]).collect();
        while let Some(parent) = todo.pop() {
            for blob in &made {
                let layer = LayerRef { diff_id: DiffId(*blob), blob: *blob };
                let chain = ChainId::child(parent, layer.diff_id);
                if here.contains_key(&chain) && !links.contains_key(&chain) {
                    links.insert(chain, Link { parent, layer });
                    todo.push(Some(chain));
                }
            }
        }
        Ok(links)
    }

    /// The layer directories below a chain, lowest first; `None` where one is missing.
    fn below(
        &self,
        chain: ChainId,
        links: &HashMap<ChainId, Link>,
        here: &BTreeMap<ChainId, PathBuf>,
    ) -> Option<Vec<(ChainId, PathBuf)>> {
        let mut dirs = vec![];
        let mut at = links.get(&chain)?.parent;
        while let Some(chain) = at {
            dirs.push((chain, here.get(&chain)?.clone()));
            at = links.get(&chain)?.parent;
        }
        dirs.reverse();
        Some(dirs)
    }

    /// Compares one directory with its layer; `None` where it went away meanwhile, or its blob cannot be used.
    fn compare(
        &self,
        chain: ChainId,
        dir: &Path,
        layer: &LayerRef,
        below: &[PathBuf],
    ) -> Result<Option<Result<(), String>>, Error> {
        if self.find(chain)?.is_none() {
            return Ok(None);
        }
        let lower = self.view(below)?;
        let found = match diff::layer_digest(dir, &lower) {
            Ok(found) => found,
            Err(e) => return Ok(Some(Err(e.to_string()))),
        };
        if found == layer.diff_id {
            return Ok(Some(Ok(())));
        }
        let fresh = match self.extract(layer, &lower) {
            Ok(fresh) => fresh,
            // The blob is damaged or missing, which is said elsewhere.
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound) => return Ok(None),
            Err(e) => return Err(e),
        };
        let same = diff::layer_digest(&fresh.layer(), &lower)? == found;
        Ok(Some(same.then_some(()).ok_or_else(|| format!("its files differ from layer `{}`", layer.blob))))
    }
}

fn is_layer(entry: &fs::DirEntry) -> bool {
    entry.path().is_dir()
}
