//! What a step used, as people read it.

use super::human;
use std::time::Duration;

/// What the command of a step and everything that it started used. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From start to end.
    pub took: Duration,
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Largest resident set of one process.
    pub max_rss: u64,
    /// Most memory of all processes at once, where that was counted.
    pub peak: Option<u64>,
    /// Read from storage.
    pub read: u64,
    /// Written to storage.
    pub written: u64,
}

impl Usage {
    /// On one line.
    pub fn text(&self) -> String {
        let size = |n| human::size(n, " ", 3);
        let seconds = |d: Duration| format!("{:.2} s", d.as_secs_f64());
        let memory = match self.peak {
            Some(peak) => format!("{} of memory", size(peak)),
            None => format!("{} in the largest process", size(self.max_rss)),
        };
        format!(
            "{}: processor {} user, {} system; {memory}; read {}, wrote {}",
            seconds(self.took),
            seconds(self.user),
            seconds(self.system),
            size(self.read),
            size(self.written)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line() {
        let usage = Usage {
            took: Duration::from_millis(2104),
            user: Duration::from_millis(1500),
            system: Duration::from_micros(250_400),
            max_rss: 120_000_000,
            peak: None,
            read: 0,
            written: 4096,
        };
        let text =
            "2.10 s: processor 1.50 s user, 0.25 s system; 120 MB in the largest process; read 0 B, wrote 4.1 kB";
        assert_eq!(usage.text(), text);
        assert!(Usage { peak: Some(5), ..usage }.text().contains("; 5 B of memory;"));
    }
}
