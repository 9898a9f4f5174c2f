//! The image that a Dockerfile names to be read by: its `# syntax=` line, or the build argument in its place.

/// Frontends that are the language of this module.
const OWN: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// Whether an image is one of BuildKit's own frontends for Dockerfiles, whatever its tag and registry. Words behind the
/// name are arguments of the frontend.
pub(crate) fn is_own_frontend(text: &str) -> bool {
    let image = text.split_whitespace().next().unwrap_or_default();
    let name = image.split('@').next().unwrap_or_default();
    let (path, last) = name.rsplit_once('/').map_or(("", name), |(path, last)| (path, last));
    let last = last.split(':').next().unwrap_or_default();
    let full = format!("/{path}/{last}");
    name == "dockerfile.v0" || OWN.iter().any(|own| full.strip_suffix(own).is_some_and(|before| before.ends_with('/')))
}

#[cfg(test)]
mod tests {
    use super::is_own_frontend;

    #[test]
    fn frontends_of_this_language() {
        for own in [
            "docker/dockerfile:1",
            "docker.io/docker/dockerfile:1.7-labs@sha256:00",
            "localhost:5000/mirror/docker/dockerfile-upstream:master",
            "docker/dockerfile:1 # the newest",
            "dockerfile.v0",
        ] {
            assert!(is_own_frontend(own), "{own}");
        }
        for foreign in
            ["example/mydockerfile", "docker/dockerfile2", "r2d4/mockerfile", "localhost/mydocker/dockerfile", ""]
        {
            assert!(!is_own_frontend(foreign), "{foreign}");
        }
    }
}
