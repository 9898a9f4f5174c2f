//! Starting programs: what execve(2) would do, up to the point where memory is replaced.
//!
//! The kernel is told to execute the [`loader`](crate::sys::loader) with the caller's arguments. Everything that the program
//! is to find is worked out here, from the step's tree: `#!` lines, the dynamic linker, what is mapped where.

use super::elf::{Elf, HEAD_BYTES};
use super::ids::{Credentials, EXECUTE, FileCapabilities, Program};
use super::look;
use super::walk::Start;
use super::{Errno, World};
use crate::sys::arch;
use crate::sys::loader::{self, Form};
use rustix::fs::{FileType, Mode, OFlags, openat};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// As many `#!` as the kernel follows.
const MAX_SCRIPTS: usize = 5;
/// How much of a `#!` line counts.
const SCRIPT_BYTES: usize = 256;
/// Where movable programs go, and how many pages they are moved by chance.
const PROGRAM_BASE: u64 = 0x5555_5555_4000;
/// Where dynamic linkers go.
const LINKER_BASE: u64 = 0x5480_0000_0000;
const MOVED_PAGES: u64 = 1 << 16;
/// The same for 32-bit programs.
const COMPAT_PROGRAM_BASE: u64 = 0x5655_5000;
const COMPAT_LINKER_BASE: u64 = 0xdd00_0000;
const COMPAT_MOVED_PAGES: u64 = 1 << 8;
const PAGE: u64 = 4096;

const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_BASE: u64 = 7;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_SECURE: u64 = 23;
const AT_EXECFN: u64 = 31;

/// A program that is about to start.
#[derive(Debug)]
pub(super) struct Launch {
    /// Its path in the step, for `/proc/self/exe`.
    pub(super) program_path: Vec<u8>,
    /// Who the process is then.
    pub(super) credentials: Arc<Credentials>,
    program: (OwnedFd, Elf),
    linker: Option<(OwnedFd, Elf)>,
    /// What execve was called with.
    name: Vec<u8>,
    /// Arguments that `#!` lines put in the place of the first.
    script: Vec<Vec<u8>>,
}

/// A program that was found.
struct Found {
    file: OwnedFd,
    path: Vec<u8>,
    head: Vec<u8>,
    /// What counts of it for who executes it.
    rights: Program,
}

/// Opens a program and reads its head.
fn program(world: &mut World, start: &Start, path: &[u8]) -> Result<Found, Errno> {
    let mut place = world.walk(start, path)?;
    while let Some(next) = world.follow(start, &place)? {
        place = next;
    }
    if place.name.is_empty() {
        return Err(Errno::ACCESS);
    }
    let name = super::view::name_of(&place.name);
    let mount = place.dir.mount;
    if world.view.mounts.get(mount).is_some_and(|m| m.no_exec) {
        return Err(Errno::ACCESS);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // In `/proc` it is a descriptor's link.
    let follow = if place.dir.proc.is_some() { OFlags::empty() } else { OFlags::NOFOLLOW };
    let fd = openat(&place.dir, name, flags | follow, Mode::empty())?;
    let found = look::look_at(&fd)?;
    if look::kind(&found) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    let seen = world.attributes(&found, mount);
    let who = start.who.as_ref().ok_or(Errno::SRCH)?;
    who.may(seen, EXECUTE)?;
    let capability = world.owners.get(&super::owners::FileId::of(&found)).and_then(|o| o.xattrs.get(CAPABILITY));
    let capabilities = capability.and_then(|value| FileCapabilities::parse(value));
    let rights = Program { uid: seen.uid, gid: seen.gid, mode: seen.mode, capabilities };
    let file = File::from(fd);
    let mut head = vec![0; HEAD_BYTES];
    let got = file.read_at(&mut head, 0).map_err(|_| Errno::IO)?;
    head.truncate(got);
    Ok(Found { file: file.into(), path: place.path(), head, rights })
}

/// Name of the attribute that holds the capabilities of a file.
const CAPABILITY: &[u8] = b"security.capability";

/// What is to be started when a thread executes `path`. `name` is how the program was named.
pub(super) fn prepare(world: &mut World, start: &Start, path: &[u8], name: Vec<u8>) -> Result<Launch, Errno> {
    let mut script = Vec::new();
    let mut found = program(world, start, path)?;
    let mut current = name.clone();
    let mut depth = 0;
    while let Some((interpreter, argument)) = interpreter(&found.head) {
        depth += 1;
        if depth > MAX_SCRIPTS {
            return Err(Errno::LOOP);
        }
        // From the innermost script outwards: interpreter, its argument, the script.
        if script.is_empty() {
            script.push(current.clone());
        }
        if let Some(argument) = argument {
            script.insert(0, argument);
        }
        script.insert(0, interpreter.clone());
        found = program(world, start, &interpreter)?;
        current = interpreter;
    }
    let elf = Elf::parse(&found.head).ok_or(Errno::NOEXEC)?;
    elf.extent().ok_or(Errno::NOEXEC)?;
    let linker = match elf.interpreter {
        None => None,
        Some((offset, length)) => {
            let length = usize::try_from(length).ok().filter(|l| (2..4096).contains(l)).ok_or(Errno::NOEXEC)?;
            let mut path = vec![0; length];
            let file = File::from(found.file.try_clone().map_err(|_| Errno::MFILE)?);
            file.read_exact_at(&mut path, offset).map_err(|_| Errno::NOEXEC)?;
            path.truncate(path.iter().position(|b| *b == 0).ok_or(Errno::NOEXEC)?);
            let linker = program(world, start, &path)?;
            let bad = Errno::from_raw_os_error(libc::ELIBBAD);
            let elf = Elf::parse(&linker.head).filter(|e| e.compat == elf.compat).ok_or(bad)?;
            elf.extent().ok_or(Errno::NOEXEC)?;
            Some((linker.file, elf))
        }
    };
    let who = start.who.as_ref().ok_or(Errno::SRCH)?;
    let credentials = Arc::new(who.execve(&found.rights)?);
    Ok(Launch { program_path: found.path, credentials, program: (found.file, elf), linker, name, script })
}

/// Interpreter and argument of a `#!` line.
fn interpreter(head: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.get(..line.len().min(SCRIPT_BYTES - 2))?;
    let line = line.split(|b| *b == b'\n' || *b == 0).next()?.trim_ascii();
    let end = line.iter().position(|b| *b == b' ' || *b == b'\t').unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(end)?;
    if name.is_empty() {
        return None;
    }
    let argument = rest.trim_ascii();
    Some((name.to_vec(), (!argument.is_empty()).then(|| argument.to_vec())))
}

/// The orders of the loader.
struct Orders {
    form: Form,
    words: Vec<i64>,
    strings: Vec<u8>,
    /// The kernel's numbers of the calls that are made.
    map: i64,
    close: i64,
    prctl: i64,
}

impl Orders {
    fn new(form: Form) -> Orders {
        let number = |name| {
            let numbers = arch::syscall(name);
            numbers.and_then(|n| if form == loader::NATIVE { n.native } else { n.compat }).map_or(-1, i64::from)
        };
        let map = number(if form == loader::NATIVE { "mmap" } else { "mmap2" });
        Orders { form, words: Vec::new(), strings: Vec::new(), map, close: number("close"), prctl: number("prctl") }
    }

    fn add(&mut self, order: [i64; loader::ORDER_WORDS]) {
        self.words.extend_from_slice(&order);
    }

    fn call(&mut self, number: i64, args: &[u64]) {
        let mut order = [0; loader::ORDER_WORDS];
        order[0] = number;
        for (word, arg) in order.iter_mut().skip(1).zip(args) {
            *word = arg.cast_signed();
        }
        self.add(order);
    }

    /// Keeps a string; the answer is its address.
    fn string(&mut self, text: &[u8]) -> u64 {
        let address = self.form.strings() + self.strings.len() as u64;
        self.strings.extend_from_slice(text);
        self.strings.push(0);
        address
    }

    /// Maps a program whose addresses count from `base`.
    fn map(&mut self, elf: &Elf, base: u64, fd: i32) {
        let fd = fd.cast_signed_u64();
        for s in &elf.segments {
            let protection = [(4, libc::PROT_READ), (2, libc::PROT_WRITE), (1, libc::PROT_EXEC)]
                .iter()
                .filter(|(flag, _)| s.flags & flag != 0)
                .fold(0, |all, (_, bit)| all | bit)
                .cast_signed_u64();
            let fixed = (libc::MAP_PRIVATE | libc::MAP_FIXED).cast_signed_u64();
            let address = base.wrapping_add(s.address);
            let start = address & !(PAGE - 1);
            let file_end = address.wrapping_add(s.in_file);
            let end = address.wrapping_add(s.in_memory);
            let mapped_end = if s.in_file == 0 { start } else { (file_end + PAGE - 1) & !(PAGE - 1) };
            if s.in_file > 0 {
                // mmap2 counts in pages.
                let unit = if self.form == loader::NATIVE { 1 } else { PAGE };
                let args = [start, file_end - start, protection, fixed, fd, (s.offset & !(PAGE - 1)) / unit];
                self.call(self.map, &args);
                if s.in_memory > s.in_file && s.flags & 2 != 0 && mapped_end > file_end {
                    // To the end of the page, as programs expect.
                    let rest = mapped_end - file_end;
                    self.add([loader::ZERO, file_end.cast_signed(), rest.cast_signed(), 0, 0, 0, 0]);
                }
            }
            if end > mapped_end {
                let flags = fixed | libc::MAP_ANONYMOUS.cast_signed_u64();
                self.call(self.map, &[mapped_end, end - mapped_end, protection, flags, u64::MAX, 0]);
            }
        }
    }
}

/// Numbers that a register holds as the kernel's C code would.
trait CastSigned {
    fn cast_signed_u64(self) -> u64;
}

impl CastSigned for i32 {
    fn cast_signed_u64(self) -> u64 {
        i64::from(self).cast_unsigned()
    }
}

/// What is written into the memory of a process whose loader asks.
pub(super) struct Written {
    /// (address, bytes), in this order.
    pub(super) parts: Vec<(u64, Vec<u8>)>,
}

impl Launch {
    /// The loader that starts it.
    pub(super) fn form(&self) -> Form {
        if self.program.1.compat { loader::COMPAT } else { loader::NATIVE }
    }

    /// The files that the loader maps; the last is the dynamic linker, if there are two.
    pub(super) fn files(&self) -> Vec<std::os::fd::BorrowedFd<'_>> {
        let mut files = vec![self.program.0.as_fd()];
        files.extend(self.linker.as_ref().map(|(fd, _)| fd.as_fd()));
        files
    }

    /// What the loader has to be told. `fds` are the numbers of [`Launch::files`] in the process; `block` is what lies on its
    /// stack at `stack`, and `vector` says where in it the auxiliary vector begins.
    pub(super) fn write(
        &self,
        fds: &[i32],
        (stack, block, vector): (u64, &[u8], usize),
        chance: u64,
    ) -> Result<Written, Errno> {
        let form = self.form();
        let word = form.word as u64;
        let mut orders = Orders::new(form);
        let elf = &self.program.1;
        let bias = place(elf, false, chance);
        let [program_fd, rest @ ..] = fds else { return Err(Errno::BADF) };
        orders.map(elf, bias, *program_fd);
        orders.call(orders.close, &[program_fd.cast_signed_u64()]);
        let mut goal = bias.wrapping_add(elf.entry);
        let mut linker_base = 0;
        if let (Some((_, linker)), [fd, ..]) = (&self.linker, rest) {
            linker_base = place(linker, true, chance >> 20);
            orders.map(linker, linker_base, *fd);
            orders.call(orders.close, &[fd.cast_signed_u64()]);
            goal = linker_base.wrapping_add(linker.entry);
        }
        let name = orders.string(&self.name);
        let short = self.name.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let short = orders.string(short.get(..short.len().min(15)).unwrap_or_default());
        orders.call(orders.prctl, &[libc::PR_SET_NAME.cast_signed_u64(), short]);

        let (uid, gid) = (self.credentials.uid, self.credentials.gid);
        let secure = uid.real != uid.effective || gid.real != gid.effective;
        let (pointers, vector) = block.split_at_checked(vector).ok_or(Errno::FAULT)?;
        let mut changed = Vec::with_capacity(block.len() + 64);
        let mut top = stack;
        if self.script.is_empty() {
            changed.extend_from_slice(pointers);
        } else {
            // The first argument gives way to several; the stack stays a multiple of 16.
            let extra = self.script.len() as u64 - 1;
            top -= (extra * word).next_multiple_of(16);
            let (count, rest) = pointers.split_at_checked(form.word).ok_or(Errno::FAULT)?;
            let count = number(count);
            // Without any argument there is none to give way.
            let (count, rest) = if count == 0 { (1, rest) } else { (count, rest.get(form.word..).unwrap_or_default()) };
            push(&mut changed, form, count + extra);
            for text in &self.script {
                push(&mut changed, form, orders.string(text));
            }
            changed.extend_from_slice(rest);
        }
        let mut words = vector.chunks_exact(form.word).map(number);
        while let (Some(kind), Some(value)) = (words.next(), words.next()) {
            let value = match kind {
                AT_PHDR => bias.wrapping_add(elf.headers),
                AT_PHENT => elf.header_bytes.into(),
                AT_PHNUM => elf.header_count.into(),
                AT_BASE => linker_base,
                AT_ENTRY => bias.wrapping_add(elf.entry),
                AT_UID => self.credentials.uid.real.into(),
                AT_EUID => self.credentials.uid.effective.into(),
                AT_GID => self.credentials.gid.real.into(),
                AT_EGID => self.credentials.gid.effective.into(),
                AT_SECURE => secure.into(),
                AT_EXECFN => name,
                _ => value,
            };
            push(&mut changed, form, kind);
            push(&mut changed, form, value);
            if kind == AT_NULL {
                break;
            }
        }
        orders.add([loader::JUMP, goal.cast_signed(), top.cast_signed(), 0, 0, 0, 0]);
        let mut words = Vec::new();
        orders.words.iter().for_each(|w| push(&mut words, form, w.cast_unsigned()));
        if words.len() > loader::ORDERS_BYTES || orders.strings.len() > loader::STRINGS_BYTES {
            return Err(Errno::TOOBIG);
        }
        Ok(Written { parts: vec![(top, changed), (form.orders(), words), (form.strings(), orders.strings)] })
    }
}

/// How far the addresses of a program, or of a dynamic linker, are moved.
fn place(elf: &Elf, linker: bool, chance: u64) -> u64 {
    if !elf.movable {
        return 0;
    }
    let (base, pages) = match (elf.compat, linker) {
        (false, false) => (PROGRAM_BASE, MOVED_PAGES),
        (false, true) => (LINKER_BASE, MOVED_PAGES),
        (true, false) => (COMPAT_PROGRAM_BASE, COMPAT_MOVED_PAGES),
        (true, true) => (COMPAT_LINKER_BASE, COMPAT_MOVED_PAGES),
    };
    let low = elf.extent().map_or(0, |(low, _)| low);
    (base + (chance % pages) * PAGE).next_multiple_of(elf.align()).wrapping_sub(low)
}

/// Appends a word of the form's size.
fn push(bytes: &mut Vec<u8>, form: Form, value: u64) {
    let word = value.to_le_bytes();
    bytes.extend_from_slice(word.get(..form.word).unwrap_or(&word));
}

/// The number that a word is.
fn number(word: &[u8]) -> u64 {
    word.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
