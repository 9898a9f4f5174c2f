//! Sockets whose addresses are paths.

use super::{Answer, Call, Errno, Reply};

pub(in crate::supervisor) fn socket(_: &mut Call<'_>) -> Answer {
    Ok(Reply::GoOn)
}

pub(in crate::supervisor) fn bind(call: &mut Call<'_>) -> Answer {
    call.addressed()
}

pub(in crate::supervisor) fn connect(call: &mut Call<'_>) -> Answer {
    call.addressed()
}

impl Call<'_> {
    fn addressed(&self) -> Answer {
        let family = self.bytes(self.arg(1), 2)?;
        let family = family.first_chunk::<2>().map_or(0, |b| u16::from_ne_bytes(*b));
        if i32::from(family) == libc::AF_UNIX { Err(Errno::NOENT) } else { Ok(Reply::GoOn) }
    }
}
