//! What was found out, one line for each thing.

use super::newuidmap::{Hold, Tools};
use super::{Finding, Level, Situation, State};
use crate::sys::cgroup::{Cgroup, Version};
use crate::ui::human;
use std::path::Path;

/// What is said of a situation that led to this level.
pub fn findings(s: &Situation, level: Level) -> Vec<Finding> {
    let mut all = vec![user(s), Finding::of("user-namespace", &s.user_namespace), ids(s, level), tools(s)];
    all.push(below("mount", s, &s.mount));
    all.push(match &s.proc {
        // Steps run without it, a little slower.
        Err(text) if s.mount.is_ok() => Finding::new("proc", State::Partly, text.clone()),
        other => below("proc", s, other),
    });
    all.push(label(s));
    all.push(fuse());
    all.push(Finding::of("seccomp-supervisor", &s.supervisor));
    all.push(match &s.tracing {
        Ok(_) => Finding::new("ptrace", State::Yes, "children can be traced"),
        Err(e) => Finding::new("ptrace", State::No, format!("children cannot be traced: {e}")),
    });
    all.push(match s.landlock {
        Some(version) => Finding::new("landlock", State::Yes, format!("version {version}")),
        None => Finding::new("landlock", State::No, "the kernel has none, or a filter refuses it"),
    });
    all.push(emulators(s));
    all.push(cgroup());
    all
}

/// What there can only be in a user namespace.
fn below(name: &'static str, s: &Situation, result: &Result<String, String>) -> Finding {
    match (&s.user_namespace, result) {
        (Err(_), Err(_)) => Finding::new(name, State::No, "needs a user namespace"),
        _ => Finding::of(name, result),
    }
}

fn user(s: &Situation) -> Finding {
    let mut text = format!("user {}, group {}", s.uid, s.gid);
    if s.own_users {
        text.push_str(&format!(", in a user namespace of the pod with {} ids", s.ids));
    }
    let filter = if s.filtered { "a seccomp filter" } else { "no seccomp filter" };
    text.push_str(&format!(", {} capabilities, {filter}", s.effective.len()));
    if s.no_new_privileges {
        text.push_str(", no privilege by exec");
    }
    Finding::new("user", State::Yes, text)
}

fn ids(s: &Situation, level: Level) -> Finding {
    match level {
        Level::Range => Finding::new("ids", State::Yes, "a range"),
        Level::Pod => Finding::new("ids", State::Yes, format!("{} of the pod", s.ids)),
        Level::One => Finding::new("ids", State::Partly, "one: other owners are recorded"),
        Level::None | Level::Trace => {
            Finding::new("ids", State::Partly, "those of this process: other owners are recorded")
        }
    }
}

fn tools(s: &Situation) -> Finding {
    const NAME: &str = "newuidmap";
    match &s.tools {
        _ if s.uid == 0 => Finding::new(NAME, State::Yes, "root needs none"),
        Tools::Ready => Finding::new(NAME, State::Yes, "gives a range of ids"),
        Tools::Held(holds) => {
            let all: Vec<&str> = holds.iter().copied().map(Hold::text).collect();
            Finding::new(NAME, State::No, all.join("; "))
        }
        Tools::Lacking(why) => Finding::new(NAME, State::No, why.clone()),
    }
}

fn label(s: &Situation) -> Finding {
    const NAME: &str = "label";
    match &s.label {
        None => Finding::new(NAME, State::Yes, "none"),
        Some(label) if s.confined_by_apparmor() => {
            let text = format!("`{label}`: AppArmor profiles of container runtimes deny mounts");
            Finding::new(NAME, if s.mount.is_ok() { State::Yes } else { State::Partly }, text)
        }
        Some(label) => Finding::new(NAME, State::Yes, format!("`{label}`")),
    }
}

fn fuse() -> Finding {
    use std::os::unix::fs::PermissionsExt as _;
    const NAME: &str = "fuse";
    let path = Path::new("/dev/fuse");
    let Ok(meta) = std::fs::metadata(path) else {
        return Finding::new(
            NAME,
            State::No,
            "no `/dev/fuse`: a device plugin brings it, as a resource of the container",
        );
    };
    let mode = meta.permissions().mode() & 0o7777;
    match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::new(NAME, State::Yes, format!("`/dev/fuse` with mode {mode:04o}")),
        Err(e) => Finding::new(NAME, State::No, format!("`/dev/fuse` with mode {mode:04o} cannot be opened: {e}")),
    }
}

fn emulators(s: &Situation) -> Finding {
    const NAME: &str = "emulators";
    match &s.emulators {
        Ok(text) => Finding::new(NAME, State::Yes, text.clone()),
        Err(e) => {
            let e = if s.user_namespace.is_err() { "needs a user namespace" } else { e };
            let node = std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
            let node = node.filter(|e| e.file_name().to_string_lossy().contains("qemu")).count();
            match node {
                0 => Finding::new(NAME, State::No, format!("no RUN for other processors: {e}")),
                n => Finding::new(NAME, State::Partly, format!("the node has registered {n}; a step cannot: {e}")),
            }
        }
    }
}

fn cgroup() -> Finding {
    const NAME: &str = "cgroup";
    let Some(cgroup) = Cgroup::of_this_process() else {
        return Finding::new(NAME, State::Partly, "none can be seen: limits are not known");
    };
    let figures = cgroup.figures();
    let version = match cgroup.version() {
        Version::V1 => "version 1",
        Version::V2 if cgroup.is_delegated() => "version 2, delegated: steps get one of their own",
        Version::V2 => "version 2, not delegated",
    };
    let memory =
        figures.memory_limit.map_or("no memory limit".to_owned(), |n| format!("{} of memory", human::size(n, " ", 3)));
    let cpu =
        figures.cpu_limit.map_or("no processor limit".to_owned(), |n| format!("{} processors", n as f64 / 1000.0));
    Finding::new(NAME, State::Yes, format!("{version}, {memory}, {cpu}"))
}
