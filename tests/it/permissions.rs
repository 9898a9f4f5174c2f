//! What a process may do with files that is not root of the step: the kernel's answers, however the step is kept in.
//!
//! The same script runs as a user of the Dockerfile and as one that `su` makes, with a range of ids, where the kernel itself
//! judges; with one id; and without namespaces.

use crate::harness::{Lab, User, busybox_is_missing, require, which};
use std::process::Command;

const SETUP: &str = include_str!("permissions/setup.sh");
const PROBE: &str = include_str!("permissions/probe.sh");
const PROGRAM: &str = include_str!("permissions/program.c");

const DOCKERFILE: &str = "FROM localhost/busybox
COPY --chmod=755 program setup.sh probe.sh /
RUN sh /setup.sh && echo '# su' && su app -c 'sh /probe.sh made-here'
RUN sh /setup.sh
USER app
RUN echo '# user' && sh /probe.sh
USER root
RUN sh /setup.sh
USER 1000:60
RUN echo '# other group' && sh /probe.sh
";

/// How steps are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    Ranged,
    OneId,
    Trace,
}

impl Rung {
    /// What the script says there, by lines, with the user that it ran as in front.
    fn says(self, lab: &Lab) -> Vec<String> {
        let isolation = if self == Rung::Trace { "trace" } else { "namespaces" };
        let build = lab.rbuild(["bud", "--no-cache", "--isolation", isolation]).arg(lab.path("context"));
        let build = build.env("SOURCE_DATE_EPOCH", "1");
        // Without `newuidmap` there is one id.
        let done = if self == Rung::OneId { build.env("PATH", "/nowhere") } else { build }.output();
        assert_eq!(done.code, 0, "{self:?}: {done}");
        let mut user = "";
        let mut lines = Vec::new();
        for line in done.stdout.lines() {
            match line.strip_prefix("# ") {
                Some(name) => user = name,
                None if line.starts_with("STEP") => user = "",
                None if !user.is_empty() && !line.starts_with("-->") => lines.push(format!("{user}: {line}")),
                None => {}
            }
        }
        lines
    }
}

#[test]
fn whoever_is_not_root_may_do_what_the_kernel_would_let_them() {
    require!("gcc");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    assert!(which("gcc").is_some());
    let lab = Lab::new();
    lab.import_busybox();
    lab.context("context", &[("Dockerfile", DOCKERFILE), ("setup.sh", SETUP), ("probe.sh", PROBE)]);
    lab.write("program.c", PROGRAM);
    let built = Command::new("gcc")
        .args(["-static", "-O1", "-w", "-pthread", "-o"])
        .args([lab.path("context/program"), lab.path("program.c")])
        .status();
    assert!(built.expect("gcc").success());

    let one = Rung::OneId.says(&lab);
    // Some of it is known without anybody to compare with.
    for (line, wanted) in [
        ("read-600", "no Permission denied"),
        ("read-own", "yes own"),
        ("write-644", "no Permission denied"),
        ("create-in-755", "no Permission denied"),
        ("remove-in-755", "no Permission denied"),
        ("rename-in-755", "no Permission denied"),
        ("remove-in-sticky", "no Operation not permitted"),
        ("chmod-roots", "no Operation not permitted"),
        ("exec-700", "no Permission denied"),
        ("exec-711", "yes 1000"),
        ("setuid-root", "yes 0"),
        ("swapped-link", "yes opened only what it may"),
        ("swapped-path-in-memory", "yes opened only what it may"),
        ("swapped-program", "yes ran as they should"),
    ] {
        for user in ["su", "user", "other group"] {
            let start = format!("{user}: {line} ");
            let found = one.iter().find_map(|l| l.strip_prefix(&start)).unwrap_or_default();
            assert!(found.starts_with(wanted), "{start}{found}");
        }
    }
    let rungs = if User::find().ranged { [Rung::Ranged, Rung::Trace].as_slice() } else { &[Rung::Trace] };
    for rung in rungs {
        // Without namespaces the supervisor is the one that connects.
        let counts = |line: &&String| *rung != Rung::Trace || !line.contains(": peer ");
        let (there, here) = (rung.says(&lab), one.iter().filter(counts));
        let there = there.iter().filter(counts);
        let differing: Vec<String> =
            there.zip(here).filter(|(a, b)| a != b).map(|(a, b)| format!("{a}\n  {b}")).collect();
        assert!(differing.is_empty(), "{rung:?}, and with one id:\n{}", differing.join("\n"));
    }
}
