//! Hidden verb for conformance tables: answers questions about the Dockerfile language, one line of JSON each.

use super::{Error, output};
use std::io::{self, BufRead as _};

/// Answers every line of standard input.
pub fn run() -> Result<(), Error> {
    for line in io::stdin().lock().lines() {
        let line = line.map_err(Error::file("read", "standard input".as_ref()))?;
        output::print_line(&crate::dockerfile::table::answer(&line))?;
    }
    Ok(())
}
