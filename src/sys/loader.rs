//! A program that puts another program into its own address space: what the kernel executes in place of a step's program
//! where the kernel would look for that program, and for its dynamic linker, in the wrong root directory.
//!
//! It does nothing but what it is told: it asks with a `prctl` of its own ([`ASK`]), whose answer is a list of orders in its
//! data page, follows them and jumps. All that needs thought is done by who answers.
//!
//! ```text
//! base           code: header of the file, instructions, the paths of both forms of the loader
//! base + 0x1000  data: the orders
//! base + 0x3000  data: strings that outlive the start (name of the program and the like)
//! ```
//!
//! An order is seven words of the form's size: a system call's number and its arguments, or one of the numbers below 0:
//! [`ZERO`] clears memory, [`JUMP`] sets the stack pointer and goes.

use std::ffi::CStr;

/// A loader: there is one for native programs and one for those of the 32-bit personality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Where it lies: far from where the kernel puts anything, and below the `brk` area that follows it.
    base: u64,
    /// Bytes of a word.
    pub word: usize,
}

/// For native programs.
pub const NATIVE: Form = Form { base: NATIVE_BASE, word: 8 };
/// For programs of the 32-bit personality.
pub const COMPAT: Form = Form { base: COMPAT_BASE, word: 4 };

const NATIVE_BASE: u64 = 0x5600_0000_0000;
const COMPAT_BASE: u64 = 0xdf00_0000;

/// Bytes for the orders; the last few are the loader's own.
pub const ORDERS_BYTES: usize = 0x1ff0;
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

const NATIVE_ORDERS: u64 = NATIVE_BASE + 0x1000;
const COMPAT_ORDERS: u64 = COMPAT_BASE + 0x1000;
/// Where the compat loader, which has no register to spare, keeps its place in the orders.
const COMPAT_CELL: u64 = COMPAT_ORDERS + ORDERS_BYTES as u64;

/// Where in the page of code the paths of the native and of the other loader stand.
const PATHS: [usize; 2] = [0x400, 0xa00];
const PAGE_BYTES: usize = 0x1000;
const DATA_BYTES: usize = 0x4000;

impl Form {
    /// Where the orders go.
    pub fn orders(self) -> u64 {
        self.base + 0x1000
    }

    /// Where strings go.
    pub fn strings(self) -> u64 {
        self.base + 0x3000
    }

    /// Where in a process that this loader started the path of a loader stands.
    pub fn path_of(self, other: Form) -> u64 {
        let [native, compat] = PATHS;
        self.base + if other == NATIVE { native } else { compat } as u64
    }

    fn code(self) -> &'static [u8] {
        let (start, end) = if self == NATIVE {
            (&raw const rbuild_loader_start, &raw const rbuild_loader_end)
        } else {
            (&raw const rbuild_loader_compat_start, &raw const rbuild_loader_compat_end)
        };
        // SAFETY: both labels stand in one section, in this order, with initialised read-only bytes between them.
        unsafe { std::slice::from_raw_parts(start, (end as usize).wrapping_sub(start as usize)) }
    }

    /// The loader as an executable file; `paths` are those of the native and of the other loader. `None` where one is too
    /// long to be in it.
    pub fn image(self, paths: [&CStr; 2]) -> Option<Vec<u8>> {
        let mut file = Header { bytes: Vec::with_capacity(PAGE_BYTES), word: self.word };
        let native = self == NATIVE;
        let header_bytes: u16 = if native { 64 } else { 52 };
        let segment_bytes: u16 = if native { 56 } else { 32 };
        let entry = self.base + u64::from(header_bytes + 3 * segment_bytes);
        file.bytes.extend_from_slice(b"\x7fELF");
        file.bytes.extend_from_slice(&[if native { 2 } else { 1 }, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        // ET_EXEC; EM_X86_64 or EM_386.
        file.half(2).half(if native { 62 } else { 3 }).plain(1);
        // No sections, no flags.
        file.long(entry).long(header_bytes.into()).long(0).plain(0);
        for half in [header_bytes, segment_bytes, 3, 0, 0, 0] {
            file.half(half);
        }
        const LOAD: u32 = 1;
        const GNU_STACK: u32 = 0x6474_e551;
        file.segment(LOAD, 5, self.base, PAGE_BYTES, PAGE_BYTES);
        file.segment(LOAD, 6, self.orders(), 0, DATA_BYTES);
        file.segment(GNU_STACK, 6, 0, 0, 0);
        let mut file = file.bytes;
        file.extend_from_slice(self.code());
        for (offset, path) in PATHS.into_iter().zip(paths) {
            if file.len() > offset {
                return None;
            }
            file.resize(offset, 0);
            file.extend_from_slice(path.to_bytes_with_nul());
        }
        if file.len() > PAGE_BYTES {
            return None;
        }
        file.resize(PAGE_BYTES, 0);
        Some(file)
    }
}

/// The head of an executable file.
struct Header {
    bytes: Vec<u8>,
    word: usize,
}

impl Header {
    fn half(&mut self, value: u16) -> &mut Header {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn plain(&mut self, value: u32) -> &mut Header {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A number of the form's size.
    fn long(&mut self, value: u64) -> &mut Header {
        let bytes = value.to_le_bytes();
        self.bytes.extend_from_slice(bytes.get(..self.word).unwrap_or(&bytes));
        self
    }

    fn segment(&mut self, kind: u32, flags: u32, address: u64, in_file: usize, in_memory: usize) {
        self.plain(kind);
        if self.word == 8 {
            self.plain(flags);
        }
        self.long(0).long(address).long(address).long(in_file as u64).long(in_memory as u64);
        if self.word == 4 {
            self.plain(flags);
        }
        self.long(PAGE_BYTES as u64);
    }
}

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
    orders = const NATIVE_ORDERS,
);

std::arch::global_asm!(
    ".pushsection .rodata.rbuild_loader, \"a\"",
    ".globl rbuild_loader_compat_start",
    ".globl rbuild_loader_compat_end",
    "rbuild_loader_compat_start:",
    ".code32",
    "mov ebp, esp",
    "mov ecx, [esp]",
    "lea edx, [esp + ecx*4 + 8]",
    "2: mov eax, [edx]",
    "add edx, 4",
    "test eax, eax",
    "jnz 2b",
    "mov ecx, ebp",
    "mov ebx, {ask}",
    "mov eax, 172",
    "int 0x80",
    "test eax, eax",
    "js 9f",
    "mov eax, {orders}",
    "mov edi, {cell}",
    "mov [edi], eax",
    "3: mov ebp, {cell}",
    "mov ebp, [ebp]",
    "mov eax, [ebp]",
    "mov ebx, [ebp + 4]",
    "mov ecx, [ebp + 8]",
    "mov edx, [ebp + 12]",
    "cmp eax, -1",
    "je 4f",
    "cmp eax, -2",
    "je 6f",
    "mov esi, [ebp + 16]",
    "mov edi, [ebp + 20]",
    "mov ebp, [ebp + 24]",
    "int 0x80",
    "cmp eax, -4096",
    "ja 9f",
    "8: mov ebp, {cell}",
    "mov eax, [ebp]",
    "add eax, 28",
    "mov [ebp], eax",
    "jmp 3b",
    "4: mov edi, ebx",
    "xor eax, eax",
    "rep stosb",
    "jmp 8b",
    "6: mov eax, ebx",
    "mov esp, ecx",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "xor edx, edx",
    "xor esi, esi",
    "xor edi, edi",
    "xor ebp, ebp",
    "jmp eax",
    "9: mov eax, 20",
    "int 0x80",
    "mov ebx, eax",
    "mov ecx, 9",
    "mov eax, 37",
    "int 0x80",
    "mov ebx, 127",
    "mov eax, 252",
    "int 0x80",
    "ud2",
    ".code64",
    "rbuild_loader_compat_end:",
    ".popsection",
    ask = const ASK,
    orders = const COMPAT_ORDERS,
    cell = const COMPAT_CELL,
);

unsafe extern "C" {
    static rbuild_loader_start: u8;
    static rbuild_loader_end: u8;
    static rbuild_loader_compat_start: u8;
    static rbuild_loader_compat_end: u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_one_page_with_both_paths() {
        for form in [NATIVE, COMPAT] {
            let file = form.image([c"/somewhere/loader", c"/somewhere/loader-32"]).unwrap();
            assert_eq!(file.len(), PAGE_BYTES);
            for (other, path) in [(NATIVE, &b"/somewhere/loader\0"[..]), (COMPAT, b"/somewhere/loader-32\0")] {
                let at = (form.path_of(other) - form.base) as usize;
                assert!(file[at..].starts_with(path));
            }
        }
        let long = std::ffi::CString::new(vec![b'x'; PAGE_BYTES]).unwrap();
        assert!(NATIVE.image([&long, c""]).is_none() && NATIVE.image([c"", &long]).is_none());
    }
}
