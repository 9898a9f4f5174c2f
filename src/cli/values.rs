//! Values of flags, read the way Go's flag library and the tools that use it read them.

use super::Error;
use crate::build::request::TIMES;
use std::time::Duration;

/// What flags may read of the process: its environment, and nothing else.
pub type Var<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The process's environment. A variable that is not UTF-8 counts as unset.
pub fn process_var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A boolean in one of Go's spellings.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected `true` or `false`".into()),
    }
}

/// `NAME=VALUE`; a bare name takes its value from the environment, `None` where that has none.
pub fn name_value(text: &str, var: &Var<'_>) -> Result<(String, Option<String>), Error> {
    let (name, value) = match text.split_once('=') {
        Some((n, v)) => (n, Some(v.to_owned())),
        None => (text, var(text)),
    };
    if name.is_empty() {
        return Err(Error::usage(format!("invalid value `{text}`: the name before `=` is empty")));
    }
    Ok((name.to_owned(), value))
}

/// `NAME=VALUE`; a bare name is an empty value.
pub fn label(text: &str) -> Result<(String, String), Error> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(Error::usage(format!("invalid value `{text}`: the name before `=` is empty")));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Go's string slices: each occurrence of a flag may hold several values, separated by commas.
pub fn commas(values: &[String]) -> Vec<String> {
    values.iter().flat_map(|v| v.split(',')).filter(|v| !v.is_empty()).map(str::to_owned).collect()
}

/// A duration that is not zero.
pub fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        none if none < Duration::from_millis(1) => Err("it must be at least `1ms`".into()),
        some => Ok(some),
    }
}

/// Go's durations: `1h30m`, `2s`, `500ms`; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("invalid duration `{text}`: expected something like `2s` or `1h30m`");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(u64::from(seconds)));
    }
    let (mut total, mut rest) = (0.0_f64, text);
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at_checked(digits).ok_or_else(bad)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(unit_end).ok_or_else(bad)?;
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        total += number.parse::<f64>().map_err(|_| bad())? * scale;
        rest = next;
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad())
}

/// Seconds since 1970, before or after it, in the years that the times of an image can name.
pub fn seconds(text: &str) -> Result<i64, String> {
    let seconds = text.parse().map_err(|_| "expected a number of seconds since 1970".to_owned())?;
    if TIMES.contains(&seconds) {
        return Ok(seconds);
    }
    Err(format!("out of range: times of images lie between {} (year 0) and {} (year 9999)", TIMES.start(), TIMES.end()))
}

/// Bytes with an optional unit.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("invalid size `{text}`: expected something like `10GB` or `500MiB`");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(split).ok_or_else(bad)?;
    let number: f64 = number.parse().map_err(|_| bad())?;
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    Ok((number * scale as f64) as u64)
}

/// Bytes of memory: units are binary, whichever way they are written, as Docker reads them.
pub fn memory(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    match lower.strip_suffix('b') {
        Some(unit) if unit.ends_with(['k', 'm', 'g', 't']) => size(unit),
        _ => size(&lower),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (text, want) in [("2s", 2_000), ("1h30m", 5_400_000), ("500ms", 500), ("7", 7_000), ("1.5s", 1_500)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(want), "{text}");
        }
        for bad in ["", "s", "2x", "1s2", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_take_their_value_from_the_environment() {
        let var = |n: &str| (n == "HERE").then(|| "v".to_owned());
        assert_eq!(name_value("A=b=c", &var).unwrap(), ("A".into(), Some("b=c".into())));
        assert_eq!(name_value("HERE", &var).unwrap(), ("HERE".into(), Some("v".into())));
        assert_eq!(name_value("GONE", &var).unwrap(), ("GONE".into(), None));
        assert!(name_value("=x", &var).is_err());
        assert_eq!(label("a").unwrap(), ("a".into(), String::new()));
    }

    #[test]
    fn times_are_those_that_images_can_name() {
        for (text, want) in [("0", 0), ("-5", -5), ("253402207200", 253_402_207_200), ("-62167219200", -62_167_219_200)]
        {
            assert_eq!(seconds(text).unwrap(), want);
            assert!(jiff::Timestamp::from_second(want).unwrap().to_string().len() == "2000-01-01T00:00:00Z".len());
        }
        for bad in ["", "x", "1.5", "253402207201", "-62167219201", "99999999999999999999"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, want) in [("1", 1), ("2k", 2048), ("1.5GB", 1_500_000_000), ("500MiB", 500 << 20)] {
            assert_eq!(size(text).unwrap(), want, "{text}");
        }
        assert_eq!(
            (memory("64m"), memory("64MB"), memory("1KiB"), memory("9")),
            (Ok(64 << 20), Ok(64 << 20), Ok(1024), Ok(9))
        );
        assert!(size("x").is_err() && size("1q").is_err() && size("").is_err());
    }
}
