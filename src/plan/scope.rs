//! Variables: the global ones, in which FROM is expanded, and those of a stage, in which ENV and ARG meet.

use super::{Error, PlanRequest};
use crate::dockerfile::expand::{Expander, Lookup};
use crate::dockerfile::{Dockerfile, Kind};
use crate::oci::Platform;
use std::collections::{HashMap, HashSet};

/// The proxy variables that work without an ARG, lower case; each exists in upper case too.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// Arguments that steer a builder and are passed to no command.
const SWITCHES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Build arguments that mean something without an ARG.
const ALWAYS_USED: [&str; 9] = [
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_BUILD_NAME",
    "SOURCE_DATE_EPOCH",
];

pub(super) fn is_proxy(name: &str) -> bool {
    PROXIES.iter().any(|p| p.eq_ignore_ascii_case(name))
}

pub(super) fn is_switch(name: &str) -> bool {
    SWITCHES.contains(&name)
}

/// Variables in the order in which they were first set; setting one again changes it in its place.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables {
    list: Vec<(String, String)>,
    place: HashMap<String, usize>,
}

impl Variables {
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        match self.place.get(name).and_then(|i| self.list.get_mut(*i)) {
            Some(slot) => slot.1 = value.into(),
            None => {
                self.place.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value.into()));
            }
        }
    }

    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.list
    }
}

impl Lookup for Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.place.get(name).and_then(|i| self.list.get(*i)).map(|(_, v)| v.as_str())
    }
}

/// The declared ARGs of a stage with their values, in the order of their first declaration.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    list: Vec<(String, Option<String>)>,
    place: HashMap<String, usize>,
}

impl Arguments {
    pub(super) fn declare(&mut self, name: &str, value: Option<String>) {
        match self.place.get(name).and_then(|i| self.list.get_mut(*i)) {
            Some(slot) => slot.1 = value,
            None => {
                self.place.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }

    pub(super) fn pairs(&self) -> &[(String, Option<String>)] {
        &self.list
    }
}

/// The build arguments that have a value: the last one of a name counts.
pub(super) fn build_args(request: &PlanRequest) -> HashMap<String, String> {
    let mut args: HashMap<String, String> = HashMap::new();
    for (name, value) in &request.proxy_env {
        if is_proxy(name) {
            args.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in &request.build_args {
        match value {
            Some(v) => args.insert(name.clone(), v.clone()),
            None => args.remove(name),
        };
    }
    args
}

/// The proxy variables for RUN: each in lower and upper case, sorted.
pub(super) fn proxies(args: &HashMap<String, String>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for name in PROXIES {
        let upper = name.to_uppercase();
        let (low, up) = (args.get(name), args.get(&upper));
        out.extend(up.or(low).map(|v| (upper, v.clone())));
        out.extend(low.or(up).map(|v| (name.to_owned(), v.clone())));
    }
    out.sort();
    out
}

/// The variables that FROM sees: what is built in, then the ARGs before the first FROM.
pub(super) fn global(
    file: &Dockerfile,
    request: &PlanRequest,
    args: &HashMap<String, String>,
) -> Result<Variables, Error> {
    let mut variables = Variables::default();
    let last = file.stages.last().and_then(|s| s.from.name.clone());
    let stage = request.target.clone().filter(|t| !t.is_empty()).or(last).unwrap_or_else(|| "default".into());
    let mut platform = |prefix: &str, p: &Platform| {
        let p = p.clone().normalized();
        let all = [
            ("PLATFORM", p.to_string()),
            ("OS", p.os),
            ("OSVERSION", p.os_version.unwrap_or_default()),
            ("ARCH", p.architecture),
            ("VARIANT", p.variant.unwrap_or_default()),
        ];
        for (name, value) in all {
            let name = format!("{prefix}{name}");
            let value = args.get(&name).cloned().unwrap_or(value);
            variables.set(&name, value);
        }
    };
    platform("BUILD", &request.build_platform);
    platform("TARGET", &request.platform);
    variables.set("TARGETSTAGE", args.get("TARGETSTAGE").cloned().unwrap_or(stage));

    let expander = Expander::new(file.escape);
    for instruction in &file.global_args {
        let Kind::Arg(definitions) = &instruction.kind else { continue };
        for arg in definitions {
            let value = match (args.get(&arg.name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(
                    expander
                        .text(default, &variables)
                        .map_err(|e| Error::invalid(request, instruction.span, e.to_string()))?,
                ),
                (None, None) => None,
            };
            if let Some(v) = value {
                variables.set(&arg.name, v);
            }
        }
    }
    Ok(variables)
}

/// The build arguments that no ARG of the file asks for, sorted.
pub(super) fn unused(file: &Dockerfile, request: &PlanRequest, triggered: &[String]) -> Vec<String> {
    let instructions = file.global_args.iter().chain(file.stages.iter().flat_map(|s| &s.instructions));
    let mut declared: HashSet<&str> = triggered.iter().map(String::as_str).collect();
    for i in instructions {
        if let Kind::Arg(definitions) = &i.kind {
            declared.extend(definitions.iter().map(|d| d.name.as_str()));
        }
    }
    let built_in = |n: &str| {
        let platform = n.strip_prefix("BUILD").or_else(|| n.strip_prefix("TARGET"));
        matches!(platform, Some("PLATFORM" | "OS" | "OSVERSION" | "ARCH" | "VARIANT" | "STAGE"))
    };
    let mut names: Vec<String> = request
        .build_args
        .iter()
        .map(|(n, _)| n.clone())
        .filter(|n| {
            let known = is_proxy(n) || is_switch(n) || built_in(n) || ALWAYS_USED.contains(&n.as_str());
            !known && !declared.contains(n.as_str())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}
