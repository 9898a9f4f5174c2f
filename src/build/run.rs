//! RUN: from a step of the plan to a command in the sandbox.

use super::{
    Error, Shortage,
    authorities::Trusting,
    copy::read_etc,
    execute::{Executor, Site},
    mask::Masker,
    mounts,
    request::Seccomp,
    surroundings,
};
use crate::dockerfile::MountKind;
use crate::oci::Platform;
use crate::plan::{Network, Run, Step};
use crate::sandbox::{self, Emulator, Recorded, StepSpec};
use crate::snapshot::{Links, RootSpec};
use crate::sys::{limits::Memory, passwd};
use crate::ui::{Event, StepKey, Stream, Usage};
use std::path::{Path, PathBuf};

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
            all.extend(v.overlay.then(|| "overlay".to_owned()));
        }
        all.extend(security.no_hosts.then(|| "no hosts".to_owned()));
        all.extend(security.dns.none.then(|| "no resolv.conf".to_owned()));
        all.extend(security.masked.iter().map(|p| format!("mask {p}")));
        all.extend((security.unmasked != Default::default()).then(|| format!("{:?}", security.unmasked)));
        all.extend(security.devices.iter().map(|d| format!("{d:?}")));
        all.extend(security.groups.iter().map(|g| format!("group {g}")));
        all.extend(security.shm_size.map(|n| format!("shm {n}")));
        all.extend(security.ulimits.iter().map(|l| format!("{} {:?} {:?}", l.kind.name(), l.soft, l.hard)));
        all
    }

    /// Runs the command.
    pub(super) fn run_command(
        &self,
        key: StepKey,
        run: &Run,
        platform: &Platform,
        site: &Site,
        mut mounts: mounts::Ready,
    ) -> Result<(), Error> {
        let groups = read_etc(site.view, "group")?;
        let mut ids = passwd::resolve(&run.user, &read_etc(site.view, "passwd")?, &groups)?;
        self.add_groups(&mut ids, &groups)?;
        let argv = run.argv.iter().map(Into::into).collect();
        let stub = self.around.store.mount_points_dir();
        sandbox::make_stub(&stub).map_err(|source| Error::File { path: stub.clone(), source })?;
        let trusting = self.trust(site)?;
        let extra: Vec<PathBuf> = trusting.iter().map(Trusting::layer).collect();
        let note = sandbox::isolation::note().or(self.snapshots.driver_note()?);
        let say = |text: &String| self.driver_said.call_once(|| self.around.sink.event(&Event::Note { text }));
        note.iter().for_each(say);
        let prepared = self.snapshots.root(&RootSpec {
            layers: &site.lower.dirs,
            extra: &extra,
            stub: Some(&stub),
            top: site.active,
            links: Links::Own,
            part: Path::new(""),
            lazy: site.lower.lazy.as_deref(),
        })?;
        let mut spec = StepSpec::new(prepared.root().into(), argv);
        spec.recorded = Recorded::of(site.view, &site.active.layer())?;
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
        spec.hostname = self.request.security.hostname.clone().unwrap_or(spec.hostname);
        surroundings::apply(&self.request.security, &mut spec)?;
        let foreign = sandbox::is_foreign(platform, &self.request.platform.build);
        if foreign {
            let path = std::env::var_os("PATH").unwrap_or_default();
            spec.emulator = Emulator::find(platform, self.request.security.emulator.as_deref(), &path);
        }
        if run.insecure {
            surroundings::insecure(&mut spec);
        }
        self.volumes(&mut mounts)?;
        spec.mounts.append(&mut mounts.mounts);
        spec.secret_env.append(&mut mounts.secret_env);
        let agents = run.mounts.iter().filter(|m| m.options.kind == MountKind::Ssh);
        let mut agents = agents.filter_map(|m| m.options.target.as_deref());
        let first = agents.find(|target| mounts.agents.iter().any(|a| a == Path::new(target)));
        if let Some(first) = first.filter(|_| !run.env.iter().any(|(n, _)| n == "SSH_AUTH_SOCK")) {
            spec.env.push(("SSH_AUTH_SOCK".into(), first.into()));
        }
        if let Some(trusting) = &trusting {
            trusting.tell(&mut spec.env);
        }
        let sink = self.around.sink;
        let patterns = self.secrets.patterns();
        let mut maskers = [Masker::new(patterns), Masker::new(patterns)];
        let show = |stream, data: &[u8]| sink.event(&Event::Output { step: key, stream, data });
        let mut out = |stream, data: &[u8]| match (stream, &mut maskers) {
            (sandbox::Stream::Stdout, [stdout, _]) => stdout.piece(data, &mut |data| show(Stream::Stdout, data)),
            (sandbox::Stream::Stderr, [_, stderr]) => stderr.piece(data, &mut |data| show(Stream::Stderr, data)),
        };
        let kills = Memory::of_this_process().kills;
        let exit = sandbox::run(&spec, &mut out, self.around.cancel);
        let [stdout, stderr] = &mut maskers;
        stdout.end(&mut |data| show(Stream::Stdout, data));
        stderr.end(&mut |data| show(Stream::Stderr, data));
        let mut exit = exit.map_err(|e| match e.map_text(|text| patterns.text(text)) {
            sandbox::Error::NotStarted { message, code: 126 } if foreign => Error::Foreign {
                platform: platform.clone(),
                message,
                emulator: spec.emulator.take().map(|e| e.program),
            },
            other => other.into(),
        })?;
        let used = exit.usage;
        let usage = Usage {
            took: exit.duration,
            user: used.user,
            system: used.system,
            max_rss: used.max_rss,
            peak: used.peak,
            read: used.read,
            written: used.written,
        };
        sink.event(&Event::StepUsage { step: key, usage });
        if exit.success() {
            prepared.collect(std::mem::take(&mut exit.records), exit.touched.as_ref())?;
        }
        self.forget(trusting, site)?;
        for text in &exit.warnings {
            sink.event(&Event::Warning { text: &patterns.text(text) });
        }
        if exit.success() {
            return Ok(());
        }
        let memory = Memory::of_this_process();
        let shortage = match memory.limit {
            Some(limit) if memory.kills > kills => Some(Shortage::Memory { used: exit.usage.max_rss, limit }),
            _ => self.storage_shortage(),
        };
        Err(Error::RunFailed { command: patterns.text(&run.argv.join(" ")), code: exit.code, shortage })
    }

    /// The groups of `--group-add`.
    fn add_groups(&self, ids: &mut passwd::UserIds, groups: &[u8]) -> Result<(), Error> {
        for group in &self.request.security.groups {
            let gid = passwd::resolve_chown(&format!(":{group}"), b"", groups)?.1;
            if !ids.groups.contains(&gid) {
                ids.groups.push(gid);
            }
        }
        Ok(())
    }
}
