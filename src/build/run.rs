//! RUN: from a step of the plan to a command in the sandbox.

use super::{
    Error, Shortage,
    copy::read_etc,
    execute::{Executor, Site},
    mounts,
    request::Seccomp,
    surroundings,
};
use crate::plan::{Network, Run, Step};
use crate::sandbox::{self, HostEntry, StepSpec};
use crate::sys::{limits::Memory, passwd};
use crate::ui::{Event, StepKey, Stream};
use std::path::PathBuf;

impl Executor<'_> {
    /// The network of a RUN step.
    pub(super) fn network(&self, run: &Run) -> Network {
        run.network.or(self.request.security.network).unwrap_or(Network::Host)
    }

    /// What the command line says about RUN steps, as far as it can change what this one makes. Left out are name servers and
    /// the content of volumes: caches, certificates and package sources, which a step uses and does not keep.
    pub(super) fn run_options(&self, step: &Step) -> Vec<String> {
        let security = &self.request.security;
        let mut all: Vec<String> = security.add_hosts.iter().map(|(name, _)| format!("host {name}")).collect();
        all.extend(security.hostname.iter().map(|name| format!("hostname {name}")));
        all.extend(security.cap_add.iter().map(|c| format!("add {}", c.0)));
        all.extend(security.cap_drop.iter().map(|c| format!("drop {}", c.0)));
        all.extend((security.seccomp != Seccomp::Default).then(|| format!("seccomp {:?}", security.seccomp)));
        all.extend(security.no_new_privileges.then(|| "no new privileges".to_owned()));
        if security.compat_volumes {
            all.extend(step.config.volumes.keys().map(|v| format!("unchanged {v}")));
        }
        for v in &security.volumes {
            all.push(format!("volume {} {} {}", v.source.display(), v.target, v.read_only));
        }
        all
    }

    /// Runs the command.
    pub(super) fn run_command(&self, key: StepKey, run: &Run, site: &Site, mounts: mounts::Ready) -> Result<(), Error> {
        let ids = passwd::resolve(&run.user, &read_etc(site.view, "passwd")?, &read_etc(site.view, "group")?)?;
        let lowers = site.lower.dirs.iter().map(|d| d.join("fs")).collect();
        let argv = run.argv.iter().map(Into::into).collect();
        let mut spec = StepSpec::new(lowers, site.active.upper(), site.active.work()?, argv);
        let stub = self.around.store.mount_points_dir();
        sandbox::make_stub(&stub).map_err(|source| Error::File { path: stub.clone(), source })?;
        spec.stub = Some(stub);
        spec.env = run.env.iter().chain(&run.proxy_env).map(|(n, v)| (n.into(), v.into())).collect();
        if !run.env.iter().any(|(n, _)| n == "HOME") {
            spec.env.push(("HOME".into(), ids.home.clone().unwrap_or_else(|| "/".into()).into()));
        }
        spec.cwd = PathBuf::from(&run.cwd);
        spec.ids = ids;
        spec.network = match self.network(run) {
            Network::Host => sandbox::Network::Host,
            Network::None => sandbox::Network::None,
        };
        spec.pipes = run
            .heredocs
            .iter()
            .map(|h| sandbox::PipeFile { name: h.name.clone(), content: h.content.clone() })
            .collect();
        let security = &self.request.security;
        let host = |(name, address): &(String, String)| HostEntry { address: address.clone(), name: name.clone() };
        spec.hostname = security.hostname.clone().unwrap_or(spec.hostname);
        spec.hosts = security.add_hosts.iter().map(host).collect();
        surroundings::apply(security, &mut spec)?;
        spec.mounts.extend(mounts.mounts.iter().cloned());
        let sink = self.around.sink;
        let mut out = |stream, data: &[u8]| {
            let stream = match stream {
                sandbox::Stream::Stdout => Stream::Stdout,
                sandbox::Stream::Stderr => Stream::Stderr,
            };
            sink.event(&Event::Output { step: key, stream, data });
        };
        let kills = Memory::of_this_process().kills;
        let exit = sandbox::run(&spec, &mut out, self.around.cancel)?;
        for text in &exit.warnings {
            sink.event(&Event::Warning { text });
        }
        if exit.success() {
            return Ok(());
        }
        let memory = Memory::of_this_process();
        let shortage = match memory.limit {
            Some(limit) if memory.kills > kills => Some(Shortage::Memory { used: exit.usage.max_rss, limit }),
            _ => self.storage_shortage(),
        };
        Err(Error::RunFailed { command: run.argv.join(" "), code: exit.code, refused: exit.refused, shortage })
    }
}
