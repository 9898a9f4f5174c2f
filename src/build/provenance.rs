//! What is known of a build when it is over: the facts of a provenance statement.
//!
//! BuildKit describes the steps as operations of its own graph. The steps of a plan are written in the same form: where files
//! come from is a `source`, RUN an `exec`, COPY, ADD and WORKDIR a `file`. A step that changes only the config is none.

use super::{Error, execute::Executor};
use crate::attest::provenance::{Facts, Material};
use crate::dockerfile::MountKind;
use crate::oci::Manifest;
use crate::plan::{Base, Copy, CopyFrom, CopySource, Network, ResolvedImage, Run, Step, StepKind};
use crate::registry::download::shown;
use crate::source::Origin;
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The main context, and where its Dockerfile is.
const LOCALS: [&str; 2] = ["context", "dockerfile"];

impl Executor<'_> {
    /// What is known of this build, which made the image of `manifest`.
    pub(super) fn facts(&self, manifest: &Manifest) -> Result<Facts, Error> {
        let request = self.request;
        let security = &request.security;
        let mut materials = vec![];
        for image in self.images_read() {
            materials.push(Material::image(&image.reference, &image.config.platform(), &image.manifest));
        }
        let copied =
            self.plan.steps.iter().filter_map(|s| if let StepKind::Copy(c) = &s.kind { Some(c) } else { None });
        for source in copied.flat_map(|c| &c.sources) {
            match source {
                CopySource::Web { url, checksum } => {
                    let digest = self.remotes.web(url, *checksum)?.digest.hex();
                    materials.push(material(&Origin { uri: shown(url), digest, commit: false }));
                }
                CopySource::Git(url) => {
                    let digest = self.remotes.commit(url)?.id.clone();
                    materials.push(material(&Origin { uri: url.to_string(), digest, commit: true }));
                }
                CopySource::Path(_) | CopySource::Inline { .. } => {}
            }
        }
        let source = self.context.files.origin().map(material);
        materials.extend(source.clone());
        let mut locals: Vec<String> = vec![];
        if source.is_none() {
            locals.extend(LOCALS.map(str::to_owned));
        }
        for (id, context) in self.context.all_named() {
            match (context.origin(), request.context.named.get(id.0)) {
                (Some(origin), _) => materials.push(material(origin)),
                (None, named) => locals.extend(named.map(|(name, _)| name.clone())),
            }
        }
        materials.sort();
        materials.dedup();
        let mut ssh: Vec<String> = security.ssh.iter().map(|s| s.id.clone()).collect();
        let mut secrets: Vec<String> = security.secrets.iter().map(|s| s.id.clone()).collect();
        ssh.sort();
        secrets.sort();
        let graph = self.graph(manifest);
        let online = |s: &Step| matches!(&s.kind, StepKind::Run(run) if self.network(run) != Network::None);
        Ok(Facts {
            source,
            entry_point: self.context.dockerfile_name.clone(),
            args: self.args(),
            vcs: request.output.attest.vcs.clone(),
            materials_complete: locals.is_empty(),
            locals,
            secrets,
            ssh,
            materials,
            offline: !self.plan.steps.iter().any(online),
            platform: request.platform.build.to_string(),
            invocation: request.output.attest.invocation.clone(),
            started: self.started.clone(),
            finished: jiff::Timestamp::now().to_string(),
            steps: graph.steps,
            sources: json!({
                "locations": graph.locations,
                "infos": [{
                    "filename": self.context.dockerfile_name,
                    "language": "Dockerfile",
                    "data": base64::engine::general_purpose::STANDARD.encode(&self.context.dockerfile),
                }],
            }),
            layers: Value::Object(graph.layers),
        })
    }

    /// All images that steps start from or read.
    fn images_read(&self) -> Vec<&ResolvedImage> {
        let mut all: Vec<&ResolvedImage> = vec![];
        for step in &self.plan.steps {
            match &step.kind {
                StepKind::Base(Base::Image(image)) => all.push(image),
                StepKind::Copy(Copy { from: CopyFrom::Image(image), .. }) => all.push(image),
                StepKind::Run(run) => all.extend(run.mounts.iter().filter_map(|m| match &m.from {
                    Some(CopyFrom::Image(image)) => Some(&**image),
                    _ => None,
                })),
                _ => {}
            }
        }
        all
    }

    /// What was asked for, in BuildKit's words.
    fn args(&self) -> Vec<(String, String)> {
        let (target, metadata) = (&self.request.target, &self.request.metadata);
        let build_args = target.build_args.iter().filter_map(|(n, v)| Some((format!("build-arg:{n}"), v.clone()?)));
        let labels = metadata.labels.iter().map(|(n, v)| (format!("label:{n}"), v.clone()));
        let mut all: BTreeMap<String, String> = build_args.chain(labels).collect();
        all.extend(target.stage.iter().map(|stage| ("target".to_owned(), stage.clone())));
        if self.request.platform.explicit {
            all.insert("platform".into(), self.request.platform.target.to_string());
        }
        if self.request.security.network == Some(Network::None) {
            all.insert("force-network-mode".into(), "none".into());
        }
        if self.request.cache.no_cache {
            all.insert("no-cache".into(), String::new());
        }
        all.into_iter().collect()
    }

    fn graph(&self, manifest: &Manifest) -> Graph {
        let mut graph = Graph::default();
        for step in &self.plan.steps {
            let below = step.parent.and_then(|p| graph.outputs.get(p.0).cloned().flatten());
            let output = match &step.kind {
                StepKind::Base(Base::Image(image)) => {
                    let output = graph.source(&identifier(image));
                    if let Some(found) = self.bases.get(image) {
                        graph.layers.insert(output.clone(), json!([found.manifest.layers]));
                    }
                    Some(output)
                }
                StepKind::Base(Base::Scratch) => None,
                StepKind::Base(Base::Stage(other)) => graph.outputs.get(other.0).cloned().flatten(),
                StepKind::Base(Base::Files(id)) => Some(graph.source(&format!("local://{}", self.local_name(id.0)))),
                StepKind::Config => below,
                StepKind::Run(run) => Some(self.exec(&mut graph, run, below)),
                StepKind::Copy(copy) => Some(self.copies(&mut graph, copy, below)),
                StepKind::Workdir { path, user } => {
                    let action = json!({"Action": {"mkdir": {"path": path, "makeParents": true, "user": user}}});
                    Some(graph.file(vec![action], below.into_iter().collect()))
                }
            };
            if let (Some(output), false) = (&output, matches!(step.kind, StepKind::Config)) {
                graph.locate(output, step);
            }
            graph.outputs.push(output);
        }
        let last = self.plan.stages.get(self.plan.target).map(|s| s.last.0);
        if let Some(output) = last.and_then(|n| graph.outputs.get(n).cloned().flatten()) {
            graph.layers.insert(output, json!([manifest.layers]));
        }
        graph
    }

    fn local_name(&self, id: usize) -> String {
        self.request.context.named.get(id).map(|(name, _)| name.clone()).unwrap_or_default()
    }

    /// The output that files are read from.
    fn read_from(&self, graph: &mut Graph, from: &CopyFrom) -> Option<String> {
        match from {
            CopyFrom::Context => Some(match self.context.files.origin() {
                Some(origin) => graph.source(&fetched(origin)),
                None => graph.source("local://context"),
            }),
            CopyFrom::Stage(id) => graph.outputs.get(id.0).cloned().flatten(),
            CopyFrom::Image(image) => Some(graph.source(&identifier(image))),
            CopyFrom::Named(id) => Some(graph.source(&format!("local://{}", self.local_name(id.0)))),
        }
    }

    fn exec(&self, graph: &mut Graph, run: &Run, below: Option<String>) -> String {
        let mut inputs: Vec<String> = below.into_iter().collect();
        let root = if inputs.is_empty() { -1 } else { 0 };
        let mut mounts = vec![json!({"input": root, "dest": "/", "output": 0})];
        for mount in &run.mounts {
            let from = mount.from.as_ref().and_then(|from| self.read_from(graph, from));
            let input = from.map_or(json!(-1), |from| graph.input(&mut inputs, from));
            let kind = match mount.options.kind {
                MountKind::Bind => "BIND",
                MountKind::Cache => "CACHE",
                MountKind::Tmpfs => "TMPFS",
                MountKind::Secret => "SECRET",
                MountKind::Ssh => "SSH",
            };
            mounts.push(json!({"input": input, "dest": mount.options.target, "output": -1, "mountType": kind}));
        }
        let env: Vec<String> = run.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mut meta = json!({"args": run.argv, "env": env, "cwd": run.cwd});
        if !run.user.is_empty() {
            meta["user"] = run.user.as_str().into();
        }
        let mut exec = json!({"meta": meta, "mounts": mounts});
        if self.network(run) == Network::None {
            exec["network"] = "NONE".into();
        }
        graph.step(json!({"exec": exec}), inputs)
    }

    fn copies(&self, graph: &mut Graph, copy: &Copy, below: Option<String>) -> String {
        let mut inputs: Vec<String> = below.into_iter().collect();
        let root = if inputs.is_empty() { -1 } else { 0 };
        let mut actions = vec![];
        for source in &copy.sources {
            let (from, path) = match source {
                CopySource::Path(path) => (self.read_from(graph, &copy.from), path.as_str()),
                CopySource::Web { url, .. } => (Some(graph.source(&shown(url))), "/"),
                CopySource::Git(url) => (Some(graph.source(&crate::source::policy::git_identifier(url))), "/"),
                CopySource::Inline { name, .. } => {
                    let mkfile = json!({"path": copy.dest, "name": name});
                    actions.push(json!({"input": root, "output": 0, "Action": {"mkfile": mkfile}}));
                    continue;
                }
            };
            let second = from.map_or(json!(-1), |from| graph.input(&mut inputs, from));
            let action = json!({"copy": {"src": path, "dest": copy.dest}});
            actions.push(json!({"input": root, "secondaryInput": second, "output": 0, "Action": action}));
        }
        graph.file(actions, inputs)
    }
}

/// Steps in the making.
#[derive(Default)]
struct Graph {
    steps: Vec<Value>,
    /// The output of each step of the plan; `None`: an empty tree.
    outputs: Vec<Option<String>>,
    sources: BTreeMap<String, String>,
    locations: Map<String, Value>,
    layers: Map<String, Value>,
}

impl Graph {
    /// Adds a step, and returns its output.
    fn step(&mut self, op: Value, inputs: Vec<String>) -> String {
        let id = format!("step{}", self.steps.len());
        let output = format!("{id}:0");
        let mut step = json!({"id": id, "op": {"Op": op}});
        if !inputs.is_empty() {
            step["inputs"] = inputs.into();
        }
        self.steps.push(step);
        output
    }

    fn file(&mut self, actions: Vec<Value>, inputs: Vec<String>) -> String {
        self.step(json!({"file": {"actions": actions}}), inputs)
    }

    /// The step that brings files, one for each place.
    fn source(&mut self, identifier: &str) -> String {
        if let Some(known) = self.sources.get(identifier) {
            return known.clone();
        }
        let output = self.step(json!({"source": {"identifier": identifier}}), vec![]);
        self.sources.insert(identifier.to_owned(), output.clone());
        output
    }

    /// The number of an input, which is added where it is new.
    fn input(&self, inputs: &mut Vec<String>, output: String) -> Value {
        let at = inputs.iter().position(|i| *i == output).unwrap_or_else(|| {
            inputs.push(output);
            inputs.len() - 1
        });
        at.into()
    }

    fn locate(&mut self, output: &str, step: &Step) {
        let id = output.split(':').next().unwrap_or_default();
        let range = json!({"start": {"line": step.span.start}, "end": {"line": step.span.end}});
        self.locations.entry(id).or_insert(json!({"locations": [{"ranges": [range]}]}));
    }
}

/// How BuildKit calls an image.
fn identifier(image: &ResolvedImage) -> String {
    let name = crate::oci::Reference { digest: None, ..image.reference.clone() };
    format!("docker-image://{name}@{}", image.manifest)
}

fn fetched(origin: &Origin) -> String {
    let rest = origin.uri.split_once("://").map_or(origin.uri.as_str(), |(_, rest)| rest);
    if origin.commit { format!("git://{rest}") } else { origin.uri.clone() }
}

fn material(origin: &Origin) -> Material {
    let algorithm = if origin.commit && origin.digest.len() == 40 { "sha1" } else { "sha256" };
    Material { uri: origin.uri.clone(), algorithm: algorithm.into(), digest: origin.digest.clone() }
}
