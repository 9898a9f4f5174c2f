//! Values of `docker build --output` and `--annotation`: small languages of their own, read here and nowhere else.
//!
//! Every key and every type that buildx knows is acted on or refused by its name; none is dropped.

use crate::cli::names::Naming;
use crate::cli::{Error, values};
use crate::oci::{Location, Platform, Reference};
use std::path::PathBuf;

/// What one `--output` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    /// Names that the image gets beside those of `-t`.
    pub names: Vec<Reference>,
    /// Whether all its names go to their registries.
    pub push: bool,
    /// An archive or a directory; `-` as its path is standard output.
    pub file: Option<Location>,
}

impl Output {
    /// Reads `type=TYPE[,KEY=VALUE…]`.
    ///
    /// # Errors
    /// What cannot be written, and keys that do not go with the type.
    pub fn parse(text: &str) -> Result<Output, Error> {
        let hint = "use `type=image`, `type=registry`, `type=docker,dest=FILE` or `type=oci,dest=FILE`";
        let refuse = || Error::unsupported(format!("`--output {text}`"), hint);
        let (mut kind, mut dest, mut name, mut push, mut tar) = (None, None, None, None, None);
        for field in text.split(',') {
            // A value alone is the destination of a file system, which is not written yet.
            let (key, value) = field.split_once('=').ok_or_else(refuse)?;
            let truth = || {
                let wrong =
                    |why| Error::usage(format!("invalid value `{value}` for `{key}` of `--output {text}`: {why}"));
                values::boolean(value).map(Some).map_err(wrong)
            };
            match key {
                "type" => kind = Some(value),
                "dest" => dest = Some(PathBuf::from(value)),
                "name" => name = Some(Naming::Docker.full(value)?),
                "push" => push = truth()?,
                "tar" => tar = truth()?,
                _ => return Err(Error::unsupported(format!("`{key}` of `--output {text}`"), hint)),
            }
        }
        let kind = kind.ok_or_else(|| Error::usage_hint(format!("type is required for output `{text}`"), hint))?;
        let key = |key: &str, hint: &str| Err(Error::unsupported(format!("`{key}` with `--output type={kind}`"), hint));
        match kind {
            "image" | "registry" | "docker" | "oci" => {}
            _ => return Err(refuse()),
        }
        if dest.is_some() && matches!(kind, "image" | "registry") {
            return key("dest", "`type=docker` and `type=oci` write files");
        }
        if tar.is_some() && matches!(kind, "image" | "registry") {
            return key("tar", "it is about `type=oci`");
        }
        if tar == Some(false) && kind == "docker" {
            return key("tar=false", "write a directory with `type=oci,tar=false,dest=DIR`");
        }
        if push == Some(true) && matches!(kind, "docker" | "oci") {
            return key("push=true", "push with a further `--output type=registry`");
        }
        if push == Some(false) && kind == "registry" {
            return key("push=false", "use `type=image`");
        }
        let names = name.iter().cloned().collect();
        let file = match (kind, dest) {
            ("docker", Some(path)) => Some(Location::DockerArchive { path, reference: name }),
            ("oci", dest) => {
                let name = name.map(|n| n.to_string());
                Some(match (tar, dest.filter(|d| d.as_os_str() != "-")) {
                    (Some(false), None) => return key("tar=false", "name a directory with `dest=DIR`"),
                    (Some(false), Some(path)) => Location::OciDir { path, name },
                    // As buildx does where no file is named.
                    (_, None) => Location::OciArchive { path: "-".into(), name },
                    (_, Some(path)) => Location::OciArchive { path, name },
                })
            }
            _ => None,
        };
        let stored = file.is_none();
        let push = push.unwrap_or(kind == "registry");
        Ok(Output { names: if stored { names } else { vec![] }, push, file })
    }

    /// Whether it is written to standard output.
    pub fn is_stdout(location: &Location) -> bool {
        match location {
            Location::DockerArchive { path, .. } | Location::OciArchive { path, .. } => path.as_os_str() == "-",
            _ => false,
        }
    }
}

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
    fn every_key_is_acted_on_or_refused() {
        let shown = |text: &str| match Output::parse(text) {
            Ok(o) => {
                let names: Vec<String> = o.names.iter().map(Reference::to_string).collect();
                let file = o.file.map(|f| f.to_string()).unwrap_or_default();
                format!("{text} -> {names:?} push={} {file}", o.push)
            }
            Err(e) => format!("{text} -> {e} | {}", e.hint().unwrap_or_default()),
        };
        let lines = [
            "type=image",
            "type=image,push=true",
            "type=image,push=false",
            "type=image,name=h:1/x,push=true",
            "type=registry",
            "type=registry,push=false",
            "type=docker",
            "type=docker,name=x",
            "type=docker,dest=d.tar,name=x",
            "type=docker,dest=-",
            "type=docker,push=true",
            "type=docker,tar=false,dest=d",
            "type=oci",
            "type=oci,dest=o.tar,name=x",
            "type=oci,dest=o,tar=false",
            "type=oci,tar=false",
            "type=oci,push=true,dest=o",
            "type=image,dest=x",
            "type=image,tar=true",
            "type=image,compression=zstd",
            "type=image,push=perhaps",
            "type=tar,dest=-",
            "type=local,dest=x",
            "push=true",
            "-",
            "out",
        ]
        .map(shown);
        insta::assert_snapshot!(lines.join("\n"), @r#"
        type=image -> [] push=false 
        type=image,push=true -> [] push=true 
        type=image,push=false -> [] push=false 
        type=image,name=h:1/x,push=true -> ["h:1/x:latest"] push=true 
        type=registry -> [] push=true 
        type=registry,push=false -> `push=false` with `--output type=registry` is not supported | use `type=image`
        type=docker -> [] push=false 
        type=docker,name=x -> ["docker.io/library/x:latest"] push=false 
        type=docker,dest=d.tar,name=x -> [] push=false docker-archive:d.tar:docker.io/library/x:latest
        type=docker,dest=- -> [] push=false docker-archive:-
        type=docker,push=true -> `push=true` with `--output type=docker` is not supported | push with a further `--output type=registry`
        type=docker,tar=false,dest=d -> `tar=false` with `--output type=docker` is not supported | write a directory with `type=oci,tar=false,dest=DIR`
        type=oci -> [] push=false oci-archive:-
        type=oci,dest=o.tar,name=x -> [] push=false oci-archive:o.tar:docker.io/library/x:latest
        type=oci,dest=o,tar=false -> [] push=false oci:o
        type=oci,tar=false -> `tar=false` with `--output type=oci` is not supported | name a directory with `dest=DIR`
        type=oci,push=true,dest=o -> `push=true` with `--output type=oci` is not supported | push with a further `--output type=registry`
        type=image,dest=x -> `dest` with `--output type=image` is not supported | `type=docker` and `type=oci` write files
        type=image,tar=true -> `tar` with `--output type=image` is not supported | it is about `type=oci`
        type=image,compression=zstd -> `compression` of `--output type=image,compression=zstd` is not supported | use `type=image`, `type=registry`, `type=docker,dest=FILE` or `type=oci,dest=FILE`
        type=image,push=perhaps -> invalid value `perhaps` for `push` of `--output type=image,push=perhaps`: expected `true` or `false` | 
        type=tar,dest=- -> `--output type=tar,dest=-` is not supported | use `type=image`, `type=registry`, `type=docker,dest=FILE` or `type=oci,dest=FILE`
        type=local,dest=x -> `--output type=local,dest=x` is not supported | use `type=image`, `type=registry`, `type=docker,dest=FILE` or `type=oci,dest=FILE`
        push=true -> type is required for output `push=true` | use `type=image`, `type=registry`, `type=docker,dest=FILE` or `type=oci,dest=FILE`
        - -> `--output -` is not supported | use `type=image`, `type=registry`, `type=docker,dest=FILE` or `type=oci,dest=FILE`
        out -> `--output out` is not supported | use `type=image`, `type=registry`, `type=docker,dest=FILE` or `type=oci,dest=FILE`
        "#);
    }

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
