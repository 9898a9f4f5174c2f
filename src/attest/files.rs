//! What is said about an image, as files: where its root file system goes there is no index that could hold it. The
//! statements are the same but for their subjects, which are the files there.

use super::manifest::{IN_TOTO, MAX_STATEMENT};
use super::statement::STATEMENT;
use super::{Error, Subject};
use crate::oci::Descriptor;
use crate::store::Store;
use serde_json::Value;
use std::io::{self, Write};

/// One statement about an image.
#[derive(Debug)]
pub struct Said {
    predicate_type: String,
    predicate: Value,
}

/// What the attestation `entry` of an index says.
///
/// # Errors
/// Where it cannot be read.
pub fn said(store: &Store, entry: &Descriptor) -> Result<Vec<Said>, Error> {
    let layers = store.manifest(&entry.digest)?.layers.into_iter();
    layers
        .filter(|layer| layer.media_type == IN_TOTO)
        .map(|layer| {
            let bytes = store.read_blob(&layer.digest, MAX_STATEMENT)?;
            let mut statement: Value =
                serde_json::from_slice(&bytes).map_err(Error::json(format!("attestation `{}`", layer.digest)))?;
            let text = statement.get("predicateType").and_then(Value::as_str).unwrap_or_default();
            Ok(Said {
                predicate_type: text.to_owned(),
                predicate: statement.get_mut("predicate").map(Value::take).unwrap_or_default(),
            })
        })
        .collect()
}

impl Said {
    /// How BuildKit calls the file.
    pub fn file_name(&self) -> &'static str {
        match self.predicate_type.as_str() {
            "https://spdx.dev/Document" => "sbom.spdx.json",
            "https://cyclonedx.org/bom" => "sbom.cdx.json",
            t if t.starts_with("https://slsa.dev/provenance/") => "provenance.json",
            _ => "attestation.json",
        }
    }

    /// Writes it as being about these subjects.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, subjects: &[Subject], out: &mut dyn Write) -> io::Result<()> {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Statement<'a> {
            #[serde(rename = "_type")]
            kind: &'a str,
            predicate_type: &'a str,
            subject: Vec<Value>,
            predicate: &'a Value,
        }
        let subject = subjects.iter().map(Subject::json).collect();
        let (predicate_type, predicate) = (&self.predicate_type, &self.predicate);
        serde_json::to_writer_pretty(&mut *out, &Statement { kind: STATEMENT, predicate_type, subject, predicate })?;
        out.flush()
    }
}
