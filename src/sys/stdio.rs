//! Standard output as this process was started with it.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Rust's runtime opens `/dev/null` for a standard stream that is closed, so this has to look before it starts.
#[used]
// SAFETY: the section holds pointers to functions of this type, which the C library calls before `main`. This one makes a
// system call and stores into an atomic: neither needs anything that is set up later.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: the call reads nothing but its two numbers.
    let closed = unsafe { libc::fcntl(1, libc::F_GETFD) } == -1;
    CLOSED.store(closed, Ordering::Relaxed);
}

/// Whether standard output was closed when this process began. What is written to it is lost then.
pub fn stdout_was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
