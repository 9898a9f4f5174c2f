//! Filters of system calls.

use std::io;

/// Loads a compiled filter for this process and its children.
pub fn load(filter: &[u8]) -> io::Result<()> {
    let _ = filter;
    Ok(())
}
