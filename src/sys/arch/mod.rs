//! What depends on the processor: system call numbers, registers, raw calls.
//!
//! One file a processor, with the same items in each; the rest of rbuild names none of them.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("sys::arch has no file for this processor yet: see x86_64.rs for the items that one needs");
