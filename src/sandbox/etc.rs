//! The files of `/etc` that a step gets from its surroundings.

use super::spec::{ResolvConf, StepSpec};
use std::fmt::Write as _;

/// Text of the step's `/etc/hosts`: the pod's, then the step's own name, then what the caller asks for. `None` where the
/// image's own file is to be seen.
pub(super) fn hosts(step: &StepSpec) -> Option<String> {
    if step.no_hosts {
        return None;
    }
    let mut text = read("/etc/hosts");
    if !text.lines().any(|line| line.split_whitespace().any(|word| word == "localhost")) {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    let _ = writeln!(text, "127.0.0.1\t{}", step.hostname);
    for entry in &step.hosts {
        let _ = writeln!(text, "{}\t{}", entry.address, entry.name);
    }
    Some(text)
}

/// Text of the step's `/etc/resolv.conf`: the pod's, unless the step brings its own. `None` where the image's own file is
/// to be seen.
pub(super) fn resolv_conf(step: &StepSpec) -> Option<String> {
    match &step.resolv_conf {
        ResolvConf::Pod => Some(read("/etc/resolv.conf")),
        ResolvConf::Text(text) => Some(text.clone()),
        ResolvConf::Image => None,
    }
}

/// A pod without the file is no error: names that need it do not resolve in a step, either.
fn read(path: &str) -> String {
    let mut text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
