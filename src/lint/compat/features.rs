//! What a Dockerfile uses, as far as builders differ in it.

use crate::dockerfile::{
    self, Copy, Dockerfile, Heredoc, Instruction, Kind, MountFlag, MountKind, Sharing, Source, Span,
};
use crate::lint::Subject;
use crate::lint::scope::{Origin, Scope};
use crate::oci::Location;
use std::collections::HashSet;

/// Something that builders do not agree on; the names are those of [`super::table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub(super) enum Feature {
    Frontend,
    FromTransport,
    ForeignPlatform,
    ArgOsVersion,
    ArgPlatformRedefined,
    ArgAfterEnv,
    UnsetForms,
    RequiredForm,
    RunHeredocScript,
    RunHeredocCommand,
    MountBindFrom,
    MountBind,
    MountCache,
    MountCacheOptions,
    MountCachePrivate,
    MountTmpfs,
    MountTmpfsSize,
    MountSecret,
    MountSecretSource,
    MountSsh,
    RunNetwork,
    RunNetworkHost,
    RunSecurity,
    RunSecurityInsecure,
    RunDevice,
    ChmodSymbolic,
    ChmodParents,
    Link,
    Parents,
    Exclude,
    HeredocVariables,
    AddGit,
    AddGitQuery,
    AddGitChecksum,
    AddChecksum,
    AddKeepGitDir,
    AddUnpack,
    AddZstd,
    Healthcheck,
    HealthcheckStartInterval,
    Shell,
    Onbuild,
    OnbuildFrom,
    Maintainer,
    UserGroup,
    WorkdirParents,
    VolumeThenRun,
}

use Feature::*;

/// The features, in the order of the file; each once an instruction.
pub(super) fn used(file: &Dockerfile, subject: &Subject<'_>) -> Vec<(Feature, Span)> {
    let mut found = Found::default();
    let frontend = file.syntax.as_deref().unwrap_or("docker/dockerfile:1");
    if !frontend.starts_with("docker/dockerfile:1") || frontend.contains("labs") {
        let line = subject.text.lines().position(|l| l.to_ascii_lowercase().contains("syntax")).unwrap_or(0) + 1;
        found.add(Frontend, Span { start: line, end: line });
    }
    for i in &file.global_args {
        found.instruction(i, i.span);
    }
    let mut scope = Scope::new(file, subject);
    for (number, stage) in file.stages.iter().enumerate() {
        found.begin();
        let base = scope.base(number, subject);
        found.texts(&stage.original, stage.span);
        if matches!(scope.origin(number, subject), Some((Origin::Image(name), _)) if Location::has_transport(&name)) {
            found.add(FromTransport, stage.span);
        }
        if stage.from.platform.is_some() && base.is_some_and(|(_, p)| !p.accepts(&subject.build_platform)) {
            found.add(ForeignPlatform, stage.span);
        }
        let last_run = stage.instructions.iter().rposition(|i| matches!(i.kind, Kind::Run(_)));
        for (n, i) in stage.instructions.iter().enumerate() {
            found.instruction(i, i.span);
            if matches!(i.kind, Kind::Volume(_)) && last_run.is_some_and(|last| last > n) {
                found.add(VolumeThenRun, i.span);
            }
        }
    }
    found.list
}

#[derive(Default)]
struct Found {
    list: Vec<(Feature, Span)>,
    seen: HashSet<(Feature, Span)>,
    /// Names that ENV has set in this stage.
    env: HashSet<String>,
    /// A USER that is not root was set in this stage.
    user: bool,
}

impl Found {
    fn begin(&mut self) {
        self.env.clear();
        self.user = false;
    }

    fn add(&mut self, feature: Feature, span: Span) {
        if self.seen.insert((feature, span)) {
            self.list.push((feature, span));
        }
    }

    fn add_if(&mut self, condition: bool, feature: Feature, span: Span) {
        if condition {
            self.add(feature, span);
        }
    }

    /// Forms of substitution in an instruction whose words are expanded.
    fn texts(&mut self, text: &str, span: Span) {
        for form in text.split("${").skip(1) {
            let rest = form.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            self.add_if(rest.starts_with(['-', '+', '?']), UnsetForms, span);
            self.add_if(rest.starts_with(":?"), RequiredForm, span);
        }
    }

    fn instruction(&mut self, i: &Instruction, span: Span) {
        if !matches!(i.kind, Kind::Run(_) | Kind::Cmd(_) | Kind::Entrypoint(_) | Kind::Healthcheck(_) | Kind::Shell(_))
        {
            self.texts(&i.original, span);
        }
        match &i.kind {
            Kind::Arg(definitions) => {
                for d in definitions {
                    let os = matches!(d.name.as_str(), "TARGETOSVERSION" | "BUILDOSVERSION" | "TARGETSTAGE");
                    self.add_if(os, ArgOsVersion, span);
                    let platform = matches!(d.name.as_str(), "TARGETPLATFORM" | "BUILDPLATFORM");
                    self.add_if(platform && d.default.is_some(), ArgPlatformRedefined, span);
                    self.add_if(self.env.contains(&d.name), ArgAfterEnv, span);
                }
            }
            Kind::Env(pairs) => self.env.extend(pairs.iter().map(|p| p.key.clone())),
            Kind::Run(run) => self.run(run, span),
            Kind::Copy(copy) => self.copy(copy, span),
            Kind::Add(copy) => {
                self.copy(copy, span);
                self.add_flags(copy, span);
            }
            Kind::Healthcheck(check) => {
                self.add(Healthcheck, span);
                self.add_if(check.start_interval != 0, HealthcheckStartInterval, span);
            }
            Kind::Shell(_) => self.add(Shell, span),
            Kind::Maintainer(_) => self.add(Maintainer, span),
            Kind::Onbuild(onbuild) => {
                self.add(Onbuild, span);
                let reads = match &onbuild.instruction.kind {
                    Kind::Copy(c) => c.from.is_some(),
                    Kind::Run(r) => r.mounts.iter().any(|m| m.from().is_some()),
                    _ => false,
                };
                self.add_if(reads, OnbuildFrom, span);
                // the trigger is no trigger again: the parser refuses that
                if !matches!(onbuild.instruction.kind, Kind::Onbuild(_)) {
                    self.instruction(&onbuild.instruction, span);
                }
            }
            Kind::User(user) => {
                self.user = !matches!(user.as_str(), "root" | "0" | "0:0" | "root:root");
                self.add_if(user.contains(':'), UserGroup, span);
            }
            Kind::Workdir(path) => {
                let deep = path.split('/').filter(|p| !matches!(*p, "" | ".")).count() > 1;
                self.add_if(self.user && deep, WorkdirParents, span);
            }
            Kind::Cmd(_) | Kind::Entrypoint(_) | Kind::Expose(_) => {}
            Kind::Label(_) | Kind::StopSignal(_) | Kind::Volume(_) => {}
        }
    }

    fn run(&mut self, run: &dockerfile::Run, span: Span) {
        if let (dockerfile::CommandLine::Shell(text), Some(first)) = (&run.command, run.heredocs.first()) {
            let alone = Heredoc::opens(text);
            self.add_if(!alone, RunHeredocCommand, span);
            self.add_if(alone && first.text().starts_with("#!"), RunHeredocScript, span);
        }
        for mount in &run.mounts {
            self.mount(mount, span);
        }
        self.add_if(run.network.is_some_and(|n| n != dockerfile::RunNetwork::Default), RunNetwork, span);
        self.add_if(run.network == Some(dockerfile::RunNetwork::Host), RunNetworkHost, span);
        self.add_if(run.security.is_some(), RunSecurity, span);
        self.add_if(run.security.as_deref() == Some("insecure"), RunSecurityInsecure, span);
        self.add_if(!run.devices.is_empty(), RunDevice, span);
    }

    fn mount(&mut self, flag: &MountFlag, span: Span) {
        // a value that holds a variable counts as given: which value it is makes no difference here
        let Ok(mount) = flag.resolve(&mut |value| Ok(value.to_owned())) else { return };
        match mount.kind {
            MountKind::Bind if mount.from.is_some() => self.add(MountBindFrom, span),
            MountKind::Bind => self.add(MountBind, span),
            MountKind::Cache => {
                self.add(MountCache, span);
                let sharing = mount.sharing != Sharing::Shared;
                let options = sharing || mount.from.is_some() || mount.source.is_some() || mount.read_only;
                self.add_if(options, MountCacheOptions, span);
                self.add_if(mount.sharing == Sharing::Private, MountCachePrivate, span);
            }
            MountKind::Tmpfs => {
                self.add(MountTmpfs, span);
                self.add_if(mount.size.is_some(), MountTmpfsSize, span);
            }
            MountKind::Secret => {
                self.add(MountSecret, span);
                self.add_if(mount.source.is_some(), MountSecretSource, span);
            }
            MountKind::Ssh => self.add(MountSsh, span),
        }
    }

    fn copy(&mut self, copy: &Copy, span: Span) {
        if let Some(mode) = &copy.chmod {
            let symbolic = !mode.contains('$') && !mode.bytes().all(|b| b.is_ascii_digit());
            self.add_if(symbolic, ChmodSymbolic, span);
            self.add_if(copy.dest.trim_matches('/').contains('/'), ChmodParents, span);
        }
        self.add_if(copy.link, Link, span);
        self.add_if(copy.parents, Parents, span);
        self.add_if(!copy.exclude.is_empty(), Exclude, span);
        for source in &copy.sources {
            if let Source::Heredoc(h) = source {
                self.add_if(h.expand && h.content.contains('$'), HeredocVariables, span);
            }
        }
    }

    fn add_flags(&mut self, copy: &Copy, span: Span) {
        self.add_if(copy.checksum.is_some(), AddChecksum, span);
        self.add_if(copy.keep_git_dir.is_some(), AddKeepGitDir, span);
        self.add_if(copy.unpack.is_some(), AddUnpack, span);
        for source in &copy.sources {
            let Source::Path(path) = source else { continue };
            let web = path.starts_with("https://") || path.starts_with("http://");
            let address = path.split(['#', '?']).next().unwrap_or(path);
            let git =
                ["git://", "ssh://", "git@"].iter().any(|p| path.starts_with(p)) || (web && address.ends_with(".git"));
            self.add_if(git, AddGit, span);
            self.add_if(git && path.contains('?'), AddGitQuery, span);
            self.add_if(git && copy.checksum.is_some(), AddGitChecksum, span);
            let zstd = [".tar.zst", ".tar.zstd", ".tzst"].iter().any(|e| path.ends_with(e));
            self.add_if(zstd && !web, AddZstd, span);
        }
    }
}
