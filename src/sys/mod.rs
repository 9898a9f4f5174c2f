//! Safe functions over system calls: every `unsafe` of rbuild is here.

pub mod idmap;
pub mod passwd;
pub mod signal;
pub mod userns;
