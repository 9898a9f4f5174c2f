//! How the C library finds hosts and users.
//!
//! It reads `/etc/nsswitch.conf` and loads a shared object for each service that stands there. A static program must not
//! load any: it crashes, or finds nothing. So the services that are linked in are chosen before the first look-up.

use std::ffi::{CStr, c_char, c_int};

/// Database and services.
const SERVICES: [(&CStr, &CStr); 4] =
    [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files"), (c"shadow", c"files")];

unsafe extern "C" {
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// Fixes the services, whatever `/etc/nsswitch.conf` says. To be called by the program before it has threads.
pub fn pin() {
    for (database, services) in SERVICES {
        // SAFETY: both are C strings that live for ever. It can only fail for a database that is unknown, which then
        // stays as it is.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use std::net::ToSocketAddrs as _;

    #[test]
    fn localhost_is_found() {
        super::pin();
        let mut found = ("localhost", 80).to_socket_addrs().unwrap();
        assert!(found.all(|a| a.ip().is_loopback()));
    }
}
