//! Flags about what RUN steps get and see, and the values that they take.

use super::Error;
use super::values::{self, Var};
use crate::build::request::{
    DeviceOption, DnsOptions, HOST_GATEWAY, Seccomp, SecretOption, SecretSource, SecurityOptions, SshOption,
    VolumeMount,
};
use crate::plan::Network;
use crate::sandbox::{Capability, Rlimit};
use crate::sys::rlimit;
use std::path::{Path, PathBuf};

/// What `bud` and `docker build` have in common.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CommonStepArgs {
    /// Line for /etc/hosts of RUN steps; `host-gateway` as IP is where the default route leads
    #[arg(long, value_name = "NAME:IP")]
    pub add_host: Vec<String>,
    /// Secret for `RUN --mount=type=secret`, from a file or a variable: `id=ID[,src=FILE|,env=NAME]`
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// SSH agent, or private keys, for `RUN --mount=type=ssh`; alone, the agent of SSH_AUTH_SOCK
    #[arg(long, value_name = "ID[=SOCKET|KEY,…]")]
    pub ssh: Vec<String>,
    /// What RUN steps may ask for: `security.insecure`, `network.host`
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// Size of /dev/shm in RUN steps [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    pub shm_size: Option<u64>,
    /// Limit of the processes of RUN steps, such as `nofile=1024:2048`
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// CPUs that RUN steps start on, such as `0-2,5`
    #[arg(long, value_name = "CPUS")]
    pub cpuset_cpus: Option<String>,
    /// `seccomp=unconfined`, `seccomp=PROFILE`, `no-new-privileges`, `mask=PATHS` or `unmask=PATHS|ALL`
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Certificates that programs in RUN steps trust on top of the image's, without a trace in the image
    #[arg(long, value_name = "FILE")]
    pub trust_ca: Vec<PathBuf>,
}

impl CommonStepArgs {
    /// What they ask for.
    ///
    /// # Errors
    /// Malformed values, and what rbuild cannot do.
    pub fn lower(&self, var: &Var<'_>, warn: &mut dyn FnMut(String)) -> Result<SecurityOptions, Error> {
        let mut security = SecurityOptions {
            add_hosts: add_hosts(&self.add_host)?,
            secrets: self.secret.iter().map(|s| secret(s, var)).collect::<Result<_, _>>()?,
            ssh: self.ssh.iter().map(|s| ssh(s, var)).collect::<Result<_, _>>()?,
            // To the kernel, no bytes are no limit.
            shm_size: self.shm_size.filter(|bytes| *bytes > 0),
            emulator: var("RBUILD_EMULATOR").filter(|e| !e.is_empty()).map(Into::into),
            ulimits: values::commas(&self.ulimit)
                .iter()
                .filter_map(|u| ulimit(u).transpose())
                .collect::<Result<_, _>>()?,
            cpus: self.cpuset_cpus.as_deref().map(cpus).transpose()?.unwrap_or_default(),
            authorities: self.trust_ca.clone(),
            ..SecurityOptions::default()
        };
        for entitlement in values::commas(&self.allow) {
            match entitlement.as_str() {
                "security.insecure" => security.allow_insecure = true,
                "network.host" => security.allow_network = true,
                _ => {
                    return Err(Error::unsupported(
                        format!("`--allow {entitlement}`"),
                        "use `security.insecure` or `network.host`; `rbuild bud --device PATH` shows steps a device of the pod",
                    ));
                }
            }
        }
        for option in &self.security_opt {
            security_option(option, &mut security, warn)?;
        }
        Ok(security)
    }
}

/// What only `bud` has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StepArgs {
    /// Network of RUN steps: host, none
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Leave /etc/hosts of RUN steps as the image has it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub no_hosts: Option<bool>,
    /// Leave /etc/hostname of RUN steps as the image has it: it always is
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true,
          value_parser = values::boolean)]
    pub no_hostname: Option<bool>,
    /// Name server of RUN steps; `none`: /etc/resolv.conf is the image's
    #[arg(long, value_name = "IP")]
    pub dns: Vec<String>,
    /// Search domain of RUN steps
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of the resolver of RUN steps
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Pass proxy variables to RUN steps
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = values::boolean)]
    pub http_proxy: bool,
    /// Directory of the machine that RUN steps see (`ro`: not to be written to; `O`: what they write is thrown away); what
    /// is in it does not decide whether they are cached
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro|O]")]
    pub volume: Vec<String>,
    /// Mount for every RUN step, in the words of `RUN --mount`
    #[arg(long, value_name = "MOUNT")]
    pub mount: Vec<String>,
    /// Drop what RUN steps change in directories that VOLUME has declared before
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub compat_volumes: Option<bool>,
    /// Capability that RUN steps get
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Capability that RUN steps do not get
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Device of the machine that RUN steps see
    #[arg(long, value_name = "SOURCE[:TARGET]")]
    pub device: Vec<String>,
    /// Group that the commands of RUN steps are in, beyond those of their user
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Emulator for RUN of other architectures: a program, or a directory with `qemu-*-static` [env: RBUILD_EMULATOR]
    #[arg(long, value_name = "PATH")]
    pub emulator: Option<PathBuf>,
    /// What `docker build` has, too.
    #[command(flatten)]
    pub common: CommonStepArgs,
}

impl StepArgs {
    /// What they ask for.
    ///
    /// # Errors
    /// Malformed values, and what rbuild cannot do.
    pub fn lower(&self, var: &Var<'_>, warn: &mut dyn FnMut(String)) -> Result<SecurityOptions, Error> {
        let groups = values::commas(&self.group_add);
        if groups.iter().any(|g| g == "keep-groups") {
            return Err(Error::unsupported(
                "`--group-add keep-groups`",
                "name the groups: those of the machine have no numbers in an image's world",
            ));
        }
        let common = self.common.lower(var, warn)?;
        let (cap_add, cap_drop) = capabilities(&self.cap_add, &self.cap_drop)?;
        Ok(SecurityOptions {
            emulator: self.emulator.clone().or_else(|| common.emulator.clone()),
            network: self.network.as_deref().map(network).transpose()?.flatten(),
            no_hosts: self.no_hosts == Some(true),
            dns: self.dns()?,
            http_proxy: self.http_proxy,
            compat_volumes: self.compat_volumes == Some(true),
            volumes: self.volume.iter().map(|v| volume(v, warn)).collect::<Result<_, _>>()?,
            mounts: self.mount.clone(),
            cap_add,
            cap_drop,
            devices: values::commas(&self.device).iter().map(|d| device(d)).collect::<Result<_, _>>()?,
            groups,
            ..common
        })
    }

    fn dns(&self) -> Result<DnsOptions, Error> {
        let servers = values::commas(&self.dns);
        let (search, options) = (values::commas(&self.dns_search), values::commas(&self.dns_option));
        if servers.iter().any(|s| s == "none") {
            if servers.len() > 1 || !search.is_empty() || !options.is_empty() {
                return Err(Error::usage("`--dns=none` does not go with other `--dns` flags"));
            }
            return Ok(DnsOptions { none: true, ..DnsOptions::default() });
        }
        if let Some(bad) = servers.iter().find(|s| s.parse::<std::net::IpAddr>().is_err()) {
            return Err(Error::usage(format!("invalid value `{bad}` for `--dns`: expected an IP address or `none`")));
        }
        Ok(DnsOptions { none: false, servers, search, options })
    }
}

/// Values of `--network`; `None`: the default.
pub fn network(text: &str) -> Result<Option<Network>, Error> {
    match text {
        "" | "default" => Ok(None),
        "host" => Ok(Some(Network::Host)),
        "none" => Ok(Some(Network::None)),
        _ => Err(Error::unsupported(
            format!("`--network={text}`"),
            "use `host` (the network of the pod) or `none`: a pod cannot make networks",
        )),
    }
}

/// The lines that several `--add-host` ask for.
pub fn add_hosts(all: &[String]) -> Result<Vec<(String, String)>, Error> {
    let mut lines = vec![];
    for text in values::commas(all) {
        let (names, address) = add_host(&text)?;
        lines.extend(names.split(';').map(|name| (name.to_owned(), address.clone())));
    }
    Ok(lines)
}

/// `NAME:IP` or `NAME=IP`; several names for one address have `;` between them.
fn add_host(text: &str) -> Result<(String, String), Error> {
    let bad = || Error::usage(format!("invalid value `{text}` for `--add-host`: expected `NAME:IP`"));
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let is_name = |n: &str| !n.is_empty() && !n.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#');
    if !name.split(';').all(is_name) || address != HOST_GATEWAY && address.parse::<std::net::IpAddr>().is_err() {
        return Err(bad());
    }
    Ok((name.to_owned(), address.to_owned()))
}

/// `SOURCE:TARGET[:OPTIONS]`.
pub fn volume(text: &str, warn: &mut dyn FnMut(String)) -> Result<VolumeMount, Error> {
    let bad = || {
        Error::usage_hint(
            format!("invalid volume `{text}`"),
            "write `SOURCE:TARGET[:ro]`, with an absolute path as TARGET",
        )
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(bad()),
    };
    if source.is_empty() || !target.starts_with('/') || Path::new(target).components().count() < 2 {
        return Err(bad());
    }
    let mut volume = VolumeMount { source: source.into(), target: target.to_owned(), ..VolumeMount::default() };
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            "O" => volume.overlay = true,
            // RUN steps share no mounts with others.
            "rw" | "rbind" | "bind" | "private" | "rprivate" => {}
            "z" | "Z" => warn(format!("`:{option}` of `--volume` labels nothing here")),
            "U" => {
                return Err(Error::unsupported(
                    "volume option `U`",
                    "change the owner of the directory yourself, or use `O`: then nothing of it changes",
                ));
            }
            other => {
                return Err(Error::unsupported(format!("volume option `{other}`"), "use `ro`, `rw` or `O`"));
            }
        }
    }
    Ok(volume)
}

/// What `--cap-add` and `--cap-drop` add to and take from the usual ones. Of `all`, what the other flag names is left out.
pub fn capabilities(add: &[String], drop: &[String]) -> Result<(Vec<Capability>, Vec<Capability>), Error> {
    let parse = |values: &[String]| -> Result<(bool, Vec<Capability>), Error> {
        let (all, named): (Vec<String>, Vec<String>) =
            values::commas(values).into_iter().partition(|name| name.eq_ignore_ascii_case("all"));
        let named =
            named.iter().map(|name| name.parse().map_err(Error::usage)).collect::<Result<Vec<Capability>, Error>>()?;
        Ok((!all.is_empty(), named))
    };
    let ((add_all, add), (drop_all, drop)) = (parse(add)?, parse(drop)?);
    if add_all && drop_all {
        return Err(Error::usage("`--cap-add=all` and `--cap-drop=all` contradict each other"));
    }
    if let Some(both) = add.iter().find(|c| !add_all && !drop_all && drop.contains(*c)) {
        return Err(Error::usage(format!("`--cap-add` and `--cap-drop` of `{}` contradict each other", both.0)));
    }
    let all_but = |named: &[Capability]| -> Vec<Capability> {
        Capability::all().into_iter().filter(|c| !named.contains(c)).collect()
    };
    Ok(match (add_all, drop_all) {
        (true, _) => (all_but(&drop), drop),
        (_, true) => (add.clone(), all_but(&add)),
        _ => (add, drop),
    })
}

/// `KEY=VALUE` fields between commas.
fn fields<'t>(flag: &str, text: &'t str) -> Result<Vec<(&'t str, &'t str)>, Error> {
    let field = |f: &'t str| {
        f.split_once('=')
            .ok_or_else(|| Error::usage(format!("invalid value `{text}` for `{flag}`: `{f}` has no value")))
    };
    text.split(',').map(field).collect()
}

/// `id=ID[,src=FILE][,env=NAME][,type=file|env]`. Without a source it is the variable called like the id, else the file.
pub(super) fn secret(text: &str, var: &Var<'_>) -> Result<SecretOption, Error> {
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in fields("--secret", text)? {
        match key {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            "type" if matches!(value, "file" | "env") => kind = Some(value),
            "type" => return Err(Error::unsupported(format!("the secret type `{value}`"), "use `file` or `env`")),
            _ => {
                return Err(Error::usage_hint(
                    format!("invalid value `{text}` for `--secret`: unknown key `{key}`"),
                    "write `id=ID,src=FILE` or `id=ID,env=NAME`",
                ));
            }
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| {
        Error::usage_hint(format!("invalid value `{text}` for `--secret`: it has no id"), "write `id=ID,src=FILE`")
    })?;
    let source = match (kind, source, variable) {
        (_, Some(_), Some(_)) => {
            return Err(Error::usage(format!(
                "invalid value `{text}` for `--secret`: `src` and `env` contradict each other"
            )));
        }
        (Some("file"), _, Some(_)) => {
            return Err(Error::usage(format!("invalid value `{text}` for `--secret`: `type=file` has no `env`")));
        }
        (_, None, Some(name)) => SecretSource::Variable(name.to_owned()),
        (Some("env"), Some(name), None) => SecretSource::Variable(name.to_owned()),
        (_, Some(path), None) => SecretSource::File(path.into()),
        (Some("env"), None, None) => SecretSource::Variable(id.to_owned()),
        (None, None, None) if var(id).is_some() => SecretSource::Variable(id.to_owned()),
        (_, None, None) => SecretSource::File(id.into()),
    };
    Ok(SecretOption { id: id.to_owned(), source })
}

/// `ID[=SOCKET|KEY,…]`.
fn ssh(text: &str, var: &Var<'_>) -> Result<SshOption, Error> {
    let (id, rest) = text.split_once('=').unwrap_or((text, ""));
    let mut raw = false;
    let mut paths = vec![];
    for part in rest.split(',').filter(|p| !p.is_empty()) {
        match part.strip_prefix("raw=") {
            Some(value) => raw = values::boolean(value).map_err(Error::usage)?,
            None => paths.push(PathBuf::from(part)),
        }
    }
    if paths.is_empty() {
        let socket = var("SSH_AUTH_SOCK").filter(|s| !s.is_empty()).ok_or_else(|| {
            Error::usage_hint(
                format!("no agent for `--ssh {text}`: `SSH_AUTH_SOCK` is not set"),
                "start an agent, or name its socket or key files: `--ssh default=PATH`",
            )
        })?;
        paths.push(socket.into());
    }
    let id = if id.is_empty() { "default" } else { id };
    Ok(SshOption { id: id.to_owned(), paths, raw })
}

/// `NAME=SOFT[:HARD]`; `None` for `host`, which is what steps have anyway.
fn ulimit(text: &str) -> Result<Option<Rlimit>, Error> {
    if text == "host" {
        return Ok(None);
    }
    let bad = |what: &str| {
        let names: Vec<&str> = rlimit::Kind::names().collect();
        Error::usage_hint(
            format!("invalid value `{text}` for `--ulimit`: {what}"),
            format!("write `NAME=SOFT[:HARD]`, where NAME is one of {}", names.join(", ")),
        )
    };
    let (name, limits) = text.split_once('=').ok_or_else(|| bad("it has no limit"))?;
    let kind = rlimit::Kind::named(name).ok_or_else(|| bad("there is no such limit"))?;
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| bad("a limit is a number or `-1`")),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
        return Err(bad("the soft limit is above the hard one"));
    }
    Ok(Some(Rlimit { kind, soft, hard }))
}

/// Highest number of a CPU, plus one.
const MOST_CPUS: usize = 1024;

/// Numbers and ranges: `0-2,5`.
fn cpus(text: &str) -> Result<Vec<usize>, Error> {
    let bad = || Error::usage(format!("invalid value `{text}` for `--cpuset-cpus`: expected something like `0-2,5`"));
    let mut all = vec![];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        if first > last || last >= MOST_CPUS {
            return Err(bad());
        }
        all.extend(first..=last);
    }
    Ok(all)
}

/// `SOURCE[:TARGET[:rwm]]`.
fn device(text: &str) -> Result<DeviceOption, Error> {
    if !text.starts_with('/') {
        return Err(Error::unsupported(
            format!("`--device {text}`"),
            "write the path of a device that the pod has: CDI names are not known here",
        ));
    }
    let bad = || Error::usage(format!("invalid value `{text}` for `--device`: expected `SOURCE[:TARGET]`"));
    let parts: Vec<&str> = text.split(':').collect();
    let is_rights = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let (source, target, rights) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, rights] if is_rights(rights) => (*source, *source, *rights),
        [source, target] => (*source, *target, "rwm"),
        [source, target, rights] if is_rights(rights) => (*source, *target, *rights),
        _ => return Err(bad()),
    };
    if !target.starts_with('/') || Path::new(target).components().count() < 2 {
        return Err(bad());
    }
    if !rights.contains('r') || !rights.contains('w') {
        return Err(Error::unsupported(
            format!("`--device {text}`"),
            "leave the rights out: a pod cannot take rights to a device away, but by the mode of its node",
        ));
    }
    Ok(DeviceOption { source: source.into(), target: target.into() })
}

/// `--security-opt`.
fn security_option(text: &str, to: &mut SecurityOptions, warn: &mut dyn FnMut(String)) -> Result<(), Error> {
    let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    let paths = || {
        let all: Vec<String> = value.split(':').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        match all.iter().find(|p| !p.starts_with('/')) {
            None if !all.is_empty() => Ok(all),
            _ => Err(Error::usage(format!("invalid value `{text}` for `--security-opt`: expected absolute paths"))),
        }
    };
    match name {
        "seccomp" if value == "unconfined" => to.seccomp = Seccomp::Unconfined,
        "seccomp" if !value.is_empty() => to.seccomp = Seccomp::Profile(value.into()),
        "no-new-privileges" => {
            let wrong = |why| Error::usage(format!("invalid value `{value}` for `--security-opt {name}`: {why}"));
            to.no_new_privileges = value.is_empty() || values::boolean(value).map_err(wrong)?;
        }
        "mask" => to.masked.extend(paths()?),
        "unmask" if value.eq_ignore_ascii_case("all") => to.unmasked.all = true,
        "unmask" => to.unmasked.paths.extend(paths()?),
        // What decides is the pod's own profile and label, and that rbuild cannot leave.
        "label" | "apparmor" => warn(format!("--security-opt {name} has no effect here")),
        _ => {
            return Err(Error::unsupported(
                format!("`--security-opt {text}`"),
                "use `seccomp=unconfined`, `seccomp=PROFILE`, `no-new-privileges`, `mask=PATHS` or `unmask=PATHS`",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_or_variables() {
        let var = |n: &str| (n == "SET").then(|| "v".to_owned());
        let (file, variable) = (|p: &str| SecretSource::File(p.into()), |n: &str| SecretSource::Variable(n.into()));
        for (text, source) in [
            ("id=a,src=/f", file("/f")),
            ("id=a,source=f,type=file", file("f")),
            ("id=a,env=V", variable("V")),
            ("id=a,type=env,env=V", variable("V")),
            ("type=env,id=a,src=V", variable("V")),
            ("id=a,type=env", variable("a")),
            ("id=SET", variable("SET")),
            ("id=SET,type=file", file("SET")),
            ("id=unset", file("unset")),
        ] {
            assert_eq!(secret(text, &var).unwrap().source, source, "{text}");
        }
        for bad in ["src=/f", "id=", "id=a,other=b", "a", "id=a,type=vault", "id=a,src=f,env=V", "id=a,type=file,env=V"]
        {
            assert!(secret(bad, &var).is_err(), "{bad}");
        }
    }

    #[test]
    fn agents_are_sockets_or_keys() {
        let var = |n: &str| (n == "SSH_AUTH_SOCK").then(|| "/agent".to_owned());
        let option = |id: &str, paths: &[&str], raw| SshOption {
            id: id.into(),
            paths: paths.iter().map(Into::into).collect(),
            raw,
        };
        assert_eq!(ssh("default", &var).unwrap(), option("default", &["/agent"], false));
        assert_eq!(ssh("x=/k1,/k2", &var).unwrap(), option("x", &["/k1", "/k2"], false));
        assert_eq!(ssh("x=/s,raw=true", &var).unwrap(), option("x", &["/s"], true));
        assert!(ssh("default", &|_| None).is_err());
    }

    #[test]
    fn limits_cpus_and_devices() {
        let limit = |t: &str| ulimit(t).unwrap().map(|l| (l.kind.name(), l.soft, l.hard));
        assert_eq!(limit("nofile=10:20"), Some(("nofile", Some(10), Some(20))));
        assert_eq!(limit("core=-1"), Some(("core", None, None)));
        assert_eq!(limit("NPROC=7"), Some(("nproc", Some(7), Some(7))));
        assert_eq!(limit("host"), None);
        for bad in ["nofile", "nofile=x", "nosuch=1", "nofile=20:10", "nofile=-1:10"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
        assert_eq!(cpus("0-2,5").unwrap(), [0, 1, 2, 5]);
        for bad in ["", "x", "2-1", "0-99999999"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
        let of = |t: &str| device(t).map(|d| (d.source, d.target));
        assert_eq!(of("/dev/fuse").unwrap(), ("/dev/fuse".into(), "/dev/fuse".into()));
        assert_eq!(of("/dev/fuse:rwm").unwrap(), ("/dev/fuse".into(), "/dev/fuse".into()));
        assert_eq!(of("/dev/a:/dev/b:rw").unwrap(), ("/dev/a".into(), "/dev/b".into()));
        for bad in ["vendor.com/gpu=0", "/dev/a:/dev/b:r", "/dev/a:b", "/dev/a:/", "/dev/a:/b:x"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes() {
        let mut warnings = vec![];
        let mut of = |t: &str| volume(t, &mut |w| warnings.push(w));
        assert!(of("/a:/b:O").unwrap().overlay);
        assert!(of("/a:/b:ro,rbind").unwrap().read_only);
        assert!(!of("/a:/b:z,rw").unwrap().read_only);
        for bad in ["/a", "/a:b", ":/b", "/a:/", "/a:/b:U", "/a:/b:upperdir=x", "/a:/b:ro:x"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert_eq!(warnings, ["`:z` of `--volume` labels nothing here"]);
    }

    #[test]
    fn security_options() {
        let mut to = SecurityOptions::default();
        let mut warnings = vec![];
        for text in
            ["mask=/a:/b", "unmask=/proc/acpi", "unmask=ALL", "label=disable", "apparmor=x", "no-new-privileges"]
        {
            security_option(text, &mut to, &mut |w| warnings.push(w)).unwrap();
        }
        assert_eq!((to.masked.len(), to.unmasked.paths.len(), to.unmasked.all), (2, 1, true));
        assert!(to.no_new_privileges && warnings.len() == 2);
        for bad in ["mask=", "mask=x", "unmask=rel", "systempaths=unconfined"] {
            assert!(security_option(bad, &mut to, &mut |_| ()).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let of = |add: &str, drop: &str| {
            let (add, drop) = capabilities(&[add.into()], &[drop.into()]).map_err(|e| e.to_string())?;
            let has = |all: &[Capability], name: &str| all.contains(&name.parse().unwrap());
            Ok::<_, String>((add.len(), has(&add, "chown"), drop.len(), has(&drop, "chown")))
        };
        let all = Capability::all().len();
        assert_eq!(of("chown,CAP_NET_RAW", ""), Ok((2, true, 0, false)));
        assert_eq!(of("all", "chown"), Ok((all - 1, false, 1, true)));
        assert_eq!(of("chown", "ALL"), Ok((1, true, all - 1, false)));
        assert_eq!(of("", "all"), Ok((0, false, all, true)));
        for (add, drop) in [("all", "all"), ("chown", "setuid,chown"), ("nosuch", "")] {
            assert!(of(add, drop).is_err(), "{add} {drop}");
        }
    }
}
