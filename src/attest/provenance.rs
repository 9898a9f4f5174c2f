//! SLSA provenance: from what, by whom and how an image was built. Versions 0.2 and 1 of the predicate, with the fields that
//! BuildKit fills in, of either mode.
//!
//! `min` leaves out what may be confidential or long: values of arguments and labels, names of secrets, the steps and the
//! Dockerfile. Values of secrets are in neither.
//!
//! Format: <https://slsa.dev/spec/v0.2/provenance>, <https://slsa.dev/spec/v1.1/provenance>, and for the fields
//! <https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md>.

use super::statement::image_url;
use crate::oci::{Digest, Platform, Reference};
use serde_json::{Map, Value, json};

/// What a provenance statement looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Everything, and not the least.
    pub max: bool,
    /// Version of the predicate.
    pub version: Version,
    /// Who built: an address, for example of the job.
    pub builder_id: String,
    /// The user's word that the build gives the same bytes each time.
    pub reproducible: bool,
}

/// Version of the predicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 0.2.
    #[default]
    V02,
    /// 1.
    V1,
}

impl Version {
    /// The type of the predicate.
    pub fn predicate_type(self) -> &'static str {
        match self {
            Version::V02 => "https://slsa.dev/provenance/v0.2",
            Version::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// Something that a build was made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    /// Its address, or a package URL.
    pub uri: String,
    /// Kind of its digest: `sha256`, `sha1`.
    pub algorithm: String,
    /// Its digest.
    pub digest: String,
}

impl Material {
    /// An image.
    pub fn image(name: &Reference, platform: &Platform, manifest: &Digest) -> Material {
        Material { uri: image_url(name, platform), algorithm: "sha256".into(), digest: manifest.hex() }
    }

    fn json(&self) -> Value {
        json!({"uri": self.uri, "digest": {&self.algorithm: self.digest}})
    }
}

/// What is known of a build.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Where the build context came from, if it was fetched.
    pub source: Option<Material>,
    /// The Dockerfile.
    pub entry_point: String,
    /// What was asked for by name: `target`, `build-arg:NAME`, `label:NAME`, ….
    pub args: Vec<(String, String)>,
    /// Where the files of local directories are kept: `source`, `revision`, `localdir:NAME`. Nobody has checked it.
    pub vcs: Vec<(String, String)>,
    /// Names of the local sources.
    pub locals: Vec<String>,
    /// Ids of the secrets.
    pub secrets: Vec<String>,
    /// Ids of the SSH agents.
    pub ssh: Vec<String>,
    /// What it was made from, sorted.
    pub materials: Vec<Material>,
    /// Whether that is all that it read.
    pub materials_complete: bool,
    /// Whether no step had a network.
    pub offline: bool,
    /// The platform of the machine.
    pub platform: String,
    /// Names this run of the build, and no other.
    pub invocation: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// When it ended, RFC 3339.
    pub finished: String,
    /// The steps, as BuildKit writes them: `id`, `op`, `inputs`.
    pub steps: Vec<Value>,
    /// Where in the Dockerfile each step stands, and the Dockerfile: `locations` and `infos`.
    pub sources: Value,
    /// The layers that steps start from and make, by output.
    pub layers: Value,
}

impl Facts {
    /// The predicate.
    pub fn predicate(&self, form: &Form) -> Value {
        match form.version {
            Version::V02 => self.v02(form),
            Version::V1 => self.v1(form),
        }
    }

    fn hermetic(&self) -> bool {
        self.offline && self.materials_complete
    }

    fn request(&self, form: &Form) -> Value {
        let shown = |name: &str| form.max || !["build-arg:", "label:"].iter().any(|p| name.starts_with(p));
        let args: Map<String, Value> =
            self.args.iter().filter(|(name, _)| shown(name)).map(|(n, v)| (n.clone(), v.as_str().into())).collect();
        let mut request = json!({"frontend": "dockerfile.v0", "args": args});
        if form.max {
            let ids = |all: &[String]| all.iter().map(|id| json!({"id": id, "optional": true})).collect::<Vec<_>>();
            for (key, all) in [("secrets", &self.secrets), ("ssh", &self.ssh)] {
                if !all.is_empty() {
                    request[key] = ids(all).into();
                }
            }
        }
        request["locals"] = self.locals.iter().map(|name| json!({"name": name})).collect();
        request
    }

    fn config_source(&self, entry_point: &str) -> Value {
        let mut source = self.source.as_ref().map_or_else(|| json!({}), Material::json);
        source[entry_point] = self.entry_point.as_str().into();
        source
    }

    fn own_metadata(&self, form: &Form) -> Value {
        let mut own = match form.max {
            true => json!({"source": self.sources, "layers": self.layers}),
            false => json!({}),
        };
        if !self.vcs.is_empty() {
            own["vcs"] = self.vcs.iter().map(|(n, v)| (n.clone(), v.as_str().into())).collect::<Map<_, _>>().into();
        }
        own
    }

    fn materials(&self) -> Vec<Value> {
        self.materials.iter().map(Material::json).collect()
    }

    fn v02(&self, form: &Form) -> Value {
        let mut metadata = json!({
            "buildInvocationID": self.invocation,
            "buildStartedOn": self.started,
            "buildFinishedOn": self.finished,
            "completeness": {"parameters": form.max, "environment": true, "materials": self.materials_complete},
            "reproducible": form.reproducible,
        });
        if self.hermetic() {
            metadata["https://mobyproject.org/buildkit@v1#hermetic"] = true.into();
        }
        metadata["https://mobyproject.org/buildkit@v1#metadata"] = self.own_metadata(form);
        let mut predicate = json!({
            "builder": {"id": form.builder_id},
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": self.materials(),
            "invocation": {
                "configSource": self.config_source("entryPoint"),
                "parameters": self.request(form),
                "environment": {"platform": self.platform},
            },
        });
        if form.max {
            predicate["buildConfig"] = json!({"llbDefinition": self.steps});
        }
        predicate["metadata"] = metadata;
        predicate
    }

    fn v1(&self, form: &Form) -> Value {
        let mut internal = json!({"builderPlatform": self.platform});
        if form.max {
            internal["buildConfig"] = json!({"llbDefinition": self.steps});
        }
        let mut metadata = json!({
            "invocationID": self.invocation,
            "startedOn": self.started,
            "finishedOn": self.finished,
            "buildkit_metadata": self.own_metadata(form),
        });
        if self.hermetic() {
            metadata["buildkit_hermetic"] = true.into();
        }
        metadata["buildkit_completeness"] =
            json!({"request": form.max, "resolvedDependencies": self.materials_complete});
        metadata["buildkit_reproducible"] = form.reproducible.into();
        json!({
            "buildDefinition": {
                "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": {"configSource": self.config_source("path"), "request": self.request(form)},
                "internalParameters": internal,
                "resolvedDependencies": self.materials(),
            },
            "runDetails": {"builder": {"id": form.builder_id}, "metadata": metadata},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_tells_no_values() {
        let facts = Facts {
            args: [("build-arg:TOKEN", "v1"), ("label:x", "v2"), ("target", "t")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .to_vec(),
            secrets: vec!["v3".into()],
            steps: vec!["v4".into()],
            sources: "v5".into(),
            ..Facts::default()
        };
        for version in [Version::V02, Version::V1] {
            let text = |max| facts.predicate(&Form { max, version, ..Form::default() }).to_string();
            for value in ["v1", "v2", "v3", "v4", "v5"] {
                let value = format!("\"{value}\"");
                assert!(text(true).contains(&value) && !text(false).contains(&value), "{version:?}: {value}");
            }
            assert!(text(false).contains(r#""target":"t""#));
        }
    }
}
