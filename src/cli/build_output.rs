//! Values of `--output`: a small language of its own, read here and nowhere else.
//!
//! Every key and every type that buildx knows is acted on or refused by its name; none is dropped.

use super::compression::{self, Wanted};
use super::names::Naming;
use super::{Error, values};
use crate::build::request::{RootfsOutput, RootfsPlace};
use crate::oci::{Compression, Location, Reference};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// What one `--output` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Names that the image gets beside those of `-t`.
    pub names: Vec<Reference>,
    /// Whether all its names go to their registries.
    pub push: bool,
    /// Whether an image is asked for that is neither pushed nor a file: one of the store.
    pub stored: bool,
    /// An archive or a directory of the image; `-` as its path is standard output.
    pub file: Option<Location>,
    /// The root file system as plain files.
    pub rootfs: Option<RootfsOutput>,
    /// How layers are compressed on their way out.
    pub compression: Wanted,
}

impl Output {
    /// Reads `type=TYPE[,KEY=VALUE…]`, or the path of a directory, or `-` for a tar on standard output.
    ///
    /// # Errors
    /// What cannot be written, and keys that do not go with the type.
    pub fn parse(text: &str, naming: Naming) -> Result<Output, Error> {
        let hint = "use `type=image`, `type=registry`, `type=local,dest=DIR`, or `type=tar`, `type=docker` or `type=oci` with \
            `dest=FILE`";
        let (mut how, mut level, mut force) = (None, None, None);
        let (mut kind, mut dest, mut name, mut push, mut tar) = (None, None, None, None, None);
        let mut prefix = None;
        if !text.contains(',') && !text.contains('=') {
            let path = PathBuf::from(text);
            let place = if text == "-" { RootfsPlace::Tar(path) } else { RootfsPlace::Directory(path) };
            let rootfs = Some(RootfsOutput { place, attestation_prefix: String::new() });
            return Ok(Output { rootfs, ..Output::default() });
        }
        for field in text.split(',') {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| Error::usage_hint(format!("`{field}` of `--output {text}` is not `KEY=VALUE`"), hint))?;
            let truth = || {
                let wrong =
                    |why| Error::usage(format!("invalid value `{value}` for `{key}` of `--output {text}`: {why}"));
                values::boolean(value).map(Some).map_err(wrong)
            };
            match key {
                "type" => kind = Some(value),
                "dest" => dest = Some(PathBuf::from(value)),
                "name" => name = Some(naming.full(value)?),
                "push" => push = truth()?,
                "tar" => tar = truth()?,
                "compression" => {
                    how = Some(match value {
                        "uncompressed" => Compression::None,
                        other => compression::compression(other)?,
                    });
                }
                "compression-level" => {
                    let wrong =
                        |e| Error::usage(format!("invalid value `{value}` for `{key}` of `--output {text}`: {e}"));
                    level = Some(value.parse::<u32>().map_err(wrong)?);
                }
                "force-compression" => force = truth()?,
                "attestation-prefix" => {
                    // The longest name of a file has 255 bytes.
                    let why = match value {
                        v if v.contains(['/', '\0']) => Some("it is the beginning of a name, and no path"),
                        v if v.starts_with(".wh.") => Some("such names mean a removal in a layer"),
                        v if v.len() > 200 => Some("it is longer than 200 bytes"),
                        _ => None,
                    };
                    if let Some(why) = why {
                        return Err(Error::usage(format!(
                            "invalid value `{value}` for `{key}` of `--output {text}`: {why}"
                        )));
                    }
                    prefix = Some(value.to_owned());
                }
                _ => return Err(Error::unsupported(format!("`{key}` of `--output {text}`"), hint)),
            }
        }
        let kind = kind.ok_or_else(|| Error::usage_hint(format!("type is required for output `{text}`"), hint))?;
        let key = |key: &str, hint: &str| Err(Error::unsupported(format!("`{key}` with `--output type={kind}`"), hint));
        match kind {
            "image" | "registry" | "docker" | "oci" | "local" | "tar" | "cacheonly" => {}
            _ => return Err(Error::unsupported(format!("`--output {text}`"), hint)),
        }
        if prefix.is_some() && !matches!(kind, "local" | "tar") {
            return key("attestation-prefix", "only `type=local` and `type=tar` have files for attestations");
        }
        let compressed = how.is_some() || level.is_some() || force.is_some();
        if matches!(kind, "local" | "tar" | "cacheonly" | "docker") && compressed {
            return key("compression", "what is written there is never compressed");
        }
        if matches!(kind, "local" | "tar" | "cacheonly") {
            if name.is_some() {
                return key("name", "files have no name: name the image with `-t`");
            }
            if push.is_some() {
                return key("push", "push with a further `--output type=registry`");
            }
            if tar.is_some() {
                return key("tar", "it is about `type=oci`");
            }
            let place = match (kind, dest) {
                ("local", Some(dest)) => Some(RootfsPlace::Directory(dest)),
                ("local", None) => {
                    return Err(Error::usage_hint("`--output type=local` has no directory", "add `dest=DIR`"));
                }
                ("tar", dest) => Some(RootfsPlace::Tar(dest.unwrap_or_else(|| "-".into()))),
                (_, Some(_)) => return key("dest", "nothing is written"),
                (_, None) => None,
            };
            let attestation_prefix = prefix.unwrap_or_default();
            let rootfs = place.map(|place| RootfsOutput { place, attestation_prefix });
            return Ok(Output { rootfs, ..Output::default() });
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
        let compression = Wanted::new(how, level, force == Some(true))?;
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
        let names = if stored { names } else { vec![] };
        Ok(Output { names, push, stored: stored && !push, file, rootfs: None, compression })
    }
}

/// How many of these are written to standard output.
pub fn to_stdout(images: &[Location], rootfs: &[RootfsOutput]) -> usize {
    let dash = |path: &Path| path.as_os_str() == "-";
    let images = images.iter().filter(|to| match to {
        Location::DockerArchive { path, .. } | Location::OciArchive { path, .. } => dash(path),
        _ => false,
    });
    images.count() + rootfs.iter().filter(|to| matches!(&to.place, RootfsPlace::Tar(path) if dash(path))).count()
}

/// Refuses what cannot be brought out on standard output: a second thing, or an archive on a terminal.
///
/// # Errors
/// Those.
pub fn check_stdout(count: usize) -> Result<(), Error> {
    if count > 1 || (count == 1 && std::io::stdout().is_terminal()) {
        let hint = "write to a file with `dest=FILE`, or redirect standard output";
        return Err(Error::usage_hint("refusing to write this archive to standard output", hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_acted_on_or_refused() {
        let shown = |text: &str| match Output::parse(text, Naming::Docker) {
            Ok(o) => {
                let names: Vec<String> = o.names.iter().map(Reference::to_string).collect();
                let file = o.file.map(|f| f.to_string());
                let rootfs = o.rootfs.map(|r| format!("{:?}{}", r.place, r.attestation_prefix));
                let c = o.compression;
                let how = (c != Wanted::default()).then(|| format!(" {:?} {:?} force={}", c.how, c.level, c.force));
                let (place, how) = (file.or(rootfs).unwrap_or_default(), how.unwrap_or_default());
                format!("{text} -> {names:?} push={} {place}{how}", o.push)
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
            "type=registry,compression=estargz,compression-level=9,force-compression=true",
            "type=oci,compression=uncompressed",
            "type=image,compression=lz4",
            "type=image,compression=gzip,compression-level=10",
            "type=image,compression-level=high",
            "type=docker,compression=gzip",
            "type=local,dest=x,force-compression=true",
            "type=image,push=perhaps",
            "type=tar",
            "type=tar,dest=-",
            "type=tar,dest=x.tar",
            "type=tar,dest=x.tar,name=y",
            "type=local,dest=x",
            "type=local",
            "type=local,dest=x,push=true",
            "type=local,dest=x,attestation-prefix=about-",
            "type=tar,attestation-prefix=../",
            "type=tar,attestation-prefix=.wh.",
            "type=oci,attestation-prefix=about-",
            "type=cacheonly",
            "type=cacheonly,dest=x",
            "type=dir,dest=x",
            "push=true",
            "-",
            "out",
        ]
        .map(shown);
        assert!(Output::parse(&format!("type=tar,attestation-prefix={}", "x".repeat(201)), Naming::Docker).is_err());
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
        type=image,compression=zstd -> [] push=false  Some(Zstd) None force=false
        type=registry,compression=estargz,compression-level=9,force-compression=true -> [] push=true  Some(Estargz) Some(9) force=true
        type=oci,compression=uncompressed -> [] push=false oci-archive:- Some(None) None force=false
        type=image,compression=lz4 -> unknown compression `lz4` | use `gzip`, `zstd`, `estargz`, `zstd:chunked` or `none`
        type=image,compression=gzip,compression-level=10 -> compression level 10 of gzip does not exist | use 0 to 9
        type=image,compression-level=high -> invalid value `high` for `compression-level` of `--output type=image,compression-level=high`: invalid digit found in string | 
        type=docker,compression=gzip -> `compression` with `--output type=docker` is not supported | what is written there is never compressed
        type=local,dest=x,force-compression=true -> `compression` with `--output type=local` is not supported | what is written there is never compressed
        type=image,push=perhaps -> invalid value `perhaps` for `push` of `--output type=image,push=perhaps`: expected `true` or `false` | 
        type=tar -> [] push=false Tar("-")
        type=tar,dest=- -> [] push=false Tar("-")
        type=tar,dest=x.tar -> [] push=false Tar("x.tar")
        type=tar,dest=x.tar,name=y -> `name` with `--output type=tar` is not supported | files have no name: name the image with `-t`
        type=local,dest=x -> [] push=false Directory("x")
        type=local -> `--output type=local` has no directory | add `dest=DIR`
        type=local,dest=x,push=true -> `push` with `--output type=local` is not supported | push with a further `--output type=registry`
        type=local,dest=x,attestation-prefix=about- -> [] push=false Directory("x")about-
        type=tar,attestation-prefix=../ -> invalid value `../` for `attestation-prefix` of `--output type=tar,attestation-prefix=../`: it is the beginning of a name, and no path | 
        type=tar,attestation-prefix=.wh. -> invalid value `.wh.` for `attestation-prefix` of `--output type=tar,attestation-prefix=.wh.`: such names mean a removal in a layer | 
        type=oci,attestation-prefix=about- -> `attestation-prefix` with `--output type=oci` is not supported | only `type=local` and `type=tar` have files for attestations
        type=cacheonly -> [] push=false 
        type=cacheonly,dest=x -> `dest` with `--output type=cacheonly` is not supported | nothing is written
        type=dir,dest=x -> `--output type=dir,dest=x` is not supported | use `type=image`, `type=registry`, `type=local,dest=DIR`, or `type=tar`, `type=docker` or `type=oci` with `dest=FILE`
        push=true -> type is required for output `push=true` | use `type=image`, `type=registry`, `type=local,dest=DIR`, or `type=tar`, `type=docker` or `type=oci` with `dest=FILE`
        - -> [] push=false Tar("-")
        out -> [] push=false Directory("out")
        "#);
    }
}
