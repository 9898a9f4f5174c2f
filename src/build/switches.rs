//! Build arguments that steer the builder: `BUILDKIT_…` and `SOURCE_DATE_EPOCH`.
//!
//! Each does what it does in BuildKit, or is refused, or is a warning; none is dropped silently. They stay build arguments,
//! too: a Dockerfile that declares one sees its value. `BUILDKIT_DOCKERFILE_CHECK` is read where the checks are.

use super::{
    Error,
    request::{BuildRequest, TIMES},
};
use crate::dockerfile::is_own_frontend;
use crate::ui::{Event, Sink};

/// The build argument that is also an environment variable.
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The request with the switches among its build arguments thrown.
///
/// # Errors
/// A value that cannot be read, or that asks for what rbuild cannot do.
pub(super) fn apply(request: &BuildRequest, sink: &dyn Sink) -> Result<BuildRequest, Error> {
    let mut request = request.clone();
    let value = |request: &BuildRequest, name: &str| {
        let last = request.target.build_args.iter().rev().find(|(n, _)| n == name)?;
        last.1.clone().filter(|v| !v.is_empty())
    };
    let warn = |text: String| sink.event(&Event::Warning { text: &text });
    if let Some(frontend) = value(&request, "BUILDKIT_SYNTAX")
        && !is_own_frontend(&frontend)
    {
        return Err(Error::Unsupported {
            what: format!("the Dockerfile frontend `{frontend}` of `BUILDKIT_SYNTAX`"),
            hint: "rbuild runs no frontend images: leave the argument out, or name `docker/dockerfile`".into(),
        });
    }
    request.security.hostname = value(&request, "BUILDKIT_SANDBOX_HOSTNAME").or(request.security.hostname);
    for (name, instead) in [
        ("BUILDKIT_INLINE_CACHE", "steps are cached in the store"),
        ("BUILDKIT_BUILD_NAME", "builds have no names"),
        ("BUILDKIT_SBOM_SCAN_CONTEXT", "no SBOM is made"),
        ("BUILDKIT_SBOM_SCAN_STAGE", "no SBOM is made"),
    ] {
        if value(&request, name).is_some_and(|v| !matches!(v.as_str(), "0" | "false")) {
            warn(format!("the build argument `{name}` has no effect here: {instead}"));
        }
    }
    request.output.always_index |= value(&request, "BUILDKIT_MULTI_PLATFORM").is_some_and(|v| is_true(&v));
    match value(&request, EPOCH) {
        Some(text) if request.metadata.timestamp.is_none() => {
            request.metadata.source_date_epoch = match text.trim().parse::<i64>() {
                Ok(seconds) if TIMES.contains(&seconds) => Some(seconds),
                Ok(_) => return Err(epoch_error(&text)),
                // The name of something that has a time: see `epoch`.
                Err(_) => None,
            };
        }
        Some(_) => {}
        // Known from the command line or the environment: an ARG of that name has it, too.
        None => {
            if let Some(seconds) = request.metadata.source_date_epoch {
                request.target.build_args.push((EPOCH.into(), Some(seconds.to_string())));
            }
        }
    }
    Ok(request)
}

fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

pub(super) fn epoch_error(text: &str) -> Error {
    Error::Unsupported {
        what: format!("`{EPOCH}={text}`"),
        hint:
            "give it seconds since 1970 (images know the years 0 to 9999), `context`, or the name of a build context or \
               of a stage that is `FROM scratch` and one ADD of something remote"
                .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::request::MetadataOptions;

    struct Texts(std::sync::Mutex<Vec<String>>);

    impl Sink for Texts {
        fn event(&self, event: &Event<'_>) {
            if let Event::Warning { text } = event {
                self.0.lock().unwrap().push((*text).to_owned());
            }
        }
    }

    fn applied(args: &[(&str, &str)], metadata: MetadataOptions) -> (Result<BuildRequest, Error>, Vec<String>) {
        let mut request = BuildRequest { metadata, ..BuildRequest::default() };
        request.target.build_args = args.iter().map(|(n, v)| ((*n).to_owned(), Some((*v).to_owned()))).collect();
        let sink = Texts(std::sync::Mutex::default());
        let request = apply(&request, &sink);
        (request, sink.0.into_inner().unwrap())
    }

    #[test]
    fn the_epoch_is_an_argument_a_flag_and_a_variable() {
        let of = |args: &[(&str, &str)], metadata| applied(args, metadata).0.map(|r| (r.metadata, r.target.build_args));
        let (metadata, _) = of(&[(EPOCH, "5"), (EPOCH, "7")], MetadataOptions::default()).unwrap();
        assert_eq!(metadata.source_date_epoch, Some(7));
        let set = MetadataOptions { source_date_epoch: Some(9), ..MetadataOptions::default() };
        let (metadata, args) = of(&[], set.clone()).unwrap();
        assert_eq!((metadata.source_date_epoch, args), (Some(9), vec![(EPOCH.into(), Some("9".into()))]));
        assert_eq!(of(&[(EPOCH, "3")], set).unwrap().0.source_date_epoch, Some(3));
        let timestamp = MetadataOptions { timestamp: Some(1), ..MetadataOptions::default() };
        assert_eq!(of(&[(EPOCH, "3")], timestamp).unwrap().0.source_date_epoch, None);
        let (metadata, args) = of(&[(EPOCH, "context")], MetadataOptions::default()).unwrap();
        assert_eq!((metadata.source_date_epoch, args), (None, vec![(EPOCH.into(), Some("context".into()))]));
        for bad in ["253402300800", "-62167219201"] {
            assert!(of(&[(EPOCH, bad)], MetadataOptions::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_switch_is_dropped_silently() {
        let one = |name: &str, value: &str| applied(&[(name, value)], MetadataOptions::default());
        let (request, _) = one("BUILDKIT_SANDBOX_HOSTNAME", "box");
        assert_eq!(request.unwrap().security.hostname.as_deref(), Some("box"));
        for name in ["INLINE_CACHE", "BUILD_NAME", "SBOM_SCAN_CONTEXT", "SBOM_SCAN_STAGE"] {
            let (_, warnings) = one(&format!("BUILDKIT_{name}"), "1");
            assert!(warnings.len() == 1 && warnings[0].contains(name), "{name}: {warnings:?}");
        }
        assert!(one("BUILDKIT_INLINE_CACHE", "0").1.is_empty());
        assert!(one("BUILDKIT_SYNTAX", "docker/dockerfile:1").0.is_ok());
        assert!(one("BUILDKIT_SYNTAX", "example/mydockerfile").0.is_err());
    }
}
