//! What a build reads from outside: the main context with its Dockerfile, and the named contexts.

use super::request::{BuildRequest, Context, DockerfileSource, NamedContext};
use super::{Error, epoch, logins::Reach};
use crate::dockerfile::MountKind;
use crate::plan::{self, Base, ContextId, CopyFrom, Plan, StepKind};
use crate::registry::download::shown;
use crate::source::{self, Dockerfile, GitUrl, Given, Mtime, Names, Origin, cpp, download, files, git, unpacked};
use crate::ui::Event;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

/// The files that a build reads.
#[derive(Debug)]
pub(super) struct OpenContext {
    pub dockerfile: String,
    pub dockerfile_name: String,
    /// The main context.
    pub files: source::Context,
    /// The named contexts that are files and that the plan reads.
    named: BTreeMap<ContextId, source::Context>,
}

impl OpenContext {
    /// A named context, which [`OpenContext::open_named`] has opened.
    pub fn named(&self, id: ContextId) -> Result<&source::Context, Error> {
        self.named.get(&id).ok_or(Error::Cancelled)
    }

    /// The named contexts that are files and that the plan reads.
    pub fn all_named(&self) -> impl Iterator<Item = (ContextId, &source::Context)> {
        self.named.iter().map(|(id, context)| (*id, context))
    }

    /// Opens the main context, and reads the Dockerfile. Without a reach nothing can be fetched or unpacked.
    pub fn open(request: &BuildRequest, reach: Option<Reach<'_>>) -> Result<OpenContext, Error> {
        let names = names(request);
        let given = match &request.context.main {
            Context::Dir(dir) => directory(dir, reach)?,
            Context::Empty => Given::Files(source::Context::empty()),
            Context::Stdin => match reach {
                Some(reach) => unpacked::read(reach.around.store, std::io::stdin(), Path::new("-"))?,
                None => Given::Dockerfile(source::dockerfile_on_stdin(std::io::stdin().lock())?.content),
            },
            Context::Web(url) => {
                let reach = needed(reach)?;
                fetching(&shown(url), reach);
                download::context(reach.around.store, reach.around.client, url, reach.secrets.web_login(url)?)?
            }
            Context::Git(url) => {
                let mut url = url.clone();
                url.keep_git_dir |= keeps_git_dir(request);
                // As with BuildKit: who wants the same image each time wants the same times.
                if !url.mtime_given && epoch::is_wanted(request) {
                    url.mtime = Mtime::Commit;
                }
                repository(&url, needed(reach)?)?
            }
        };
        let (context, given) = match given {
            Given::Files(context) => (context, None),
            Given::Dockerfile(text) => (source::Context::empty(), Some(text)),
        };
        let mut dockerfile = match (given, request.file.files.as_slice()) {
            (Some(text), []) => {
                let name = match &request.context.main {
                    Context::Web(url) => shown(url),
                    _ => "-".to_owned(),
                };
                Dockerfile::from_stream(name, text)
            }
            (_, []) => source::find_dockerfile(&context, None, names)?,
            (_, [first, more @ ..]) => {
                // Several files are one Dockerfile in several pieces.
                let mut whole = piece(first, &context, request, reach)?;
                for file in more {
                    let piece = piece(file, &context, request, reach)?;
                    whole.content.push(b'\n');
                    whole.content.extend(piece.content);
                }
                whole
            }
        };
        let (ignore, _) = source::find_ignore(&context, &dockerfile, request.context.ignorefile.as_deref(), names)?;
        let content = std::mem::take(&mut dockerfile.content);
        Ok(OpenContext {
            dockerfile: String::from_utf8_lossy(&content).into_owned(),
            dockerfile_name: dockerfile.name,
            files: context.with_ignore(ignore),
            named: BTreeMap::new(),
        })
    }

    /// Opens the files behind the name of a context; `None`: it is an image or a stage.
    pub fn of_place(place: &NamedContext, reach: Reach<'_>) -> Result<Option<source::Context>, Error> {
        let given = match place {
            NamedContext::Dir(dir) => directory(dir, Some(reach))?,
            NamedContext::Git(url) => repository(url, reach)?,
            NamedContext::Web(url) => Given::Files(web_files(url, reach)?),
            NamedContext::Image(_)
            | NamedContext::OtherStore(_)
            | NamedContext::Layout { .. }
            | NamedContext::Stage(_) => return Ok(None),
        };
        Ok(match (given, place) {
            (Given::Files(context), _) => Some(context),
            (Given::Dockerfile(_), NamedContext::Dir(dir)) => Some(source::Context::open(dir)?),
            (Given::Dockerfile(_), _) => None,
        })
    }

    /// Opens the named contexts that a plan reads, before any step is executed.
    pub fn open_named(&mut self, request: &BuildRequest, plan: &Plan, reach: Reach<'_>) -> Result<(), Error> {
        for id in used(plan) {
            let Some((_, place)) = request.context.named.get(id.0) else { continue };
            let Some(context) = OpenContext::of_place(place, reach)? else { continue };
            let (ignore, _) = files::root_ignore(&context, names(request))?;
            self.named.insert(id, context.with_ignore(ignore));
        }
        Ok(())
    }
}

fn names(request: &BuildRequest) -> Names {
    if request.file.containerfile { Names::Containerfile } else { Names::Dockerfile }
}

/// BuildKit's switch for contexts from git, which is a build argument.
fn keeps_git_dir(request: &BuildRequest) -> bool {
    let args = request.target.build_args.iter();
    let value = args.rev().find(|(name, _)| name == "BUILDKIT_CONTEXT_KEEP_GIT_DIR").and_then(|(_, v)| v.as_deref());
    matches!(value, Some("1" | "t" | "T" | "true" | "True" | "TRUE"))
}

fn fetching(name: &str, reach: Reach<'_>) {
    reach.around.sink.event(&Event::Fetching { name });
}

/// The files behind a web address: those of an archive, or one.
fn web_files(url: &str, reach: Reach<'_>) -> Result<source::Context, Error> {
    fetching(&shown(url), reach);
    let login = reach.secrets.web_login(url)?;
    Ok(download::files(reach.around.store, reach.around.client, url, login)?)
}

/// The files of a repository.
fn repository(url: &GitUrl, reach: Reach<'_>) -> Result<Given, Error> {
    fetching(&url.to_string(), reach);
    let (around, login) = (reach.around, reach.secrets.git_login(url)?);
    let commit = git::resolve(around.store, url, login.as_ref(), around.cancel)?;
    let origin = Origin { uri: url.to_string(), digest: commit.id.clone(), commit: true };
    let files = git::checkout(around.store, url, &commit, login.as_ref(), around.cancel)?;
    Ok(Given::Files(files.from_origin(origin)))
}

/// What fetching and unpacking take.
fn needed(reach: Option<Reach<'_>>) -> Result<Reach<'_>, Error> {
    reach.ok_or_else(|| Error::Unsupported {
        what: "a build context that has to be fetched or unpacked, without a build".into(),
        hint: "unpack it, and name the directory".into(),
    })
}

/// A directory; or an archive of one, which is told by its content.
fn directory(path: &Path, reach: Option<Reach<'_>>) -> Result<Given, Error> {
    if path.is_file() && unpacked::is_archive(path) {
        let reach = needed(reach)?;
        let file = File::open(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        return Ok(unpacked::read(reach.around.store, file, path)?);
    }
    Ok(Given::Files(source::Context::open(path)?))
}

/// One of the files that make up the Dockerfile.
fn piece(
    file: &DockerfileSource,
    context: &source::Context,
    request: &BuildRequest,
    reach: Option<Reach<'_>>,
) -> Result<Dockerfile, Error> {
    let mut piece = match file {
        DockerfileSource::Stdin => source::dockerfile_on_stdin(std::io::stdin().lock())?,
        DockerfileSource::Web(url) => {
            let reach = needed(reach)?;
            fetching(&shown(url), reach);
            let login = reach.secrets.web_login(url)?;
            download::dockerfile(reach.around.store, reach.around.client, url, login)?
        }
        DockerfileSource::Path(path) => source::find_dockerfile(context, Some(path), names(request))?,
    };
    if request.file.containerfile && cpp::is_wanted(&piece.name) {
        let said = cpp::preprocess(&mut piece, context.directory().as_deref(), &request.file.cpp_flags)?;
        if let (Some(said), Some(reach)) = (said, reach) {
            let text = format!("the preprocessor complains about `{}`: {said}", piece.name);
            reach.around.sink.event(&Event::Warning { text: &text });
        }
    }
    Ok(piece)
}

/// The named contexts whose files a plan reads.
fn used(plan: &Plan) -> BTreeSet<ContextId> {
    let mut used = BTreeSet::new();
    let mut add = |from: &CopyFrom| {
        if let CopyFrom::Named(id) = from {
            used.insert(*id);
        }
    };
    for step in &plan.steps {
        match &step.kind {
            StepKind::Base(Base::Files(id)) => add(&CopyFrom::Named(*id)),
            StepKind::Copy(copy) => add(&copy.from),
            StepKind::Run(run) => {
                let reading =
                    run.mounts.iter().filter(|m| matches!(m.options.kind, MountKind::Bind | MountKind::Cache));
                reading.filter_map(|m| m.from.as_ref()).for_each(&mut add);
            }
            _ => {}
        }
    }
    used
}

/// What the plan has to know of the named contexts.
pub(super) fn for_plan(request: &BuildRequest) -> Vec<(String, plan::NamedContext)> {
    let place = |context: &NamedContext| match context {
        NamedContext::Dir(_) | NamedContext::Git(_) | NamedContext::Web(_) => plan::NamedContext::Files,
        NamedContext::Image(reference) => plan::NamedContext::Image(reference.to_string()),
        NamedContext::OtherStore(place) => plan::NamedContext::Image(place.to_string()),
        NamedContext::Layout { .. } => plan::NamedContext::Layout,
        NamedContext::Stage(name) => plan::NamedContext::Stage(name.clone()),
    };
    request.context.named.iter().map(|(name, context)| (name.clone(), place(context))).collect()
}
