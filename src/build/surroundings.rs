//! What the command line changes of the surroundings of RUN steps.

use super::Error;
use super::request::{DnsOptions, Seccomp, SecurityOptions};
use crate::sandbox::{self, Mount, MountKind, StepSpec};
use std::path::PathBuf;

/// Applies the options to a step.
pub(super) fn apply(options: &SecurityOptions, spec: &mut StepSpec) -> Result<(), Error> {
    spec.cap_add.clone_from(&options.cap_add);
    spec.cap_drop.clone_from(&options.cap_drop);
    spec.no_new_privileges = options.no_new_privileges;
    spec.seccomp = match &options.seccomp {
        Seccomp::Default => sandbox::Seccomp::Default,
        Seccomp::Unconfined => sandbox::Seccomp::Unconfined,
        Seccomp::Profile(path) => sandbox::Seccomp::Profile(
            std::fs::read_to_string(path).map_err(|source| Error::File { path: path.clone(), source })?,
        ),
    };
    let pod = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    spec.resolv_conf = resolv_conf(&options.dns, &pod);
    for volume in &options.volumes {
        let source = std::fs::canonicalize(&volume.source)
            .map_err(|source| Error::File { path: volume.source.clone(), source })?;
        let kind = MountKind::Bind { source, inside: PathBuf::new(), read_only: volume.read_only };
        spec.mounts.push(Mount { target: PathBuf::from(&volume.target), kind });
    }
    Ok(())
}

/// The text of `/etc/resolv.conf`: the pod's with the parts replaced that the user gave; `None` where nothing was given.
fn resolv_conf(dns: &DnsOptions, pod: &str) -> Option<String> {
    if dns.servers.is_empty() && dns.search.is_empty() && dns.options.is_empty() {
        return None;
    }
    let of_pod = |word: &'static str| {
        let lines = pod.lines().filter_map(move |l| l.strip_prefix(word).filter(|r| r.starts_with([' ', '\t'])));
        lines.map(|rest| rest.trim().to_owned())
    };
    let mut text = String::new();
    let mut line = |word: &str, values: Vec<String>| {
        for value in values {
            text.push_str(&format!("{word} {value}\n"));
        }
    };
    let joined = |given: &[String], word| {
        if given.is_empty() { of_pod(word).collect() } else { vec![given.join(" ")] }
    };
    // A single dot is how one asks for no search domain at all.
    match dns.search.as_slice() {
        [dot] if dot == "." => {}
        search => line("search", joined(search, "search")),
    }
    line("nameserver", if dns.servers.is_empty() { of_pod("nameserver").collect() } else { dns.servers.clone() });
    line("options", joined(&dns.options, "options"));
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_is_replaced() {
        let pod = "# made by the kubelet\nsearch a b\nnameserver 10.0.0.1\noptions ndots:5\n";
        let list = |t: &str| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(resolv_conf(&DnsOptions::default(), pod), None);
        let servers = DnsOptions { servers: list("1.1.1.1 8.8.8.8"), ..DnsOptions::default() };
        assert_eq!(
            resolv_conf(&servers, pod).unwrap(),
            "search a b\nnameserver 1.1.1.1\nnameserver 8.8.8.8\noptions ndots:5\n"
        );
        let rest = DnsOptions { search: list("."), options: list("ndots:1 debug"), ..DnsOptions::default() };
        assert_eq!(resolv_conf(&rest, pod).unwrap(), "nameserver 10.0.0.1\noptions ndots:1 debug\n");
    }
}
