//! What stat(2) and its kin answer, in the layouts that programs know.

use rustix::fs::Statx;

/// `struct stat` of x86_64.
pub(super) fn encode_native(s: &Statx) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u64(device(s.stx_dev_major, s.stx_dev_minor)).u64(s.stx_ino).u64(s.stx_nlink.into());
    out.u32(s.stx_mode.into()).u32(s.stx_uid).u32(s.stx_gid).u32(0);
    out.u64(device(s.stx_rdev_major, s.stx_rdev_minor)).u64(s.stx_size).u64(s.stx_blksize.into()).u64(s.stx_blocks);
    for time in [&s.stx_atime, &s.stx_mtime, &s.stx_ctime] {
        out.u64(time.tv_sec.cast_unsigned()).u64(time.tv_nsec.into());
    }
    out.u64(0).u64(0).u64(0);
    out.0
}

/// `struct stat64` of i386.
pub(super) fn encode_compat(s: &Statx) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u64(device(s.stx_dev_major, s.stx_dev_minor)).u32(0).u32(low(s.stx_ino));
    out.u32(s.stx_mode.into()).u32(s.stx_nlink).u32(s.stx_uid).u32(s.stx_gid);
    out.u64(device(s.stx_rdev_major, s.stx_rdev_minor)).u32(0).u64(s.stx_size).u32(s.stx_blksize).u64(s.stx_blocks);
    for time in [&s.stx_atime, &s.stx_mtime, &s.stx_ctime] {
        out.u32(low(time.tv_sec.cast_unsigned())).u32(time.tv_nsec);
    }
    out.u64(s.stx_ino);
    out.0
}

/// `struct stat` of i386, as its oldest calls have it.
pub(super) fn encode_compat_short(s: &Statx) -> Vec<u8> {
    let short = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let mut out = Bytes::default();
    out.u32(low(device(s.stx_dev_major, s.stx_dev_minor))).u32(low(s.stx_ino)).u16(s.stx_mode);
    out.u16(short(s.stx_nlink)).u16(short(s.stx_uid)).u16(short(s.stx_gid));
    out.u32(low(device(s.stx_rdev_major, s.stx_rdev_minor))).u32(low(s.stx_size)).u32(s.stx_blksize);
    out.u32(low(s.stx_blocks));
    for time in [&s.stx_atime, &s.stx_mtime, &s.stx_ctime] {
        out.u32(low(time.tv_sec.cast_unsigned())).u32(time.tv_nsec);
    }
    out.u32(0).u32(0);
    out.0
}

/// `struct statx`.
pub(super) fn encode_statx(s: &Statx) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u32(s.stx_mask).u32(s.stx_blksize).u64(s.stx_attributes.bits());
    out.u32(s.stx_nlink).u32(s.stx_uid).u32(s.stx_gid).u16(s.stx_mode).u16(0);
    out.u64(s.stx_ino).u64(s.stx_size).u64(s.stx_blocks).u64(s.stx_attributes_mask.bits());
    for time in [&s.stx_atime, &s.stx_btime, &s.stx_ctime, &s.stx_mtime] {
        out.u64(time.tv_sec.cast_unsigned()).u32(time.tv_nsec).u32(0);
    }
    out.u32(s.stx_rdev_major).u32(s.stx_rdev_minor).u32(s.stx_dev_major).u32(s.stx_dev_minor);
    out.u64(s.stx_mnt_id).u32(s.stx_dio_mem_align).u32(s.stx_dio_offset_align);
    out.0.resize(256, 0);
    out.0
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// Device numbers as `struct stat` has them.
pub(super) fn device(major: u32, minor: u32) -> u64 {
    u64::from((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12))
}

/// Bytes in this machine's order.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, value: u16) -> &mut Bytes {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Bytes {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Bytes {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
}
