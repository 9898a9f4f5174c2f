//! The program: the init of a step, the server of its file system, or a probe of the kernel, where it was started as that,
//! else the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    if rbuild::sandbox::is_init(std::env::args_os().next().as_deref()) {
        return ExitCode::from(rbuild::sandbox::init_main());
    }
    if rbuild::snapshot::is_probe(std::env::args_os().next().as_deref()) {
        return ExitCode::from(rbuild::snapshot::probe_main());
    }
    if rbuild::snapshot::fuse::is_server(std::env::args_os().next().as_deref()) {
        return ExitCode::from(rbuild::snapshot::fuse::main());
    }
    // While there is one thread. Verbs that need a user namespace enter it first thing, too.
    rbuild::sys::names::pin();
    rbuild::cli::main()
}
