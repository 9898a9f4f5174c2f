//! Why a context or one of its files cannot be used.

use super::files;
use crate::archive;
use crate::dockerfile::ignore::PatternError;
use crate::error::{Classified, Kind, kind_of_io};
use crate::registry;
use crate::store;
use std::io;
use std::path::{Path, PathBuf};

/// Why a context or one of its files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The context directory cannot be opened.
    #[error("cannot open build context `{}`: {error}", path.display())]
    Context {
        /// The directory as given.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// None of the usual names is in the context.
    #[error("no {} in build context `{}`", any_of(.names), context.display())]
    NoDockerfile {
        /// The context as given.
        context: PathBuf,
        /// What was looked for.
        names: Vec<String>,
    },
    /// The Dockerfile that was named does not exist.
    #[error("there is no Dockerfile `{}`{}", path.display(), looked_in(.here, .context))]
    NoSuchDockerfile {
        /// As given.
        path: PathBuf,
        /// The context, where it was looked for, too.
        context: Option<PathBuf>,
        /// Whether it was looked for in the working directory.
        here: bool,
    },
    /// A directory was named as the Dockerfile, and holds none.
    #[error("there is no `Dockerfile` in directory `{}`", .0.display())]
    NotInDirectory(PathBuf),
    /// A Dockerfile or ignore file is a link to something outside the context.
    #[error("`{}` is a symbolic link that leads out of the build context, to `{}`", path.display(), target.display())]
    LeadsOut {
        /// The link.
        path: PathBuf,
        /// What it says.
        target: PathBuf,
    },
    /// A Dockerfile or ignore file is a link to nothing.
    #[error("`{}` is a symbolic link to `{}`, where nothing is", path.display(), target.display())]
    LeadsNowhere {
        /// The link.
        path: PathBuf,
        /// What it says.
        target: PathBuf,
    },
    /// A file that was named cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Read {
        /// The file as given.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Something that was fetched cannot be kept.
    #[error("cannot write `{}`: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file is larger than any Dockerfile or ignore file can be.
    #[error("`{}` is larger than {} MiB", path.display(), files::LARGEST >> 20)]
    TooLarge {
        /// The file as given.
        path: PathBuf,
    },
    /// A pattern in an ignore file is malformed.
    #[error("in `{file}`: {error}")]
    Ignore {
        /// The ignore file.
        file: String,
        /// The pattern.
        #[source]
        error: PatternError,
    },
    /// A Dockerfile on standard input that is an archive.
    #[error("the Dockerfile on standard input is an archive")]
    StdinArchive,
    /// An archive could not be unpacked.
    #[error("cannot unpack `{}`: {error}", path.display())]
    Unpack {
        /// The archive as given.
        path: PathBuf,
        /// Why not.
        #[source]
        error: archive::Error,
    },
    /// A file could not be fetched.
    #[error("cannot fetch `{url}`: {}", because(.error))]
    Download {
        /// Its address, without credentials.
        url: String,
        /// Why not.
        #[source]
        error: Box<registry::Error>,
    },
    /// A file or commit is not the one that was demanded.
    #[error("`{what}` is not what it must be: expected `{demanded}`, got `{found}`")]
    Checksum {
        /// Its address, without credentials.
        what: String,
        /// The digest or commit that was demanded.
        demanded: String,
        /// The one that it has.
        found: String,
    },
    /// git failed.
    #[error("cannot fetch `{url}`: git: {said}")]
    Git {
        /// The repository, without credentials.
        url: String,
        /// What git said.
        said: String,
    },
    /// A repository has no such branch, tag or commit.
    #[error("repository `{url}` has no branch, tag or commit `{name}`")]
    NoReference {
        /// The repository.
        url: String,
        /// The name.
        name: String,
    },
    /// A repository has no such directory.
    #[error("repository `{url}` has no directory `{dir}`")]
    NoSubdir {
        /// The repository.
        url: String,
        /// The directory.
        dir: String,
    },
    /// A program that is needed is not installed.
    #[error("cannot find the program `{program}`, which `{needed_for}` needs")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// What needs it.
        needed_for: String,
    },
    /// The C preprocessor failed.
    #[error("cannot preprocess `{name}`: {why}")]
    Preprocess {
        /// The Dockerfile.
        name: String,
        /// What it said.
        why: String,
    },
    /// The store.
    #[error(transparent)]
    Store(Box<store::Error>),
    /// The user or a signal ended it.
    #[error("cancelled")]
    Cancelled,
}

fn any_of(names: &[String]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" or ")
}

fn looked_in(here: &bool, context: &Option<PathBuf>) -> String {
    match (here, context) {
        (true, Some(context)) => {
            format!(", neither in the working directory nor in build context `{}`", context.display())
        }
        (false, Some(context)) => format!(" in build context `{}`", context.display()),
        (_, None) => String::new(),
    }
}

/// The transport's errors are worded for registries; this server is none.
fn because(error: &registry::Error) -> String {
    use registry::Error as E;
    match error {
        E::Transport { host, why, .. } | E::Protocol { host, why, .. } => format!("server `{host}`: {why}"),
        E::Timeout { host, waiting_for, seconds, .. } => {
            format!("server `{host}`: {waiting_for} took longer than {seconds} s")
        }
        E::Status { host, status, .. } => format!("server `{host}` answered {status}"),
        E::Corrupt { why, .. } | E::Unsupported { why, .. } => why.clone(),
        E::Local { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

impl Error {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::Read { path: path.to_owned(), error }
    }

    /// Whether a git server refused only how it was asked: for a part of the history, or for a commit that has no name.
    pub(super) fn is_server_limit(&self) -> bool {
        let signs = ["shallow", "dumb http", "unadvertised object", "not our ref", "remote ref does not exist"];
        matches!(self, Error::Git { said, .. } if signs.iter().any(|sign| said.contains(sign)))
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Context { error, .. } | Error::Read { error, .. } | Error::Write { error, .. } => kind_of_io(error),
            Error::NoDockerfile { .. }
            | Error::NoSuchDockerfile { .. }
            | Error::NotInDirectory(_)
            | Error::LeadsNowhere { .. }
            | Error::NoReference { .. }
            | Error::NoSubdir { .. } => Kind::NotFound,
            Error::TooLarge { .. }
            | Error::LeadsOut { .. }
            | Error::Ignore { .. }
            | Error::StdinArchive
            | Error::Preprocess { .. } => Kind::Usage,
            Error::Unpack { error, .. } => error.kind(),
            Error::Download { error, .. } => error.kind(),
            Error::Checksum { .. } => Kind::Corrupt,
            Error::Git { .. } => Kind::Network,
            Error::NoProgram { .. } => Kind::Unsupported,
            Error::Store(e) => e.kind(),
            Error::Cancelled => Kind::Cancelled,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::NoDockerfile { .. } => "name the Dockerfile with `-f`",
            Error::NoSuchDockerfile { .. } => {
                "`-f` takes a path relative to the working directory or to the build context"
            }
            Error::NotInDirectory(_) => "name the file itself with `-f`",
            Error::LeadsOut { .. } => {
                "put a copy of the file into the context, or name the file itself: `-f`, `--ignorefile`"
            }
            Error::LeadsNowhere { .. } => "remove the link, or make what it names",
            Error::StdinArchive => "to build from the archive, give `-` as the context and not as the Dockerfile",
            Error::Unpack { error, .. } => return error.hint(),
            Error::Download { error, .. } => match error.status() {
                Some(401 | 403) => {
                    "the server wants credentials: `--secret id=HTTP_AUTH_TOKEN_HOST` or `HTTP_AUTH_HEADER_HOST`, with its name"
                }
                Some(_) => "check the address",
                None if because(error).contains("certificate") => {
                    "name the file with the server's CA in `SSL_CERT_FILE`, or its directory with `--cert-dir`"
                }
                None => "check the address, and the network of this pod",
            },
            Error::Checksum { .. } => {
                "the file has changed since the Dockerfile was written, or somebody tampers with it"
            }
            Error::Git { said, .. } if said.contains("dubious ownership") => {
                "the repository belongs to somebody else: `git config --global --add safe.directory PATH` says that it is trusted"
            }
            Error::Git { said, .. }
                if said.contains("could not read Username") || said.contains("Authentication failed") =>
            {
                "the server wants credentials: `--secret id=GIT_AUTH_TOKEN`, or a credential helper of git for it"
            }
            Error::Git { said, .. } if said.contains("Host key verification failed") => {
                "put the key of the server into `~/.ssh/known_hosts`"
            }
            Error::Git { .. } => "check the address, and what git may reach from here",
            Error::NoReference { .. } => "a commit is written with all of its digits",
            Error::NoProgram { program: "git", .. } => {
                "install git in the image that the build runs in, or fetch the repository before the build"
            }
            Error::NoProgram { .. } => {
                "install it (Debian: `apt install cpp`), or preprocess the file before the build"
            }
            Error::Store(e) => return e.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn retryable(&self) -> bool {
        matches!(self, Error::Download { error, .. } if error.retryable())
    }
}
