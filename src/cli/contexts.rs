//! Where a build reads from, as it is written on a command line.

use super::Error;
use crate::build::request::{BuildRequest, Context, DockerfileSource, NamedContext};
use crate::oci::Location;
use crate::source::{GitUrl, Written, download, split_login, unpacked};
use std::path::Path;

/// `-f PATH`, `-f URL`, `-f -`.
pub(super) fn dockerfile_source(text: &str) -> Result<DockerfileSource, Error> {
    match text {
        "" => Err(Error::usage("`--file` is empty")),
        "-" => Ok(DockerfileSource::Stdin),
        url if download::is_web(url) => Ok(DockerfileSource::Web(url.to_owned())),
        path => Ok(DockerfileSource::Path(path.into())),
    }
}

/// A git address, if the text is one. A directory that happens to be called like one wins.
fn git_address(text: &str) -> Result<Option<GitUrl>, Error> {
    match GitUrl::parse(text, Written::CommandLine) {
        Some(url) if text.contains("://") || !Path::new(text).exists() => {
            url.map(Some).map_err(|e| Error::usage(e.to_string()))
        }
        _ => Ok(None),
    }
}

/// The main context: a directory, a tar, a web or git address, or `-`.
pub(super) fn main_context(text: &str) -> Result<Context, Error> {
    match text {
        "" => Err(Error::usage("the build context is empty")),
        "-" => Ok(Context::Stdin),
        text => Ok(match git_address(text)? {
            Some(url) => Context::Git(url),
            None if download::is_web(text) => Context::Web(text.to_owned()),
            None => Context::Dir(text.into()),
        }),
    }
}

/// `NAME=SOURCE` of `--build-context`.
pub(super) fn named_context(text: &str) -> Result<(String, NamedContext), Error> {
    let hint = "write `NAME=` and a directory, a tar, a web or git address, `docker-image://IMAGE`, \
                `oci-layout://DIR[:TAG]`, `containers-storage:IMAGE`, `docker-daemon:IMAGE` or `target:STAGE`";
    let (shown, _) = split_login(text);
    let bad = || Error::usage_hint(format!("invalid build context `{shown}`"), hint);
    let (name, source) = text.split_once('=').filter(|(n, s)| !n.is_empty() && !s.is_empty()).ok_or_else(bad)?;
    let image = ["docker-image://", "container-image://", "docker://"].iter().find_map(|p| source.strip_prefix(p));
    let context = if let Some(image) = image {
        NamedContext::Image(image.parse()?)
    } else if let Some(place) = Location::in_other_store(source) {
        NamedContext::OtherStore(place)
    } else if let Some(layout) = source.strip_prefix("oci-layout://") {
        image_layout(layout).ok_or_else(bad)?
    } else if let Some(stage) = source.strip_prefix("target:").filter(|s| !s.is_empty()) {
        NamedContext::Stage(stage.to_owned())
    } else if let Some(url) = git_address(source)? {
        NamedContext::Git(url)
    } else if download::is_web(source) {
        NamedContext::Web(source.to_owned())
    } else if source.contains("://") {
        return Err(bad());
    } else {
        NamedContext::Dir(source.into())
    };
    Ok((name.to_owned(), context))
}

/// `DIR[:TAG][@DIGEST]`.
fn image_layout(text: &str) -> Option<NamedContext> {
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => (text, Some(digest.parse().ok()?)),
        None => (text, None),
    };
    // A tag has no slash, so a colon before one belongs to the path.
    let (path, tag) = match text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((path, tag)) => (path, Some(tag.to_owned()).filter(|t| !t.is_empty())),
        None => (text, None),
    };
    (!path.is_empty()).then(|| NamedContext::Layout { path: path.into(), tag, digest })
}

/// buildah lets a context be a Dockerfile: then its directory is the context. Applied where the file system may be asked.
pub fn context_may_be_a_file(request: &mut BuildRequest) {
    let Context::Dir(path) = &request.context.main else { return };
    if path.is_file() && request.file.files.is_empty() && !unpacked::is_archive(path) {
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        request.file.files.push(DockerfileSource::Path(path.clone()));
        request.context.main = Context::Dir(dir);
    }
}
