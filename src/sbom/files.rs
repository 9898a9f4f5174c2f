//! Reading files of an image up to a bound.

use super::{Error, Inventory};
use crate::archive::Error as TreeError;
use crate::archive::merged::Merged;
use crate::archive::node::Node;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Longest file that is read as a whole, in bytes.
const MAX_WHOLE: u64 = 32 << 20;
/// Longest line that is kept, in bytes; of longer ones the rest is dropped.
const MAX_LINE: usize = 64 << 10;

/// The regular file at `path`, links followed inside the image; `None` where there is none.
pub(super) fn find(view: &Merged, path: &str) -> Result<Option<Node>, Error> {
    match view.resolve(Path::new(path), true) {
        Ok(found) => Ok(found.node.filter(Node::is_file)),
        // A name that leads nowhere is a file that is not there.
        Err(TreeError::Loop(_) | TreeError::NotDirectory { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// How messages and documents call a file.
pub(super) fn display(node: &Node) -> String {
    node.path.to_string_lossy().into_owned()
}

/// A file's whole content; `None` with a note where it is too long or fails to be read.
pub(super) fn whole(view: &Merged, node: &Node, found: &mut Inventory) -> Result<Option<Vec<u8>>, Error> {
    if node.meta.size > MAX_WHOLE {
        found.note(format!("`{}` is not read: it is longer than {} MiB", display(node), MAX_WHOLE >> 20));
        return Ok(None);
    }
    let mut bytes = vec![];
    let read = view.open_file(node)?.take(MAX_WHOLE).read_to_end(&mut bytes);
    read.map_err(|e| TreeError::file("read", &node.path)(e))?;
    Ok(Some(bytes))
}

/// A file's lines.
pub(super) fn lines(view: &Merged, node: &Node) -> Result<Lines<BufReader<File>>, Error> {
    Ok(Lines::new(BufReader::with_capacity(1 << 16, view.open_file(node)?)))
}

/// Lines of a reader without their ends, none of them longer than a bound. What is not UTF-8 is replaced.
#[derive(Debug)]
pub(super) struct Lines<R> {
    from: R,
    line: Vec<u8>,
    failed: Option<io::Error>,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `from`.
    pub fn new(from: R) -> Self {
        Lines { from, line: vec![], failed: None }
    }

    /// The next line; `None` at the end, and where reading fails: [`Lines::end`] tells these apart.
    pub fn next(&mut self) -> Option<String> {
        self.read().unwrap_or_else(|e| {
            self.failed = Some(e);
            None
        })
    }

    /// Says whether reading failed.
    pub fn end(self, node: &Node) -> Result<(), Error> {
        self.failed.map_or(Ok(()), |e| Err(TreeError::file("read", &node.path)(e).into()))
    }

    fn read(&mut self) -> io::Result<Option<String>> {
        self.line.clear();
        let mut any = false;
        loop {
            let part = self.from.fill_buf()?;
            if part.is_empty() {
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', part);
            let text = part.get(..end.unwrap_or(part.len())).unwrap_or_default();
            let room = MAX_LINE.saturating_sub(self.line.len()).min(text.len());
            self.line.extend_from_slice(text.get(..room).unwrap_or_default());
            let used = end.map_or(part.len(), |e| e + 1);
            self.from.consume(used);
            if end.is_some() {
                break;
            }
        }
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        Ok(any.then(|| String::from_utf8_lossy(line).into_owned()))
    }
}

/// Reads paragraphs of fields: each line goes into the paragraph that it is of, until one is its end or nothing follows.
///
/// # Errors
/// Those of `done`.
pub fn paragraphs<P>(
    mut lines: impl FnMut() -> Option<String>,
    new: impl Fn() -> P,
    is_end: impl Fn(&str) -> bool,
    field: impl Fn(&mut P, &str),
    mut done: impl FnMut(P) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut paragraph = new();
    loop {
        let line = lines();
        match line.as_deref() {
            Some(line) if !is_end(line) => field(&mut paragraph, line),
            _ => done(std::mem::replace(&mut paragraph, new()))?,
        }
        if line.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_lose_their_end_and_nothing_else() {
        let text = format!("a\r\n{}\nb", "x".repeat(MAX_LINE + 5));
        let mut lines = Lines::new(BufReader::with_capacity(7, text.as_bytes()));
        assert_eq!(lines.next().as_deref(), Some("a"));
        assert_eq!(lines.next().map(|l| l.len()), Some(MAX_LINE));
        assert_eq!(lines.next().as_deref(), Some("b"));
        assert_eq!(lines.next(), None);
    }
}
