//! `/proc` of a step: its own processes, what tells of the machine, and nothing of anybody else.
//!
//! Files are the kernel's own. The links that lead to files (`exe`, `cwd`, `root`) are answered from what the supervisor
//! knows; `fd/N` is the kernel's link, which is followed for descriptors of the step only.

use super::Errno;
use super::ids::{Capabilities, Credentials, Ids};
use super::view::{Child, Dir, View, is_dir, name_of};
use super::walk::Place;
use rustix::fs::{AtFlags, CWD, FileType, MemfdFlags, Mode, OFlags};
use rustix::fs::{memfd_create, mkdirat, openat, readlinkat, statat, symlinkat, unlinkat};
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Where in `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcPlace {
    /// `/proc`.
    Top,
    /// `/proc/N`, of a process or a thread.
    Task(i32),
    /// `/proc/N/task`.
    Threads(i32),
    /// `/proc/N/fd`.
    Descriptors(i32),
    /// Below a process.
    Below(i32),
    /// Anything else.
    Machine,
}

/// Entries of the pod's `/proc` that every process of any container may read.
const HARMLESS: [&[u8]; 19] = [
    b"cgroups",
    b"cmdline",
    b"consoles",
    b"cpuinfo",
    b"crypto",
    b"devices",
    b"diskstats",
    b"filesystems",
    b"loadavg",
    b"meminfo",
    b"modules",
    b"partitions",
    b"pressure",
    b"stat",
    b"swaps",
    b"sys",
    b"uptime",
    b"version",
    b"vmstat",
];

fn number(name: &[u8]) -> Option<i32> {
    if name.first() == Some(&b'0') {
        return None;
    }
    std::str::from_utf8(name).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

fn link(text: impl Into<Vec<u8>>) -> Result<Child, Errno> {
    Ok(Child::Link(text.into().into()))
}

/// What a name in `/proc` is.
pub(super) fn child(view: &mut View, dir: &Arc<Dir>, name: &[u8], tid: i32) -> Result<Child, Errno> {
    let place = dir.proc.unwrap_or(ProcPlace::Machine);
    let next = match place {
        ProcPlace::Top => match name {
            b"self" => {
                let process = view.tasks.thread(tid).ok_or(Errno::NOENT)?.process;
                return link(process.to_string());
            }
            b"thread-self" => {
                let process = view.tasks.thread(tid).ok_or(Errno::NOENT)?.process;
                return link(format!("{process}/task/{tid}"));
            }
            b"mounts" => return link("self/mounts"),
            b"net" => return link("self/net"),
            name if HARMLESS.contains(&name) => ProcPlace::Machine,
            name => match number(name) {
                Some(task) if view.tasks.thread(task).is_some() || view.tasks.process(task).is_some() => {
                    ProcPlace::Task(task)
                }
                _ => return Err(Errno::NOENT),
            },
        },
        ProcPlace::Task(task) => match name {
            b"cwd" | b"root" => {
                let around = view.tasks.surroundings(task).ok_or(Errno::NOENT)?;
                let dir = if name == b"cwd" { around.cwd } else { around.root };
                return link(view.refresh(&dir).path());
            }
            b"exe" => {
                let process = view.tasks.thread(task).map_or(task, |t| t.process);
                return link(view.tasks.process(process).ok_or(Errno::NOENT)?.program.clone());
            }
            b"fd" => ProcPlace::Descriptors(task),
            b"task" => ProcPlace::Threads(task),
            b"map_files" => return Err(Errno::NOENT),
            // The pod's.
            b"net" if !view.network => return Err(Errno::NOENT),
            _ => ProcPlace::Below(task),
        },
        ProcPlace::Threads(process) => match number(name) {
            Some(task) if view.tasks.thread(task).is_some_and(|t| t.process == process) => ProcPlace::Task(task),
            _ => return Err(Errno::NOENT),
        },
        ProcPlace::Descriptors(_) => {
            // A directory is one of the tree; anything else is opened by the kernel's own link.
            let stat = statat(dir, name_of(name), AtFlags::empty())?;
            if is_dir(stat.st_mode) {
                let host = readlinkat(dir, name_of(name), Vec::new())?.into_bytes();
                return view.at_host_path(&host, tid).map(Child::Dir);
            }
            return Ok(Child::Other);
        }
        ProcPlace::Below(task) => ProcPlace::Below(task),
        ProcPlace::Machine => ProcPlace::Machine,
    };
    let fd = openat(dir, name_of(name), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(statat(&fd, "", AtFlags::EMPTY_PATH)?.st_mode) {
        FileType::Directory => {
            let up = Some((Arc::clone(dir), name.to_vec()));
            view.directory(fd, up, dir.mount, Some(next)).map(Child::Dir)
        }
        FileType::Symlink => link(readlinkat(&fd, "", Vec::new())?.into_bytes()),
        _ => Ok(Child::Other),
    }
}

/// Opens a directory that lists what is in `/proc` now.
pub(super) fn listing(view: &mut View) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, &view.listing, flags, Mode::empty())?;
    if statat(&dir, "self", AtFlags::SYMLINK_NOFOLLOW).is_err() {
        for name in HARMLESS {
            let Ok(stat) = statat(CWD, name_of(&[b"/proc/", name].concat()), AtFlags::empty()) else { continue };
            if is_dir(stat.st_mode) {
                mkdirat(&dir, name_of(name), Mode::from_raw_mode(0o755))?;
            } else {
                let file = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                openat(&dir, name_of(name), file, Mode::from_raw_mode(0o644))?;
            }
        }
        for (name, target) in [("mounts", "self/mounts"), ("net", "self/net"), ("self", "0"), ("thread-self", "0")] {
            symlinkat(target, &dir, name)?;
        }
    }
    let mut alive: HashSet<i32> = view.tasks.processes().into_iter().collect();
    let mut gone = Vec::new();
    for entry in rustix::fs::Dir::read_from(&dir)? {
        if let Some(pid) = number(entry?.file_name().to_bytes())
            && !alive.remove(&pid)
        {
            gone.push(pid);
        }
    }
    for pid in gone {
        unlinkat(&dir, pid.to_string(), AtFlags::REMOVEDIR)?;
    }
    for pid in alive {
        mkdirat(&dir, pid.to_string(), Mode::from_raw_mode(0o755))?;
    }
    openat(CWD, &view.listing, flags, Mode::empty())
}

/// A file of a process in which the kernel would name the builder's paths, or what the process really is, with the step's
/// words instead.
pub(super) fn rewritten(view: &View, place: &Place) -> Result<Option<OwnedFd>, Errno> {
    let Some(ProcPlace::Task(task)) = place.dir.proc else { return Ok(None) };
    let text = match place.name.as_slice() {
        b"maps" | b"smaps" | b"numa_maps" => with_own_paths(view, &read(place)?),
        b"mounts" => view.mount_lines(false),
        b"mountinfo" => view.mount_lines(true),
        b"mountstats" => return Err(Errno::NOENT),
        b"status" => status(&read(place)?, &*view.tasks.credentials(task).ok_or(Errno::NOENT)?),
        _ => return Ok(None),
    };
    let mut file = File::from(memfd_create("proc", MemfdFlags::CLOEXEC)?);
    file.write_all(&text).and_then(|()| file.rewind()).map_err(|_| Errno::NOMEM)?;
    Ok(Some(file.into()))
}

fn read(place: &Place) -> Result<Vec<u8>, Errno> {
    let fd = openat(&place.dir, name_of(&place.name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    File::from(fd).read_to_end(&mut text).map_err(|_| Errno::IO)?;
    Ok(text)
}

/// Each line ends with a path, if it has one.
fn with_own_paths(view: &View, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|b| *b == b'\n') {
        let (line, end) = line.strip_suffix(b"\n").map_or((line, &b""[..]), |l| (l, b"\n"));
        let path = line.windows(2).position(|w| w == b" /").map(|at| at + 1);
        match path.and_then(|at| line.split_at_checked(at)) {
            Some((before, path)) => {
                out.extend_from_slice(before);
                if let Some((_, shown)) = view.path_of(path) {
                    out.extend_from_slice(&shown);
                }
            }
            None => out.extend_from_slice(line),
        }
        out.extend_from_slice(end);
    }
    out
}

fn status(text: &[u8], who: &Credentials) -> Vec<u8> {
    let ids = |ids: Ids| format!("{}\t{}\t{}\t{}", ids.real, ids.effective, ids.saved, ids.file);
    let set = |set: Capabilities| format!("{:016x}", set.0);
    let mut out = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|b| *b == b'\n') {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        let value = match name {
            b"TracerPid" => "0".to_owned(),
            b"Uid" => ids(who.uid),
            b"Gid" => ids(who.gid),
            b"Groups" => who.groups.iter().map(|gid| format!("{gid} ")).collect(),
            b"CapInh" => set(who.caps.inheritable),
            b"CapPrm" => set(who.caps.permitted),
            b"CapEff" => set(who.caps.effective),
            b"CapBnd" => set(who.caps.bounding),
            b"CapAmb" => set(who.caps.ambient),
            b"NoNewPrivs" => u8::from(who.no_new_privileges).to_string(),
            _ => {
                out.extend_from_slice(line);
                continue;
            }
        };
        out.extend_from_slice(name);
        out.extend_from_slice(format!(":\t{value}\n").as_bytes());
    }
    out
}
