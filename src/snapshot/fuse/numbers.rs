//! The inode numbers that programs see: each means one file for as long as the file system is mounted.
//!
//! Disks give the number of a removed file to a new one. Whoever knows files by number alone (tar for hardlinks; what keeps
//! the owners of files, since FUSE tells no times of birth) would take the second for the first. So a number is the disk's with
//! two small ones above it:
//!
//! ```text
//! 63 62 | 61  | 60 .. 56 | 55 .. 36                            | 35 .. 0
//!   0   | odd | device   | how many files had it before, gone | number on disk
//! ```
//!
//! Nothing is kept of a file to tell its number, so the kernel may forget it at will; what is kept is how often a number was
//! given up, for numbers that were. A file whose parts do not fit gets an odd number, which is kept.
//!
//! A file that was copied up shows the number that it had before, for which its new number on disk is kept.

use std::collections::HashMap;

const INO_BITS: u32 = 36;
const GENERATION_BITS: u32 = 20;
const DEVICE_BITS: u32 = 5;
/// The first number that says nothing of a disk's.
const ODD: u64 = 1 << (INO_BITS + GENERATION_BITS + DEVICE_BITS);

/// The numbers of one mount.
pub(super) struct Numbers {
    /// Devices that files were found on; first the upper directory's, where alone numbers are given up.
    devices: Vec<u64>,
    /// How often numbers of the upper directory were given up.
    generations: HashMap<u64, u32>,
    /// Numbers that copied-up files had before, by those in the upper directory.
    origins: HashMap<u64, u64>,
    /// By device, number on disk and generation.
    odd: HashMap<(u64, u64, u32), u64>,
}

impl Numbers {
    /// `device` is the upper directory's.
    pub fn new(device: u64) -> Numbers {
        Numbers { devices: vec![device], generations: HashMap::new(), origins: HashMap::new(), odd: HashMap::new() }
    }

    /// The number of a file that was not copied up, by device and number on disk.
    pub fn of(&mut self, (device, ino): (u64, u64)) -> u64 {
        let index = self.devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len() - 1
        });
        let generation = if index == 0 { self.generations.get(&ino).copied().unwrap_or(0) } else { 0 };
        let index = index as u64;
        if ino < 1 << INO_BITS && generation < 1 << GENERATION_BITS && index < 1 << DEVICE_BITS {
            return (index << (GENERATION_BITS + INO_BITS)) | (u64::from(generation) << INO_BITS) | ino;
        }
        let next = ODD + self.odd.len() as u64;
        *self.odd.entry((device, ino, generation)).or_insert(next)
    }

    /// The number of a file in the upper directory that is no directory, by that on disk.
    pub fn of_upper(&mut self, ino: u64) -> u64 {
        match self.origins.get(&ino) {
            Some(origin) => *origin,
            None => self.of((self.device(), ino)),
        }
    }

    /// The file that had the number `shown` is now the upper directory's `ino`.
    pub fn copied_up(&mut self, ino: u64, shown: u64) {
        self.origins.insert(ino, shown);
    }

    /// Nothing in the upper directory has the number `ino` any more: the disk may give it away.
    pub fn given_up(&mut self, ino: u64) {
        // What was never shown may be shown yet.
        if self.origins.remove(&ino).is_none() {
            let generation = self.generations.entry(ino).or_default();
            *generation = generation.saturating_add(1);
        }
    }

    fn device(&self) -> u64 {
        self.devices.first().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_comes_twice() {
        let mut numbers = Numbers::new(7);
        let first = numbers.of_upper(100);
        assert_eq!((first, numbers.of((7, 100))), (100, 100));
        numbers.given_up(100);
        let second = numbers.of_upper(100);
        assert_ne!(second, first);
        assert_eq!(numbers.of_upper(100), second);
        let other = numbers.of((8, 100));
        assert!(other != first && other != second);
    }

    #[test]
    fn a_copy_has_the_number_of_what_it_was_made_from() {
        let mut numbers = Numbers::new(7);
        numbers.copied_up(200, 3);
        assert_eq!(numbers.of_upper(200), 3);
        numbers.given_up(200);
        // Nobody has seen it.
        assert_eq!(numbers.of_upper(200), 200);
    }

    #[test]
    fn what_does_not_fit_is_odd_and_stays() {
        let mut numbers = Numbers::new(7);
        let (large, small) = (numbers.of_upper(1 << 40), numbers.of_upper(5));
        for _ in 0..1 << GENERATION_BITS {
            numbers.given_up(5);
        }
        let many = numbers.of_upper(5);
        for device in 100..140 {
            numbers.of((device, 1));
        }
        let all = [large, small, many, numbers.of((139, 1)), numbers.of((138, 1))];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len(), "{all:x?}");
        assert_eq!((numbers.of_upper(1 << 40), numbers.of_upper(5)), (large, many));
        assert!(all.iter().all(|n| *n < 1 << 62));
    }
}
