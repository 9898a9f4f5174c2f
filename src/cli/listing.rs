//! The images of the store as lists show them.

use super::{Error, names::Naming};
use crate::archive::copy::glob::Pattern;
use crate::export::StoredImage;
use crate::oci::{Descriptor, Digest, Platform, Reference, media};
use crate::store::Store;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// An image with all its names.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Full names; empty for an image without one.
    pub names: Vec<Reference>,
    /// The image id.
    pub id: Digest,
    /// Digest of its manifest in the store.
    pub manifest: Digest,
    /// Creation time.
    pub created: Option<Timestamp>,
    /// Creation time as the config has it.
    pub created_text: String,
    /// Bytes of its layers.
    pub size: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether the manifest is one that a registry knows: no layer lies uncompressed.
    pub published: bool,
}

/// All images, newest first. One that cannot be read is left out with a warning.
pub fn images(store: &Store) -> Result<Vec<Listed>, Error> {
    let mut all: Vec<Listed> = vec![];
    for entry in store.list()? {
        let name = entry.name.as_deref().and_then(|n| n.parse::<Reference>().ok());
        if let Some(known) = all.iter_mut().find(|l| l.manifest == entry.descriptor.digest) {
            known.names.extend(name);
            continue;
        }
        let image = match StoredImage::any(store, &entry.descriptor, &Platform::host()) {
            Ok(image) => image,
            Err(e) => {
                tracing::warn!(name = entry.name, "{e}");
                continue;
            }
        };
        let index = media::is_index(&entry.descriptor.media_type);
        let created_text = image.config.created.clone().unwrap_or_default();
        all.push(Listed {
            names: name.into_iter().collect(),
            id: if index { entry.descriptor.digest } else { image.id() },
            manifest: entry.descriptor.digest,
            created: created_text.parse().ok(),
            created_text,
            size: if index { size_of_index(store, &entry.descriptor) } else { image.size() },
            labels: image.config.config.labels.clone(),
            published: is_published(&image),
        });
    }
    all.iter_mut().for_each(|l| l.names.sort());
    all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.names.cmp(&b.names)));
    Ok(all)
}

/// Bytes of the layers of all images of an index.
fn size_of_index(store: &Store, index: &Descriptor) -> u64 {
    let images = store.index(&index.digest).map(|i| i.manifests).unwrap_or_default();
    let layers = images.iter().filter_map(|i| store.manifest(&i.digest).ok()).flat_map(|m| m.layers);
    let sizes: BTreeMap<Digest, u64> = layers.map(|l| (l.digest, l.size)).collect();
    sizes.values().copied().fold(0, u64::saturating_add)
}

/// Whether the manifest in the store is one that can be in a registry, too.
pub fn is_published(image: &StoredImage<'_>) -> bool {
    image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids).all(|(l, d)| l.digest != d.0)
}

/// Keeps the images that all filters accept: `dangling=BOOL`, `label=KEY[=VALUE]`, `reference=NAME`, `before=IMAGE`,
/// `since=IMAGE`. `naming` says how names are matched.
///
/// # Errors
/// An unknown filter, a malformed pattern, or an image in a filter that does not exist.
pub fn filter(store: &Store, images: Vec<Listed>, filters: &[String], naming: Naming) -> Result<Vec<Listed>, Error> {
    let mut kept = images;
    for text in filters {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("invalid filter `{text}`: expected `NAME=VALUE`")))?;
        match key {
            "dangling" => {
                let wanted = super::values::boolean(value).map_err(Error::usage)?;
                kept.retain(|l| l.names.is_empty() == wanted);
            }
            "label" => {
                let (name, wanted) = match value.split_once('=') {
                    Some((n, v)) => (n, Some(v)),
                    None => (value, None),
                };
                kept.retain(|l| l.labels.get(name).is_some_and(|v| wanted.is_none_or(|w| w == v)));
            }
            "reference" => {
                let pattern = Familiar::parse(value)?;
                kept.retain_mut(|l| {
                    l.names.retain(|n| match naming {
                        Naming::Buildah => matches(n, value),
                        Naming::Docker => pattern.matches(n),
                    });
                    !l.names.is_empty()
                });
            }
            "before" | "since" => {
                let other = store.find(value)?;
                let image = StoredImage::any(store, &other.descriptor, &Platform::host())?;
                let time: Option<Timestamp> = image.config.created.as_deref().and_then(|c| c.parse().ok());
                kept.retain(|l| if key == "before" { l.created < time } else { l.created > time });
            }
            "readonly" => {
                let wanted = super::values::boolean(value).map_err(Error::usage)?;
                kept.retain(|_| !wanted);
            }
            _ => {
                return Err(Error::unsupported(
                    format!("filter `{key}`"),
                    "use `dangling`, `label`, `reference`, `before` or `since`",
                ));
            }
        }
    }
    Ok(kept)
}

/// Whether a name is meant by what a user wrote: any part of it from the right, with or without tag, `*` for anything but
/// a slash.
pub fn matches(name: &Reference, pattern: &str) -> bool {
    let with_tag = pattern.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let full = match with_tag {
        true => Reference { digest: None, ..name.clone() }.to_string(),
        false => name.name(),
    };
    let depth = pattern.matches('/').count();
    let parts: Vec<&str> = full.split('/').collect();
    let tail = parts.get(parts.len().saturating_sub(depth + 1)..).unwrap_or_default().join("/");
    glob(pattern.as_bytes(), tail.as_bytes()) || glob(pattern.as_bytes(), full.as_bytes())
}

/// A pattern that is matched as Docker does it: the whole of the name as Docker shows it, with or without its tag.
struct Familiar(Vec<Pattern>);

impl Familiar {
    fn parse(text: &str) -> Result<Familiar, Error> {
        let part = |part: &str| {
            Pattern::parse(part.as_bytes()).map_err(|_| {
                Error::usage_hint(
                    format!("malformed pattern `{text}`"),
                    "close the bracket, or write `\\[` for one in a name",
                )
            })
        };
        text.split('/').map(part).collect::<Result<_, _>>().map(Familiar)
    }

    fn matches(&self, name: &Reference) -> bool {
        let fits = |text: &str| {
            let parts: Vec<&str> = text.split('/').collect();
            parts.len() == self.0.len() && parts.iter().zip(&self.0).all(|(part, p)| p.matches(part.as_bytes()))
        };
        let tagged = Reference { digest: None, ..name.clone() }.familiar();
        let bare = Reference { tag: None, digest: None, ..name.clone() }.familiar();
        // What `rbuild bud` calls `localhost/x`, Docker would call `x`.
        [&tagged, &bare].into_iter().any(|text| fits(text) || text.strip_prefix("localhost/").is_some_and(fits))
    }
}

/// `*` stands for any number of characters but `/`, `?` for one.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // The classic loop with one point to come back to: no recursion, at most pattern × text steps.
    let (mut p, mut t, mut back) = (0, 0, None);
    while t < text.len() {
        match (pattern.get(p), text.get(t)) {
            (Some(b'*'), _) => {
                back = Some((p, t));
                p += 1;
            }
            (Some(b'?'), Some(c)) if *c != b'/' => (p, t) = (p + 1, t + 1),
            (Some(a), Some(b)) if a == b && *a != b'*' => (p, t) = (p + 1, t + 1),
            _ => match back {
                Some((bp, bt)) if text.get(bt) != Some(&b'/') => {
                    back = Some((bp, bt + 1));
                    (p, t) = (bp + 1, bt + 1);
                }
                _ => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|b| *b == b'*')
}

/// How long ago a time was, in seconds.
pub fn age_seconds(created: Option<Timestamp>) -> i64 {
    created.map_or(0, |t| Timestamp::now().as_second().saturating_sub(t.as_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_matches_the_whole_familiar_name() {
        let fits = |name: &str, pattern: &str| {
            let name = name.parse::<Reference>().unwrap();
            Familiar::parse(pattern).unwrap().matches(&name)
        };
        let (hub, own, team) = ("docker.io/library/alpine:3", "127.0.0.1:5000/alpine:3", "docker.io/team/alpine:3");
        for (name, pattern) in [
            (hub, "a*"),
            (hub, "alpine"),
            (hub, "alpine:3"),
            (hub, "[a-c]*:?"),
            (own, "127.0.0.1:5000/alpine"),
            (own, "*/a*"),
            (own, "127*/*:3"),
            (team, "team/*"),
            ("localhost/alpine:3", "a*"),
            ("localhost/alpine:3", "localhost/alpine"),
        ] {
            assert!(fits(name, pattern), "{name} {pattern}");
        }
        for (name, pattern) in
            [(own, "a*"), (own, "alpine"), (own, "*"), (team, "alpine"), (hub, "alpine:4"), (hub, "al")]
        {
            assert!(!fits(name, pattern), "{name} {pattern}");
        }
        assert!(Familiar::parse("[a").is_err());
    }

    #[test]
    fn names_are_matched_from_the_right() {
        let name: Reference = "localhost/a/worker:1".parse().unwrap();
        for yes in ["worker", "a/worker", "localhost/a/worker", "worker:1", "work*", "*/worker:?", "localhost/*/*"] {
            assert!(matches(&name, yes), "{yes}");
        }
        for no in ["work", "b/worker", "worker:2", "*:2", "x/localhost/a/worker"] {
            assert!(!matches(&name, no), "{no}");
        }
    }
}
