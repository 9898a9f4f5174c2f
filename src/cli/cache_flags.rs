//! `--cache-from` and `--cache-to`: a small language of its own, read here and nowhere else.
//!
//! It is buildx's (`type=registry,ref=…`), and a bare repository is buildah's and Docker's way to say the same. Every key and
//! every type that buildx knows is acted on or refused by its name; none is dropped.

use super::{Error, values};
use crate::build::request::CacheOptions;
use crate::cache::spec::{DEFAULT_TTL, Mode, MountSpec, Place, RedisServer, Spec};
use crate::oci::{Compression, Location, Reference};
use std::path::PathBuf;
use std::time::Duration;

/// The flags about shared caches.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CacheArgs {
    /// Where to look up steps: a repository, or `type=registry,ref=REPO`, `type=local,src=DIR`, `type=redis,url=URL,ref=REPO`,
    /// `type=http,url=URL`; `scope=NAME` for entries of one scope; may be repeated
    #[arg(long, value_name = "CACHE")]
    pub cache_from: Vec<String>,
    /// Where to keep finished steps: as `--cache-from`, `type=local,dest=DIR`, or `type=inline`; `mode=min` for those of the
    /// image alone
    #[arg(long, value_name = "CACHE")]
    pub cache_to: Vec<String>,
    /// Keep the files of cache mounts with this id between stores: `id=ID,to=CACHE[,from=CACHE]`, with CACHE as for
    /// `--cache-to`: a repository, or `"type=…,…"` in quotes; may be repeated
    #[arg(long, value_name = "MOUNT")]
    pub cache_mount: Vec<String>,
    /// Private key (PEM, Ed25519 or P-256) that signs what goes to caches
    #[arg(long, value_name = "PATH")]
    pub cache_sign_key: Option<PathBuf>,
    /// Public key: only steps that it (or another one of these) signed are taken from caches; may be repeated
    #[arg(long, value_name = "PATH")]
    pub cache_verify_key: Vec<PathBuf>,
    /// Say of each step whether it was cached, where it was found, and else what differs from the nearest one that is known
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub explain_cache: Option<bool>,
}

/// Which way a cache is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    From,
    To,
}

impl Way {
    fn flag(self) -> &'static str {
        match self {
            Way::From => "--cache-from",
            Way::To => "--cache-to",
        }
    }
}

const KNOWN: [&str; 5] = ["registry", "local", "redis", "http", "inline"];
const TYPES: &str = "use `type=registry,ref=REPOSITORY`, `type=local` with `src=DIR` or `dest=DIR`, `type=redis,url=URL`, \
    `type=http,url=URL` or, with `--cache-to`, `type=inline`";

impl CacheArgs {
    /// The options that these flags ask for. `destinations` are those of the image.
    ///
    /// # Errors
    /// Malformed values, and what rbuild cannot do.
    pub fn lower(&self, destinations: &[Location]) -> Result<CacheOptions, Error> {
        let all = |texts: &[String], way| -> Result<Vec<Spec>, Error> {
            // Docker takes several repositories in one value.
            let split = texts.iter().flat_map(|text| match text.contains('=') {
                true => vec![text.as_str()],
                false => text.split(',').filter(|t| !t.is_empty()).collect(),
            });
            split.map(|text| spec(text, way, destinations)).collect()
        };
        Ok(CacheOptions {
            from: all(&self.cache_from, Way::From)?,
            to: all(&self.cache_to, Way::To)?,
            mounts: self.cache_mount.iter().map(|text| mount(text, destinations)).collect::<Result<_, _>>()?,
            sign_key: self.cache_sign_key.clone(),
            verify_keys: self.cache_verify_key.clone(),
            explain: self.explain_cache == Some(true),
            ..CacheOptions::default()
        })
    }
}

/// The fields of a line of comma-separated values. Quotes hold together what has commas in it.
fn quoted_fields(text: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for c in text.chars() {
        match (c, fields.last_mut()) {
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => fields.push(String::new()),
            (c, Some(field)) => field.push(c),
            _ => {}
        }
    }
    fields
}

/// `id=ID,to=CACHE[,from=CACHE]`. Who says only where the files go finds them there, too.
fn mount(text: &str, destinations: &[Location]) -> Result<MountSpec, Error> {
    const WRITE: &str = "write `id=ID,to=REPOSITORY` or `id=ID,\"to=type=local,dest=DIR\"`, and `from=` likewise";
    let wrong = |why: &str| Error::usage_hint(format!("invalid value `{text}` for `--cache-mount`: {why}"), WRITE);
    let (mut id, mut from, mut to) = (None, vec![], vec![]);
    for field in quoted_fields(text) {
        match field.split_once('=') {
            Some(("id", value)) if !value.is_empty() => id = Some(value.to_owned()),
            Some(("from", value)) => from.push(spec(value, Way::From, destinations)?),
            Some(("to", value)) => to.push(spec(value, Way::To, destinations)?),
            _ => return Err(wrong(&format!("unknown `{field}`"))),
        }
    }
    let id = id.ok_or_else(|| wrong("it has no id"))?;
    if to.iter().chain(&from).any(|spec| spec.place == Place::Inline) {
        return Err(wrong("an image has no place for it"));
    }
    if from.is_empty() && to.is_empty() {
        return Err(wrong("it says neither `to` nor `from`"));
    }
    if from.is_empty() {
        from = to.clone();
    }
    Ok(MountSpec { id, from, to })
}

/// The keys of one value.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    reference: Option<Reference>,
    dir: Option<PathBuf>,
    url: Option<&'a str>,
    scope: Option<&'a str>,
    mode: Option<Mode>,
    compression: Option<Compression>,
    ttl: Option<Duration>,
}

fn reference(text: &str, way: Way) -> Result<Reference, Error> {
    let wrong = |e| Error::usage(format!("invalid repository `{text}` of `{}`: {e}", way.flag()));
    let parsed: Reference = text.parse().map_err(wrong)?;
    if parsed.digest.is_some() {
        let hint = "leave the digest out: entries come and go";
        return Err(Error::usage_hint(format!("`{text}` of `{}` has a digest", way.flag()), hint));
    }
    Ok(parsed.docker_normalized())
}

fn spec(text: &str, way: Way, destinations: &[Location]) -> Result<Spec, Error> {
    let flag = way.flag();
    if !text.contains('=') {
        if text == "inline" && way == Way::To {
            return Ok(plain(Place::Inline, ""));
        }
        let at = reference(text, way)?;
        let scope = at.tag.clone().unwrap_or_default();
        return Ok(plain(Place::Registry(at), &scope));
    }
    let mut fields = Fields::default();
    let other = text.split(',').filter_map(|f| f.strip_prefix("type=")).find(|t| !KNOWN.contains(t));
    if let Some(other) = other {
        return Err(Error::unsupported(format!("`{flag} type={other}`"), TYPES));
    }
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| Error::usage_hint(format!("`{field}` of `{flag} {text}` is not `KEY=VALUE`"), TYPES))?;
        read_field(&mut fields, (key, value), way, text)?;
    }
    let kind = fields.kind.ok_or_else(|| Error::usage_hint(format!("type is required for `{flag} {text}`"), TYPES))?;
    let unfit = |given: bool, key: &str| match given {
        true => Err(Error::unsupported(format!("`{key}` with `{flag} type={kind}`"), TYPES)),
        false => Ok(()),
    };
    unfit(fields.dir.is_some() && kind != "local", if way == Way::From { "src" } else { "dest" })?;
    unfit(fields.url.is_some() && !matches!(kind, "redis" | "http"), "url")?;
    unfit(fields.reference.is_some() && !matches!(kind, "registry" | "redis"), "ref")?;
    unfit(fields.ttl.is_some() && (kind != "redis" || way == Way::From), "ttl")?;
    unfit(fields.compression.is_some() && (kind == "inline" || way == Way::From), "compression")?;
    unfit(fields.mode == Some(Mode::Max) && kind == "inline", "mode=max")?;
    unfit(fields.mode.is_some() && way == Way::From, "mode")?;
    unfit(fields.scope.is_some() && kind == "inline", "scope")?;
    let missing = |key: &str| Error::usage_hint(format!("`{flag} {text}` has no `{key}`"), TYPES);
    let place = match kind {
        "registry" => Place::Registry(fields.reference.clone().ok_or_else(|| missing("ref"))?),
        "local" => {
            Place::Local(fields.dir.clone().ok_or_else(|| missing(if way == Way::From { "src" } else { "dest" }))?)
        }
        "redis" => {
            let pushed = destinations.iter().find_map(|d| match d {
                Location::Registry(name) => Some(name.clone().docker_normalized()),
                _ => None,
            });
            Place::Redis {
                server: redis(fields.url.ok_or_else(|| missing("url"))?, flag)?,
                layers: fields.reference.clone().or(pushed).ok_or_else(|| {
                    let hint = "name the repository for the layers with `ref=REPOSITORY`: Redis holds only the entries";
                    Error::usage_hint(format!("`{flag} type=redis` has no `ref`"), hint)
                })?,
                ttl: fields.ttl.unwrap_or(DEFAULT_TTL),
            }
        }
        "http" => Place::Http(http(fields.url.ok_or_else(|| missing("url"))?, flag)?),
        "inline" if way == Way::To => Place::Inline,
        "inline" => {
            let hint = "name the image that has the entries: `--cache-from type=registry,ref=IMAGE`";
            return Err(Error::usage_hint("`--cache-from type=inline` names no image", hint));
        }
        _ => return Err(Error::unsupported(format!("`{flag} type={kind}`"), TYPES)),
    };
    let tag = match &place {
        Place::Registry(at) => at.tag.as_deref(),
        _ => None,
    };
    let scope = fields.scope.or(tag).unwrap_or_default().to_owned();
    let (mode, compression) = (fields.mode.unwrap_or_default(), fields.compression.unwrap_or(Compression::Gzip));
    Ok(Spec { place, scope, mode, compression })
}

fn plain(place: Place, scope: &str) -> Spec {
    Spec { place, scope: scope.to_owned(), mode: Mode::Max, compression: Compression::Gzip }
}

fn read_field<'a>(
    fields: &mut Fields<'a>,
    (key, value): (&'a str, &'a str),
    way: Way,
    text: &str,
) -> Result<(), Error> {
    let flag = way.flag();
    let refused = |hint: &str| Err(Error::unsupported(format!("`{key}={value}` of `{flag}`"), hint));
    let truth = || {
        let wrong = |why| Error::usage(format!("invalid value `{value}` for `{key}` of `{flag} {text}`: {why}"));
        values::boolean(value).map_err(wrong)
    };
    match (key, way) {
        ("type", _) => fields.kind = Some(value),
        ("ref", _) => fields.reference = Some(reference(value, way)?),
        ("src", Way::From) | ("dest", Way::To) => fields.dir = Some(PathBuf::from(value)),
        ("url", _) => fields.url = Some(value),
        ("scope", _) => fields.scope = Some(value),
        ("mode", _) => {
            fields.mode = Some(match value {
                "min" => Mode::Min,
                "max" => Mode::Max,
                _ => return refused("use `min` or `max`"),
            });
        }
        ("compression", _) => {
            fields.compression = Some(match value {
                "gzip" => Compression::Gzip,
                "zstd" => Compression::Zstd,
                "uncompressed" => Compression::None,
                _ => return refused("use `gzip`, `zstd` or `uncompressed`"),
            });
        }
        ("ttl", _) => {
            let wrong = |why| Error::usage(format!("invalid value `{value}` for `ttl` of `{flag}`: {why}"));
            fields.ttl = Some(values::duration(value).map_err(wrong)?);
        }
        // What buildx may be asked for and what is so anyway.
        ("oci-mediatypes" | "image-manifest", Way::To) => {
            if !truth()? {
                return refused("leave it out: entries are OCI image manifests");
            }
        }
        ("ignore-error", Way::To) => {
            if !truth()? {
                return refused("leave it out: a cache never makes a build fail, look for its warning");
            }
        }
        _ => return Err(Error::unsupported(format!("`{key}` of `{flag} {text}`"), TYPES)),
    }
    Ok(())
}

/// `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`
fn redis(url: &str, flag: &str) -> Result<RedisServer, Error> {
    let form = "write it as `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`";
    let wrong = |what: &str| Error::usage_hint(format!("the `url` of `{flag} type=redis` {what}"), form);
    let rest = match url.split_once("://") {
        Some(("redis", rest)) => rest,
        Some(("rediss", _)) => {
            let hint = "put a proxy that speaks TLS beside the builder, and name that";
            return Err(Error::unsupported("Redis over TLS", hint));
        }
        Some(_) => return Err(wrong("does not begin with `redis://`")),
        None => url,
    };
    let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
    let (address, database) = rest.split_once('/').unwrap_or((rest, ""));
    let database = match database {
        "" => 0,
        number => number.parse().map_err(|_| wrong("has a database that is no number"))?,
    };
    let (host, port) = match address.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| wrong("has a port that is no number"))?,
        None => 6379,
    };
    if host.is_empty() {
        return Err(wrong("has no host"));
    }
    let decoded = |text: &str| percent_decoded(text).ok_or_else(|| wrong("has a password with a broken `%`"));
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or(("", login))) {
        Some((user, password)) => {
            (Some(decoded(user)?).filter(|u| !u.is_empty()), Some(decoded(password)?).filter(|p| !p.is_empty()))
        }
        None => (None, None),
    };
    Ok(RedisServer { host: host.to_owned(), port, user, password, database })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = vec![];
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        match first {
            b'%' => {
                let digits = std::str::from_utf8(more.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = more.get(2..)?;
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

/// An address that ends with `/`.
fn http(url: &str, flag: &str) -> Result<String, Error> {
    if !(url.starts_with("http://") || url.starts_with("https://")) || url.contains(['?', '#']) {
        let hint = "write it as `http://HOST/PATH` or `https://HOST/PATH`";
        return Err(Error::usage_hint(
            format!("the `url` of `{flag} type=http` is no address to put files below"),
            hint,
        ));
    }
    Ok(if url.ends_with('/') { url.to_owned() } else { format!("{url}/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, way: Way) -> String {
        let pushed = [Location::Registry("h:1/pushed:v1".parse().unwrap())];
        match spec(text, way, &pushed) {
            Ok(s) => format!("{text} -> {:?} scope={} {:?} {}", s.place, s.scope, s.mode, s.compression.name()),
            Err(e) => format!("{text} -> {e} | {}", e.hint().unwrap_or_default().replace(TYPES, "TYPES")),
        }
    }

    #[test]
    fn every_key_is_acted_on_or_refused() {
        let from = [
            "h:1/r",
            "h:1/r:main",
            "name",
            "h:1/r@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "type=registry,ref=h:1/r:a,scope=b",
            "type=registry",
            "type=registry,ref=h:1/r,mode=min",
            "type=local,src=d",
            "type=local,dest=d",
            "type=local,src=d,digest=sha256:0",
            "type=redis,url=redis://u:p%40s@h:7/3,ref=h:1/r",
            "type=redis,url=h",
            "type=redis,url=rediss://h",
            "type=redis,url=redis://:x",
            "type=http,url=http://h/x",
            "type=http,url=ftp://h/x",
            "type=inline",
            "type=gha",
            "type=s3,bucket=b",
            "ref=h:1/r",
            "type=registry,ref",
        ];
        let to = [
            "type=inline",
            "inline",
            "type=inline,mode=max",
            "type=registry,ref=h:1/r,mode=min,compression=zstd,oci-mediatypes=true,image-manifest=true,ignore-error=true",
            "type=registry,ref=h:1/r,image-manifest=false",
            "type=registry,ref=h:1/r,ignore-error=false",
            "type=registry,ref=h:1/r,mode=all",
            "type=registry,ref=h:1/r,ttl=1h",
            "type=local,dest=d,scope=x",
            "type=local,src=d",
            "type=redis,url=redis://h,ttl=1h",
            "type=http,url=https://h/x/",
            "type=azblob,name=x",
        ];
        let lines: Vec<String> =
            from.iter().map(|t| shown(t, Way::From)).chain(to.iter().map(|t| shown(t, Way::To))).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        h:1/r -> Registry(Reference { registry: Some("h:1"), repository: "r", tag: None, digest: None }) scope= Max gzip
        h:1/r:main -> Registry(Reference { registry: Some("h:1"), repository: "r", tag: Some("main"), digest: None }) scope=main Max gzip
        name -> Registry(Reference { registry: Some("docker.io"), repository: "library/name", tag: None, digest: None }) scope= Max gzip
        h:1/r@sha256:0000000000000000000000000000000000000000000000000000000000000000 -> `h:1/r@sha256:0000000000000000000000000000000000000000000000000000000000000000` of `--cache-from` has a digest | leave the digest out: entries come and go
        type=registry,ref=h:1/r:a,scope=b -> Registry(Reference { registry: Some("h:1"), repository: "r", tag: Some("a"), digest: None }) scope=b Max gzip
        type=registry -> `--cache-from type=registry` has no `ref` | TYPES
        type=registry,ref=h:1/r,mode=min -> `mode` with `--cache-from type=registry` is not supported | TYPES
        type=local,src=d -> Local("d") scope= Max gzip
        type=local,dest=d -> `dest` of `--cache-from type=local,dest=d` is not supported | TYPES
        type=local,src=d,digest=sha256:0 -> `digest` of `--cache-from type=local,src=d,digest=sha256:0` is not supported | TYPES
        type=redis,url=redis://u:p%40s@h:7/3,ref=h:1/r -> Redis { server: h:7/3, layers: Reference { registry: Some("h:1"), repository: "r", tag: None, digest: None }, ttl: 1209600s } scope= Max gzip
        type=redis,url=h -> Redis { server: h:6379/0, layers: Reference { registry: Some("h:1"), repository: "pushed", tag: Some("v1"), digest: None }, ttl: 1209600s } scope= Max gzip
        type=redis,url=rediss://h -> Redis over TLS is not supported | put a proxy that speaks TLS beside the builder, and name that
        type=redis,url=redis://:x -> the `url` of `--cache-from type=redis` has a port that is no number | write it as `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`
        type=http,url=http://h/x -> Http("http://h/x/") scope= Max gzip
        type=http,url=ftp://h/x -> the `url` of `--cache-from type=http` is no address to put files below | write it as `http://HOST/PATH` or `https://HOST/PATH`
        type=inline -> `--cache-from type=inline` names no image | name the image that has the entries: `--cache-from type=registry,ref=IMAGE`
        type=gha -> `--cache-from type=gha` is not supported | TYPES
        type=s3,bucket=b -> `--cache-from type=s3` is not supported | TYPES
        ref=h:1/r -> type is required for `--cache-from ref=h:1/r` | TYPES
        type=registry,ref -> `ref` of `--cache-from type=registry,ref` is not `KEY=VALUE` | TYPES
        type=inline -> Inline scope= Max gzip
        inline -> Inline scope= Max gzip
        type=inline,mode=max -> `mode=max` with `--cache-to type=inline` is not supported | TYPES
        type=registry,ref=h:1/r,mode=min,compression=zstd,oci-mediatypes=true,image-manifest=true,ignore-error=true -> Registry(Reference { registry: Some("h:1"), repository: "r", tag: None, digest: None }) scope= Min zstd
        type=registry,ref=h:1/r,image-manifest=false -> `image-manifest=false` of `--cache-to` is not supported | leave it out: entries are OCI image manifests
        type=registry,ref=h:1/r,ignore-error=false -> `ignore-error=false` of `--cache-to` is not supported | leave it out: a cache never makes a build fail, look for its warning
        type=registry,ref=h:1/r,mode=all -> `mode=all` of `--cache-to` is not supported | use `min` or `max`
        type=registry,ref=h:1/r,ttl=1h -> `ttl` with `--cache-to type=registry` is not supported | TYPES
        type=local,dest=d,scope=x -> Local("d") scope=x Max gzip
        type=local,src=d -> `src` of `--cache-to type=local,src=d` is not supported | TYPES
        type=redis,url=redis://h,ttl=1h -> Redis { server: h:6379/0, layers: Reference { registry: Some("h:1"), repository: "pushed", tag: Some("v1"), digest: None }, ttl: 3600s } scope= Max gzip
        type=http,url=https://h/x/ -> Http("https://h/x/") scope= Max gzip
        type=azblob,name=x -> `--cache-to type=azblob` is not supported | TYPES
        "#);
    }

    #[test]
    fn passwords_are_not_shown() {
        let server = redis("redis://user:secret@h", "--cache-from").unwrap();
        assert_eq!((server.user.as_deref(), server.password.as_deref()), (Some("user"), Some("secret")));
        assert!(!format!("{server:?}").contains("secret"));
        assert!(redis("redis://h/%", "--cache-from").is_err() && redis("redis://:%zz@h", "--cache-from").is_err());
    }
}
