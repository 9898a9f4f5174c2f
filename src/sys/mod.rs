//! Safe functions over system calls: every `unsafe` of rbuild is here.
