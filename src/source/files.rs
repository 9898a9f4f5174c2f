//! Which Dockerfile and which ignore file belong to a build.
//!
//! A Dockerfile that the user names is looked for in the working directory, then in the context. One that lies in the
//! context is read through the context, so that its links cannot lead out. An ignore file that is named after the
//! Dockerfile wins over one in the root of the context.

use super::context::Context;
use super::{Error, looks_like_archive};
use crate::dockerfile::ignore::Patterns;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The size, in bytes, that no Dockerfile and no ignore file may exceed.
pub const LARGEST: u64 = 16 << 20;

/// The names that are looked for where the user gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `Containerfile` before `Dockerfile`, `.containerignore` before `.dockerignore`: buildah's.
    Containerfile,
    /// `Dockerfile`, then `dockerfile`; `.dockerignore`: Docker's.
    Dockerfile,
}

impl Names {
    fn dockerfiles(self) -> [&'static str; 2] {
        match self {
            Names::Containerfile => ["Containerfile", "Dockerfile"],
            Names::Dockerfile => ["Dockerfile", "dockerfile"],
        }
    }

    fn ignore_suffixes(self) -> &'static [&'static str] {
        match self {
            Names::Containerfile => &[".dockerignore", ".containerignore"],
            Names::Dockerfile => &[".dockerignore"],
        }
    }

    fn ignore_files(self) -> &'static [&'static str] {
        match self {
            Names::Containerfile => &[".containerignore", ".dockerignore"],
            Names::Dockerfile => &[".dockerignore"],
        }
    }
}

/// A Dockerfile that was read.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// How messages call it.
    pub name: String,
    /// The content.
    pub content: Vec<u8>,
    place: Place,
}

/// Where a Dockerfile lies: what its own ignore file is beside.
#[derive(Clone, Debug)]
enum Place {
    Context(PathBuf),
    Host(PathBuf),
    Stdin,
}

impl Dockerfile {
    /// A Dockerfile that came from standard input or the network; no ignore file is named after it.
    pub fn from_stream(name: impl Into<String>, content: Vec<u8>) -> Dockerfile {
        Dockerfile { name: name.into(), content, place: Place::Stdin }
    }
}

/// Bytes that tell an archive from a Dockerfile: the length of a tar header.
pub(super) const HEAD: u64 = 512;

/// Reads all of `input`, at most [`LARGEST`] bytes.
pub(super) fn bounded(input: impl Read, shown: &Path) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    input.take(LARGEST + 1).read_to_end(&mut out).map_err(Error::read(shown))?;
    if out.len() as u64 > LARGEST {
        return Err(Error::TooLarge { path: shown.to_owned() });
    }
    Ok(out)
}

/// Reads a Dockerfile from standard input.
///
/// # Errors
///
/// It fails, is an archive, or has more than [`LARGEST`] bytes.
pub fn dockerfile_on_stdin(mut input: impl Read) -> Result<Dockerfile, Error> {
    let shown = Path::new("-");
    let mut head = Vec::new();
    input.by_ref().take(HEAD).read_to_end(&mut head).map_err(Error::read(shown))?;
    if looks_like_archive(&head) {
        return Err(Error::StdinArchive);
    }
    let content = bounded(io::Cursor::new(head).chain(input), shown)?;
    Ok(Dockerfile::from_stream("-", content))
}

/// Finds and reads a Dockerfile: `file` as the user named it, else one of the usual names in the context.
///
/// # Errors
///
/// There is none, or it cannot be read.
pub fn find_dockerfile(context: &Context, file: Option<&Path>, names: Names) -> Result<Dockerfile, Error> {
    let Some(file) = file else {
        for name in names.dockerfiles() {
            if let Some(content) = context.read_unfiltered(Path::new(name))? {
                return Ok(Dockerfile { name: name.to_owned(), content, place: Place::Context(name.into()) });
            }
        }
        let names = names.dockerfiles().map(str::to_owned).to_vec();
        return Err(Error::NoDockerfile { context: context.path().to_owned(), names });
    };
    // With Docker's names a context that was fetched holds its own Dockerfile; buildah looks here first all the same.
    if !context.is_local() && names == Names::Dockerfile {
        return match context.read_unfiltered(file)? {
            Some(content) => {
                let name = file.to_string_lossy().into_owned();
                Ok(Dockerfile { name, content, place: Place::Context(file.to_owned()) })
            }
            None => Err(nowhere(file, Some(context), false)),
        };
    }
    let mut path = file.to_owned();
    let found = std::fs::metadata(&path);
    if matches!(&found, Ok(m) if m.is_dir()) {
        path.push("Dockerfile");
    }
    let shown = file.to_string_lossy().into_owned();
    if found.is_err() && file.is_relative() {
        return match context.read_unfiltered(file)? {
            Some(content) => Ok(Dockerfile { name: shown, content, place: Place::Context(file.to_owned()) }),
            None => Err(nowhere(file, Some(context), true)),
        };
    }
    let missing = || match &found {
        Ok(m) if m.is_dir() => Error::NotInDirectory(file.to_owned()),
        _ => nowhere(file, None, true),
    };
    if let Some(inside) = inside(context, &path) {
        return match context.read_unfiltered(&inside)? {
            Some(content) => Ok(Dockerfile { name: shown, content, place: Place::Context(inside) }),
            None => Err(missing()),
        };
    }
    let opened = File::open(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => missing(),
        _ => Error::read(&path)(e),
    });
    let content = bounded(opened?, &path)?;
    Ok(Dockerfile { name: shown, content, place: Place::Host(path) })
}

fn nowhere(file: &Path, context: Option<&Context>, here: bool) -> Error {
    Error::NoSuchDockerfile { path: file.to_owned(), context: context.map(|c| c.path().to_owned()), here }
}

/// The path relative to the context, of a file whose directory lies in it.
fn inside(context: &Context, path: &Path) -> Option<PathBuf> {
    if !context.is_local() {
        return None;
    }
    let parent = match path.parent()? {
        parent if parent.as_os_str().is_empty() => Path::new("."),
        parent => parent,
    };
    let parent = parent.canonicalize().ok()?;
    let root = context.path().canonicalize().ok()?;
    Some(parent.strip_prefix(root).ok()?.join(path.file_name()?))
}

/// Finds and reads what is to be ignored: `file` as the user named it, else the file named after the Dockerfile, else the
/// one in the root of the context. Gives its name too, for messages; no file excludes nothing. As with BuildKit, a context
/// that was fetched (an archive, a repository) is taken whole: only `file` counts.
///
/// # Errors
///
/// `file` cannot be read, or a pattern is malformed.
pub fn find_ignore(
    context: &Context,
    dockerfile: &Dockerfile,
    file: Option<&Path>,
    names: Names,
) -> Result<(Patterns, Option<String>), Error> {
    if let Some(file) = file {
        let content = bounded(File::open(file).map_err(Error::read(file))?, file)?;
        return parsed(file.to_string_lossy().into_owned(), &content);
    }
    if !context.is_local() {
        return Ok((Patterns::default(), None));
    }
    for suffix in names.ignore_suffixes() {
        let beside = |path: &Path| {
            let mut name = path.file_name().map(OsString::from).unwrap_or_default();
            name.push(suffix);
            path.with_file_name(name)
        };
        let (path, content) = match &dockerfile.place {
            Place::Stdin => continue,
            Place::Context(path) => (beside(path), context.read_unfiltered(&beside(path))?),
            Place::Host(path) => {
                let path = beside(path);
                let content = match File::open(&path) {
                    Ok(file) => Some(bounded(file, &path)?),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                    Err(e) => return Err(Error::read(&path)(e)),
                };
                (path, content)
            }
        };
        if let Some(content) = content {
            return parsed(path.to_string_lossy().into_owned(), &content);
        }
    }
    root_ignore(context, names)
}

/// The ignore file in the root of a context, which is all that a named context has.
///
/// # Errors
///
/// It cannot be read, or a pattern is malformed.
pub fn root_ignore(context: &Context, names: Names) -> Result<(Patterns, Option<String>), Error> {
    if !context.is_local() {
        return Ok((Patterns::default(), None));
    }
    for name in names.ignore_files() {
        if let Some(content) = context.read_unfiltered(Path::new(name))? {
            return parsed((*name).to_owned(), &content);
        }
    }
    Ok((Patterns::default(), None))
}

fn parsed(name: String, content: &[u8]) -> Result<(Patterns, Option<String>), Error> {
    match Patterns::parse(content) {
        Ok(patterns) => Ok((patterns, Some(name))),
        Err(error) => Err(Error::Ignore { file: name, error }),
    }
}
