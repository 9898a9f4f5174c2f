//! `--chmod`: an octal number, or symbolic clauses as chmod(1) reads them (`u=rwX,go=rX`, `a+x`, `u=g`).

/// What `--chmod` does to a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode(Program);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Program {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clause {
    /// Bits of all who are named: `0o700`, `0o070`, `0o007`.
    who: u32,
    op: Op,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Bits of one triplet (`0o7`), `X`, set-id and sticky.
    Bits { perms: u32, conditional_execute: bool, set_id: bool, sticky: bool },
    /// The triplet of another class, by the shift that gets it.
    Class(u32),
}

/// A mode that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid mode `{0}` in --chmod: neither an octal number from 0 to 07777 nor symbolic clauses")]
pub struct InvalidMode(pub String);

impl Mode {
    /// Reads the value of `--chmod`.
    ///
    /// # Errors
    ///
    /// [`InvalidMode`] with the text.
    pub fn parse(text: &str) -> Result<Mode, InvalidMode> {
        let wrong = || InvalidMode(text.to_owned());
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(bits) if bits <= 0o7777 => Ok(Mode(Program::Octal(bits))),
                _ => Err(wrong()),
            };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            parse_clauses(part.as_bytes(), &mut clauses).ok_or_else(wrong)?;
        }
        Ok(Mode(Program::Symbolic(clauses)))
    }

    /// The 12 bits that come of `mode`, of a directory or of anything else.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match &self.0 {
            Program::Octal(bits) => *bits,
            Program::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |mode, c| c.apply(mode, is_dir)),
        }
    }
}

fn parse_clauses(part: &[u8], clauses: &mut Vec<Clause>) -> Option<()> {
    let mut rest = part;
    let mut who = 0;
    while let [c @ (b'u' | b'g' | b'o' | b'a'), tail @ ..] = rest {
        who |= match c {
            b'u' => 0o700,
            b'g' => 0o070,
            b'o' => 0o007,
            _ => 0o777,
        };
        rest = tail;
    }
    if who == 0 {
        who = 0o777;
    }
    if rest.is_empty() {
        return None;
    }
    while let [op, tail @ ..] = rest {
        let op = match op {
            b'+' => Op::Add,
            b'-' => Op::Remove,
            b'=' => Op::Set,
            _ => return None,
        };
        rest = tail;
        if let [c @ (b'u' | b'g' | b'o'), tail @ ..] = rest {
            let shift = match c {
                b'u' => 6,
                b'g' => 3,
                _ => 0,
            };
            clauses.push(Clause { who, op, what: What::Class(shift) });
            rest = tail;
            continue;
        }
        let (mut perms, mut conditional_execute, mut set_id, mut sticky) = (0, false, false, false);
        while let [c @ (b'r' | b'w' | b'x' | b'X' | b's' | b't'), tail @ ..] = rest {
            match c {
                b'r' => perms |= 4,
                b'w' => perms |= 2,
                b'x' => perms |= 1,
                b'X' => conditional_execute = true,
                b's' => set_id = true,
                _ => sticky = true,
            }
            rest = tail;
        }
        clauses.push(Clause { who, op, what: What::Bits { perms, conditional_execute, set_id, sticky } });
    }
    Some(())
}

impl Clause {
    fn apply(self, mode: u32, is_dir: bool) -> u32 {
        let (triplet, special) = match self.what {
            What::Class(shift) => ((mode >> shift) & 7, 0),
            What::Bits { perms, conditional_execute, set_id, sticky } => {
                let execute = u32::from(conditional_execute && (is_dir || mode & 0o111 != 0));
                let mut special = 0;
                if set_id {
                    special |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                    special |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                if sticky {
                    special |= 0o1000;
                }
                (perms | execute, special)
            }
        };
        let bits = ((triplet * 0o111) & self.who) | special;
        match self.op {
            Op::Add => mode | bits,
            Op::Remove => mode & !bits,
            Op::Set => {
                // As chmod(1): `=` clears the set-id bits of the classes named on files, and keeps them on directories.
                let mut clear = self.who;
                if !is_dir {
                    clear |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                    clear |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                if self.who == 0o777 {
                    clear |= 0o1000;
                }
                (mode & !clear) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal() {
        assert_eq!(Mode::parse("755").unwrap().apply(0o600, false), 0o755);
        assert_eq!(Mode::parse("0").unwrap().apply(0o4755, false), 0);
        assert_eq!(Mode::parse("04755").unwrap().apply(0o600, true), 0o4755);
        for wrong in ["", "888", "10000", "0o755", "77777777777777", "-1", "u", "u=q", "=rw,", "u rw", "z+x"] {
            assert_eq!(Mode::parse(wrong), Err(InvalidMode(wrong.to_owned())), "{wrong}");
        }
    }

    #[test]
    fn symbolic() {
        for (text, from, is_dir, to) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o777, false, 0o700),
            ("g=u", 0o640, false, 0o660),
            ("o=g-w", 0o664, false, 0o664),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("u-s", 0o4755, false, 0o755),
            ("+t", 0o777, true, 0o1777),
            ("u=rw,g=r,o=", 0o777, false, 0o640),
            ("a=", 0o777, false, 0),
            ("u=rw+x", 0o000, false, 0o700),
            ("ug+rw", 0o000, false, 0o660),
        ] {
            assert_eq!(Mode::parse(text).unwrap().apply(from, is_dir), to, "{text} {from:o}");
        }
    }
}
