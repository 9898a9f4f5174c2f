//! Following the step's processes: who is there, and what program each starts.

use super::walk::{PATH_BYTES, Start};
use super::{Errno, World, exec, policy};
use crate::sys::arch;
use crate::sys::process::{self, Status};
use crate::sys::ptrace::{self, Event, Registers};
use crate::sys::{loader, remote};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Follows all processes until the first has ended and none is left; answers how the first ended.
pub(super) fn run(main: i32, world: &Mutex<World>) -> Status {
    let mut trace = Trace { world, main, ended: None, numbers: Numbers::new() };
    loop {
        match ptrace::next_blocking() {
            Ok(Some((tid, event))) => trace.take(tid, event),
            Ok(None) => {}
            // Nobody is left.
            Err(_) => return trace.ended.unwrap_or(Status::Signaled(libc::SIGKILL)),
        }
    }
}

/// Numbers of calls that make or become something.
struct Numbers {
    clone: [Option<u32>; 2],
    execve: [Option<u32>; 2],
    execveat: [Option<u32>; 2],
}

impl Numbers {
    fn new() -> Numbers {
        let of = |name| arch::syscall(name).map_or([None; 2], |n| [n.native, n.compat]);
        Numbers { clone: of("clone"), execve: of("execve"), execveat: of("execveat") }
    }
}

struct Trace<'a> {
    world: &'a Mutex<World>,
    main: i32,
    /// How the first process ended; then everybody else has to.
    ended: Option<Status>,
    numbers: Numbers,
}

impl Trace<'_> {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self, tid: i32, event: Event) {
        match event {
            Event::Ended(status) => {
                let mut world = self.world();
                world.view.tasks.ended(tid);
                if tid == self.main {
                    world.view.tasks.processes().into_iter().for_each(|pid| process::kill(pid, libc::SIGKILL));
                    drop(world);
                    self.ended = Some(status);
                }
                return;
            }
            Event::Forked(new) => {
                let flags = Registers::of(tid).map_or(0, |r| {
                    let clone = self.numbers.clone[usize::from(r.is_compat())];
                    if Some(r.number()) == clone { r.args()[0] } else { 0 }
                });
                if self.world().view.tasks.made(tid, new, flags) {
                    ptrace::resume(new, 0);
                }
                ptrace::resume(tid, 0);
            }
            Event::Started => {
                if self.world().view.tasks.started(tid) {
                    ptrace::resume(tid, 0);
                }
            }
            Event::Signal(signal) => ptrace::resume(tid, signal),
            Event::GroupStop if self.ended.is_none() => ptrace::listen(tid),
            Event::Call(number) => {
                if number == policy::EXECUTE_NUMBER
                    && let Err(e) = self.execute(tid)
                {
                    let _ = ptrace::answer_call(tid, -i64::from(e.raw_os_error()));
                }
                ptrace::resume(tid, 0);
            }
            Event::Executed(former) => {
                if !self.executed(tid, former) {
                    process::kill(tid, libc::SIGKILL);
                }
                ptrace::resume(tid, 0);
            }
            Event::GroupStop | Event::Other => ptrace::resume(tid, 0),
        }
        if self.ended.is_some() {
            process::kill(tid, libc::SIGKILL);
        }
    }

    /// A thread is about to execute a program: makes it execute the loader.
    fn execute(&mut self, tid: i32) -> Result<(), Errno> {
        let mut registers = Registers::of(tid).map_err(errno)?;
        let compat = usize::from(registers.is_compat());
        let (number, args) = (registers.number(), registers.args());
        let at_directory = Some(number) == self.numbers.execveat[compat];
        if !at_directory && Some(number) != self.numbers.execve[compat] {
            // A filter of the step's own.
            return Ok(());
        }
        let [first, second, third, fourth, fifth, _] = args;
        let (dirfd, path, argv, envp, flags) = if at_directory {
            (first as u32 as i32, second, third, fourth, fifth as u32 as i32)
        } else {
            (libc::AT_FDCWD, first, second, third, 0)
        };
        let path = remote::read_string(tid, path, PATH_BYTES).map_err(errno)?;
        let execve = self.numbers.execve[compat].ok_or(Errno::NOSYS)?;
        let mut world = self.world();
        let around = world.view.tasks.surroundings(tid).ok_or(Errno::SRCH)?;
        let cwd = world.view.refresh(&around.cwd);
        let who = world.view.tasks.credentials(tid);
        let mut start = Start { root: Arc::clone(&around.root), base: cwd, tid, who, no_links: false };
        let mut name = path.clone();
        let mut real = path.clone();
        if at_directory && path.first() != Some(&b'/') && (dirfd != libc::AT_FDCWD || path.is_empty()) {
            name = format!("/dev/fd/{dirfd}").into_bytes();
            if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
                real = format!("/proc/{tid}/fd/{dirfd}").into_bytes();
            } else {
                let link = rustix::fs::readlinkat(rustix::fs::CWD, format!("/proc/{tid}/fd/{dirfd}"), Vec::new());
                let host = link.map_err(|_| Errno::BADF)?.into_bytes();
                start.base = world.view.at_host_path(&host, tid)?;
                name.push(b'/');
                name.extend_from_slice(&path);
            }
        }
        if at_directory && flags & libc::AT_SYMLINK_NOFOLLOW != 0 {
            let place = world.walk(&start, &real)?;
            if world.follow(&start, &place)?.is_some() {
                return Err(Errno::LOOP);
            }
        }
        let launch = exec::prepare(&mut world, &start, &real, name)?;
        let form = launch.form();
        let caller = if registers.is_compat() { loader::COMPAT } else { loader::NATIVE };
        let there = caller.path_of(form);
        let place = place_path(tid, registers.stack(), there, world.loader(form).0.as_bytes_with_nul())?;
        world.view.tasks.launching(tid, launch);
        drop(world);
        registers.set_call(execve, [place, argv, envp, 0, 0, 0]);
        registers.give(tid).map_err(errno)
    }

    /// Whether the program that a process starts is the loader, as it was told.
    fn executed(&mut self, pid: i32, former: i32) -> bool {
        let mut world = self.world();
        let found = std::fs::metadata(format!("/proc/{pid}/exe"));
        let told = world.view.tasks.form_of(former).map(|form| world.loader(form).1);
        found.is_ok_and(|m| Some((m.dev(), m.ino())) == told) && world.view.tasks.executed(pid, former)
    }
}

/// Where in the memory of a thread the path of the loader stands: in the page of the loader that started its program, or,
/// where that is gone, below its stack.
fn place_path(tid: i32, stack: u64, usual: u64, path: &[u8]) -> Result<u64, Errno> {
    let mut there = vec![0; path.len()];
    if remote::read_exact(tid, usual, &mut there).is_ok() && there == path {
        return Ok(usual);
    }
    // Beyond the bytes below the stack pointer that a function may use.
    let below = (stack.wrapping_sub(256 + path.len() as u64)) & !15;
    remote::write(tid, below, path).map_err(errno)?;
    Ok(below)
}

fn errno(e: io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}
