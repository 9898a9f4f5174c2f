//! SPDX 2.3 in JSON: <https://spdx.github.io/spdx-spec/v2.3/>.
//!
//! The document describes one package, the image, which contains all others.

use super::document::{Each, Subject, TOOL, id};
use super::licence::{Declared, declared};
use super::purl::purl;
use super::{Inventory, Package};
use crate::oci::Digest;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
const SYSTEM: &str = "SPDXRef-OperatingSystem";
const UNKNOWN: &str = "NOASSERTION";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a, P, L, R> {
    spdx_version: &'a str,
    data_license: &'a str,
    #[serde(rename = "SPDXID")]
    spdx_id: &'a str,
    name: &'a str,
    document_namespace: String,
    creation_info: Creation,
    packages: P,
    #[serde(skip_serializing_if = "Option::is_none")]
    has_extracted_licensing_infos: Option<L>,
    relationships: R,
}

#[derive(Serialize)]
struct Creation {
    created: String,
    creators: [String; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(rename = "SPDXID")]
    spdx_id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_info: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supplier: Option<String>,
    download_location: &'static str,
    files_analyzed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    license_concluded: &'static str,
    license_declared: String,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<External>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_package_purpose: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct External {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Licence {
    license_id: String,
    extracted_text: String,
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: &'static str,
    relationship_type: &'static str,
    related_spdx_element: String,
}

/// Writes the document.
pub(super) fn write(subject: &Subject, inventory: &Inventory, out: &mut dyn Write) -> io::Result<()> {
    let system = inventory.system.as_ref();
    let first = || {
        let image = Entry {
            version_info: Some(subject.id.to_string()),
            primary_package_purpose: Some("CONTAINER"),
            ..entry(IMAGE, &subject.name)
        };
        let system = system.map(|s| Entry {
            version_info: s.version.clone(),
            primary_package_purpose: Some("OPERATING-SYSTEM"),
            ..entry(SYSTEM, s.name.as_ref().unwrap_or(&s.id))
        });
        std::iter::once(image).chain(system)
    };
    let packages = || inventory.packages.iter().map(|(package, files)| described(package, files, inventory));
    let contained = || {
        let all = inventory.packages.keys().map(spdx_id);
        let all = system.map(|_| SYSTEM.to_owned()).into_iter().chain(all);
        let describes = relationship(DOCUMENT, "DESCRIBES", IMAGE.to_owned());
        std::iter::once(describes).chain(all.map(|one| relationship(IMAGE, "CONTAINS", one)))
    };
    let mut quoted: BTreeMap<String, &str> = BTreeMap::new();
    for text in inventory.packages.keys().filter_map(|p| p.licence.as_deref()) {
        if let Declared::Text(text) = declared(text) {
            quoted.insert(reference(text), text);
        }
    }
    let licence = |(id, text): (&String, &&str)| Licence {
        license_id: id.clone(),
        extracted_text: (*text).to_owned(),
        name: "as the package says it".to_owned(),
    };
    let document = Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        spdx_id: DOCUMENT,
        name: &subject.name,
        document_namespace: format!("urn:uuid:{}", subject.uuid("spdx", inventory)),
        creation_info: Creation { created: subject.time(), creators: [format!("Tool: {}-{}", TOOL.0, TOOL.1)] },
        packages: Each(|| first().chain(packages())),
        has_extracted_licensing_infos: (!quoted.is_empty()).then_some(Each(|| quoted.iter().map(licence))),
        relationships: Each(contained),
    };
    serde_json::to_writer(out, &document).map_err(io::Error::from)
}

fn entry(id: impl Into<String>, name: &str) -> Entry {
    Entry {
        spdx_id: id.into(),
        name: name.to_owned(),
        version_info: None,
        supplier: None,
        download_location: UNKNOWN,
        files_analyzed: false,
        source_info: None,
        license_concluded: UNKNOWN,
        license_declared: UNKNOWN.to_owned(),
        copyright_text: UNKNOWN,
        external_refs: vec![],
        primary_package_purpose: None,
    }
}

fn described(package: &Package, files: &BTreeSet<String>, inventory: &Inventory) -> Entry {
    let licence = package.licence.as_deref().map(|text| match declared(text) {
        Declared::Name(name) => name.to_owned(),
        Declared::Expression(expression) => expression,
        Declared::Text(text) => reference(text),
    });
    let files: Vec<String> = files.iter().map(|file| format!("/{file}")).collect();
    Entry {
        version_info: Some(package.version.clone()).filter(|v| !v.is_empty()),
        supplier: package.maintainer.as_deref().map(supplier),
        source_info: Some(format!("found in {}", files.join(", "))),
        license_declared: licence.unwrap_or_else(|| UNKNOWN.to_owned()),
        external_refs: vec![External {
            reference_category: "PACKAGE-MANAGER",
            reference_type: "purl",
            reference_locator: purl(package, inventory.system.as_ref()),
        }],
        ..entry(spdx_id(package), &package.name)
    }
}

fn spdx_id(package: &Package) -> String {
    format!("SPDXRef-{}", id(package))
}

fn relationship(from: &'static str, kind: &'static str, to: String) -> Relationship {
    Relationship { spdx_element_id: from, relationship_type: kind, related_spdx_element: to }
}

/// The name that a document gives to a licence that is not on SPDX's list.
fn reference(text: &str) -> String {
    format!("LicenseRef-{}", Digest::of(text).hex().get(..20).unwrap_or_default())
}

/// `Name <address>` in the form of SPDX: `Organization: Name (address)`.
fn supplier(maintainer: &str) -> String {
    let (name, address) = match maintainer.split_once('<') {
        Some((name, rest)) => (name, rest.split('>').next()),
        None => (maintainer, None),
    };
    // Brackets would end the name.
    let clean = |text: &str| text.replace(['(', ')', '\n', '\r'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let (name, address) = (clean(name), address.map(clean).filter(|a| a.contains('@')));
    match (name.is_empty(), address) {
        (true, None) => UNKNOWN.to_owned(),
        (true, Some(address)) => format!("Organization: {address}"),
        (false, None) => format!("Organization: {name}"),
        (false, Some(address)) => format!("Organization: {name} ({address})"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn maintainers_become_suppliers() {
        for (text, expected) in [
            ("GNU Libc <debian-glibc@lists.debian.org>", "Organization: GNU Libc (debian-glibc@lists.debian.org)"),
            ("A (B) <x>", "Organization: A B"),
            ("<a@b>", "Organization: a@b"),
            (" ", "NOASSERTION"),
        ] {
            assert_eq!(super::supplier(text), expected);
        }
    }
}
