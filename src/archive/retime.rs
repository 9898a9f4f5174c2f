//! Changes the modification times in a finished layer, and nothing else.
//!
//! Steps run with the times that they really have; `SOURCE_DATE_EPOCH` and `--timestamp` are applied to what leaves the
//! build. The result has the bytes that the layer writer would have written for the new times.

use super::diff::{LayerStats, Times};
use super::error::Error;
use crate::oci::{DiffId, Hashing};
use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// Longest extended header that is read, in bytes: the layer writer's own are far shorter.
const PAX_LIMIT: u64 = 4 << 20;

/// Copies the layer `tar` (uncompressed) to `out` with the times changed.
///
/// # Errors
/// `tar` is cut off or malformed, or reading or writing fails.
pub fn retime(tar: impl Read, times: &Times, out: impl Write) -> Result<LayerStats, Error> {
    let mut input = io::BufReader::with_capacity(1 << 18, tar);
    let mut output = Hashing::new(out);
    let entries = copy(&mut input, times, &mut output).map_err(Error::Input)?;
    let (_, digest, size) = output.finish();
    Ok(LayerStats { diff_id: DiffId(digest), size, entries })
}

fn copy(input: &mut impl Read, times: &Times, output: &mut impl Write) -> io::Result<u64> {
    let mut entries = 0;
    let mut size_from_pax = None;
    let mut block = [0; BLOCK];
    loop {
        input.read_exact(&mut block)?;
        if block.iter().all(|b| *b == 0) {
            output.write_all(&block)?;
            io::copy(input, output)?;
            return Ok(entries);
        }
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let size = size_from_pax.take().map_or_else(|| header.entry_size(), Ok)?;
        match header.entry_type() {
            tar::EntryType::XHeader => {
                let records = read_padded(input, size)?;
                let (records, size) = change_records(&records, times)?;
                size_from_pax = size;
                if !records.is_empty() {
                    header.set_size(records.len() as u64);
                    change_header(&mut header, times);
                    output.write_all(header.as_bytes())?;
                    output.write_all(&records)?;
                    output.write_all(&[0; BLOCK][..padding(records.len() as u64)])?;
                }
            }
            _ => {
                entries += 1;
                change_header(&mut header, times);
                output.write_all(header.as_bytes())?;
                let all = size + padding(size) as u64;
                if io::copy(&mut input.take(all), output)? != all {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// Bytes from the end of a body of `size` bytes to the next block.
fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn read_padded(input: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    if size > PAX_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an extended header is too long"));
    }
    let mut body = vec![0; size as usize + padding(size)];
    input.read_exact(&mut body)?;
    body.truncate(size as usize);
    Ok(body)
}

/// The time that stands for `sec` (and a fraction of a second, if `more`); `None` where it stays.
fn changed(sec: i64, more: bool, times: &Times) -> Option<i64> {
    match (times.set_to, times.clamp_to) {
        (Some(t), _) if t != sec || more => Some(t),
        (None, Some(t)) if sec > t || (sec == t && more) => Some(t),
        _ => None,
    }
}

fn change_header(header: &mut tar::Header, times: &Times) {
    // A time before 1970 is in base 256 with the sign bit set, and never later than a clamp.
    let field = header.as_old().mtime;
    let sec = if field[0] == 0xff { -1 } else { header.mtime().ok().and_then(|m| i64::try_from(m).ok()).unwrap_or(0) };
    if let Some(Ok(t)) = changed(sec, false, times).map(u64::try_from) {
        header.set_mtime(t);
    }
    header.set_cksum();
}

/// The records of an extended header with `mtime` changed, and the `size` that it gives. A time of whole seconds that fits
/// the plain header needs no record.
fn change_records(records: &[u8], times: &Times) -> io::Result<(Vec<u8>, Option<u64>)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "an extended header is malformed");
    let (mut out, mut size, mut rest) = (Vec::with_capacity(records.len()), None, records);
    while !rest.is_empty() {
        let space = memchr::memchr(b' ', rest).ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&rest[..space]).ok().and_then(|t| t.parse().ok()).ok_or_else(bad)?;
        let record = rest.get(..length).filter(|r| r.len() > space + 1 && r.ends_with(b"\n")).ok_or_else(bad)?;
        rest = &rest[length..];
        let pair = &record[space + 1..length - 1];
        let equals = memchr::memchr(b'=', pair).ok_or_else(bad)?;
        let value = std::str::from_utf8(&pair[equals + 1..]);
        match &pair[..equals] {
            b"mtime" => {
                let value = value.map_err(|_| bad())?;
                let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
                let sec: i64 = whole.parse().map_err(|_| bad())?;
                let more = !whole.starts_with('-') && fraction.bytes().any(|b| b != b'0');
                if changed(sec, more, times).is_some_and(|t| t >= 0) {
                    continue;
                }
            }
            b"size" => size = Some(value.ok().and_then(|v| v.parse().ok()).ok_or_else(bad)?),
            _ => {}
        }
        out.extend_from_slice(record);
    }
    Ok((out, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(mtimes: &[u64], pax: Option<&str>) -> Vec<u8> {
        let mut b = tar::Builder::new(vec![]);
        for (i, t) in mtimes.iter().enumerate() {
            if let Some(pax) = pax {
                b.append_pax_extensions([("mtime", pax.as_bytes())]).unwrap();
            }
            let mut h = tar::Header::new_ustar();
            h.set_path(format!("f{i}")).unwrap();
            h.set_size(3);
            h.set_mtime(*t);
            h.set_cksum();
            b.append(&h, &b"abc"[..]).unwrap();
        }
        b.into_inner().unwrap()
    }

    fn mtimes(tar: &[u8]) -> Vec<u64> {
        tar::Archive::new(tar).entries().unwrap().map(|e| e.unwrap().header().mtime().unwrap()).collect()
    }

    #[test]
    fn later_times_are_clamped_and_earlier_ones_stay() {
        let times = Times { clamp_to: Some(100), set_to: None };
        let mut out = vec![];
        let stats = retime(&layer(&[50, 100, 200], None)[..], &times, &mut out).unwrap();
        assert_eq!(mtimes(&out), [50, 100, 100]);
        assert_eq!(stats.entries, 3);
        assert_eq!(out, layer(&[50, 100, 100], None), "the bytes of a layer written with these times");
        assert_eq!((stats.size, stats.diff_id.0), (out.len() as u64, crate::oci::Digest::of(&out)));
    }

    #[test]
    fn all_times_are_set() {
        let mut out = vec![];
        retime(&layer(&[50, 200], None)[..], &Times { clamp_to: None, set_to: Some(7) }, &mut out).unwrap();
        assert_eq!(mtimes(&out), [7, 7]);
    }

    #[test]
    fn a_fraction_of_a_second_goes_with_its_record() {
        let mut out = vec![];
        let times = Times { clamp_to: Some(100), set_to: None };
        retime(&layer(&[100], Some("100.5"))[..], &times, &mut out).unwrap();
        assert_eq!(out, layer(&[100], None));
        let early = layer(&[99], Some("99.5"));
        out.clear();
        retime(&early[..], &times, &mut out).unwrap();
        assert_eq!(mtimes(&out), mtimes(&early));
        assert_eq!(out.len(), early.len());
    }

    #[test]
    fn a_broken_layer_is_an_error() {
        let whole = layer(&[1, 2], None);
        let times = Times { clamp_to: Some(0), set_to: None };
        for cut in [1, 511, 513, 1023, 1500] {
            assert!(retime(&whole[..cut], &times, io::sink()).is_err(), "{cut}");
        }
    }
}
