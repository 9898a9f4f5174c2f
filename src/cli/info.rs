//! `rbuild info`: the machine, the store, and what the pod allows, as JSON.

use super::template::Template;
use super::{Error, Global, output};
use crate::oci::Platform;
use crate::sys::userns::{self, Rung};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

/// Show the machine, the store, and what the pod allows
#[derive(Clone, Debug, clap::Args)]
pub struct InfoArgs {
    /// Go template
    #[arg(long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Accepted for buildah's sake
    #[arg(short, long)]
    pub debug: bool,
}

/// Prints the information.
pub fn run(args: &InfoArgs, global: &Global) -> Result<(), Error> {
    let value = json!({ "host": host(), "store": store(global)?, "isolation": isolation() });
    match &args.format {
        None => output::print_line(&output::json(&value, "    ", true)?),
        Some(template) => output::print_line(&Template::parse(template)?.render(&value)?),
    }
}

/// A whole small file of the system, empty where it cannot be read.
fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn host() -> Value {
    let memory: BTreeMap<String, u64> = text("/proc/meminfo")
        .lines()
        .filter_map(|l| {
            let (name, rest) = l.split_once(':')?;
            Some((name.to_owned(), rest.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024))
        })
        .collect();
    let bytes = |name: &str| memory.get(name).copied().unwrap_or(0);
    let release = text("/etc/os-release");
    let of_release = |key: &str| {
        let line = release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or("unknown").trim_matches('"').to_owned()
    };
    let cgroup = if fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok() { "v2" } else { "v1" };
    json!({
        "CgroupVersion": cgroup,
        "Distribution": { "distribution": of_release("ID"), "version": of_release("VERSION_ID") },
        "MemFree": bytes("MemFree"),
        "MemTotal": bytes("MemTotal"),
        "OCIRuntime": "rbuild",
        "SwapFree": bytes("SwapFree"),
        "SwapTotal": bytes("SwapTotal"),
        "arch": Platform::host().architecture,
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "hostname": text("/proc/sys/kernel/hostname"),
        "kernel": text("/proc/sys/kernel/osrelease"),
        "os": Platform::host().os,
        "rootless": userns::entered().is_some_and(|e| e.rung != Rung::Pod),
        "uptime": text("/proc/uptime").split('.').next().unwrap_or_default().to_owned() + "s",
        "variant": "",
    })
}

fn store(global: &Global) -> Result<Value, Error> {
    let store = global.store()?;
    let blobs = store.list_blobs()?;
    Ok(json!({
        "GraphRoot": store.root(),
        "GraphDriverName": "overlay",
        "ImageStore": { "number": super::listing::images(&store)?.len() },
        "Blobs": { "number": blobs.len(), "bytes": blobs.iter().map(|(_, size)| size).sum::<u64>() },
    }))
}

fn isolation() -> Value {
    let Some(entered) = userns::entered() else { return Value::Null };
    let (name, ids) = match entered.rung {
        Rung::Range => ("user namespace", "a range"),
        Rung::OneId => ("user namespace", "one"),
        Rung::Pod => ("the pod's user namespace", "those of the pod"),
        Rung::None => ("none", "one"),
    };
    json!({ "namespace": name, "ids": ids, "reason": entered.reason, "hint": entered.hint })
}
