//! Watching processes come and go by tracing them.
//!
//! A seized process is not stopped and gets no signals from being traced; its children are traced from their first moment
//! on, before they run a single instruction. Each stop is an [`Event`], and every stopped thread has to be told how to
//! go on.

use super::arch;
use std::io;

/// What happened to a traced thread, or to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It ended; the status as [`super::process::Status`] has it.
    Ended(super::process::Status),
    /// It is about to receive this signal: [`resume`] with the signal passes it on.
    Signal(i32),
    /// It stopped because its group was stopped by a signal: [`listen`] keeps it so.
    GroupStop,
    /// Its first stop, or one that a SIGCONT ends: [`resume`].
    Started,
    /// It made the process or thread of this number, which is traced, and whose own first stop may come before or after:
    /// [`resume`].
    Forked(i32),
    /// A filter said [`Trace`](super::seccomp::Action::Trace) with this number: see [`answer_call`], then [`resume`].
    Call(u16),
    /// It executes another program, none of whose instructions has run; before, it had this number. Only of threads that
    /// [`seize_with_programs`] traces: [`resume`].
    Executed(i32),
    /// Anything else: [`resume`].
    Other,
}

const OPTIONS: i32 = libc::PTRACE_O_EXITKILL
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACESECCOMP;

/// Traces `pid` and all that it will ever start. They die when the tracer does.
pub fn seize(pid: i32) -> io::Result<()> {
    seize_with(pid, OPTIONS)
}

/// As [`seize`], and tells when a program is executed.
pub fn seize_with_programs(pid: i32) -> io::Result<()> {
    seize_with(pid, OPTIONS | libc::PTRACE_O_TRACEEXEC)
}

fn seize_with(pid: i32, options: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    answer(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0usize, options as usize) })
}

/// Lets a stopped thread go on, with this signal (0: none). A thread that was killed meanwhile is no error.
pub fn resume(tid: i32, signal: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::ptrace(libc::PTRACE_CONT, tid, 0usize, signal as usize) };
}

/// Leaves a thread stopped until a SIGCONT comes.
pub fn listen(tid: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::ptrace(libc::PTRACE_LISTEN, tid, 0usize, 0usize) };
}

/// The next thread that stopped or ended, without waiting. `Err` with ECHILD where there is nobody left to wait for.
pub fn next() -> io::Result<Option<(i32, Event)>> {
    wait(libc::WNOHANG)
}

/// As [`next`], but waits.
pub fn next_blocking() -> io::Result<Option<(i32, Event)>> {
    wait(0)
}

fn wait(flags: i32) -> io::Result<Option<(i32, Event)>> {
    let mut raw = 0;
    // SAFETY: the pointer is to a local.
    match unsafe { libc::waitpid(-1, &mut raw, flags | libc::__WALL) } {
        -1 => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            e => Err(e),
        },
        0 => Ok(None),
        tid => Ok(Some((tid, event(tid, raw)))),
    }
}

fn event(tid: i32, raw: i32) -> Event {
    if !libc::WIFSTOPPED(raw) {
        return Event::Ended(super::process::Status::of(raw));
    }
    let signal = libc::WSTOPSIG(raw);
    match raw >> 16 {
        0 => Event::Signal(signal),
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
            Event::Forked(i32::try_from(message(tid)).unwrap_or(0))
        }
        libc::PTRACE_EVENT_EXEC => Event::Executed(i32::try_from(message(tid)).unwrap_or(tid)),
        libc::PTRACE_EVENT_SECCOMP => Event::Call(u16::try_from(message(tid)).unwrap_or(0)),
        libc::PTRACE_EVENT_STOP => match signal {
            libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Event::GroupStop,
            _ => Event::Started,
        },
        _ => Event::Other,
    }
}

fn message(tid: i32) -> libc::c_ulong {
    let mut value: libc::c_ulong = 0;
    // SAFETY: the kernel writes one unsigned long there.
    unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, tid, 0usize, &raw mut value) };
    value
}

/// A system call that a thread is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Whether a 32-bit program makes it.
    pub compat: bool,
    /// Its number.
    pub number: u32,
    /// Its first three arguments.
    pub args: [u64; 3],
}

/// What call a thread stopped before.
pub fn call(tid: i32) -> io::Result<Call> {
    let registers = registers(tid)?;
    let (number, args) = arch::call_of(&registers);
    // PTRACE_GET_SYSCALL_INFO would tell the ABI; the code segment does, too, on every kernel.
    Ok(Call { compat: arch::is_compat(&registers), number, args })
}

/// Makes the call that a thread stopped before answer `result` (a negative error number, or a value) without being made.
pub fn answer_call(tid: i32, result: i64) -> io::Result<()> {
    let mut registers = registers(tid)?;
    arch::skip_call(&mut registers, result);
    // SAFETY: the struct is the one that the kernel filled in.
    answer(unsafe { libc::ptrace(libc::PTRACE_SETREGS, tid, 0usize, &raw const registers) })
}

/// The registers of a stopped thread.
#[derive(Debug, Clone, Copy)]
pub struct Registers(libc::user_regs_struct);

impl Registers {
    /// Those of a thread that is stopped.
    pub fn of(tid: i32) -> io::Result<Registers> {
        registers(tid).map(Registers)
    }

    /// Whether the thread is in a call of the 32-bit ABI.
    pub fn is_compat(&self) -> bool {
        arch::is_compat(&self.0)
    }

    /// Number of the call that the thread is about to make, or is in.
    pub fn number(&self) -> u32 {
        arch::call_of(&self.0).0
    }

    /// The arguments of that call.
    pub fn args(&self) -> [u64; 6] {
        arch::args_of(&self.0)
    }

    /// The stack pointer.
    pub fn stack(&self) -> u64 {
        self.0.rsp
    }

    /// Makes it another call.
    pub fn set_call(&mut self, number: u32, args: [u64; 6]) {
        arch::set_call(&mut self.0, number, args);
    }

    /// Gives these registers to the stopped thread.
    pub fn give(&self, tid: i32) -> io::Result<()> {
        // SAFETY: the struct is one that the kernel filled in.
        answer(unsafe { libc::ptrace(libc::PTRACE_SETREGS, tid, 0usize, &raw const self.0) })
    }
}

fn registers(tid: i32) -> io::Result<libc::user_regs_struct> {
    // SAFETY: plain data, filled in by the kernel.
    unsafe {
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        answer(libc::ptrace(libc::PTRACE_GETREGS, tid, 0usize, &raw mut registers))?;
        Ok(registers)
    }
}

fn answer(value: libc::c_long) -> io::Result<()> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether `pid` is the first thread of a process, that is, the process's own number.
pub fn is_process(pid: i32) -> bool {
    // SAFETY: signal 0 is never sent; the call only looks the pair up.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, 0) == 0 }
}
