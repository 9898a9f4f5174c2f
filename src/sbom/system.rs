//! Which distribution an image is of.
//!
//! Format: `os-release`, <https://www.freedesktop.org/software/systemd/man/latest/os-release.html>.

use super::{Error, files};
use crate::archive::merged::Merged;

/// A distribution, as `os-release` says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// Short name, lower case: `debian`.
    pub id: String,
    /// Version, where there is one: `12`.
    pub version: Option<String>,
    /// For people: `Debian GNU/Linux 12 (bookworm)`.
    pub name: Option<String>,
}

/// Reads it from the places that the format names, in their order.
pub(super) fn read(view: &Merged) -> Result<Option<System>, Error> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        let Some(node) = files::find(view, path)? else { continue };
        let mut lines = files::lines(view, &node)?;
        let system = parse(std::iter::from_fn(|| lines.next()));
        lines.end(&node)?;
        if !system.id.is_empty() {
            return Ok(Some(system));
        }
    }
    Ok(None)
}

fn parse(lines: impl Iterator<Item = String>) -> System {
    let mut system = System::default();
    // More is no such file.
    for line in lines.take(1000) {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        let value = unquoted(value);
        match key {
            "ID" => system.id = value,
            "VERSION_ID" => system.version = Some(value).filter(|v| !v.is_empty()),
            "PRETTY_NAME" => system.name = Some(value).filter(|v| !v.is_empty()),
            _ => {}
        }
    }
    system
}

/// A value of the shell without its quotes.
fn unquoted(value: &str) -> String {
    let inner = |quote: char| value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote));
    match inner('\'').or(inner('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\$", "$").replace("\\\\", "\\"),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_their_quotes() {
        let text = "# x\nPRETTY_NAME=\"A \\\"B\\\" 1\"\nID='alpine'\nVERSION_ID=3.18\nNAME\n";
        let system = parse(text.lines().map(str::to_owned));
        let expected = System { id: "alpine".into(), version: Some("3.18".into()), name: Some("A \"B\" 1".into()) };
        assert_eq!(system, expected);
    }
}
