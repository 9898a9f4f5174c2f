//! Link options of the program.

fn main() {
    // Relocations in 17 KB instead of 2 MB. Every RUN step starts the program once more, as its init, and a
    // position-independent static program relocates itself each time.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    println!("cargo:rerun-if-changed=build.rs");
}
