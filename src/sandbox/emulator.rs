//! Programs of other processors: the emulator that runs them, and how the kernel is told.
//!
//! The kernel starts an emulator in place of a program whose first bytes it was told (binfmt_misc). Since Linux 6.7 a user
//! namespace has a table of its own, which takes no privilege outside of it: a step registers its emulator there and
//! nowhere else. The kernel keeps the emulator's file open, so the image needs none.

use crate::oci::Platform;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// An emulator for the programs of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// The processor as qemu calls it: `aarch64`.
    pub processor: String,
    /// The program, outside of the image; linked statically.
    #[serde(with = "super::text::one")]
    pub program: PathBuf,
}

/// A processor: Go's name, qemu's, and in the head of an ELF file its class, byte order and number.
struct Processor(&'static str, &'static str, u8, u8, u16);

const PROCESSORS: [Processor; 9] = [
    Processor("amd64", "x86_64", 2, 1, 62),
    Processor("386", "i386", 1, 1, 3),
    Processor("arm64", "aarch64", 2, 1, 183),
    Processor("arm", "arm", 1, 1, 40),
    Processor("riscv64", "riscv64", 2, 1, 243),
    Processor("ppc64le", "ppc64le", 2, 1, 21),
    Processor("s390x", "s390x", 2, 2, 22),
    Processor("mips64le", "mips64el", 2, 1, 8),
    Processor("loong64", "loongarch64", 2, 1, 258),
];

/// Whether programs for `target` do not run on the processor of `machine` by themselves.
pub fn is_foreign(target: &Platform, machine: &Platform) -> bool {
    let native = target.architecture == machine.architecture
        || (target.architecture == "386" && machine.architecture == "amd64");
    target.os == "linux" && !native
}

/// qemu's name for the processor of a platform, where it is known.
pub fn processor(platform: &Platform) -> Option<&'static str> {
    PROCESSORS.iter().find(|p| p.0 == platform.architecture).map(|p| p.1)
}

impl Emulator {
    /// The emulator for a platform: `given`, a program or a directory with `qemu-*-static`; else the one in `path`.
    pub fn find(platform: &Platform, given: Option<&Path>, path: &OsStr) -> Option<Emulator> {
        let processor = processor(platform)?;
        let name = format!("qemu-{processor}-static");
        let found = match given {
            Some(dir) if dir.is_dir() => Some(dir.join(&name)),
            Some(file) => Some(file.to_owned()),
            None => std::env::split_paths(path).map(|dir| dir.join(&name)).find(|p| p.is_file()),
        };
        let program = found.filter(|p| p.is_file())?;
        Some(Emulator { processor: processor.to_owned(), program: std::path::absolute(program).ok()? })
    }

    /// The line that registers it. `F`: the kernel opens the program now, `P`: it passes on the name that a program was
    /// started by, which busybox and others go by.
    pub(super) fn registration(&self) -> Option<Vec<u8>> {
        let Processor(_, name, class, order, machine) = PROCESSORS.iter().find(|p| p.1 == self.processor)?;
        let half = |n: u16| if *order == 2 { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut magic = [0; 20];
        let mut mask = [0xff; 20];
        magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', *class, *order, 1]);
        mask[7] = 0; // which system's calls it makes
        magic[16..18].copy_from_slice(&half(2)); // a program; a position-independent one has a 3
        mask[16..18].copy_from_slice(&half(0xfffe));
        magic[18..].copy_from_slice(&half(*machine));
        let escaped = |bytes: &[u8]| bytes.iter().map(|b| format!("\\x{b:02x}")).collect::<String>();
        let program = self.program.as_os_str().as_bytes();
        let delimiter = *b":|,;".iter().find(|d| !program.contains(d))?;
        let mut line = vec![];
        for field in [
            b"".as_slice(),
            format!("rbuild-{name}").as_bytes(),
            b"M",
            b"",
            escaped(&magic).as_bytes(),
            escaped(&mask).as_bytes(),
            program,
            b"FP",
        ] {
            line.extend_from_slice(field);
            line.push(delimiter);
        }
        line.pop();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_foreign() {
        let host = platform("linux/amd64");
        for (text, foreign) in [
            ("linux/amd64", false),
            ("linux/amd64/v3", false),
            ("linux/386", false),
            ("linux/arm64", true),
            ("linux/arm/v7", true),
            ("windows/arm64", false),
        ] {
            assert_eq!(is_foreign(&platform(text), &host), foreign, "{text}");
        }
        assert!(is_foreign(&platform("linux/386"), &platform("linux/arm64")));
    }

    #[test]
    fn emulators_are_found_in_path_or_given() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("qemu-aarch64-static");
        let (arm, none) = (platform("linux/arm64"), OsStr::new("/nowhere"));
        let find = |platform: &str, given: Option<&Path>, path: &OsStr| {
            Emulator::find(&self::platform(platform), given, path).map(|e| e.program)
        };
        assert_eq!(find("linux/arm64", None, dir.path().as_os_str()), None);
        std::fs::write(&program, "").unwrap();
        assert_eq!(find("linux/arm64", None, dir.path().as_os_str()), Some(program.clone()));
        assert_eq!(find("linux/arm64", Some(dir.path()), none), Some(program.clone()));
        assert_eq!(find("linux/arm64", Some(&program), none), Some(program.clone()));
        assert_eq!(find("linux/s390x", Some(dir.path()), none), None);
        assert_eq!(find("linux/arm64", Some(&dir.path().join("none")), dir.path().as_os_str()), None);
        assert_eq!(Emulator::find(&arm, None, none), None);
    }

    #[test]
    fn registrations_are_of_the_form_that_the_kernel_reads() {
        let line = |processor: &str, program: &str| {
            let emulator = Emulator { processor: processor.into(), program: program.into() };
            String::from_utf8(emulator.registration().unwrap()).unwrap()
        };
        let zeros = |n: usize| "\\x00".repeat(n);
        let ones = |n: usize| "\\xff".repeat(n);
        assert_eq!(
            line("aarch64", "/usr/bin/q"),
            format!(
                ":rbuild-aarch64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01{}\\x02\\x00\\xb7\\x00:{}\\x00{}\\xfe{}:/usr/bin/q:FP",
                zeros(9),
                ones(7),
                ones(8),
                ones(3)
            )
        );
        assert!(line("s390x", "/q").contains("\\x00\\x02\\x00\\x16"));
        assert!(line("arm", "/a:b").starts_with("|rbuild-arm|M||"));
    }
}
