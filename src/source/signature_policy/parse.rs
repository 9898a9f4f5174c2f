//! The text of a policy. What is not understood is an error of the whole file: a typing mistake must not open a door.

use super::identity::{Identity, complete};
use super::{Key, Requirement, Rules, scopes};
use crate::oci::Reference;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// A JSON object whose names are data; none may come twice.
struct Unique<V>(BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Unique(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Pairs<V> {
            type Value = Unique<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<V>, A::Error> {
                let mut all = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if all.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("`{name}` stands there twice")));
                    }
                    let value = map.next_value()?;
                    all.insert(name, value);
                }
                Ok(Unique(all))
            }
        }
        d.deserialize_map(Pairs(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Raw>,
    #[serde(default)]
    transports: Unique<Unique<Vec<Raw>>>,
}

/// A requirement of any type: which members go together is checked afterwards.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    key_type: Option<String>,
    key_path: Option<String>,
    key_paths: Option<Vec<String>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    signed_identity: Option<RawIdentity>,
    base_layer_identity: Option<RawIdentity>,
    fulcio: Option<IgnoredAny>,
    pki: Option<IgnoredAny>,
    rekor_public_key_path: Option<IgnoredAny>,
    rekor_public_key_paths: Option<IgnoredAny>,
    rekor_public_key_data: Option<IgnoredAny>,
    rekor_public_key_datas: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawIdentity {
    #[serde(rename = "type")]
    kind: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
}

/// Reads a policy.
pub(super) fn parse(text: &[u8]) -> Result<Rules, String> {
    let file: File = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let default = requirements(file.default, "`default`")?;
    let mut transports = BTreeMap::new();
    for (transport, all) in file.transports.0 {
        let mut scopes = BTreeMap::new();
        for (scope, raw) in all.0 {
            let place = super::place(&transport, &scope);
            scopes::check(&transport, &scope).map_err(|why| format!("{place}: {why}"))?;
            scopes.insert(scope, requirements(raw, &place)?);
        }
        transports.insert(transport, scopes);
    }
    Ok(Rules { default, transports })
}

fn requirements(all: Vec<Raw>, place: &str) -> Result<Vec<Requirement>, String> {
    if all.is_empty() {
        return Err(format!("{place}: there has to be at least one requirement"));
    }
    let one = |(i, raw)| requirement(raw).map_err(|why| format!("{place}, requirement {}: {why}", i + 1));
    all.into_iter().enumerate().map(one).collect()
}

fn requirement(raw: Raw) -> Result<Requirement, String> {
    const SIGSTORE: &[&str] = &["sigstoreSigned"];
    const KEYS: &[&str] = &["signedBy", "sigstoreSigned"];
    // A member, whether it is there, and the types that have it.
    let sources = [
        ("keyPath", raw.key_path.is_some(), KEYS),
        ("keyPaths", raw.key_paths.is_some(), KEYS),
        ("keyData", raw.key_data.is_some(), KEYS),
        ("keyDatas", raw.key_datas.is_some(), SIGSTORE),
    ];
    let authorities = [("fulcio", raw.fulcio.is_some(), SIGSTORE), ("pki", raw.pki.is_some(), SIGSTORE)];
    let logs = [
        ("rekorPublicKeyPath", raw.rekor_public_key_path.is_some(), SIGSTORE),
        ("rekorPublicKeyPaths", raw.rekor_public_key_paths.is_some(), SIGSTORE),
        ("rekorPublicKeyData", raw.rekor_public_key_data.is_some(), SIGSTORE),
        ("rekorPublicKeyDatas", raw.rekor_public_key_datas.is_some(), SIGSTORE),
    ];
    let others = [
        ("keyType", raw.key_type.is_some(), &["signedBy"][..]),
        ("signedIdentity", raw.signed_identity.is_some(), KEYS),
        ("baseLayerIdentity", raw.base_layer_identity.is_some(), &["signedBaseLayer"]),
    ];
    let other_type = match raw.kind.as_str() {
        "insecureAcceptAnything" => Some(Requirement::Accept),
        "reject" => Some(Requirement::Reject),
        "signedBy" => Some(Requirement::Unsupported {
            what: "`signedBy` asks for GPG signatures, which are not read here".into(),
            hint: "sign with a key of cosign and ask for `sigstoreSigned`, or bring the image into the store with skopeo, \
                   which checks it: `skopeo copy docker://… oci:DIR` and `rbuild pull oci:DIR`",
        }),
        "signedBaseLayer" => Some(Requirement::Unsupported {
            what: "`signedBaseLayer` is implemented nowhere".into(),
            hint: "take the requirement out of the policy",
        }),
        "sigstoreSigned" => None,
        other => return Err(format!("unknown type `{other}`")),
    };
    let mut given = sources.iter().chain(&authorities).chain(&logs).chain(&others).filter(|(_, is, _)| *is);
    if let Some((name, ..)) = given.find(|(.., types)| !types.contains(&raw.kind.as_str())) {
        return Err(format!("`{}` has no member `{name}`", raw.kind));
    }
    let identity = raw.signed_identity.map(identity).transpose()?.unwrap_or_default();
    if let Some(requirement) = other_type {
        return Ok(requirement);
    }
    if sources.iter().chain(&authorities).filter(|(_, is, _)| *is).count() != 1 {
        return Err("it needs exactly one of `keyPath`, `keyPaths`, `keyData`, `keyDatas`, `fulcio` and `pki`".into());
    }
    if let Some((name, ..)) = authorities.iter().chain(&logs).find(|(_, is, _)| *is) {
        return Ok(Requirement::Unsupported {
            what: format!("`{name}` asks for certificates or a transparency log, which are not checked here"),
            hint: "sign with a key and name it with `keyPath`, without members that begin with `rekor`",
        });
    }
    let mut all: Vec<Key> =
        raw.key_path.into_iter().chain(raw.key_paths.into_iter().flatten()).map(Key::file).collect();
    for text in raw.key_data.into_iter().chain(raw.key_datas.into_iter().flatten()) {
        let key = BASE64.decode(text.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        all.push(Key::Data(key.ok_or("a key is not PEM in base64")?));
    }
    if all.is_empty() {
        return Err("its list of keys is empty".into());
    }
    Ok(Requirement::Sigstore { keys: all, identity })
}

fn identity(raw: RawIdentity) -> Result<Identity, String> {
    let RawIdentity { kind, docker_reference, docker_repository, prefix, signed_prefix } = raw;
    let name = |text: &str| -> Result<Reference, String> {
        text.parse::<Reference>().map(complete).map_err(|e| format!("`signedIdentity`: {e}"))
    };
    let prefix_of = |text: String| -> Result<String, String> {
        // A prefix of a name is a host, or itself a name without tag and digest.
        let host = text.split('/').next().unwrap_or_default();
        let whole = if host.len() == text.len() { format!("{text}/x") } else { text.clone() };
        let fits = whole.parse::<Reference>().is_ok_and(|r| r.tag.is_none() && r.digest.is_none());
        if fits { Ok(text) } else { Err(format!("`signedIdentity`: `{text}` is no host, namespace or repository")) }
    };
    Ok(match (kind.as_str(), docker_reference, docker_repository, prefix, signed_prefix) {
        ("matchExact", None, None, None, None) => Identity::MatchExact,
        ("matchRepoDigestOrExact", None, None, None, None) => Identity::MatchRepoDigestOrExact,
        ("matchRepository", None, None, None, None) => Identity::MatchRepository,
        ("exactReference", Some(text), None, None, None) => {
            let wanted = name(&text)?;
            if wanted.tag.is_none() && wanted.digest.is_none() {
                return Err(format!("`signedIdentity`: `{text}` needs a tag or a digest"));
            }
            Identity::ExactReference(wanted)
        }
        ("exactRepository", None, Some(text), None, None) => Identity::ExactRepository(name(&text)?),
        ("remapIdentity", None, None, Some(prefix), Some(signed)) => {
            Identity::Remap { prefix: prefix_of(prefix)?, signed: prefix_of(signed)? }
        }
        (
            "matchExact"
            | "matchRepoDigestOrExact"
            | "matchRepository"
            | "exactReference"
            | "exactRepository"
            | "remapIdentity",
            ..,
        ) => return Err(format!("`signedIdentity`: `{kind}` has other members than these")),
        _ => return Err(format!("`signedIdentity`: unknown type `{kind}`")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        parse(text.as_bytes()).map(drop).unwrap_err()
    }

    fn with(requirement: &str) -> String {
        format!(r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"a.b/c": [{requirement}]}}}}}}"#)
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_names_its_place() {
        for (text, part) in [
            ("{}", "missing field `default`"),
            ("{", "line 1"),
            (r#"{"default": []}"#, "`default`: there has to be at least one requirement"),
            (r#"{"default": [{"type": "reject"}], "other": 1}"#, "unknown field `other`"),
            (r#"{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}"#, "duplicate field"),
            (r#"{"default": [{"type": "reject"}]} x"#, "trailing"),
            (r#"{"default": [{"type": "rejekt"}]}"#, "`default`, requirement 1: unknown type `rejekt`"),
            (r#"{"default": [{"type": "reject", "kee": 1}]}"#, "unknown field `kee`"),
            (r#"{"default": [{"type": "reject", "keyPath": "x"}]}"#, "`reject` has no member `keyPath`"),
            (
                r#"{"default": [{"type": "reject"}], "transports": {"docker": {}, "docker": {}}}"#,
                "`docker` stands there twice",
            ),
            (&with(r#"{"type": "sigstoreSigned"}"#), "scope `a.b/c` of `docker`, requirement 1: it needs exactly one"),
            (&with(r#"{"type": "sigstoreSigned", "keyPath": "a", "keyData": "b"}"#), "exactly one of"),
            (&with(r#"{"type": "sigstoreSigned", "keyPaths": []}"#), "list of keys is empty"),
            (&with(r#"{"type": "sigstoreSigned", "keyData": "!"}"#), "not PEM in base64"),
            (&with(r#"{"type": "sigstoreSigned", "keyPath": "a", "keyType": "GPGKeys"}"#), "no member `keyType`"),
            (
                &with(r#"{"type": "sigstoreSigned", "keyPath": "a", "signedIdentity": {"type": "x"}}"#),
                "unknown type `x`",
            ),
            (
                &with(
                    r#"{"type": "sigstoreSigned", "keyPath": "a", "signedIdentity": {"type": "matchExact", "prefix": "a"}}"#,
                ),
                "has other members",
            ),
            (
                &with(
                    r#"{"type": "sigstoreSigned", "keyPath": "a", "signedIdentity": {"type": "exactReference", "dockerReference": "a/b"}}"#,
                ),
                "needs a tag",
            ),
            (
                &with(
                    r#"{"type": "sigstoreSigned", "keyPath": "a", "signedIdentity": {"type": "remapIdentity", "prefix": "a.b/c:1", "signedPrefix": "d"}}"#,
                ),
                "`a.b/c:1` is no host",
            ),
            (
                r#"{"default": [{"type": "reject"}], "transports": {"dir": {"a": [{"type": "reject"}]}}}"#,
                "scope `a` of `dir`: it has to be an absolute path",
            ),
        ] {
            assert!(said(text).contains(part), "{text}: {}", said(text));
        }
    }

    #[test]
    fn what_cannot_be_checked_is_kept_for_the_images_that_it_is_about() {
        for requirement in [
            r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}"#,
            r#"{"type": "sigstoreSigned", "fulcio": {"caPath": "/x"}, "rekorPublicKeyPath": "/y"}"#,
            r#"{"type": "sigstoreSigned", "keyPath": "/k", "rekorPublicKeyData": "eA=="}"#,
            r#"{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}"#,
        ] {
            let rules = parse(with(requirement).as_bytes()).unwrap();
            assert!(matches!(rules.transports["docker"]["a.b/c"][0], Requirement::Unsupported { .. }), "{requirement}");
        }
    }
}
