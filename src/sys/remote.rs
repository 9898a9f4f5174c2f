//! The memory of another process.

use std::io;

/// Reads up to `into.len()` bytes at `address` of the process that thread `tid` belongs to; fewer where its memory ends
/// before. EFAULT where there is none at all.
pub fn read(tid: i32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: the local range is `into`; the remote one is checked by the kernel.
    match unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) } {
        -1 => Err(io::Error::last_os_error()),
        n => Ok(n.unsigned_abs()),
    }
}

/// As [`read`], but all of it or EFAULT.
pub fn read_exact(tid: i32, address: u64, into: &mut [u8]) -> io::Result<()> {
    if into.is_empty() || read(tid, address, into)? == into.len() { Ok(()) } else { Err(fault()) }
}

/// Writes all bytes, or fails with EFAULT, when some may have been written.
pub fn write(tid: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the local range is `bytes`, which is only read; the remote one is checked by the kernel.
    match unsafe { libc::process_vm_writev(tid, &raw const local, 1, &raw const remote, 1, 0) } {
        -1 => Err(io::Error::last_os_error()),
        n if n.unsigned_abs() == bytes.len() => Ok(()),
        _ => Err(fault()),
    }
}

/// How much is read at once of a string whose length is not known; pages are read whole or not at all.
const STRING_PIECE_BYTES: usize = 256;
const PAGE_BYTES: u64 = 4096;

/// The bytes of a C string, without its end; ENAMETOOLONG where it has `limit` bytes or more.
pub fn read_string(tid: i32, address: u64, limit: usize) -> io::Result<Vec<u8>> {
    let mut string = Vec::new();
    let mut at = address;
    let mut piece = [0u8; STRING_PIECE_BYTES];
    loop {
        // Never across the end of a page behind which there may be nothing.
        let rest = PAGE_BYTES - at % PAGE_BYTES;
        let wanted = usize::try_from(rest).map_or(STRING_PIECE_BYTES, |rest| rest.min(STRING_PIECE_BYTES));
        let Some(piece) = piece.get_mut(..wanted) else { return Err(fault()) };
        let got = read(tid, at, piece)?;
        let Some(piece) = piece.get(..got) else { return Err(fault()) };
        if let Some(end) = memchr::memchr(0, piece) {
            string.extend_from_slice(piece.get(..end).unwrap_or_default());
            return if string.len() < limit {
                Ok(string)
            } else {
                Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
            };
        }
        if got == 0 {
            return Err(fault());
        }
        string.extend_from_slice(piece);
        if string.len() >= limit {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        at = at.wrapping_add(got as u64);
    }
}

fn fault() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_and_written() {
        let me = std::process::id().cast_signed();
        let mut target = *b"0123456789";
        write(me, (&raw mut target) as u64, b"ab").unwrap();
        let mut read_back = [0; 10];
        read_exact(me, (&raw const target) as u64, &mut read_back).unwrap();
        assert_eq!(&read_back, b"ab23456789");
        let long = [vec![b'x'; 5000], vec![0]].concat();
        assert_eq!(read_string(me, long.as_ptr() as u64, 6000).unwrap().len(), 5000);
        let errno = |r: io::Result<Vec<u8>>| r.unwrap_err().raw_os_error();
        assert_eq!(errno(read_string(me, long.as_ptr() as u64, 4096)), Some(libc::ENAMETOOLONG));
        assert_eq!(errno(read_string(me, 8, 4096)), Some(libc::EFAULT));
    }
}
