//! What registries want their users to know: `Warning: 299 - "text"` headers.
//!
//! The words are a stranger's. They are kept once each, a bounded number of them, shortened, and without anything that a
//! terminal would take for an order; and they change nothing about what is done.
//!
//! Format: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#warnings>.

use super::error::masked;
use crate::ui::printable;
use reqwest::header::{HeaderMap, WARNING};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Most different warnings that are shown.
const MOST: usize = 16;
/// Longest warning that is shown, in characters.
const LONGEST: usize = 500;
/// What the specification lets registries begin a warning with: this code, and nobody's name.
const BEGIN: &str = "299 - \"";

/// Warnings of registries. A clone is another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    known: BTreeSet<String>,
    fresh: Vec<String>,
}

impl Warnings {
    /// Takes note of the warnings in an answer of a registry, without what is secret.
    pub(super) fn hear(&self, host: &str, headers: &HeaderMap, secrets: &[String]) {
        for value in headers.get_all(WARNING) {
            let Some(text) = text(&String::from_utf8_lossy(value.as_bytes())) else { continue };
            let text = secrets.iter().fold(text, |text, secret| masked(&text, secret));
            let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let line = match heard.known.len() {
                n if n < MOST => format!("registry `{host}`: {text}"),
                n if n == MOST => "registries have more warnings, which are not shown".to_owned(),
                _ => return,
            };
            if heard.known.insert(line.clone()) {
                heard.fresh.push(line);
            }
        }
    }

    /// Those that nobody has taken yet.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).fresh)
    }
}

/// The words of a header, as they can be shown; none where it is no warning of this form.
fn text(value: &str) -> Option<String> {
    let mut text = String::new();
    let mut rest = value.strip_prefix(BEGIN)?.chars();
    let mut length = 0;
    loop {
        let c = match rest.next()? {
            '"' => break,
            '\\' => rest.next()?,
            c => c,
        };
        length += 1;
        match c {
            _ if length == LONGEST + 1 => text.push('…'),
            _ if length > LONGEST => {}
            '\n' | '\t' => text.push(' '),
            // These change the direction of what follows them.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => text.push('�'),
            c => text.push(c),
        }
    }
    let text = printable(text.trim());
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn only_the_form_of_the_specification_is_a_warning() {
        for (value, want) in [
            (r#"299 - "moves on Monday""#, Some("moves on Monday")),
            (r#"299 - "say \"b\\\"""#, Some(r#"say "b\""#)),
            ("299 - \"a\u{1b}[2J\u{202e}\tb\"", Some("a\\x1b[2J� b")),
            (r#"299 - "a", 299 - "b""#, Some("a")),
            (r#"299 - """#, None),
            (r#"299 - "open"#, None),
            (r#"299 example.com "agent""#, None),
            (r#"110 - "stale""#, None),
            ("", None),
        ] {
            assert_eq!(text(value).as_deref(), want, "{value}");
        }
        let long = text(&format!("299 - \"{}\"", "ß".repeat(10_000))).unwrap();
        assert_eq!(long.chars().count(), LONGEST + 1);
    }

    #[test]
    fn each_is_said_once_and_not_too_many() {
        let warnings = Warnings::default();
        let hear = |n: usize| {
            let mut headers = HeaderMap::new();
            headers.append(WARNING, HeaderValue::from_str(&format!("299 - \"no. {n}\"")).unwrap());
            warnings.hear("a.b", &headers, &[]);
        };
        hear(1);
        hear(1);
        assert_eq!(warnings.take(), ["registry `a.b`: no. 1"]);
        hear(1);
        assert!(warnings.take().is_empty());
        (2..1000).for_each(hear);
        let rest = warnings.take();
        assert_eq!(rest.len(), MOST);
        assert!(rest.last().unwrap().contains("more warnings"));

        let (warnings, mut headers) = (Warnings::default(), HeaderMap::new());
        headers.append(WARNING, HeaderValue::from_static("299 - \"you sent jwt.secret\""));
        warnings.hear("a.b", &headers, &["jwt.secret".into()]);
        assert_eq!(warnings.take(), ["registry `a.b`: you sent ****"]);
    }
}
