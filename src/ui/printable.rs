//! Texts of users' files on their way to a terminal, which takes some characters for orders.

/// Longest line of a message, in characters.
const WIDTH: usize = 4000;

/// The text with control characters shown as they are written in strings (`\\x1b`); line ends and tabs stay.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown
}

/// The text with the ends of very long lines left out.
pub fn shortened(text: &str) -> String {
    let short = |line: &str| match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    };
    text.split('\n').map(short).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(printable("a\u{1b}[2J\0\r\n\tß\u{9b}"), "a\\x1b[2J\\x00\\x0d\n\tß\\x9b");
    }

    #[test]
    fn only_very_long_lines_are_shortened() {
        let long = "ß".repeat(WIDTH + 1);
        assert_eq!(shortened(&format!("a\n{long}\n")), format!("a\n{}…\n", "ß".repeat(WIDTH)));
        assert_eq!(shortened(&long[..2 * WIDTH]), long[..2 * WIDTH]);
    }
}
