//! The program: the init of a step where it was started as that, else the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if rbuild::sandbox::is_init(arguments.next().as_deref()) {
        return ExitCode::from(rbuild::sandbox::init_main());
    }
    if cfg!(debug_assertions) && arguments.next().is_some_and(|verb| verb == "debug-step" || verb == "debug-unshare") {
        return ExitCode::from(rbuild::sandbox::debug_step());
    }
    rbuild::cli::main()
}
