//! Deflate (RFC 1951), a block at a time, so that several threads make one stream.
//!
//! libdeflate needs half of the time that zlib needs for the same size, but knows whole streams only. [`Deflater`] makes parts of
//! a stream from it: it clears the mark of the last block and ends on a byte boundary with an empty block, as zlib's sync
//! flush does. For that it has to know where the last block begins, which only who reads the stream can tell: see [`last_block`].
//!
//! Bytes that are spread evenly (archives, pictures, keys) are stored as they are: looking for repetitions there takes the most time
//! and finds nothing. That is judged by slices of [`SLICE`] bytes and depends on them alone.

use libdeflater::{CompressionLvl, Compressor};

/// Bytes that are judged together.
const SLICE: usize = 8 << 10;
/// Longest stored block.
const STORED: usize = 65_535;
/// The usual level. Two thirds of the time of the next one for 2 to 4 % more bytes: pods have few processors, and fast networks.
const LEVEL: u32 = 1;
/// The end of a stream: a last block, with nothing in it.
pub(super) const END: [u8; 2] = [3, 0];

/// Makes parts of deflate streams, in memory.
pub(super) struct Deflater {
    /// `None` at level 0.
    compressor: Option<Compressor>,
    /// What the compressor wrote, with [`PADDING`] behind it.
    buffer: Vec<u8>,
}

impl Deflater {
    /// At a level of 0 (stored) to 9 (smallest), or the usual one.
    pub fn new(level: Option<u32>) -> Deflater {
        let level = i32::try_from(level.unwrap_or(LEVEL).min(9)).unwrap_or_default();
        // A level that libdeflate does not have is none.
        let compressor = CompressionLvl::new(level).ok().filter(|_| level > 0).map(Compressor::new);
        Deflater { compressor, buffer: vec![] }
    }

    /// Blocks that hold `input` and know of nothing before it. They end on a byte boundary, and none of them is the last of its stream.
    pub fn part(&mut self, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(input.len() / 2 + 64);
        let mut rest = input;
        let even: Vec<bool> = input.chunks(SLICE).map(|s| self.compressor.is_none() || is_even(s)).collect();
        for run in even.chunk_by(bool::eq) {
            let (part, after) = rest.split_at((run.len() * SLICE).min(rest.len()));
            if run.first() == Some(&true) || !self.compress(part, &mut out) {
                store(part, &mut out);
            }
            rest = after;
        }
        out
    }

    /// Compresses to `out`; `false` where nothing was written.
    fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(compressor) = &mut self.compressor else { return false };
        let needed = compressor.deflate_compress_bound(input.len()) + PADDING;
        if self.buffer.len() < needed {
            self.buffer.resize(needed, 0);
        }
        let Ok(length) = compressor.deflate_compress(input, &mut self.buffer) else { return false };
        let Some(Last { begin, end }) = last_block(&self.buffer, length, input.len()) else { return false };
        let Some(stream) = self.buffer.get(..length) else { return false };
        let at = out.len() + begin / 8;
        out.extend_from_slice(stream);
        if let Some(byte) = out.get_mut(at) {
            *byte &= !(1 << (begin % 8));
        }
        // An empty stored block: three bits that are zero, zeros to the end of their byte, and a length of 0. The bits that are
        // left of the stream's last byte are zero already.
        if 8 * length - end < 3 {
            out.push(0);
        }
        out.extend_from_slice(&[0, 0, 0xff, 0xff]);
        true
    }
}

/// Stored blocks.
fn store(input: &[u8], out: &mut Vec<u8>) {
    for block in input.chunks(STORED) {
        let length = block.len() as u16;
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
}

/// Whether each value is there about as often as any other, so that codes would save less than a hundredth. Few bytes never are
/// even.
fn is_even(slice: &[u8]) -> bool {
    // Most slices are not, and that shows early: the few bytes of a sample are not very even themselves.
    let sample = slice.get(..SAMPLE).unwrap_or_default();
    unevenness(sample) < 1.5 && unevenness(slice) < 1.1
}

/// Bytes of a slice that are looked at first.
const SAMPLE: usize = 1 << 10;

/// The sum of the squares of how often the values are there, against the least that it can be: 1 where all are as often as
/// the others, some 1 + 256 / length where they come by chance.
fn unevenness(bytes: &[u8]) -> f64 {
    // Four tables, since equal bytes often follow each other and would wait for each other's count.
    let mut counts = [[0u32; 256]; 4];
    for (i, &byte) in bytes.iter().enumerate() {
        if let Some(count) = counts.get_mut(i % 4).and_then(|c| c.get_mut(usize::from(byte))) {
            *count += 1;
        }
    }
    let of = |value| u64::from(counts.iter().filter_map(|c| c.get(value)).sum::<u32>());
    let squares: u64 = (0..256).map(|value| of(value).pow(2)).sum();
    (squares * 256) as f64 / (bytes.len() as u64).pow(2) as f64
}

/// Bytes that [`last_block`] may read behind a stream.
const PADDING: usize = 8;
/// Codes of up to so many bits are found in one step; others are rare.
const FAST: u32 = 11;
/// The order in which the lengths of code lengths are given.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Where a block is, in bits from the beginning of its stream.
#[derive(Debug, PartialEq, Eq)]
struct Last {
    begin: usize,
    end: usize,
}

/// The last block of the stream of `length` bytes at the beginning of `buffer`, which has [`PADDING`] more. `None` where it is no
/// stream of `output` bytes that ends there.
fn last_block(buffer: &[u8], length: usize, output: usize) -> Option<Last> {
    let mut stream = Stream { buffer, at: 0, output: 0 };
    let mut codes = Codes::default();
    loop {
        let begin = stream.at;
        let last = stream.bits(1)? == 1;
        match stream.bits(2)? {
            0 => stream.stored()?,
            kind @ (1 | 2) => {
                if kind == 1 {
                    codes.fixed()?
                } else {
                    stream.codes(&mut codes)?
                }
                codes.literals.find_runs()?;
                stream.symbols(&codes)?;
            }
            _ => return None,
        }
        if stream.at > 8 * length || stream.output > output {
            return None;
        }
        if last {
            let whole = stream.at.div_ceil(8) == length && stream.output == output;
            return whole.then_some(Last { begin, end: stream.at });
        }
    }
}

/// A deflate stream that is read for its structure alone.
struct Stream<'a> {
    buffer: &'a [u8],
    /// In bits.
    at: usize,
    /// Bytes that were described.
    output: usize,
}

impl Stream<'_> {
    fn bits(&mut self, count: u32) -> Option<usize> {
        let bits = low(peek(self.buffer, self.at)?, count);
        self.at += count as usize;
        Some(bits)
    }

    fn stored(&mut self) -> Option<()> {
        self.at = self.at.next_multiple_of(8);
        let length = self.bits(16)?;
        self.at += 16 + 8 * length;
        self.output += length;
        Some(())
    }

    /// The codes of a block that brings its own.
    fn codes(&mut self, codes: &mut Codes) -> Option<()> {
        let literals = 257 + self.bits(5)?;
        let distances = 1 + self.bits(5)?;
        let count = 4 + self.bits(4)?;
        let mut lengths = [0; 19];
        for &at in ORDER.get(..count)? {
            *lengths.get_mut(at)? = self.bits(3)? as u8;
        }
        // The code of the lengths uses the place of one that is made from them.
        codes.distances.fill(&lengths)?;
        let mut lengths = [0u8; 286 + 32];
        let mut known = 0;
        while known < literals + distances {
            let (symbol, used) = codes.distances.find(peek(self.buffer, self.at)?)?;
            self.at += used as usize;
            let before = known.checked_sub(1).and_then(|before| lengths.get(before)).copied();
            let (value, times) = match symbol {
                16 => (before?, 3 + self.bits(2)?),
                17 => (0, 3 + self.bits(3)?),
                18 => (0, 11 + self.bits(7)?),
                length => (length as u8, 1),
            };
            lengths.get_mut(known..known + times)?.fill(value);
            known += times;
        }
        let (of_literals, of_distances) = lengths.get(..known)?.split_at_checked(literals)?;
        codes.literals.fill(of_literals)?;
        codes.distances.fill(of_distances)
    }

    /// The literals and repetitions of a block, with its end.
    fn symbols(&mut self, codes: &Codes) -> Option<()> {
        let fast = &codes.literals.fast;
        // Copies that stay in registers: this loop is most of the work here.
        let (mut at, mut output) = (self.at, self.output);
        loop {
            let mut bits = peek(self.buffer, at)?;
            let mut left = 56u32;
            // A symbol and the distance behind it are found by 15 + 5 + 15 bits.
            while left >= 35 {
                let run = fast.get(low(bits, FAST))?;
                let used = if run.literals > 0 {
                    output += usize::from(run.literals);
                    u32::from(run.bits)
                } else {
                    let (symbol, used) = codes.literals.find(bits)?;
                    match symbol {
                        0..256 => {
                            output += 1;
                            used
                        }
                        256 => {
                            (self.at, self.output) = (at + used as usize, output);
                            return Some(());
                        }
                        _ => {
                            let (base, more) = repetition(u32::from(symbol) - 257)?;
                            output += base + low(bits >> used, more);
                            let (distance, of_distance) = codes.distances.find(bits >> (used + more))?;
                            used + more + of_distance + (u32::from(distance) / 2).saturating_sub(1)
                        }
                    }
                };
                bits >>= used;
                left = left.saturating_sub(used);
                at += used as usize;
            }
        }
    }
}

/// The shortest length of a class of repetitions, and how many bits say what to add.
fn repetition(class: u32) -> Option<(usize, u32)> {
    REPETITIONS.get(class as usize).map(|&(base, more)| (usize::from(base), u32::from(more)))
}

const REPETITIONS: [(u16, u8); 29] = {
    let mut classes = [(258, 0); 29];
    let mut class = 0;
    // Four classes have bits of one number; the first eight have none, and the last is 258 alone.
    while class < 28 {
        let more = if class < 8 { 0 } else { class / 4 - 1 };
        let base = if class < 8 { class } else { (4 + class % 4) << more };
        classes[class] = (3 + base as u16, more as u8);
        class += 1;
    }
    classes
};

/// The bits from a place on, at least 56.
#[inline]
fn peek(buffer: &[u8], at: usize) -> Option<u64> {
    let bytes = buffer.get(at / 8..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes) >> (at % 8))
}

/// The lowest bits.
fn low(bits: u64, count: u32) -> usize {
    (bits & ((1 << count) - 1)) as usize
}

/// The two codes of a block.
#[derive(Default)]
struct Codes {
    literals: Code,
    distances: Code,
}

impl Codes {
    /// The codes of blocks that bring none.
    fn fixed(&mut self) -> Option<()> {
        let mut lengths = [8u8; 288];
        lengths.get_mut(144..256)?.fill(9);
        lengths.get_mut(256..280)?.fill(7);
        self.literals.fill(&lengths)?;
        self.distances.fill(&[5; 32])
    }
}

/// A prefix code: symbols in order of their codes, and a table for the short ones.
struct Code {
    /// What the next [`FAST`] bits begin with.
    fast: Box<[Fast; 1 << FAST]>,
    /// How many codes have so many bits.
    counts: [u16; 16],
    symbols: Vec<u16>,
}

/// What some bits begin with.
#[derive(Clone, Copy, Default)]
struct Fast {
    /// How many literals there are, and their bits: several mostly fit. It is what takes half of the time.
    literals: u8,
    bits: u8,
    /// The first symbol.
    symbol: u16,
    /// Its bits; 0 where there are more, or it is none.
    length: u8,
}

impl Default for Code {
    fn default() -> Code {
        Code { fast: Box::new([Fast::default(); 1 << FAST]), counts: [0; 16], symbols: vec![] }
    }
}

impl Code {
    /// Takes the lengths of all symbols' codes.
    fn fill(&mut self, lengths: &[u8]) -> Option<()> {
        self.counts = [0; 16];
        for &length in lengths {
            *self.counts.get_mut(usize::from(length))? += 1;
        }
        self.counts[0] = 0;
        let mut order: Vec<(u8, u16)> = lengths.iter().copied().zip(0u16..).filter(|(length, _)| *length > 0).collect();
        order.sort_unstable();
        self.symbols.clear();
        self.symbols.extend(order.iter().map(|(_, symbol)| symbol));
        self.fast.fill(Fast::default());
        // Codes of one length are consecutive numbers, and begin where the shorter ones end.
        let (mut code, mut before) = (0u32, 0);
        for (length, symbol) in order {
            code <<= length - before;
            before = length;
            let bits = u32::from(length);
            if bits <= FAST {
                // In the stream a code begins with its highest bit.
                let first = (code.reverse_bits() >> (32 - bits)) as usize;
                for entry in self.fast.iter_mut().skip(first).step_by(1 << length) {
                    *entry = Fast { symbol, length, ..Fast::default() };
                }
            }
            code += 1;
            if code > 1 << length {
                return None;
            }
        }
        Some(())
    }

    /// Has the table tell of several literals at once.
    fn find_runs(&mut self) -> Option<()> {
        for bits in 0..1usize << FAST {
            let (mut literals, mut used) = (0, 0);
            loop {
                let Fast { symbol, length, .. } = *self.fast.get(bits >> used)?;
                if length == 0 || symbol >= 256 || u32::from(used + length) > FAST {
                    break;
                }
                literals += 1;
                used += length;
            }
            let entry = self.fast.get_mut(bits)?;
            (entry.literals, entry.bits) = (literals, used);
        }
        Some(())
    }

    /// The symbol with which these bits begin, and its number of bits.
    #[inline]
    fn find(&self, bits: u64) -> Option<(u16, u32)> {
        match self.fast.get(low(bits, FAST)) {
            Some(Fast { symbol, length, .. }) if *length > 0 => Some((*symbol, u32::from(*length))),
            _ => self.find_long(bits),
        }
    }

    #[cold]
    fn find_long(&self, mut bits: u64) -> Option<(u16, u32)> {
        let (mut code, mut first, mut index) = (0usize, 0usize, 0usize);
        for (length, &count) in (1..).zip(self.counts.get(1..)?) {
            code |= low(bits, 1);
            bits >>= 1;
            let count = usize::from(count);
            if code < first + count {
                return self.symbols.get(index + code - first).map(|symbol| (*symbol, length));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    /// Bytes without order.
    fn noise(length: usize) -> Vec<u8> {
        let mut x = 7u64;
        let next = |_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        };
        (0..length).map(next).collect()
    }

    fn text(length: usize) -> Vec<u8> {
        let words = noise(length / 4 + 1);
        let mut text: Vec<u8> =
            words.iter().flat_map(|w| format!("{} ", u32::from(w % 97) * 31).into_bytes()).collect();
        text.truncate(length);
        text
    }

    fn inflate(stream: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        let mut decoder = flate2::bufread::DeflateDecoder::new(stream);
        decoder.read_to_end(&mut out).unwrap();
        assert_eq!(decoder.total_in(), stream.len() as u64);
        out
    }

    /// That parts of a stream give their inputs, at each level.
    fn check(parts: &[&[u8]]) {
        for level in (0..=9).map(Some).chain([None]) {
            let mut deflater = Deflater::new(level);
            let mut stream: Vec<u8> = parts.iter().flat_map(|part| deflater.part(part)).collect();
            stream.extend_from_slice(&END);
            assert!(inflate(&stream) == parts.concat(), "level {level:?}");
        }
    }

    #[test]
    fn parts_make_a_stream() {
        let (text, noise) = (text(700_000), noise(200_000));
        let both = [&text[..100_000], &noise[..70_000], b"x", &text[..30_000], &noise].concat();
        check(&[]);
        check(&[b"", b"a", b"", b"ab"]);
        check(&[&text, &noise, &both, &[0; 100_000], &both[..99_999]]);
    }

    #[test]
    fn every_last_byte_is_closed() {
        // The bits that are left of the last byte decide whether the empty block begins in it.
        let text = text(4000);
        for length in 0..100 {
            check(&[&text[..length], &text[length..2 * length]]);
        }
    }

    #[test]
    fn noise_is_stored_and_text_is_not() {
        let (noise, text) = (noise(100_000), text(100_000));
        let part = |input: &[u8]| Deflater::new(None).part(input).len();
        assert!((noise.len()..noise.len() + 50).contains(&part(&noise)), "{}", part(&noise));
        assert!(part(&text) < text.len() / 2);
        assert!(part(&[&noise[..], &text].concat()) < noise.len() + text.len() / 2);
        assert!(!is_even(&noise[..100]) && !is_even(b""));
        // Evenly spread, but for a few.
        let mut most = noise.clone();
        most.iter_mut().step_by(10).for_each(|b| *b = 0);
        assert!(part(&most) < most.len() * 97 / 100);
    }

    #[test]
    fn a_stream_that_is_none_has_no_last_block() {
        let mut buffer = vec![0; 100_000];
        let text = text(50_000);
        let length = Compressor::new(CompressionLvl::new(6).unwrap()).deflate_compress(&text, &mut buffer).unwrap();
        assert!(last_block(&buffer, length, text.len()).is_some());
        assert_eq!(last_block(&buffer, length, text.len() - 1), None);
        assert_eq!(last_block(&buffer, length - 1, text.len()), None);
        assert_eq!(last_block(&buffer, length + 1, text.len()), None);
        assert_eq!(last_block(&buffer[..length / 2], length / 2, text.len()), None);
        assert_eq!(last_block(&[], 0, 0), None);
    }

    proptest! {
        #[test]
        fn any_parts_make_a_stream(parts in proptest::collection::vec(proptest::collection::vec(0u8..20, 0..3000), 0..4)) {
            check(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }

        #[test]
        fn nothing_makes_the_reader_panic(buffer: Vec<u8>, output: u16) {
            last_block(&buffer, buffer.len().saturating_sub(PADDING), output.into());
        }
    }
}
