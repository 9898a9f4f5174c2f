//! CycloneDX 1.6 in JSON: <https://cyclonedx.org/docs/1.6/json/>.

use super::document::{Each, Subject, TOOL, id};
use super::licence::{Declared, declared};
use super::purl::purl;
use super::{Inventory, Package};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{self, Write};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<C> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Value,
    components: C,
}

/// Writes the document.
pub(super) fn write(subject: &Subject, inventory: &Inventory, out: &mut dyn Write) -> io::Result<()> {
    let system = || {
        inventory.system.iter().map(|s| {
            let mut component = json!({"bom-ref": "operating-system", "type": "operating-system", "name": s.id});
            let more = [("version", &s.version), ("description", &s.name)];
            for (key, value) in more.into_iter().filter_map(|(k, v)| Some((k, v.as_ref()?))) {
                component[key] = value.as_str().into();
            }
            component
        })
    };
    let packages = || inventory.packages.iter().map(|(package, files)| component(package, files, inventory));
    let document = Document {
        schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: format!("urn:uuid:{}", subject.uuid("cyclonedx", inventory)),
        version: 1,
        metadata: json!({
            "timestamp": subject.time(),
            "tools": {"components": [{"type": "application", "name": TOOL.0, "version": TOOL.1}]},
            "component": {
                "bom-ref": "image", "type": "container", "name": subject.name, "version": subject.id.to_string(),
            },
        }),
        components: Each(|| system().chain(packages())),
    };
    serde_json::to_writer(out, &document).map_err(io::Error::from)
}

fn component(package: &Package, files: &BTreeSet<String>, inventory: &Inventory) -> Value {
    let mut component = json!({"bom-ref": id(package), "type": "library"});
    // The name of an npm scope, of a vendor, of everything but the last part of a path.
    let (group, name) = package.name.rsplit_once('/').map_or((None, package.name.as_str()), |(g, n)| (Some(g), n));
    if let Some(group) = group {
        component["group"] = group.into();
    }
    component["name"] = name.into();
    if !package.version.is_empty() {
        component["version"] = package.version.as_str().into();
    }
    if let Some(maintainer) = &package.maintainer {
        component["publisher"] = maintainer.as_str().into();
    }
    if let Some(text) = &package.licence {
        component["licenses"] = match declared(text) {
            Declared::Name(name) => json!([{"license": {"id": name}}]),
            Declared::Expression(expression) => json!([{"expression": expression}]),
            Declared::Text(text) => json!([{"license": {"name": text}}]),
        };
    }
    component["purl"] = purl(package, inventory.system.as_ref()).into();
    let occurrences: Vec<Value> = files.iter().map(|file| json!({"location": format!("/{file}")})).collect();
    component["evidence"] = json!({"occurrences": occurrences});
    component
}
