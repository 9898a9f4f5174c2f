//! How user and group ids on disk relate to the ids of images.
//!
//! rbuild works in one of three situations, and what it stored in one of them has to be read with the same map again:
//!
//! | map | the process is | an owner on disk |
//! |---|---|---|
//! | [`IdMap::Ranged`] | root of a user namespace with many ids (or real root) | is the image's owner |
//! | [`IdMap::One`] | root of a user namespace that holds its own id only | says nothing: all files are ours |
//! | [`IdMap::Plain`] | an ordinary user without a namespace | says nothing: all files are ours |
//!
//! [`key`] names the *outside* ids behind the map: files written under one key mean something else under another.

use std::fmt::Write as _;
use std::sync::OnceLock;

/// Which ids of images can be stored natively by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdMap {
    /// User ids below `uids` and group ids below `gids` are stored as they are.
    Ranged {
        /// Number of user ids, from 0.
        uids: u32,
        /// Number of group ids, from 0.
        gids: u32,
    },
    /// A user namespace in which only id 0 exists: it is our own id outside.
    One,
    /// No user namespace and no privilege: files are ours, whoever that is.
    Plain,
}

static CURRENT: OnceLock<(IdMap, String)> = OnceLock::new();

impl IdMap {
    /// The map of this process. [`super::userns::enter`] decides it; without that call it is derived from what the
    /// process is now.
    pub fn current() -> IdMap {
        current().0
    }

    /// Whether a file can be given this owner, so that no record of it is needed.
    pub fn can_own(&self, uid: u32, gid: u32) -> bool {
        match *self {
            IdMap::Ranged { uids, gids } => uid < uids && gid < gids,
            IdMap::One | IdMap::Plain => uid == 0 && gid == 0,
        }
    }

    /// Stable text, fit for a file name, that names the ids outside of the namespace that the map leads to.
    pub fn key(&self) -> String {
        current().1.clone()
    }
}

/// One line of `/proc/PID/uid_map`: `count` ids from `inside` on are the ids from `outside` on of the parent namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First id in the namespace.
    pub inside: u32,
    /// First id in the parent namespace.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// Parses the text of a `uid_map` or `gid_map` file; lines that are none are left out.
pub fn parse(text: &str) -> Vec<Extent> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count)), None) => Some(Extent { inside, outside, count }),
                _ => None,
            }
        })
        .collect()
}

/// The text that the kernel accepts in a map file.
pub fn format(extents: &[Extent]) -> String {
    let mut text = String::new();
    for e in extents {
        let _ = writeln!(text, "{} {} {}", e.inside, e.outside, e.count);
    }
    text
}

/// How many ids exist from 0 on without a gap.
pub fn count_from_zero(extents: &[Extent]) -> u32 {
    let mut sorted = extents.to_vec();
    sorted.sort_by_key(|e| e.inside);
    let mut end: u64 = 0;
    for e in sorted {
        if u64::from(e.inside) > end {
            break;
        }
        end = end.max(u64::from(e.inside) + u64::from(e.count));
    }
    u32::try_from(end).unwrap_or(u32::MAX)
}

/// `inner` seen through `outer`: the ids of the innermost namespace in terms of the outermost one.
/// Ids that `outer` does not hold are left out.
pub fn compose(inner: &[Extent], outer: &[Extent]) -> Vec<Extent> {
    let mut result = Vec::new();
    for i in inner {
        let (i_start, i_end) = (u64::from(i.outside), u64::from(i.outside) + u64::from(i.count));
        for o in outer {
            let (o_start, o_end) = (u64::from(o.inside), u64::from(o.inside) + u64::from(o.count));
            let (start, end) = (i_start.max(o_start), i_end.min(o_end));
            if start < end {
                // All three fit: each is an offset inside an extent of 32-bit ids.
                let inside = u64::from(i.inside) + (start - i_start);
                let outside = u64::from(o.outside) + (start - o_start);
                if let (Ok(inside), Ok(outside), Ok(count)) =
                    (u32::try_from(inside), u32::try_from(outside), u32::try_from(end - start))
                {
                    result.push(Extent { inside, outside, count });
                }
            }
        }
    }
    result
}

/// Whether the map is that of the initial user namespace.
pub fn is_full(extents: &[Extent]) -> bool {
    matches!(extents, [Extent { inside: 0, outside: 0, count: u32::MAX }])
}

/// The maps of this process: user ids, group ids. Empty where `/proc` cannot be read.
pub fn own() -> (Vec<Extent>, Vec<Extent>) {
    let read = |name| std::fs::read_to_string(name).map(|t| parse(&t)).unwrap_or_default();
    (read("/proc/self/uid_map"), read("/proc/self/gid_map"))
}

/// Fixes what [`IdMap::current`] answers. The first call wins.
pub(super) fn set_current(map: IdMap, uids: &[Extent], gids: &[Extent]) {
    let _ = CURRENT.set((map, key_of(map, uids, gids)));
}

/// The map that a process with these maps and this privilege has.
pub(super) fn classify(privileged: bool, uids: &[Extent], gids: &[Extent]) -> IdMap {
    match (privileged, count_from_zero(uids), count_from_zero(gids)) {
        (false, ..) | (_, 0, _) | (_, _, 0) => IdMap::Plain,
        (true, 1, 1) => IdMap::One,
        (true, uids, gids) => IdMap::Ranged { uids, gids },
    }
}

fn current() -> &'static (IdMap, String) {
    CURRENT.get_or_init(|| {
        let (uids, gids) = own();
        let root = rustix::process::geteuid().is_root();
        let chown = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_CHOWN).unwrap_or(false);
        let map = classify(root && chown, &uids, &gids);
        (map, key_of(map, &uids, &gids))
    })
}

fn key_of(map: IdMap, uids: &[Extent], gids: &[Extent]) -> String {
    let outside_zero = |extents: &[Extent]| extents.iter().find(|e| e.inside == 0).map_or(0, |e| e.outside);
    match map {
        IdMap::Plain => {
            format!("plain-{}-{}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        }
        IdMap::One => format!("one-{}-{}", outside_zero(uids), outside_zero(gids)),
        IdMap::Ranged { .. } if is_full(uids) && is_full(gids) => "full".to_owned(),
        IdMap::Ranged { .. } => {
            let part = |extents: &[Extent]| {
                let texts: Vec<String> =
                    extents.iter().map(|e| format!("{}.{}.{}", e.inside, e.outside, e.count)).collect();
                texts.join("_")
            };
            let text = format!("ranged-{}-{}", part(uids), part(gids));
            // A map may have hundreds of lines; a file name may not.
            if text.len() <= 100 {
                text
            } else {
                let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
                format!("ranged-{}", hex::encode(digest.as_ref().get(..16).unwrap_or_default()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(inside: u32, outside: u32, count: u32) -> Extent {
        Extent { inside, outside, count }
    }

    #[test]
    fn parses_and_formats() {
        let text = "         0       1001          1\n         1     100000      65536\n";
        assert_eq!(parse(text), [e(0, 1001, 1), e(1, 100_000, 65536)]);
        assert_eq!(format(&parse(text)), "0 1001 1\n1 100000 65536\n");
        assert_eq!(parse("x y z\n1 2\n"), []);
    }

    #[test]
    fn counts_from_zero_up_to_the_first_gap() {
        assert_eq!(count_from_zero(&[]), 0);
        assert_eq!(count_from_zero(&[e(1, 5, 10)]), 0);
        assert_eq!(count_from_zero(&[e(1, 5, 10), e(0, 1, 1)]), 11);
        assert_eq!(count_from_zero(&[e(0, 5, 10), e(20, 1, 1)]), 10);
        assert_eq!(count_from_zero(&[e(0, 0, u32::MAX)]), u32::MAX);
    }

    #[test]
    fn composes() {
        let pod = [e(0, 200_000, 65536)];
        assert_eq!(compose(&[e(0, 0, 65536)], &pod), [e(0, 200_000, 65536)]);
        assert_eq!(compose(&[e(0, 1000, 1), e(1, 65000, 1000)], &pod), [e(0, 201_000, 1), e(1, 265_000, 536)]);
    }

    #[test]
    fn ownership() {
        let ranged = IdMap::Ranged { uids: 65537, gids: 10 };
        assert!(ranged.can_own(65536, 9));
        assert!(!ranged.can_own(65536, 10));
        assert!(IdMap::One.can_own(0, 0));
        assert!(!IdMap::One.can_own(0, 1));
        assert!(!IdMap::Plain.can_own(1, 0));
    }

    #[test]
    fn keys_differ_where_outside_ids_differ() {
        let map = IdMap::Ranged { uids: 65537, gids: 65537 };
        let a = key_of(map, &[e(0, 1001, 1), e(1, 100_000, 65536)], &[e(0, 1001, 1), e(1, 100_000, 65536)]);
        let b = key_of(map, &[e(0, 1001, 1), e(1, 200_000, 65536)], &[e(0, 1001, 1), e(1, 100_000, 65536)]);
        assert_ne!(a, b);
        assert!(!a.contains('/') && a.len() < 200);
        let many: Vec<Extent> = (0..300).map(|i| e(i, i * 2, 1)).collect();
        assert!(key_of(map, &many, &many).len() < 60);
    }
}
