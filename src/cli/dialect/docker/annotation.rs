//! Values of `docker build --annotation`: a small language of its own, read here and nowhere else.

use crate::cli::Error;
use crate::oci::Platform;

/// Reads `[TYPE[[PLATFORM]][,TYPE…]:]NAME=VALUE` for a build for `platforms`.
///
/// # Errors
/// A malformed annotation, and one of something that this build does not make.
pub(super) fn annotation(text: &str, platforms: &[Platform]) -> Result<(String, String), Error> {
    let bad = |why: String| {
        Error::usage_hint(format!("invalid annotation `{text}`: {why}"), "write `NAME=VALUE` or `manifest:NAME=VALUE`")
    };
    let (key, value) = text.split_once('=').ok_or_else(|| bad("expected `NAME=VALUE`".into()))?;
    let (types, name) = match key.split_once(':') {
        Some((types, name)) => (types.split(',').collect(), name),
        None => (vec![], key),
    };
    if name.is_empty() {
        return Err(bad("its name is empty".into()));
    }
    for written in types {
        let (kind, wanted) = match written.strip_suffix(']').and_then(|w| w.split_once('[')) {
            Some((kind, wanted)) => (kind, Some(wanted.parse::<Platform>().map_err(|e| bad(e.to_string()))?)),
            None => (written, None),
        };
        match kind {
            "manifest" => {}
            "index" | "manifest-descriptor" | "index-descriptor" => {
                return Err(Error::unsupported(
                    format!("an annotation of type `{kind}`"),
                    "only manifests are annotated: use `manifest:` or no type",
                ));
            }
            other => return Err(bad(format!("unknown type `{other}`"))),
        }
        if let Some(wanted) = wanted.filter(|w| platforms != [w.clone()]) {
            return Err(Error::unsupported(
                format!("an annotation of `{wanted}` alone"),
                "build for that platform alone, or leave it out",
            ));
        }
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_have_types_and_platforms() {
        let amd: Platform = "linux/amd64".parse().unwrap();
        let of = |text: &str| annotation(text, std::slice::from_ref(&amd));
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        for (text, want) in [
            ("a=b", pair("a", "b")),
            ("manifest:a=b:c=d", pair("a", "b:c=d")),
            ("manifest[linux/amd64]:foo=bar", pair("foo", "bar")),
            ("manifest[linux/x86_64],manifest:foo=", pair("foo", "")),
        ] {
            assert_eq!(of(text).unwrap(), want, "{text}");
        }
        let shown =
            |text| of(text).map_or_else(|e| format!("{e} | {}", e.hint().unwrap_or_default()), |a| format!("{a:?}"));
        let refused = [
            "index,manifest:a=b",
            "manifest-descriptor:a=b",
            "index-descriptor[linux/amd64]:a=b",
            "manifest[linux/arm64]:a=b",
            "manifest[foo]:a=b",
            "manfest:a=b",
            "manifest:=b",
            "bare",
        ]
        .map(shown);
        insta::assert_snapshot!(refused.join("\n"), @r#"
        an annotation of type `index` is not supported | only manifests are annotated: use `manifest:` or no type
        an annotation of type `manifest-descriptor` is not supported | only manifests are annotated: use `manifest:` or no type
        an annotation of type `index-descriptor` is not supported | only manifests are annotated: use `manifest:` or no type
        an annotation of `linux/arm64` alone is not supported | build for that platform alone, or leave it out
        invalid annotation `manifest[foo]:a=b`: invalid platform `foo`: unknown operating system or architecture; expected `os/arch` | write `NAME=VALUE` or `manifest:NAME=VALUE`
        invalid annotation `manfest:a=b`: unknown type `manfest` | write `NAME=VALUE` or `manifest:NAME=VALUE`
        invalid annotation `manifest:=b`: its name is empty | write `NAME=VALUE` or `manifest:NAME=VALUE`
        invalid annotation `bare`: expected `NAME=VALUE` | write `NAME=VALUE` or `manifest:NAME=VALUE`
        "#);
    }
}
