//! What `docker push` and `docker pull` print where standard output is not a terminal: one line each time that the
//! state of a layer changes.

use super::{BlobState, Direction, Event, Sink, Terminal};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Writes transfers the way `docker push` and `docker pull` do.
#[derive(Debug)]
pub struct DockerTransfer {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    terminal: Terminal,
    started: BTreeSet<String>,
}

impl DockerTransfer {
    /// A sink that writes to the standard output of `terminal`.
    pub fn new(terminal: Terminal) -> Self {
        DockerTransfer { state: Mutex::new(State { terminal, started: BTreeSet::new() }) }
    }
}

/// Name and tag (or digest) of a full reference, and what Docker shows for the name.
fn split(name: &str) -> (&str, &str, &str) {
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let (repository, tag) = match (name.split_once('@'), name.get(slash..).and_then(|last| last.find(':'))) {
        (Some((r, d)), _) => (r, d),
        (None, Some(i)) => name.split_at_checked(slash + i).map_or((name, ""), |(r, t)| (r, t.trim_start_matches(':'))),
        (None, None) => (name, "latest"),
    };
    (repository, tag, repository.strip_prefix("docker.io/").unwrap_or(repository))
}

fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

impl Sink for DockerTransfer {
    fn event(&self, event: &Event<'_>) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let s = &mut *guard;
        let mut say = |line: String| s.terminal.out(format!("{line}\n").as_bytes());
        match *event {
            Event::TransferStarted { direction: Direction::Push, name } => {
                say(format!("The push refers to repository [{}]", split(name).0));
            }
            Event::TransferStarted { direction: Direction::Pull, name } => {
                let (_, tag, path) = split(name);
                // A registry other than the default one is not shown here.
                let path = path.split_once('/').filter(|(h, _)| h.contains(['.', ':']) || *h == "localhost");
                let path = path.map_or(split(name).2, |(_, rest)| rest);
                say(format!("{tag}: Pulling from {path}"));
            }
            Event::Blob { direction, digest, state, .. } => {
                let id = short(digest);
                let word = match (direction, state) {
                    (Direction::Push, BlobState::Waiting) => "Preparing",
                    (Direction::Push, BlobState::Done) => "Pushed",
                    (Direction::Push, BlobState::Exists) => "Layer already exists",
                    (Direction::Push, BlobState::Mounted) => "Mounted from another repository",
                    (Direction::Pull, BlobState::Waiting) => "Pulling fs layer",
                    (Direction::Pull, BlobState::Done | BlobState::Mounted) => {
                        say(format!("{id}: Download complete"));
                        "Pull complete"
                    }
                    (Direction::Pull, BlobState::Exists) => "Already exists",
                    (_, BlobState::Moving(_)) => return,
                };
                if state != BlobState::Waiting || s.started.insert(id.to_owned()) {
                    say(format!("{id}: {word}"));
                }
            }
            Event::TransferDone { direction: Direction::Push, name, digest, size, .. } => {
                say(format!("{}: digest: {digest} size: {size}", split(name).1));
            }
            Event::TransferDone { direction: Direction::Pull, name, digest, changed, .. } => {
                let (repository, tag, path) = split(name);
                let familiar = path.strip_prefix("library/").filter(|_| path != repository).unwrap_or(path);
                let separator = if tag.contains(':') { '@' } else { ':' };
                say(format!("Digest: {digest}"));
                say(match changed {
                    true => format!("Status: Downloaded newer image for {familiar}{separator}{tag}"),
                    false => format!("Status: Image is up to date for {familiar}{separator}{tag}"),
                });
                say(name.to_owned());
            }
            Event::Warning { text } => s.terminal.err(format!("warning: {text}\n").as_bytes()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Capture;
    use super::*;

    fn shown(events: &[Event<'_>]) -> String {
        let capture = Capture::default();
        let sink = DockerTransfer::new(capture.terminal());
        events.iter().for_each(|e| sink.event(e));
        capture.text()
    }

    #[test]
    fn a_push() {
        let direction = Direction::Push;
        let name = "localhost:5000/worker:latest";
        let digest = "sha256:a51adc000c7ef91dd62606c736d7adee837668aa859aa87858322993e4a7f884";
        insta::assert_snapshot!(shown(&[
            Event::TransferStarted { direction, name },
            Event::Blob { direction, digest, size: 7, state: BlobState::Waiting },
            Event::Blob { direction, digest, size: 7, state: BlobState::Moving(3) },
            Event::Blob { direction, digest, size: 7, state: BlobState::Done },
            Event::Blob { direction, digest: "sha256:bb", size: 7, state: BlobState::Exists },
            Event::TransferDone { direction, name, digest, size: 528, changed: true },
        ]), @r#"
        The push refers to repository [localhost:5000/worker]
        a51adc000c7e: Preparing
        a51adc000c7e: Pushed
        bb: Layer already exists
        latest: digest: sha256:a51adc000c7ef91dd62606c736d7adee837668aa859aa87858322993e4a7f884 size: 528
        "#);
    }

    #[test]
    fn a_pull() {
        let direction = Direction::Pull;
        let digest = "sha256:a51adc000c7ef91dd62606c736d7adee837668aa859aa87858322993e4a7f884";
        let name = "docker.io/library/alpine:3";
        insta::assert_snapshot!(shown(&[
            Event::TransferStarted { direction, name },
            Event::Blob { direction, digest, size: 7, state: BlobState::Waiting },
            Event::Blob { direction, digest, size: 7, state: BlobState::Done },
            Event::TransferDone { direction, name, digest, size: 528, changed: true },
            Event::TransferStarted { direction, name: "localhost:5000/a/b:1" },
            Event::TransferDone { direction, name: "localhost:5000/a/b:1", digest, size: 528, changed: false },
        ]), @r#"
        3: Pulling from library/alpine
        a51adc000c7e: Pulling fs layer
        a51adc000c7e: Download complete
        a51adc000c7e: Pull complete
        Digest: sha256:a51adc000c7ef91dd62606c736d7adee837668aa859aa87858322993e4a7f884
        Status: Downloaded newer image for alpine:3
        docker.io/library/alpine:3
        1: Pulling from a/b
        Digest: sha256:a51adc000c7ef91dd62606c736d7adee837668aa859aa87858322993e4a7f884
        Status: Image is up to date for localhost:5000/a/b:1
        localhost:5000/a/b:1
        "#);
    }
}
