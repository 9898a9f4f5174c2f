//! Which scopes of a policy speak of an image, most specific first.

use crate::oci::Reference;
use std::path::Path;

/// Transports whose scopes are paths.
const OF_PATHS: &[&str] = &["dir", "oci", "oci-archive"];
/// Transports whose scopes are names of images.
const OF_NAMES: &[&str] = &["docker", "docker-daemon", "atomic"];
/// Transports that have no scope but the empty one.
const OF_NOTHING: &[&str] = &["docker-archive", "tarball"];

/// The scopes of an image with this full name: itself, its repository, what that lies in, its host, and the domains that lie above.
pub(super) fn of_name(image: &Reference) -> Vec<String> {
    let mut scopes = vec![image.to_string()];
    let name = image.name();
    let mut rest = name.as_str();
    scopes.push(rest.to_owned());
    while let Some((parent, _)) = rest.rsplit_once('/') {
        scopes.push(parent.to_owned());
        rest = parent;
    }
    let mut domain = rest.split_once(':').map_or(rest, |(host, _)| host);
    while let Some((_, parent)) = domain.split_once('.') {
        scopes.push(format!("*.{parent}"));
        domain = parent;
    }
    scopes
}

/// The scopes of what lies at an absolute path: itself and all directories above but the root.
pub(super) fn of_path(path: &Path) -> Vec<String> {
    path.ancestors().filter(|p| p.parent().is_some()).map(|p| p.to_string_lossy().into_owned()).collect()
}

/// What is wrong with a scope of a transport.
pub(super) fn check(transport: &str, scope: &str) -> Result<(), &'static str> {
    if scope.is_empty() {
        return Ok(());
    }
    if OF_NOTHING.contains(&transport) {
        return Err("this transport has no scope but the empty one");
    }
    if OF_PATHS.contains(&transport) {
        // `oci:` may have a name behind the path.
        let path = Path::new(scope);
        if !path.is_absolute() {
            return Err("it has to be an absolute path");
        }
        if scope == "/" {
            return Err("use the empty scope for everything");
        }
        let clean: std::path::PathBuf = path.components().collect();
        if clean.as_os_str() != scope || scope.split('/').any(|part| part == "..") {
            return Err("it has to be a path without `.`, `..` and slashes too many");
        }
        return Ok(());
    }
    if OF_NAMES.contains(&transport) {
        if scope.contains("://") || scope.starts_with('/') || scope.ends_with('/') {
            return Err("it has to be a name: no scheme before it, and no slash at its ends");
        }
        let rest = scope.strip_prefix("*.").unwrap_or(scope);
        if rest.contains('*') || (rest != scope && rest.contains('/')) {
            return Err("a wildcard stands for the front of a host alone: `*.example.com`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_grow_from_the_image_to_its_domains() {
        let of = |t: &str| of_name(&t.parse().unwrap());
        assert_eq!(
            of("r.example.com:5000/a/b:1"),
            [
                "r.example.com:5000/a/b:1",
                "r.example.com:5000/a/b",
                "r.example.com:5000/a",
                "r.example.com:5000",
                "*.example.com",
                "*.com"
            ]
        );
        assert_eq!(of("localhost:5000/a:1"), ["localhost:5000/a:1", "localhost:5000/a", "localhost:5000"]);
        assert_eq!(of_path(Path::new("/a/b/c")), ["/a/b/c", "/a/b", "/a"]);
    }

    #[test]
    fn scopes_that_can_never_match_are_mistakes() {
        for (transport, scope) in [
            ("docker", "*.example.com"),
            ("docker", "example.com/a/b:1"),
            ("docker", ""),
            ("oci", "/a/b:tag"),
            ("dir", "/a"),
            ("docker-archive", ""),
            ("what-comes", "in/ten*years"),
        ] {
            assert_eq!(check(transport, scope), Ok(()), "{transport} {scope}");
        }
        for (transport, scope) in [
            ("docker", "docker://a/b"),
            ("docker", "exam*.com"),
            ("docker", "*.a.*.com"),
            ("docker", "*.com/a"),
            ("docker", "a.b/"),
            ("dir", "a/b"),
            ("dir", "/"),
            ("oci", "/a/../b"),
            ("oci-archive", "/a//b"),
            ("dir", "/a/"),
            ("docker-archive", "/a"),
        ] {
            assert!(check(transport, scope).is_err(), "{transport} {scope}");
        }
    }
}
