//! The data types of SSH's messages (RFC 4251, section 5).

/// Reads fields one after the other; `None` where the message ends too early.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }

    /// A positive integer, without leading zeros.
    pub(super) fn integer(&mut self) -> Option<&'a [u8]> {
        self.string().map(without_zeros)
    }
}

pub(super) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

pub(super) fn put_number(to: &mut Vec<u8>, number: u32) {
    to.extend_from_slice(&number.to_be_bytes());
}

pub(super) fn put_string(to: &mut Vec<u8>, string: &[u8]) {
    put_number(to, u32::try_from(string.len()).unwrap_or(u32::MAX));
    to.extend_from_slice(string);
}

/// A positive integer: a first byte whose highest bit is set would make it negative.
pub(super) fn put_integer(to: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = without_zeros(bytes);
    let sign: &[u8] = if bytes.first().is_some_and(|b| b & 0x80 != 0) { &[0] } else { &[] };
    put_string(to, &[sign, bytes].concat());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_positive_and_short() {
        let mut out = vec![];
        for number in [&[0u8, 0][..], &[0, 1], &[0x80]] {
            put_integer(&mut out, number);
        }
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 2, 0, 0x80]);
        let mut reader = Reader(&out);
        assert_eq!(reader.integer().unwrap(), b"");
        assert_eq!(reader.integer().unwrap(), [1]);
        assert_eq!(reader.integer().unwrap(), [0x80]);
        assert_eq!(reader.integer(), None);
        assert_eq!(Reader(&[0, 0, 0, 9, 1]).string(), None);
    }
}
