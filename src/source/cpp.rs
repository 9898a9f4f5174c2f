//! Dockerfiles that end with `.in`: they go through the C preprocessor first, as with buildah.

use super::{Dockerfile, Error};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether a file of this name is preprocessed.
pub fn is_wanted(name: &str) -> bool {
    name.ends_with(".in")
}

/// Replaces the text by what `cpp` makes of it. `"…"` includes are looked for in `directory` too; `flags` come before all
/// others. Gives what the preprocessor complained about, where that kept it from nothing.
///
/// # Errors
///
/// There is no `cpp`, or it gives nothing.
pub fn preprocess(file: &mut Dockerfile, directory: Option<&Path>, flags: &[String]) -> Result<Option<String>, Error> {
    let failed = |why: String| Error::Preprocess { name: file.name.clone(), why };
    let mut command = Command::new("cpp");
    command.args(flags).arg("-E");
    if let Some(directory) = directory {
        command.arg("-iquote").arg(directory);
    }
    command.args(["-traditional", "-undef", "-"]).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::NoProgram { program: "cpp", needed_for: file.name.clone() },
        _ => failed(e.to_string()),
    })?;
    let stdin = child.stdin.take();
    let content = &file.content;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(content)));
        child.wait_with_output()
    })
    .map_err(|e| failed(e.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // buildah goes on where there is something to go on with: a comment in the Dockerfile is a malformed directive.
    if !output.status.success() && output.stdout.is_empty() {
        return Err(failed(if said.is_empty() { output.status.to_string() } else { said }));
    }
    file.content = output.stdout;
    Ok((!output.status.success() && !said.is_empty()).then_some(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_and_includes_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tail.in"), "RUN WHAT\n").unwrap();
        let text = "# comment\nFROM BASE\n#include \"tail.in\"\n";
        let mut file = Dockerfile::from_stream("Containerfile.in", text.as_bytes().to_vec());
        match preprocess(&mut file, Some(dir.path()), &["-DBASE=scratch".into(), "-DWHAT=true".into()]) {
            Err(Error::NoProgram { .. }) if std::env::var_os("CI").is_none() => eprintln!("skipped: there is no `cpp`"),
            done => {
                done.unwrap();
                let text = String::from_utf8(file.content).unwrap();
                let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
                assert_eq!(lines, ["FROM scratch", "RUN true"]);
            }
        }
        assert!(is_wanted("a/Containerfile.in") && !is_wanted("Containerfile"));
    }
}
