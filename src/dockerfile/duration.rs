//! Durations as Go writes them: `1h15m30.5s`.

/// Nanoseconds of a duration; the error says what is wrong.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid duration `{text}`: expected numbers with units, such as `1m30s`");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(f) => f.split_at(digits(f)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(bad());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let unit: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(bad()),
        };
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
        let mut part = whole.checked_mul(unit).ok_or_else(bad)?;
        let mut place = unit;
        for d in fraction.bytes() {
            place /= 10;
            part = part.checked_add(place.saturating_mul(i64::from(d - b'0'))).ok_or_else(bad)?;
        }
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = next;
    }
    Ok(if negative { -total } else { total })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units() {
        for (text, want) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1h1m", 3_660_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5ms", 500_000),
            ("-1us", -1_000),
        ] {
            assert_eq!(parse(text), Ok(want), "{text}");
        }
        for text in ["", "5", "s", "1x", "1.s.", "99999999999h", "-"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
