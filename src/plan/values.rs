//! Values of single instructions: ports, signals, modes, paths, and how Go prints them in histories.

use crate::dockerfile::quote;
use crate::oci::Health;
use std::ops::RangeInclusive;

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// The ports of one word of EXPOSE (`80`, `53/udp`, `8000-8010`, `[ip:][host:]port`), and which of the protocols.
fn ports(word: &str) -> Result<(RangeInclusive<u16>, usize), String> {
    let last = word.rsplit(':').next().unwrap_or(word);
    let (range, protocol) = last.split_once('/').unwrap_or((last, ""));
    if range.is_empty() {
        return Err(format!("no port in `{word}`"));
    }
    let lower = protocol.to_ascii_lowercase();
    let protocol = if lower.is_empty() { Some(0) } else { PROTOCOLS.iter().position(|p| *p == lower) };
    let Some(protocol) = protocol else {
        return Err(format!("invalid protocol `{lower}` in `{word}`: expected `tcp`, `udp` or `sctp`"));
    };
    let number = |s: &str| {
        let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        s.parse::<u16>().ok().filter(|_| digits).ok_or_else(|| format!("invalid port `{word}`"))
    };
    let (first, end) = match range.split_once('-') {
        Some((a, b)) => (number(a)?, number(b)?),
        None => (number(range)?, number(range)?),
    };
    if end < first {
        return Err(format!("invalid range of ports `{word}`: it ends before it begins"));
    }
    Ok((first..=end, protocol))
}

/// The ports of an EXPOSE, each once: a few letters name all that there are, so a line could otherwise name any number.
#[derive(Default)]
pub(super) struct Ports {
    seen: [Vec<bool>; PROTOCOLS.len()],
    /// `80/tcp` and so on, in the order of the instruction.
    pub(super) names: Vec<String>,
}

impl Ports {
    /// Adds what a word names.
    pub(super) fn add(&mut self, word: &str) -> Result<(), String> {
        let (range, protocol) = ports(word)?;
        let (Some(seen), Some(name)) = (self.seen.get_mut(protocol), PROTOCOLS.get(protocol)) else { return Ok(()) };
        seen.resize(1 << 16, false);
        let (first, last) = (usize::from(*range.start()), usize::from(*range.end()));
        for (port, seen) in seen.iter_mut().enumerate().take(last + 1).skip(first).filter(|(_, seen)| !**seen) {
            *seen = true;
            self.names.push(format!("{port}/{name}"));
        }
        Ok(())
    }
}

/// Whether a text names a signal of Linux: a number, or a name with or without `SIG`.
pub(super) fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
        "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
        "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
    ];
    if let Ok(n) = text.parse::<i32>() {
        return (1..=64).contains(&n);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: Option<&str>, most: u32| {
        rest.and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| (1..=most).contains(&n))
    };
    NAMES.contains(&name) || real_time(name.strip_prefix("RTMIN+"), 15) || real_time(name.strip_prefix("RTMAX-"), 14)
}

/// Checks a `--chmod`: octal up to 7777, or symbolic clauses.
pub(super) fn check_mode(text: &str) -> Result<(), String> {
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return match u32::from_str_radix(text, 8) {
            Ok(n) if n <= 0o7777 => Ok(()),
            _ => Err(format!("invalid mode `{text}`: expected an octal number between 0 and 7777")),
        };
    }
    let clause = |c: &str| {
        let actions = c.trim_start_matches(['u', 'g', 'o', 'a']);
        actions.starts_with(['+', '-', '='])
            && actions.split(['+', '-', '=']).skip(1).all(|permissions| {
                matches!(permissions, "u" | "g" | "o") || permissions.bytes().all(|b| b"rwxXst".contains(&b))
            })
    };
    if text.split(',').all(clause) {
        return Ok(());
    }
    Err(format!("invalid mode `{text}`: expected an octal number or clauses such as `u=rwX,go=rX`"))
}

/// The path `path`, relative to the directory `base`, without `.`, `..` and doubled slashes; absolute.
pub(super) fn join(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = vec![];
    let both = if path.starts_with('/') { ["", path] } else { [base, path] };
    for part in both.iter().flat_map(|p| p.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p => parts.push(p),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A destination of COPY: joined, and still ending with `/` or `/.` where it was written so.
pub(super) fn destination(base: &str, path: &str) -> String {
    join_as_written(base, if matches!(path, "" | ".") { "./" } else { path })
}

/// Joined, and still ending with `/` or `/.` where it was written so: BuildKit keeps that in WORKDIR, too.
pub(super) fn join_as_written(base: &str, path: &str) -> String {
    let mut out = join(base, path);
    if path.ends_with('/') && out != "/" {
        out.push('/');
    } else if path.ends_with("/.") {
        out.push_str(if out == "/" { "." } else { "/." });
    }
    out
}

/// A list of strings as Go prints it with `%q`.
pub(super) fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| quote(w)).collect();
    format!("[{}]", words.join(" "))
}

/// A duration in nanoseconds as Go prints it.
pub(super) fn duration(nanoseconds: i64) -> String {
    if nanoseconds == 0 {
        return "0s".into();
    }
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.unsigned_abs();
    let fraction = |n: u64, unit: u64| {
        let digits = unit.checked_ilog10().unwrap_or(0) as usize;
        let text = format!("{}.{:0digits$}", n / unit, n % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let text = match n {
        0..1_000 => format!("{n}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(n, 1_000_000)),
        _ => {
            let (minutes, rest) = (n / 60_000_000_000, n % 60_000_000_000);
            let seconds = if rest == 0 { "0".into() } else { fraction(rest, 1_000_000_000) };
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, m) => format!("{m}m{seconds}s"),
                (h, m) => format!("{h}h{m}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// A health check as Go prints it with `%+v`.
pub(super) fn health(h: &Health) -> String {
    format!(
        "{{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        h.test.join(" "),
        duration(h.interval),
        duration(h.timeout),
        duration(h.start_period),
        duration(h.start_interval),
        h.retries
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_expose() {
        let mut all = Ports::default();
        for word in ["80", "53/UDP", "8-9/sctp", "127.0.0.1:80:90", "79-81", "80/udp"] {
            all.add(word).unwrap();
        }
        assert_eq!(all.names, ["80/tcp", "53/udp", "8/sctp", "9/sctp", "90/tcp", "79/tcp", "81/tcp", "80/udp"]);
        for end in 65300..=u16::MAX {
            all.add(&format!("0-{end}")).unwrap();
        }
        assert_eq!(all.names.len(), 65536 + 4);
        for bad in ["", "x", "9-8", "80/icmp", "70000", "/tcp", "1-2-3", "+1"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals() {
        for s in ["9", "SIGTERM", "term", "SIGRTMIN+3", "RTMAX-14"] {
            assert!(is_signal(s), "{s}");
        }
        for s in ["0", "65", "SIGFOO", "", "RTMIN+16"] {
            assert!(!is_signal(s), "{s}");
        }
    }

    #[test]
    fn modes() {
        for m in ["644", "07777", "u=rwX,go=rX", "a+x", "+x", "g=u", "u+r-w"] {
            assert!(check_mode(m).is_ok(), "{m}");
        }
        for m in ["8", "77777", "", "x", "u=q", "u=r,", "u"] {
            assert!(check_mode(m).is_err(), "{m}");
        }
    }

    #[test]
    fn paths() {
        assert_eq!(join("/a", "b/../c/."), "/a/c");
        assert_eq!(join("", "b"), "/b");
        assert_eq!(join("/a", "/../x"), "/x");
        for (base, path, want) in [
            ("/a", "b", "/a/b"),
            ("/a", "b/", "/a/b/"),
            ("/a", ".", "/a/"),
            ("", "", "/"),
            ("/a", "/x/.", "/x/."),
            ("/a", "/", "/"),
        ] {
            assert_eq!(destination(base, path), want, "{base} {path}");
        }
    }

    #[test]
    fn durations_as_go_prints_them() {
        for (n, want) in [
            (0, "0s"),
            (5_000_000_000, "5s"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (2_000_000, "2ms"),
        ] {
            assert_eq!(duration(n), want);
        }
    }
}
