//! Times as calls bring them.

use rustix::fs::{Timespec, Timestamps};
use rustix::io::Errno;

/// What calls without times mean.
pub(super) const NOW: Timestamps = timestamps((0, libc::UTIME_NOW), (0, libc::UTIME_NOW));

/// Of seconds and nanoseconds.
pub(super) const fn timestamps(access: (i64, i64), modification: (i64, i64)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: access.0, tv_nsec: access.1 },
        last_modification: Timespec { tv_sec: modification.0, tv_nsec: modification.1 },
    }
}

/// Of seconds and microseconds, in the order of `struct timeval[2]`.
pub(super) fn of_microseconds([access, a, modification, m]: [i64; 4]) -> Result<Timestamps, Errno> {
    if !(0..1_000_000).contains(&a) || !(0..1_000_000).contains(&m) {
        return Err(Errno::INVAL);
    }
    Ok(timestamps((access, a * 1000), (modification, m * 1000)))
}

/// The words of `width` bytes, 4 or 8, in a piece of memory; those that it is too short for are 0.
pub(super) fn words<const N: usize>(bytes: &[u8], width: usize) -> [i64; N] {
    let mut words = bytes.chunks_exact(width).map(|word| match *word {
        [a, b, c, d] => i64::from(i32::from_ne_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    });
    [0; N].map(|_: i64| words.next().unwrap_or(0))
}
