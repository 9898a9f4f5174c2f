//! Dockerfile text to typed AST. Pure: text in, values out, every node with its source span.

/// A range of lines of a Dockerfile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First line, from 1.
    pub start: usize,
    /// Last line, from 1.
    pub end: usize,
}
