//! The program: the command line, and the hidden roles in which it calls itself.

fn main() -> std::process::ExitCode {
    rbuild::cli::main()
}
