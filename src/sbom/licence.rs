//! What packages say of their licences, in the terms of SPDX.
//!
//! Documents may use the names of SPDX's list only. Packages write what they like: old names, sentences, file names. What
//! is certainly an expression of listed names stays one; everything else is quoted as the package has it.

/// Names of SPDX's list that packages use, sorted. A name that is missing here is quoted, which loses nothing.
const LISTED: [&str; 50] = [
    "0BSD",
    "AFL-2.1",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-1.1",
    "Apache-2.0",
    "Artistic-1.0",
    "Artistic-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-4-Clause",
    "BSL-1.0",
    "BlueOak-1.0.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC0-1.0",
    "CDDL-1.0",
    "EPL-1.0",
    "EPL-2.0",
    "FTL",
    "GFDL-1.3-or-later",
    "GPL-1.0-or-later",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ICU",
    "IJG",
    "ISC",
    "LGPL-2.0-only",
    "LGPL-2.0-or-later",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MIT-0",
    "MPL-1.1",
    "MPL-2.0",
    "NCSA",
    "OFL-1.1",
    "OpenSSL",
    "PSF-2.0",
    "Python-2.0",
    "Ruby",
    "Unicode-3.0",
    "Unlicense",
    "X11",
    "Zlib",
];

/// What a package says of its licence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Declared<'a> {
    /// A name of the list.
    Name(&'a str),
    /// Several names of the list.
    Expression(String),
    /// Anything else.
    Text(&'a str),
}

/// Sorts what a package says.
pub(super) fn declared(text: &str) -> Declared<'_> {
    let known = |word: &str| LISTED.binary_search(&word).is_ok();
    let words: Vec<&str> = text.split_whitespace().collect();
    let fits = |(n, word): (usize, &&str)| match n % 2 {
        0 => known(word),
        _ => matches!(*word, "AND" | "OR"),
    };
    match words.as_slice() {
        [one] if known(one) => Declared::Name(one),
        several if several.len() % 2 == 1 && several.iter().enumerate().all(fits) => {
            Declared::Expression(several.join(" "))
        }
        _ => Declared::Text(text.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_is_an_expression() {
        assert!(LISTED.is_sorted());
        assert_eq!(declared("MIT"), Declared::Name("MIT"));
        assert_eq!(declared("MIT  OR Apache-2.0"), Declared::Expression("MIT OR Apache-2.0".into()));
        for text in ["MIT AND", "GPLv2+ and MIT", "(MIT)", "MIT WITH x", "AND"] {
            assert_eq!(declared(text), Declared::Text(text));
        }
    }
}
