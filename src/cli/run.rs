//! `rbuild run`: a command in an image of the store, in the sandbox that RUN steps have. What it changes is thrown away.

use super::foreign::{self, Flag, Foreign, Table, Verdict, boolean, text};
use super::registry_flags::{self, PolicyArgs, RegistryArgs};
use super::{Error, Global, bud, delivery, output, steps, store_limit::StoreLimit, values};
use crate::archive::merged::Merged;
use crate::archive::upper::Upper;
use crate::oci::{ContainerConfig, Platform};
use crate::plan::Network;
use crate::sandbox::{self, Guard, HostEntry, Mount, MountKind, Recorded, Stdin, StepSpec, Stream};
use crate::snapshot::{LayerRef, Links, RootSpec, Snapshots};
use crate::source::image::{Images, Pull};
use crate::source::signature_policy::SignaturePolicy;
use crate::sys::{idmap::IdMap, passwd};
use crate::ui::{Buildah, Terminal};
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Run a command in an image
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Environment variable; a bare name takes its value from the environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// User and group of the command
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long, visible_alias = "workdir", value_name = "DIR")]
    pub workingdir: Option<String>,
    /// Program in place of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Network: host, none
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Line for /etc/hosts
    #[arg(long, value_name = "NAME:IP")]
    pub add_host: Vec<String>,
    /// Host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Directory of the machine that the command sees
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]")]
    pub volume: Vec<String>,
    /// What keeps the command apart from the pod: auto, namespaces, chroot, trace [env: RBUILD_ISOLATION]
    #[arg(long, value_name = "HOW")]
    pub isolation: Option<crate::sandbox::isolation::Choice>,
    /// Capability that the command gets
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Capability that the command does not get
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Use the terminal of the caller
    #[arg(short, long, visible_alias = "terminal")]
    pub tty: bool,
    /// When to ask the registry for the image: always, missing, newer, never
    #[arg(long, value_name = "POLICY", default_value = "missing")]
    pub pull: String,
    /// How registries are spoken to.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Which images may be used.
    #[command(flatten)]
    pub signatures: PolicyArgs,
    /// What others have beyond this.
    #[command(flatten)]
    pub foreign: Foreign<RunFlags>,
    /// The image: name or id
    pub image: String,
    /// Program and arguments; left out, those of the image
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Flags of `buildah run`, `podman run` and `docker run` without a meaning here.
#[derive(Debug)]
pub struct RunFlags;

const KEEP: Verdict = Verdict::Refused("containers are not kept: put what must stay into a Dockerfile, and build it");

impl Table for RunFlags {
    const FLAGS: &'static [Flag] = &[
        boolean("rm", Verdict::NoEffect),
        boolean("no-pivot", Verdict::NoEffect),
        text("runtime", Verdict::NoEffect),
        text("runtime-flag", Verdict::NoEffect),
        text("pid", Verdict::Only(&["private"], "the command always gets a namespace of its own")),
        text("ipc", Verdict::Only(&["private"], "the command always gets a namespace of its own")),
        text("uts", Verdict::Only(&["private"], "the command always gets a namespace of its own")),
        text("cgroupns", Verdict::Only(&["private", "host"], "the command lives in the pod's own cgroup")),
        boolean("add-history", Verdict::RefusedIfTrue("what the command changes is thrown away")),
        boolean("no-hosts", Verdict::RefusedIfTrue("use `--add-host`, or write the file in the command")),
        text("contextdir", Verdict::Refused("use `--volume DIR:TARGET`")),
        text("mount", Verdict::Refused("use `--volume SOURCE:TARGET[:ro]`")),
        boolean("detach", Verdict::RefusedIfTrue("rbuild runs commands in the foreground only")),
        text("name", KEEP),
        text("publish", Verdict::Refused("the command uses the network of the pod: its ports are there already")),
    ];
}

/// Longest `/etc/passwd` or `/etc/group` that is read, in bytes.
const ETC_LIMIT: u64 = 16 << 20;

/// Runs the command; its exit code becomes that of the program.
pub fn run(args: &RunArgs, global: &Global) -> Result<(), Error> {
    args.foreign.check(foreign::warn)?;
    let policy = match bud::pull_policy(&args.pull)? {
        crate::build::request::PullPolicy::Missing => Pull::Missing,
        crate::build::request::PullPolicy::Always => Pull::Always,
        crate::build::request::PullPolicy::Newer => Pull::Newer,
        crate::build::request::PullPolicy::Never => Pull::Never,
    };
    let limit = StoreLimit::of(global)?;
    let store = global.store()?;
    let client = registry_flags::client(&args.registry.lower()?, global)?;
    let sink = Buildah::new(Terminal::all_to_stderr(), true);
    let signatures = SignaturePolicy::find(args.signatures.signature_policy.as_deref())?;
    let images = Images::new(&store, &client, policy, &signatures, &sink);
    let image = images.resolve(&args.image, &Platform::host())?;
    images.fetch(&image, &|_| ())?;

    let driver = global.storage_driver(&values::process_var)?;
    let snapshots = Snapshots::new(&store, IdMap::current())?.with_driver(driver);
    crate::sandbox::isolation::note().iter().for_each(|text| output::note(&format!("note: {text}")));
    snapshots.driver_note()?.iter().for_each(|text| output::note(&format!("note: {text}")));
    let layers: Vec<LayerRef> = image
        .manifest
        .layers
        .iter()
        .zip(&image.config.rootfs.diff_ids)
        .map(|(l, d)| LayerRef { diff_id: *d, blob: l.digest })
        .collect();
    let dirs = snapshots.ensure::<crate::snapshot::Error>(&layers, |_| Ok(()))?;
    let view = Merged::open(&dirs, snapshots.map()).map_err(|e| Error::Failed(Box::new(e)))?;
    let active = snapshots.prepare()?;
    let upper = Upper::create(&active.layer(), &view).and_then(|u| u.finish().map(drop));
    upper.map_err(|e| Error::Failed(Box::new(e)))?;

    let config = &image.config.config;
    let argv = argv(args, config).ok_or_else(|| Error::usage("the image has no command, and none was given"))?;
    let user = args.user.clone().unwrap_or_else(|| config.user.clone());
    let ids = passwd::resolve(&user, &etc(&view, "passwd")?, &etc(&view, "group")?)
        .map_err(|e| Error::NotFound(e.to_string()))?;
    let stub = store.mount_points_dir();
    sandbox::make_stub(&stub).map_err(Error::file("create", &stub))?;
    let prepared = snapshots.root(&RootSpec {
        layers: &dirs,
        extra: &[],
        stub: Some(&stub),
        top: &active,
        links: Links::Own,
        part: Path::new(""),
        lazy: None,
    })?;
    let mut spec = StepSpec::new(prepared.root().into(), argv);
    spec.recorded = Recorded::of(&view, &active.layer()).map_err(|e| Error::Failed(Box::new(e)))?;
    spec.env = environment(args, config, ids.home.as_deref())?;
    let cwd = args.workingdir.clone().unwrap_or_else(|| config.working_dir.clone());
    spec.cwd = Path::new("/").join(cwd);
    spec.ids = ids;
    spec.network = match args.network.as_deref().map(steps::network).transpose()?.flatten() {
        Some(Network::None) => sandbox::Network::None,
        Some(Network::Host) | None => sandbox::Network::Host,
    };
    spec.hostname = args.hostname.clone().unwrap_or(spec.hostname);
    for (name, address) in steps::add_hosts(&args.add_host)? {
        if address == crate::build::request::HOST_GATEWAY {
            return Err(Error::unsupported("`host-gateway` of `run`", "write the IP address of the machine"));
        }
        spec.hosts.push(HostEntry { address, name });
    }
    for volume in &args.volume {
        let v = steps::volume(volume, &mut foreign::warn)?;
        if v.overlay {
            return Err(Error::unsupported("volume option `O` of `run`", "use `ro`"));
        }
        let source = std::fs::canonicalize(&v.source).map_err(Error::file("find", &v.source))?;
        let kind =
            MountKind::Bind { source, inside: PathBuf::new(), owner: None, guard: Guard::read_only(v.read_only) };
        spec.mounts.push(Mount { target: PathBuf::from(v.target), kind });
    }
    (spec.cap_add, spec.cap_drop) = steps::capabilities(&args.cap_add, &args.cap_drop)?;
    spec.stdin = if args.interactive || args.tty { Stdin::Inherit } else { Stdin::Null };
    spec.interactive = args.tty;

    let cancel = delivery::cancel_on_signals()?;
    let mut terminal = Terminal::stdio();
    let mut out = |stream, data: &[u8]| match stream {
        Stream::Stdout => terminal.out(data),
        Stream::Stderr => terminal.err(data),
    };
    let exit = sandbox::run(&spec, &mut out, &cancel)?;
    drop((prepared, active));
    limit.apply(&store);
    exit.warnings.into_iter().for_each(foreign::warn);
    match u8::try_from(exit.code) {
        Ok(0) => Ok(()),
        code => Err(Error::Silent(code.unwrap_or(super::error::FAILURE))),
    }
}

/// Entry point and command, as Docker joins them.
fn argv(args: &RunArgs, config: &ContainerConfig) -> Option<Vec<OsString>> {
    let (mut argv, command) = match &args.entrypoint {
        // Another entry point takes no arguments that were meant for the image's.
        Some(e) => (vec![e.clone()].into_iter().filter(|e| !e.is_empty()).collect::<Vec<_>>(), vec![]),
        None => (config.entrypoint.clone().unwrap_or_default(), config.cmd.clone().unwrap_or_default()),
    };
    argv.extend(if args.command.is_empty() { command } else { args.command.clone() });
    (!argv.is_empty()).then(|| argv.into_iter().map(Into::into).collect())
}

fn environment(
    args: &RunArgs,
    config: &ContainerConfig,
    home: Option<&str>,
) -> Result<Vec<(OsString, OsString)>, Error> {
    let mut all = ContainerConfig { env: config.env.clone(), ..ContainerConfig::default() };
    if all.env("PATH").is_none() {
        all.set_env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    }
    if all.env("HOME").is_none() {
        all.set_env("HOME", home.unwrap_or("/"));
    }
    if args.tty && all.env("TERM").is_none() {
        all.set_env("TERM", "xterm");
    }
    for variable in &args.env {
        if let (name, Some(value)) = values::name_value(variable, &values::process_var)? {
            all.set_env(&name, &value);
        }
    }
    let split = |e: &String| e.split_once('=').map(|(n, v)| (n.into(), v.into()));
    Ok(all.env.iter().filter_map(split).collect())
}

/// `/etc/passwd` or `/etc/group` of the image; empty where there is none.
fn etc(view: &Merged, name: &str) -> Result<Vec<u8>, Error> {
    let failed = |e| Error::Failed(Box::new(e));
    let path = Path::new("etc").join(name);
    let Some(node) = view.resolve(&path, true).map_err(failed)?.node.filter(|n| n.is_file()) else {
        return Ok(vec![]);
    };
    let mut bytes = vec![];
    let file = view.open_file(&node).map_err(failed)?;
    file.take(ETC_LIMIT).read_to_end(&mut bytes).map_err(Error::file("read", &path))?;
    Ok(bytes)
}
