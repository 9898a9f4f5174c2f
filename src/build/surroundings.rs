//! What the command line changes of the surroundings of RUN steps.

use super::Error;
use super::request::{DeviceOption, DnsOptions, HOST_GATEWAY, Seccomp, SecurityOptions};
use crate::sandbox::{self, Capability, Device, HostEntry, ResolvConf, Rlimit, StepSpec, Unmasked};
use crate::sys::rlimit;
use std::os::unix::fs::FileTypeExt as _;

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
    spec.resolv_conf = match resolv_conf(&options.dns, &pod) {
        _ if options.dns.none => ResolvConf::Image,
        Some(text) => ResolvConf::Text(text),
        None => ResolvConf::Pod,
    };
    spec.no_hosts = options.no_hosts;
    for (name, address) in &options.add_hosts {
        let address = if address == HOST_GATEWAY { gateway()? } else { address.clone() };
        spec.hosts.push(HostEntry { address, name: name.clone() });
    }
    spec.shm_size = options.shm_size;
    spec.rlimits = options.ulimits.clone();
    check_limits(&options.ulimits)?;
    spec.cpus = allowed_cpus(&options.cpus)?;
    spec.masked = options.masked.iter().map(Into::into).collect();
    spec.unmasked = options.unmasked.clone();
    for device in &options.devices {
        spec.devices.push(self::device(device)?);
    }
    Ok(())
}

/// `RUN --security=insecure`: all that the pod lets a step have.
pub(super) fn insecure(spec: &mut StepSpec) {
    spec.cap_add = Capability::all();
    spec.cap_drop.clear();
    spec.seccomp = sandbox::Seccomp::Unconfined;
    spec.no_new_privileges = false;
    spec.masked.clear();
    spec.unmasked = Unmasked { all: true, paths: vec![] };
}

/// A limit can only be lowered, but by the node's root.
fn check_limits(limits: &[Rlimit]) -> Result<(), Error> {
    for limit in limits {
        let Some(most) = limit.kind.hard_limit() else { continue };
        if limit.hard.is_none_or(|hard| hard > most) {
            return Err(Error::Unsupported {
                what: format!("the limit `{}` above {most}", limit.kind.name()),
                hint: format!(
                    "that is the hard limit of rbuild itself: ask for at most `--ulimit {}={most}`, or raise the limits of \
                     the container runtime",
                    limit.kind.name()
                ),
            });
        }
    }
    Ok(())
}

/// Those of the CPUs that the pod has.
fn allowed_cpus(wanted: &[usize]) -> Result<Vec<usize>, Error> {
    let own = rlimit::cpus();
    let all: Vec<usize> = wanted.iter().copied().filter(|cpu| own.contains(cpu)).collect();
    if all.len() < wanted.len() {
        let own: Vec<String> = own.iter().map(usize::to_string).collect();
        return Err(Error::Unsupported {
            what: "a CPU of `--cpuset-cpus` that the pod does not have".into(),
            hint: format!("it has {}; `resources.limits.cpu` says how much of them it gets", own.join(",")),
        });
    }
    Ok(all)
}

/// The address of the machine behind the pod's network: where packets without a better route go.
fn gateway() -> Result<String, Error> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    default_route(&table).map(|address| address.to_string()).ok_or_else(|| Error::Unsupported {
        what: "`host-gateway` without a default route".into(),
        hint: "write the IP address of the machine, such as the one of the field `status.hostIP`".into(),
    })
}

/// The gateway of the first default route in the kernel's table of IPv4 routes.
fn default_route(table: &str) -> Option<std::net::Ipv4Addr> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (destination, gateway, mask) = (*fields.get(1)?, *fields.get(2)?, *fields.get(7)?);
        let number = u32::from_str_radix(gateway, 16).ok().filter(|n| *n != 0)?;
        // The kernel prints the bytes as they lie in memory.
        (destination == "00000000" && mask == "00000000").then(|| number.to_ne_bytes().into())
    })
}

/// A device node, or a directory of them.
fn device(option: &DeviceOption) -> Result<Device, Error> {
    let failed = |source| Error::File { path: option.source.clone(), source };
    let meta = std::fs::metadata(&option.source).map_err(failed)?;
    if meta.is_dir() || meta.file_type().is_char_device() || meta.file_type().is_block_device() {
        return Ok(Device { source: option.source.clone(), target: option.target.clone() });
    }
    Err(Error::Unsupported {
        what: format!("the device `{}`, which is none", option.source.display()),
        hint: "name a device node that the pod has, or use `--volume` for files".into(),
    })
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
    fn the_gateway_is_that_of_the_default_route() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            eth0\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\neth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let want = if cfg!(target_endian = "little") { [192, 168, 0, 1] } else { [1, 0, 168, 192] };
        assert_eq!(default_route(table), Some(want.into()));
        assert_eq!(default_route("header\n"), None);
    }

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
