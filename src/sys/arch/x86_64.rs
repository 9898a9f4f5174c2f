//! x86_64, with its 32-bit personality i386.
//!
//! The x32 ABI shares the audit architecture of x86_64 and marks its numbers with a bit; filters answer ENOSYS to it,
//! as do kernels without it (which is what distributions ship).

use std::sync::OnceLock;

/// `AUDIT_ARCH_X86_64`: what a seccomp filter sees for native calls.
pub const AUDIT_NATIVE: u32 = 0xC000_003E;
/// `AUDIT_ARCH_I386`: what a seccomp filter sees for calls of 32-bit programs.
pub const AUDIT_COMPAT: Option<u32> = Some(0x4000_0003);

/// The numbers of one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Number for native programs.
    pub native: Option<u32>,
    /// Number for 32-bit programs.
    pub compat: Option<u32>,
}

type Table = Vec<(&'static str, Numbers)>;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let rows = include_str!("x86_64_syscalls.txt").lines().filter(|l| !l.starts_with('#'));
        rows.filter_map(|row| {
            let mut fields = row.split(' ');
            let name = fields.next()?;
            let native = fields.next()?.parse().ok();
            let compat = fields.next()?.parse().ok();
            Some((name, Numbers { native, compat }))
        })
        .collect()
    })
}

/// All system calls that this processor knows.
pub fn syscalls() -> impl Iterator<Item = (&'static str, Numbers)> {
    table().iter().copied()
}

/// The numbers of the system call `name`; `None` for a name that this processor does not know.
pub fn syscall(name: &str) -> Option<Numbers> {
    let table = table();
    table.binary_search_by(|(n, _)| (*n).cmp(name)).ok().and_then(|at| table.get(at)).map(|(_, n)| *n)
}

/// The name of a system call, for messages.
pub fn syscall_name(audit_arch: u32, number: u32) -> Option<&'static str> {
    let compat = Some(audit_arch) == AUDIT_COMPAT;
    table()
        .iter()
        .find(|(_, n)| if compat { n.compat == Some(number) } else { n.native == Some(number) })
        .map(|(name, _)| *name)
}

/// One raw system call: the kernel's answer, a negative error number included. Touches no thread-local data, so it may be
/// used where the C library may not.
///
/// # Safety
/// As the call itself.
#[inline(always)]
pub(in crate::sys) unsafe fn raw_syscall(number: i64, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let answer: isize;
    // SAFETY: the kernel's calling convention: number in rax, arguments in these registers, rcx and r11 are clobbered.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    answer
}

/// clone(2) with a stack of its own for the child, which calls `entry(arg)` there and must not return.
/// Answers the child's pid or a negative error number.
///
/// # Safety
/// `stack_top` is the upper end of a mapping that outlives the child's use of it; with CLONE_VM `entry` touches no
/// thread-local data (the child shares the caller's) and calls nothing that does.
pub(in crate::sys) unsafe fn raw_clone(
    flags: u64,
    stack_top: *mut u8,
    pidfd: *mut i32,
    entry: extern "C" fn(*const std::ffi::c_void) -> !,
    arg: *const std::ffi::c_void,
) -> isize {
    let top = (stack_top as usize) & !15;
    let answer: isize;
    // SAFETY: in the parent this is one system call; the child starts behind it with rsp = `top`, aligned as the ABI wants
    // before a call, and never comes back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone as isize => answer,
            in("rdi") flags, in("rsi") top, in("rdx") pidfd, in("r10") 0usize, in("r8") 0usize,
            in("r12") entry, in("r13") arg,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    answer
}

/// Code segment of 32-bit programs.
const COMPAT_CODE_SEGMENT: u64 = 0x23;

/// Whether a stopped thread is in a call of the 32-bit ABI.
pub(in crate::sys) fn is_compat(registers: &libc::user_regs_struct) -> bool {
    registers.cs == COMPAT_CODE_SEGMENT
}

/// Number and first arguments of the call that a stopped thread is about to make.
pub(in crate::sys) fn call_of(registers: &libc::user_regs_struct) -> (u32, [u64; 3]) {
    // The number is an int to the kernel.
    let number = (registers.orig_rax & 0xffff_ffff) as u32;
    let args = if is_compat(registers) {
        [registers.rbx, registers.rcx, registers.rdx]
    } else {
        [registers.rdi, registers.rsi, registers.rdx]
    };
    (number, args)
}

/// All arguments of the call that a stopped thread is about to make, or is in.
pub(in crate::sys) fn args_of(r: &libc::user_regs_struct) -> [u64; 6] {
    if is_compat(r) {
        [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp].map(|v| v & 0xffff_ffff)
    } else {
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
    }
}

/// Changes the call that a stopped thread is about to make.
pub(in crate::sys) fn set_call(r: &mut libc::user_regs_struct, number: u32, args: [u64; 6]) {
    r.orig_rax = u64::from(number);
    let [a, b, c, d, e, f] = args;
    if is_compat(r) {
        (r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp) = (a, b, c, d, e, f);
    } else {
        (r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9) = (a, b, c, d, e, f);
    }
}

/// Changes the registers of a stopped thread so that it makes no call, and sees `result` as the answer.
pub(in crate::sys) fn skip_call(registers: &mut libc::user_regs_struct, result: i64) {
    registers.orig_rax = u64::MAX;
    registers.rax = result.cast_unsigned();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_agrees_with_the_c_library() {
        assert!(table().windows(2).all(|w| w[0].0 < w[1].0));
        for (name, number) in [
            ("read", libc::SYS_read),
            ("clone3", libc::SYS_clone3),
            ("fchownat", libc::SYS_fchownat),
            ("mount_setattr", libc::SYS_mount_setattr),
        ] {
            assert_eq!(syscall(name).and_then(|n| n.native), u32::try_from(number).ok(), "{name}");
        }
        assert_eq!(syscall("chown32").map(|n| (n.native, n.compat)), Some((None, Some(212))));
        assert_eq!(syscall("nonsense"), None);
        assert_eq!(syscall_name(AUDIT_NATIVE, 92), Some("chown"));
        assert_eq!(syscall_name(0x4000_0003, 212), Some("chown32"));
    }
}
