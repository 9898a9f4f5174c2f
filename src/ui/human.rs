//! Sizes and times as people read them, in the spellings of the tools whose output rbuild copies.

/// A size in powers of 1000 with up to four digits: `2.048kB`, `1.99MB`, `0B`. Docker's form; buildah puts `gap` (a
/// blank) before the unit.
pub fn size(bytes: u64, gap: &str, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{gap}{}", significant(value, digits), UNITS[unit])
}

/// C's `%.<digits>g` for numbers of at least 0 and below 1000.
fn significant(value: f64, digits: usize) -> String {
    let whole_digits = match value {
        v if v < 10.0 => 1,
        v if v < 100.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.*}", digits.saturating_sub(whole_digits));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// How long ago something was, `seconds` being its age: `5 minutes`, `About an hour`. Docker and buildah append ` ago`.
pub fn age(seconds: i64) -> String {
    let s = seconds.max(0);
    let (minutes, hours) = (s / 60, (s + 1800) / 3600);
    match s {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        s if s < 60 => format!("{s} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", s / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_few_digits() {
        for (bytes, docker, buildah) in [
            (0, "0B", "0 B"),
            (999, "999B", "999 B"),
            (2048, "2.048kB", "2.05 kB"),
            (1_989_632, "1.99MB", "1.99 MB"),
            (123_456_789, "123.5MB", "123 MB"),
            (10_000_000_000, "10GB", "10 GB"),
        ] {
            assert_eq!(size(bytes, "", 4), docker);
            assert_eq!(size(bytes, " ", 3), buildah);
        }
    }

    #[test]
    fn ages_are_rounded() {
        for (s, want) in [
            (-5, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (600, "10 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86400, "3 days"),
            (20 * 86400, "2 weeks"),
            (100 * 86400, "3 months"),
            (1000 * 86400, "2 years"),
        ] {
            assert_eq!(age(s), want, "{s}");
        }
    }
}
