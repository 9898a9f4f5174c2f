//! `.dockerignore` files and lists of exclude patterns.

/// A list of patterns, of which the last that matches decides.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    patterns: Vec<String>,
}

/// A pattern that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid exclude pattern `{0}`: {1}")]
pub struct PatternError(pub String, pub &'static str);

/// What the patterns said of one path; from it the answer for the path's children follows.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    excluded: bool,
}

impl Matched {
    /// Whether the path is excluded.
    pub fn excluded(&self) -> bool {
        self.excluded
    }
}

impl Patterns {
    /// Reads an ignore file: one pattern a line, `#` comments, a byte order mark is skipped.
    ///
    /// # Errors
    ///
    /// The first pattern that cannot be understood.
    pub fn parse(file: &[u8]) -> Result<Patterns, PatternError> {
        let _ = file;
        Ok(Patterns::default())
    }

    /// Takes patterns that are already separated (`--exclude`).
    ///
    /// # Errors
    ///
    /// The first pattern that cannot be understood.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Patterns, PatternError> {
        Ok(Patterns { patterns: patterns.into_iter().map(|p| p.as_ref().to_owned()).collect() })
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a path is excluded, itself or by a directory above it. `path` is relative to the root of the context, with
    /// `/` between its parts and none in front.
    pub fn excludes(&self, path: &[u8]) -> bool {
        let _ = path;
        false
    }

    /// The same as [`Patterns::excludes`], for a walk from the root down: `parent` is what the directory above gave (for
    /// entries of the root, `Matched::default()`).
    pub fn walk(&self, parent: &Matched, path: &[u8]) -> Matched {
        let _ = path;
        parent.clone()
    }

    /// Whether something below the directory `path` may be included although `path` itself is excluded: a walk that
    /// skips the directory when this is false loses nothing.
    pub fn may_include_below(&self, path: &[u8]) -> bool {
        let _ = path;
        true
    }
}
