//! `rbuild lint`: checks Dockerfiles without building them, and compares builders. Asks no registry, so that whole
//! trees of Dockerfiles can be looked at anywhere, and opens the store only for a context that has to be fetched or unpacked;
//! `bud --check` also looks at the base images.

use super::calls::{self, Call, Format, Method};
use super::contexts::{dockerfile_source, main_context, named_context};
use super::platform::PlatformArgs;
use super::{Error, Global, output, registry_flags, steps, values};
use crate::build::Surroundings;
use crate::build::checks::Read;
use crate::build::request::{BuildRequest, Context, DockerfileSource};
use crate::lint::compat::Tool;
use crate::lint::report::{self, Source};
use crate::source::unpacked;
use crate::sys::signal::Cancel;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

/// Check Dockerfiles, or show what other builders make of them
#[derive(Clone, Debug, clap::Args)]
pub struct LintArgs {
    /// Dockerfiles, directories with one, or `-` for standard input [default: .]
    pub path: Vec<String>,
    /// Dockerfile, where PATH is the build context
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<String>,
    /// Stage to look at
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Value for an ARG; a bare name takes it from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    #[command(flatten)]
    pub platform: PlatformArgs,
    /// What a name in FROM stands for, as with `bud`: a directory, `docker-image://…`, `target:STAGE`, …
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,
    /// File with patterns of what is not in the context
    #[arg(long, value_name = "FILE")]
    pub ignorefile: Option<PathBuf>,
    /// Secret that is a credential for what is fetched, as with `bud`: `id=ID[,src=FILE|,env=NAME]`
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// What to show: check, outline, targets
    #[arg(long, value_name = "CALL", default_value = "check", conflicts_with = "compat")]
    pub call: String,
    /// Form of the output: text, json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// What these builders drop, refuse or do differently: kaniko, buildah, buildkit
    #[arg(long, value_name = "BUILDER,…", num_args = 0..=1, require_equals = false, default_missing_value = "all")]
    pub compat: Option<String>,
}

/// Checks, or compares.
///
/// # Errors
/// A wrong command line, a Dockerfile that cannot be read, or [`Error::Silent`] 1 where something was found.
pub fn run(args: &LintArgs, global: &Global) -> Result<(), Error> {
    let mut call = Call::parse(&args.call)?.ok_or_else(|| Error::usage("`lint` does not build: use `rbuild bud`"))?;
    if let Some(format) = &args.format {
        call.format = Format::parse(format)?;
    }
    let all = args.read(global)?;
    if let Some(tools) = &args.compat {
        return compare(&tools_of(tools)?, call.format, &all);
    }
    if call.method == Method::Check {
        let found: Vec<_> = all.iter().map(|r| (source(r), r.check_alone())).collect();
        return calls::checked(&call, &found);
    }
    match all.as_slice() {
        [one] => calls::offer(&call, one),
        _ => Err(Error::usage("outlines and targets are shown of one Dockerfile at a time")),
    }
}

/// Whether a path is the address of something that is not here.
fn is_address(path: &str) -> bool {
    matches!(main_context(path), Ok(Context::Web(_) | Context::Git(_)))
}

/// Whether everything that is to be read is a file of this machine, as it lies there.
fn is_there(request: &BuildRequest) -> Result<bool, Error> {
    let file = |file: &DockerfileSource| !matches!(file, DockerfileSource::Web(_));
    Ok(request.file.files.iter().all(file)
        && match &request.context.main {
            Context::Web(_) | Context::Git(_) => false,
            Context::Dir(path) => !path.is_file(),
            // What is looked at here stays to be read.
            Context::Stdin => {
                let mut stdin = std::io::stdin().lock();
                !unpacked::is_archive_head(stdin.fill_buf().map_err(Error::file("read", Path::new("-")))?)
            }
            Context::Empty => true,
        })
}

/// Reads a Dockerfile from a context that has to be fetched or unpacked: in the store.
fn fetched(request: &BuildRequest, global: &Global) -> Result<Read, Error> {
    let store = global.store()?;
    let client = registry_flags::client(&request.registry, global)?;
    let cancel = Cancel::new().map_err(Error::file("watch", Path::new("signals")))?;
    let driver = global.storage_driver(&super::values::process_var)?;
    let sink = &calls::Warnings;
    let around = Surroundings { store: &store, client: &client, driver, sink, cancel: &cancel, coming: None };
    Ok(Read::new(request, Some(around))?)
}

fn source(read: &Read) -> Source<'_> {
    Source { name: read.name(), text: read.text() }
}

fn tools_of(text: &str) -> Result<Vec<Tool>, Error> {
    if text == "all" {
        return Ok(Tool::ALL.to_vec());
    }
    let tool = |name: &str| name.parse::<Tool>().map_err(|e| Error::Usage { message: e.to_string(), hint: e.hint });
    text.split(',').filter(|t| !t.is_empty()).map(tool).collect()
}

fn compare(tools: &[Tool], format: Format, all: &[Read]) -> Result<(), Error> {
    let mut compared = vec![];
    let mut failed = false;
    for read in all {
        match read.compare(tools) {
            Ok(list) => compared.push((source(read), list)),
            Err(fault) => {
                calls::failed(&fault);
                failed = true;
            }
        }
    }
    match format {
        Format::Json => calls::print_json(&report::compat_json(&compared))?,
        Format::Text => {
            for (source, list) in &compared {
                output::print(&report::compat_text(list, *source))?;
            }
            if !failed && compared.iter().all(|(_, list)| list.is_empty()) {
                let names: Vec<String> = tools.iter().map(Tool::to_string).collect();
                output::print_line(&format!("No differences found: {}.", names.join(", ")))?;
            }
        }
    }
    if failed { Err(Error::Silent(1)) } else { Ok(()) }
}

impl LintArgs {
    fn read(&self, global: &Global) -> Result<Vec<Read>, Error> {
        let here = ["."].map(str::to_owned);
        let paths = if self.path.is_empty() { &here[..] } else { &self.path };
        if self.file.is_some() && paths.len() > 1 {
            return Err(Error::usage("`--file` goes with one build context"));
        }
        let read = |path: &String| {
            let request = self.request(path)?;
            let read = if is_there(&request)? { Read::new(&request, None)? } else { fetched(&request, global)? };
            let found = self.file.is_none() && path != "." && Path::new(path).is_dir();
            Ok(if found { read.below(path) } else { read })
        };
        paths.iter().map(read).collect()
    }

    fn request(&self, path: &str) -> Result<BuildRequest, Error> {
        let mut request = BuildRequest::default();
        request.file.containerfile = true;
        request.context.main = match Path::new(path) {
            _ if path == "-" || is_address(path) => main_context(path)?,
            archive if archive.is_file() && unpacked::is_archive(archive) => Context::Dir(archive.to_owned()),
            file if !file.is_dir() && self.file.is_none() => {
                let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                request.file.files.push(DockerfileSource::Path(file.to_owned()));
                Context::Dir(if dir.is_dir() { dir.to_owned() } else { PathBuf::from(".") })
            }
            dir => Context::Dir(dir.to_owned()),
        };
        request.file.files.extend(self.file.as_deref().map(dockerfile_source).transpose()?);
        request.target.stage = self.target.clone().filter(|t| !t.is_empty());
        let args = self.build_arg.iter().map(|a| values::name_value(a, &values::process_var));
        request.target.build_args = args.collect::<Result<_, _>>()?;
        request.platform.target = self.platform.platform()?;
        request.context.named = self.build_context.iter().map(|c| named_context(c)).collect::<Result<_, _>>()?;
        request.context.ignorefile = self.ignorefile.clone();
        let secrets = self.secret.iter().map(|s| steps::secret(s, &values::process_var));
        request.security.secrets = secrets.collect::<Result<_, _>>()?;
        Ok(request)
    }
}
