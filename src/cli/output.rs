//! What verbs print as data: standard output, where a reader that went away is the end and not a failure.

use super::Error;
use crate::ui::Stdout;
use std::io::{self, Write};

/// Writes `text` to standard output.
///
/// # Errors
/// Where it cannot be written, but for a closed pipe: then nobody wants the rest.
pub fn print(text: &str) -> Result<(), Error> {
    write(text.as_bytes())
}

/// Writes one line to standard output.
///
/// # Errors
/// As [`print`].
pub fn print_line(text: &str) -> Result<(), Error> {
    let mut line = String::with_capacity(text.len() + 1);
    line.push_str(text);
    line.push('\n');
    write(line.as_bytes())
}

/// Writes bytes to standard output.
///
/// # Errors
/// As [`print`].
pub fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut out = Stdout;
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::file("write", "standard output".as_ref())(e)),
        Ok(()) => Ok(()),
    }
}

/// Fails where something that was written to standard output did not get there, whoever wrote it.
///
/// # Errors
/// As [`print`].
pub fn whole() -> Result<(), Error> {
    Stdout::lost().map_or(Ok(()), |e| Err(Error::file("write", "standard output".as_ref())(e)))
}

/// Writes one line to standard error; errors are dropped.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Indented JSON as Go's encoder writes it: four blanks, and no escapes for `<`, `>` and `&` where `html` is false.
///
/// # Errors
/// None in practice: values that the store holds can always be written.
pub fn json(value: &serde_json::Value, indent: &str, html: bool) -> Result<String, Error> {
    use serde::Serialize as _;
    let mut out = vec![];
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    value.serialize(&mut serializer).map_err(|e| Error::Corrupt(format!("cannot write JSON: {e}")))?;
    let text = String::from_utf8_lossy(&out).into_owned();
    if !html {
        return Ok(text);
    }
    Ok(text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
}
