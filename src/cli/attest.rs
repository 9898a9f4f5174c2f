//! Values of `--sbom`, `--provenance` and `--attest`, which both command lines of builds have: buildx's small language.

use super::{Error, values};
use crate::attest::Wanted;
use crate::attest::provenance::{Form, Version};
use crate::oci::ManifestFormat;
use crate::sbom::Format;

/// What flags ask to be said about the image. `--sbom` and `--provenance` win over `--attest`, later ones over earlier ones.
///
/// # Errors
/// Words that are not of the language, and what rbuild cannot say.
pub fn wanted(sbom: Option<&str>, provenance: Option<&str>, attest: &[String]) -> Result<Wanted, Error> {
    let mut wanted = Wanted::default();
    for text in attest {
        let (kind, rest): (Vec<&str>, Vec<&str>) = text.split(',').partition(|f| f.starts_with("type="));
        let rest = rest.join(",");
        match kind.first().copied() {
            Some("type=sbom") => wanted.sbom = sbom_of(&rest, "attest type=sbom")?,
            Some("type=provenance") => wanted.provenance = provenance_of(&rest, "attest type=provenance")?,
            Some(other) => {
                return Err(Error::unsupported(
                    format!("`{other}` of `--attest`"),
                    "use `type=sbom` or `type=provenance`",
                ));
            }
            None => {
                return Err(Error::usage_hint(
                    format!("attestation `{text}` has no type"),
                    "begin it with `type=sbom` or `type=provenance`",
                ));
            }
        }
    }
    if let Some(text) = sbom {
        wanted.sbom = sbom_of(text, "sbom")?;
    }
    if let Some(text) = provenance {
        wanted.provenance = provenance_of(text, "provenance")?;
    }
    Ok(wanted)
}

/// Refuses attestations where the format of the image has no place for them.
///
/// # Errors
/// That.
pub fn check_format(wanted: &Wanted, format: ManifestFormat) -> Result<(), Error> {
    match wanted.any() && format == ManifestFormat::Docker {
        true => Err(Error::usage_hint("Docker's format has no place for attestations", "use `--format oci`")),
        false => Ok(()),
    }
}

/// A truth, or a list of fields without a `KEY=` in front of a single word.
fn fields(text: &str) -> Vec<(&str, &str)> {
    text.split(',').filter(|f| !f.is_empty()).map(|f| f.split_once('=').unwrap_or(("", f))).collect()
}

fn truth(flag: &str, key: &str, value: &str) -> Result<bool, Error> {
    values::boolean(value)
        .map_err(|why| Error::usage(format!("invalid value `{value}` for `{key}` of `--{flag}`: {why}")))
}

fn sbom_of(text: &str, flag: &str) -> Result<Option<Format>, Error> {
    const OWN: &str = "rbuild reads the packages itself: use `--sbom=spdx` or `--sbom=cyclonedx`";
    let mut format = Some(Format::Spdx);
    for (key, value) in fields(text) {
        match (key, value) {
            ("", "spdx") | ("format", "spdx") => format = Some(Format::Spdx),
            ("", "cyclonedx") | ("format", "cyclonedx") => format = Some(Format::CycloneDx),
            ("disabled", value) if truth(flag, key, value)? => return Ok(None),
            ("disabled", _) => {}
            ("", value) if values::boolean(value).is_ok() => {
                if values::boolean(value) == Ok(false) {
                    return Ok(None);
                }
            }
            ("", value) => return Err(Error::unsupported(format!("`--{flag}={value}`"), OWN)),
            (key, _) => return Err(Error::unsupported(format!("`{key}` of `--{flag}`"), OWN)),
        }
    }
    Ok(format)
}

fn provenance_of(text: &str, flag: &str) -> Result<Option<Form>, Error> {
    const KEYS: &str = "use `mode=min`, `mode=max`, `version=v0.2`, `version=v1`, `builder-id=ID`, `reproducible=BOOL`";
    let mut form = Form::default();
    for (key, value) in fields(text) {
        match (key, value) {
            ("mode" | "", "min") => form.max = false,
            ("mode" | "", "max") => form.max = true,
            ("version", "v0.2") => form.version = Version::V02,
            ("version", "v1") => form.version = Version::V1,
            ("builder-id", id) => form.builder_id = id.to_owned(),
            ("reproducible", value) => form.reproducible = truth(flag, key, value)?,
            // So it is anyway: files that are written beside an image get none.
            ("inline-only", value) => drop(truth(flag, key, value)?),
            ("disabled", value) if truth(flag, key, value)? => return Ok(None),
            ("disabled", _) => {}
            ("", value) if values::boolean(value).is_ok() => {
                if values::boolean(value) == Ok(false) {
                    return Ok(None);
                }
            }
            ("", value) => return Err(Error::unsupported(format!("`--{flag}={value}`"), KEYS)),
            (key, value) => return Err(Error::unsupported(format!("`{key}={value}` of `--{flag}`"), KEYS)),
        }
    }
    Ok(Some(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_acted_on_or_refused() {
        let shown = |sbom: Option<&str>, provenance: Option<&str>, attest: &[&str]| {
            let attest: Vec<String> = attest.iter().map(|a| (*a).to_owned()).collect();
            let typed = format!("{sbom:?} {provenance:?} {attest:?}");
            match wanted(sbom, provenance, &attest) {
                Ok(w) => format!("{typed} -> {:?} {:?}", w.sbom, w.provenance),
                Err(e) => format!("{typed} -> {e}"),
            }
        };
        let lines = [
            shown(Some("true"), None, &[]),
            shown(Some("false"), None, &["type=sbom"]),
            shown(Some("cyclonedx"), None, &[]),
            shown(Some("generator=x"), None, &[]),
            shown(Some("syft"), None, &[]),
            shown(None, Some("true"), &[]),
            shown(None, Some("mode=max,version=v1,builder-id=https://x,reproducible=true"), &[]),
            shown(None, Some("max"), &["type=provenance,disabled=true"]),
            shown(None, Some("mode=most"), &[]),
            shown(None, Some("filename=x"), &[]),
            shown(None, None, &["type=provenance,mode=max", "type=sbom,disabled=true"]),
            shown(None, None, &["mode=max"]),
            shown(None, None, &["type=vex"]),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        Some("true") None [] -> Some(Spdx) None
        Some("false") None ["type=sbom"] -> None None
        Some("cyclonedx") None [] -> Some(CycloneDx) None
        Some("generator=x") None [] -> `generator` of `--sbom` is not supported
        Some("syft") None [] -> `--sbom=syft` is not supported
        None Some("true") [] -> None Some(Form { max: false, version: V02, builder_id: "", reproducible: false })
        None Some("mode=max,version=v1,builder-id=https://x,reproducible=true") [] -> None Some(Form { max: true, version: V1, builder_id: "https://x", reproducible: true })
        None Some("max") ["type=provenance,disabled=true"] -> None Some(Form { max: true, version: V02, builder_id: "", reproducible: false })
        None Some("mode=most") [] -> `mode=most` of `--provenance` is not supported
        None Some("filename=x") [] -> `filename=x` of `--provenance` is not supported
        None None ["type=provenance,mode=max", "type=sbom,disabled=true"] -> None Some(Form { max: true, version: V02, builder_id: "", reproducible: false })
        None None ["mode=max"] -> attestation `mode=max` has no type
        None None ["type=vex"] -> `type=vex` of `--attest` is not supported
        "#);
    }
}
