//! Stores of other tools, reached through the `skopeo` program: podman's (`containers-storage:`) and Docker's (`docker-daemon:`).
//!
//! Their formats on disk are nobody's interface, and skopeo is made by those who make them. Images are handed over in a `dir:` directory
//! of the store's `tmp/`, with layers as they are. Whether an image may be used has been decided before skopeo is asked
//! ([`super::signature_policy`]), so that it need not have a policy of its own.
//!
//! In a user namespace rbuild is root, and skopeo would take root's store for the caller's: it is told who the caller is, as
//! podman tells itself when it has entered its own.

use crate::error::{Classified, Kind};
use crate::oci::Location;
use crate::sys::{process, signal, userns};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that a copy may take: a daemon that does not answer says nothing.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Bytes of skopeo's words that are read.
const LONGEST_OUTPUT: u64 = 1 << 20;
/// Characters of them that go into an error: its end, where the reason stands.
const LONGEST_MESSAGE: usize = 1000;
/// How often the running program is looked after.
const PAUSE: Duration = Duration::from_millis(10);

/// Why an image could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// skopeo is not installed.
    #[error("cannot find the program `skopeo`, which `{0}` needs")]
    Missing(String),
    /// It could not be started or watched.
    #[error("cannot run `skopeo`: {0}")]
    Run(#[source] io::Error),
    /// It failed.
    #[error("cannot copy {way} `{place}`: {said}")]
    Failed {
        /// `from` or `to`.
        way: &'static str,
        /// The place.
        place: String,
        /// skopeo's last words.
        said: String,
    },
    /// It took too long.
    #[error("cannot copy {way} `{place}`: not done after {} minutes", LONGEST.as_secs() / 60)]
    Late {
        /// `from` or `to`.
        way: &'static str,
        /// The place.
        place: String,
    },
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Missing(_) => Kind::Unsupported,
            Error::Run(e) => crate::error::kind_of_io(e),
            Error::Failed { .. } => Kind::System,
            Error::Late { .. } => Kind::Network,
            Error::Cancelled => Kind::Cancelled,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Missing(place) if place.starts_with("containers-storage:") => {
                "this is podman's and buildah's store: install skopeo, or leave `containers-storage:` out for rbuild's own"
            }
            Error::Missing(_) => "install skopeo, or hand the image over with `docker save` and `rbuild load`",
            Error::Failed { place, .. } if place.starts_with("docker-daemon:") => {
                "the daemon is the one of `DOCKER_HOST`, else of `/var/run/docker.sock`"
            }
            Error::Failed { way: "from", .. } => "`podman images` of the same user lists what is there",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Fails where `place` could not be reached for want of skopeo.
///
/// # Errors
/// [`Error::Missing`].
pub fn check(place: &str) -> Result<(), Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("skopeo").is_file());
    if found { Ok(()) } else { Err(Error::Missing(place.to_owned())) }
}

/// Copies the image in the store of another tool into a `dir:` directory.
///
/// # Errors
/// Where skopeo is missing or fails.
pub fn read(place: &Location, into: &Path) -> Result<(), Error> {
    copy("from", place, (&place.to_string(), &format!("dir:{}", into.display())))
}

/// Copies the image in a `dir:` directory into the store of another tool.
///
/// # Errors
/// Where skopeo is missing or fails.
pub fn write(from: &Path, place: &Location) -> Result<(), Error> {
    copy("to", place, (&format!("dir:{}", from.display()), &place.to_string()))
}

/// Runs skopeo, which ends with this process, and when a signal asks that to end.
fn copy(way: &'static str, place: &Location, (from, to): (&str, &str)) -> Result<(), Error> {
    let failed = |said: String| Error::Failed { way, place: place.to_string(), said };
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet"]);
    // Not all versions of skopeo look there.
    if let (Location::DockerDaemon(_), Ok(host)) = (place, std::env::var("DOCKER_HOST"))
        && !host.is_empty()
    {
        command.args([if way == "from" { "--src-daemon-host" } else { "--dest-daemon-host" }, &host]);
    }
    command.args(["--", from, to]);
    let caller = userns::caller();
    if caller != 0 && rustix::process::getuid().is_root() {
        command.env("_CONTAINERS_USERNS_CONFIGURED", "done").env("_CONTAINERS_ROOTLESS_UID", caller.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    process::die_with_parent(&mut command);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::Missing(place.to_string()),
        _ => Error::Run(e),
    })?;
    let stderr = child.stderr.take();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let said = scope.spawn(move || {
            let mut bytes = vec![];
            if let Some(mut stderr) = stderr {
                let _ = stderr.by_ref().take(LONGEST_OUTPUT).read_to_end(&mut bytes);
                // Whoever writes more must not wait for a reader.
                let _ = io::copy(&mut stderr, &mut io::sink());
            }
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let end = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) if signal::received().is_some() => break Err(Error::Cancelled),
                Ok(None) if began.elapsed() > LONGEST => break Err(Error::Late { way, place: place.to_string() }),
                Ok(None) => std::thread::sleep(PAUSE),
                Err(e) => break Err(Error::Run(e)),
            }
        };
        if end.is_err() {
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            let _ = child.wait();
        }
        let said = said.join().unwrap_or_default();
        match end? {
            status if status.success() => Ok(()),
            status => Err(failed(shown(&said).unwrap_or_else(|| status.to_string()))),
        }
    })
}

/// The end of what skopeo said, on one line and without the marks of a log.
fn shown(said: &str) -> Option<String> {
    let last =
        said.trim().rsplit_once("level=fatal msg=").and_then(|(_, text)| serde_json::from_str::<String>(text).ok());
    let line: String =
        last.as_deref().unwrap_or(said).trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let skipped = line.chars().count().saturating_sub(LONGEST_MESSAGE);
    (!line.is_empty()).then(|| line.chars().skip(skipped).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_told_from_the_log_around_it() {
        let log = "time=\"t\" level=warning msg=\"x\"\ntime=\"t\" level=fatal msg=\"no \\\"a\\\" here\"\n";
        assert_eq!(shown(log).as_deref(), Some("no \"a\" here"));
        assert_eq!(shown("unknown flag\n\u{1b}[2J").as_deref(), Some("unknown flag  [2J"));
        assert_eq!(shown(" \n"), None);
        assert_eq!(shown(&"ß".repeat(5000)).unwrap().chars().count(), LONGEST_MESSAGE);
    }
}
