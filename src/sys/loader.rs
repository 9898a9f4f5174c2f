//! A program that puts another program into its own address space: what the kernel executes in place of a step's program
//! where the kernel would look for that program, and for its dynamic linker, in the wrong root directory.
//!
//! It does nothing but what it is told: it asks with a `prctl` of its own ([`ASK`]), whose answer is a list of orders in its
//! data page, follows them and jumps. All that needs thought is done by who answers.
//!
//! ```text
//! BASE           code: header of the file, instructions, the path of the loader itself
//! BASE + 0x1000  data: the orders
//! BASE + 0x3000  data: strings that outlive the start (name of the program and the like)
//! ```
//!
//! An order is seven words: a system call's number and its arguments, or one of the numbers below 0:
//! [`ZERO`] clears memory, [`JUMP`] sets the stack pointer and goes.

/// Where the loader lies: far from where the kernel puts anything, and below the `brk` area that follows it.
pub const BASE: u64 = 0x5600_0000_0000;
/// Where the orders go.
pub const ORDERS: u64 = BASE + 0x1000;
/// Bytes for the orders.
pub const ORDERS_BYTES: usize = 0x2000;
/// Where strings go.
pub const STRINGS: u64 = BASE + 0x3000;
/// Bytes for the strings.
pub const STRINGS_BYTES: usize = 0x2000;
/// First argument of the `prctl` by which the loader asks for its orders; the second is the stack pointer at its start, the
/// third the place of the auxiliary vector.
pub const ASK: u64 = 0x7262_6c64;
/// Order: clear memory (address, bytes).
pub const ZERO: i64 = -1;
/// Order: go on at an address with this stack pointer.
pub const JUMP: i64 = -2;
/// Words of an order.
pub const ORDER_WORDS: usize = 7;

/// Where the path of the loader stands in its code page.
pub const PATH: u64 = BASE + PATH_OFFSET as u64;

const HEADERS_BYTES: usize = 64 + 3 * 56;
const PATH_OFFSET: usize = 0x400;
const PAGE_BYTES: usize = 0x1000;

// Arguments arrive on the stack as for every program: count, arguments, 0, environment, 0, auxiliary vector.
std::arch::global_asm!(
    ".pushsection .rodata.rbuild_loader, \"a\"",
    ".globl rbuild_loader_start",
    ".globl rbuild_loader_end",
    "rbuild_loader_start:",
    "mov rbx, rsp",
    "mov rcx, [rsp]",
    "lea rdx, [rsp + rcx*8 + 16]",
    "2: mov rax, [rdx]",
    "add rdx, 8",
    "test rax, rax",
    "jnz 2b",
    "mov rsi, rbx",
    "mov edi, {ask}",
    "mov eax, 157",
    "syscall",
    "test rax, rax",
    "js 9f",
    "movabs r12, {orders}",
    "3: mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "cmp rax, -1",
    "je 4f",
    "cmp rax, -2",
    "je 6f",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "cmp rax, -4096",
    "ja 9f",
    "8: add r12, 56",
    "jmp 3b",
    "4: mov rcx, rsi",
    "xor eax, eax",
    "rep stosb",
    "jmp 8b",
    "6: mov r11, rdi",
    "mov rsp, rsi",
    "xor eax, eax",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "xor edx, edx",
    "xor esi, esi",
    "xor edi, edi",
    "xor ebp, ebp",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "xor r15d, r15d",
    "jmp r11",
    // As the kernel does when it cannot go back any more.
    "9: mov eax, 39",
    "syscall",
    "mov edi, eax",
    "mov esi, 9",
    "mov eax, 62",
    "syscall",
    "mov edi, 127",
    "mov eax, 231",
    "syscall",
    "ud2",
    "rbuild_loader_end:",
    ".popsection",
    ask = const ASK,
    orders = const ORDERS,
);

unsafe extern "C" {
    static rbuild_loader_start: u8;
    static rbuild_loader_end: u8;
}

fn code() -> &'static [u8] {
    let (start, end) = (&raw const rbuild_loader_start, &raw const rbuild_loader_end);
    // SAFETY: both labels stand in one section, in this order, with initialised read-only bytes between them.
    unsafe { std::slice::from_raw_parts(start, (end as usize).wrapping_sub(start as usize)) }
}

/// The loader as an executable file that lies at `path`; `None` where the path is too long to be in it.
pub fn image(path: &std::ffi::CStr) -> Option<Vec<u8>> {
    let mut file = Vec::with_capacity(PAGE_BYTES);
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&2u16.to_le_bytes()); // ET_EXEC
    file.extend_from_slice(&62u16.to_le_bytes()); // EM_X86_64
    file.extend_from_slice(&1u32.to_le_bytes());
    file.extend_from_slice(&(BASE + HEADERS_BYTES as u64).to_le_bytes()); // entry
    file.extend_from_slice(&64u64.to_le_bytes()); // program headers
    file.extend_from_slice(&[0; 12]); // no sections, no flags
    for half in [64u16, 56, 3, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let mut segment = |kind: u32, flags: u32, address: u64, in_file: usize, in_memory: usize| {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&flags.to_le_bytes());
        for word in [0, address, address, in_file as u64, in_memory as u64, PAGE_BYTES as u64] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    };
    const LOAD: u32 = 1;
    const GNU_STACK: u32 = 0x6474_e551;
    segment(LOAD, 5, BASE, PAGE_BYTES, PAGE_BYTES);
    segment(LOAD, 6, ORDERS, 0, ORDERS_BYTES + STRINGS_BYTES);
    segment(GNU_STACK, 6, 0, 0, 0);
    file.extend_from_slice(code());
    if file.len() > PATH_OFFSET {
        return None;
    }
    file.resize(PATH_OFFSET, 0);
    file.extend_from_slice(path.to_bytes_with_nul());
    if file.len() > PAGE_BYTES {
        return None;
    }
    file.resize(PAGE_BYTES, 0);
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_one_page_with_its_path() {
        let file = image(c"/somewhere/loader").unwrap();
        assert_eq!(file.len(), PAGE_BYTES);
        assert!(file[PATH_OFFSET..].starts_with(b"/somewhere/loader\0"));
        assert!(code().len() < PATH_OFFSET - HEADERS_BYTES);
        let long = std::ffi::CString::new(vec![b'x'; PAGE_BYTES]).unwrap();
        assert!(image(&long).is_none());
    }
}
