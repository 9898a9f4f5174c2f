//! Heredocs: `<<EOF`, `<<-EOF`, `<<"EOF"`, `3<<EOF`.

use super::ast::Heredoc;
use super::expand::{Expander, NoVariables};

/// A reader of terminators: quotes as asked, variables stay as they are.
fn reader(raw: bool) -> Expander {
    Expander { raw_quotes: raw, raw_escapes: raw, keep_unset: true, ..Expander::new('\\') }
}

/// Reads one word as the opening of a heredoc, without content yet; `None` where it is none.
pub(super) fn opening(word: &str) -> Option<Heredoc> {
    let at = word.find("<<")?;
    let (digits, rest) = (word.get(..at)?, word.get(at + 2..)?);
    if !digits.bytes().all(|b| b.is_ascii_digit()) || rest.contains('<') {
        return None;
    }
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.is_empty() {
        return None;
    }
    let plain = reader(false).expand(rest, &NoVariables).ok()?.words;
    let raw = Expander { raw_escapes: false, ..reader(true) }.expand(rest, &NoVariables).ok()?.words;
    let (Some(name), None, Some(raw)) = (plain.first(), plain.get(1), raw.first()) else { return None };
    let quotes = |s: &str| s.matches(['\'', '"']).count();
    Some(Heredoc {
        name: name.clone(),
        content: String::new(),
        expand: quotes(name) == quotes(raw),
        chomp,
        fd: digits.parse().ok(),
    })
}

/// The heredocs that a line opens, in order. A line whose quotes do not close opens none.
pub(super) fn openings(line: &str) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return vec![];
    }
    match reader(true).expand(line, &NoVariables) {
        Ok(e) => e.words.iter().filter_map(|w| opening(w)).collect(),
        Err(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminators() {
        for (word, name, expand, chomp) in [
            ("<<EOF", "EOF", true, false),
            ("<<-EOF", "EOF", true, true),
            ("3<<'E F'", "E F", false, false),
            ("<<E\"O\"F", "EOF", false, false),
            ("<<$EOF", "$EOF", true, false),
        ] {
            let h = opening(word).unwrap();
            assert_eq!((h.name.as_str(), h.expand, h.chomp), (name, expand, chomp), "{word}");
        }
        for word in ["", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh", "a<<EOF", "<<'EOF"] {
            assert_eq!(opening(word), None, "{word}");
        }
        assert_eq!(openings("RUN cat <<A >x && cat 4<<-B").len(), 2);
        assert_eq!(openings("RUN \"<<A\"").len(), 0);
    }
}
