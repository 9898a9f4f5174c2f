//! What of an ELF program has to be mapped where.

/// Bytes at the start of a file that [`Elf::parse`] has to see; program headers beyond make a file no program.
pub(super) const HEAD_BYTES: usize = 4096;
const PAGE: u64 = 4096;

/// A part of the file that is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) in_file: u64,
    pub(super) in_memory: u64,
    /// PF_X 1, PF_W 2, PF_R 4.
    pub(super) flags: u32,
    pub(super) align: u64,
}

/// A program or a dynamic linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// Whether it is for the 32-bit personality.
    pub(super) compat: bool,
    /// Whether it may lie anywhere.
    pub(super) movable: bool,
    pub(super) entry: u64,
    /// Address of the program headers once mapped, relative to where a movable one lies.
    pub(super) headers: u64,
    pub(super) header_count: u16,
    pub(super) header_bytes: u16,
    pub(super) segments: Vec<Segment>,
    /// Place in the file and length of the path of the dynamic linker, with its zero.
    pub(super) interpreter: Option<(u64, u64)>,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..).and_then(|b| b.first_chunk::<N>()).copied()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

impl Elf {
    /// Reads the head of a file; `None` for what the kernel would not execute on this processor.
    pub(super) fn parse(head: &[u8]) -> Option<Elf> {
        if !head.starts_with(b"\x7fELF") || head.get(5) != Some(&1) {
            return None;
        }
        let compat = match (head.get(4)?, half(head, 18)?) {
            (2, 62) => false,
            (1, 3) => true,
            _ => return None,
        };
        let movable = match half(head, 16)? {
            2 => false,
            3 => true,
            _ => return None,
        };
        let (entry, table, sizes) = if compat {
            (word(head, 24)?.into(), word(head, 28)?.into(), 42)
        } else {
            (long(head, 24)?, long(head, 32)?, 54)
        };
        let (header_bytes, header_count) = (half(head, sizes)?, half(head, sizes + 2)?);
        if header_bytes != if compat { 32 } else { 56 } {
            return None;
        }
        let mut elf = Elf {
            compat,
            movable,
            entry,
            headers: table,
            header_count,
            header_bytes,
            segments: Vec::new(),
            interpreter: None,
        };
        let start = usize::try_from(table).ok()?;
        for number in 0..usize::from(header_count) {
            let at = start.checked_add(number.checked_mul(header_bytes.into())?)?;
            elf.header(head.get(at..)?)?;
        }
        // Where the headers are mapped.
        elf.headers = elf
            .segments
            .iter()
            .find(|s| s.offset <= table && table < s.offset.saturating_add(s.in_file))
            .map_or(0, |s| s.address.wrapping_add(table - s.offset));
        (!elf.segments.is_empty()).then_some(elf)
    }

    fn header(&mut self, header: &[u8]) -> Option<()> {
        let kind = word(header, 0)?;
        let segment = if self.compat {
            let at = |n| word(header, n).map(u64::from);
            Segment {
                offset: at(4)?,
                address: at(8)?,
                in_file: at(16)?,
                in_memory: at(20)?,
                flags: word(header, 24)?,
                align: at(28)?,
            }
        } else {
            Segment {
                flags: word(header, 4)?,
                offset: long(header, 8)?,
                address: long(header, 16)?,
                in_file: long(header, 32)?,
                in_memory: long(header, 40)?,
                align: long(header, 48)?,
            }
        };
        match kind {
            1 if segment.in_memory > 0 => self.segments.push(segment),
            3 => self.interpreter = Some((segment.offset, segment.in_file)),
            _ => {}
        }
        Some(())
    }

    /// The pages that it takes: first address, and how many bytes from there. `None` where they do not fit in an address
    /// space, or a segment cannot be mapped.
    pub(super) fn extent(&self) -> Option<(u64, u64)> {
        let mut low = u64::MAX;
        let mut high = 0;
        for s in &self.segments {
            if s.offset % PAGE != s.address % PAGE || s.in_file > s.in_memory {
                return None;
            }
            low = low.min(s.address & !(PAGE - 1));
            high = high.max(s.address.checked_add(s.in_memory)?.checked_add(PAGE - 1)? & !(PAGE - 1));
        }
        (high <= 1 << 47).then(|| (low, high.saturating_sub(low)))
    }

    /// The largest alignment that a segment asks for.
    pub(super) fn align(&self) -> u64 {
        self.segments.iter().map(|s| s.align).filter(|a| a.is_power_of_two()).max().unwrap_or(PAGE).clamp(PAGE, 1 << 30)
    }
}
