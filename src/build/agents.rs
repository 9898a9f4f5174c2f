//! The SSH agents of a build: what `--ssh` names, looked at before the first step.

use super::Error;
use super::execute::Executor;
use super::mounts::Ready;
use super::request::SshOption;
use crate::dockerfile;
use crate::sandbox::agent::{Agent, Key, KeyError, listens, serve};
use crate::sandbox::{self, Guard, MountKind};
use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest key file that is read, in bytes.
const MOST_BYTES: u64 = 64 * 1024;

/// The agents of a build, by id.
#[derive(Default)]
pub(super) struct Agents(HashMap<String, Arc<Agent>>);

impl Agents {
    /// Opens them all.
    ///
    /// # Errors
    /// A socket on which nobody listens; a file that is no key; several sockets for one id.
    pub(super) fn open(options: &[SshOption]) -> Result<Agents, Error> {
        let mut all = HashMap::new();
        for option in options {
            all.insert(option.id.clone(), Arc::new(open(option)?));
        }
        Ok(Agents(all))
    }
}

fn open(option: &SshOption) -> Result<Agent, Error> {
    let failed = |reason: String, hint: &str| Error::Ssh { id: option.id.clone(), reason, hint: hint.into() };
    let is_socket = |path: &Path| std::fs::metadata(path).map(|m| m.file_type().is_socket());
    let mut keys = vec![];
    for path in &option.paths {
        let shown = path.display();
        let missing = |e: std::io::Error| {
            failed(format!("cannot open `{shown}`: {e}"), "name the socket of an agent, or files of private keys")
        };
        if is_socket(path).map_err(missing)? {
            if option.paths.len() > 1 {
                return Err(failed(
                    "a socket stands among other paths".into(),
                    "give one socket, or any number of key files, for each id",
                ));
            }
            listens(path).map_err(|e| {
                failed(format!("no agent answers at `{shown}`: {e}"), "start one with `ssh-agent`, or give key files")
            })?;
            return Ok(Agent::Socket { path: path.clone(), raw: option.raw });
        }
        if option.raw {
            return Err(failed(format!("`{shown}` is no socket"), "`raw=true` goes with a socket only"));
        }
        let text = read(path).map_err(missing)?;
        let hint = |e: KeyError| match e {
            KeyError::Encrypted => "add it to an agent with `ssh-add`, and give the agent's socket",
            KeyError::Form => "give a private key file, such as `~/.ssh/id_ed25519`, or the socket of an agent",
            KeyError::Kind => {
                "use a key of type ed25519, ecdsa (nistp256, nistp384) or rsa, or an agent's socket for any kind of key"
            }
        };
        keys.push(Key::read(&text).map_err(|e| failed(format!("cannot use `{shown}`: {e}"), hint(e)))?);
    }
    Ok(Agent::Keys(keys))
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = vec![];
    std::fs::File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Executor<'_> {
    /// A socket for one `RUN --mount=type=ssh`, which answers as long as `ready` lives; `None` where the agent was not given
    /// and is not required.
    pub(super) fn agent(&self, options: &dockerfile::Mount, ready: &mut Ready) -> Result<Option<MountKind>, Error> {
        let id = options.id.as_deref().unwrap_or_default();
        let failed = |reason: String| Error::Ssh {
            id: id.to_owned(),
            reason,
            hint: format!(
                "give it with `--ssh {id}`, which takes the agent of `SSH_AUTH_SOCK`, or with `--ssh {id}=KEY`"
            ),
        };
        let Some(agent) = self.agents.0.get(id) else {
            return if options.required { Err(failed("it was not given".into())) } else { Ok(None) };
        };
        // A directory of the store that goes with the step.
        let active = self.snapshots.prepare()?;
        let owner = self.owner(options);
        let served = serve(agent, &active.upper(), options.mode.unwrap_or(0o600), owner.on_disk)
            .map_err(|source| Error::File { path: active.upper(), source })?;
        let source = served.path().to_owned();
        ready.serve(served, active);
        Ok(Some(sandbox::MountKind::Bind {
            source,
            inside: PathBuf::new(),
            owner: owner.kept,
            guard: Guard::default(),
        }))
    }
}
