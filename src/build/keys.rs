//! What goes into the cache key of each kind of step.

use crate::cache::{CacheKey, KeyBuilder};
use crate::oci::{ChainId, Digest, History, Platform};
use crate::plan::{Copy, CopySource, Network, Run};

/// The key of a RUN step. `options` are those of the command line that matter, `mounts` is what `--mount` shows. Proxy
/// variables, name servers and the addresses behind `--add-host` are left out on purpose: they say how to reach things, not
/// what is made.
pub(super) fn run(
    below: Option<ChainId>,
    run: &Run,
    network: Network,
    options: &[String],
    platform: &Platform,
    mounts: &[String],
) -> CacheKey {
    let kind = if run.insecure { "insecure run" } else { "run" };
    KeyBuilder::new(kind, below)
        .text("platform", &platform.to_string())
        .list("argv", &run.argv)
        .list("env", run.env.iter().map(|(n, v)| format!("{n}={v}")))
        .text("cwd", &run.cwd)
        .text("user", &run.user)
        .text(
            "network",
            match network {
                Network::Host => "host",
                Network::None => "none",
            },
        )
        .list("heredocs", run.heredocs.iter().flat_map(|h| [h.name.as_str(), h.content.as_str()]))
        .list("options", options)
        .list("mounts", mounts)
        .finish()
}

/// What a COPY or ADD reads, as far as its key is concerned.
pub(super) enum Read {
    /// The files themselves.
    Content(Digest),
    /// Several sources one after the other, some of them fetched: what tells each from others.
    Parts(Vec<String>),
    /// These paths in a root file system whose layers are known: needs no look at the files.
    Layers(Option<ChainId>),
}

/// The key of a COPY or ADD step.
pub(super) fn copy(below: Option<ChainId>, copy: &Copy, read: &Read) -> CacheKey {
    let sources = copy.sources.iter().flat_map(|s| match s {
        // Where files were fetched from says nothing about them.
        CopySource::Web { .. } => ["web", "", ""],
        CopySource::Git(_) => ["git", "", ""],
        CopySource::Path(p) => ["path", p.as_str(), ""],
        CopySource::Inline { name, content } => ["inline", name.as_str(), content.as_str()],
    });
    let key = KeyBuilder::new(if copy.add { "add" } else { "copy" }, below)
        .list("sources", sources)
        .text("dest", &copy.dest)
        .maybe("chown", copy.chown.as_deref())
        .maybe("chmod", copy.chmod.as_deref())
        .list("exclude", &copy.exclude)
        .text("parents", if copy.parents { "yes" } else { "no" })
        .maybe("unpack", copy.unpack.map(|unpack| if unpack { "yes" } else { "no" }));
    match read {
        Read::Content(digest) => key.text("content", &digest.to_string()),
        Read::Parts(parts) => key.list("parts", parts),
        Read::Layers(chain) => key.text("layers", &chain.map(|c| c.to_string()).unwrap_or_default()),
    }
    .finish()
}

/// The key of a WORKDIR step.
pub(super) fn workdir(below: Option<ChainId>, path: &str, user: &str) -> CacheKey {
    KeyBuilder::new("workdir", below).text("path", path).text("user", user).finish()
}

/// The key of a step that changes only the config: it remembers nothing but when it was first executed, so that a cached
/// build gives the same image id.
pub(super) fn config(below: Option<ChainId>, history: Option<&History>) -> CacheKey {
    KeyBuilder::new("config", below).maybe("by", history.and_then(|h| h.created_by.as_deref())).finish()
}
