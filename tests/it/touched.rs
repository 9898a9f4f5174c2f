//! After a step under a supervisor only those files are looked at that it may have changed: the image has to be the one that
//! looking at all of them makes. A build of this program for tests compares both after every step besides.

use crate::harness::{Lab, Run, busybox_is_missing, require};

/// Ways to change files, as `touched.c` names them.
const WAYS: [&str; 14] = [
    "prepare",
    "times",
    "modes",
    "places",
    "memory",
    "left-behind",
    "without-a-name",
    "moves",
    "names",
    "contents",
    "handed-over",
    "directories",
    "again",
    "narrow",
];

/// Further steps, of programs that do not care.
const STEPS: &str = r#"
RUN true
RUN cat /w/a /etc/passwd && ls -lR /w && find /w /usr /etc /bin
COPY f /w/deep/
RUN true
RUN touch /own/new && rm /own/new
RUN sed -i s/x/y/ /w/d1/in/x && cp -a /w /v && tar -c -f /v/tar /w && tar -x -f /v/tar -C /v && rm /v/tar
RUN mv /v/w /v/d1/w && rm -r /v/d2 && ln -s d1 /v/d2 && echo x >/v/d2/through
COPY --chown=7:8 f /v/d1/in/
RUN chown 9:9 /own/o1 && chmod 4711 /own/o2 && mv /own /moved && mv /moved/o3 /o3
RUN ln /moved/o4 /o4 && chown 11 /o4
RUN rm -rf /v /o4 && mkdir /v && echo x >/v/x
RUN mount | wc -l >/dev/null; test -d /proc/self && echo x >/tmp/x && rm /tmp/x
WORKDIR /made/for/it
RUN true
RUN --mount=type=tmpfs,target=/mnt --mount=type=bind,source=f,target=/point/f echo x >/mnt/x && cp /point/f /f2
RUN --mount=type=cache,target=/c echo x >/c/x
RUN --mount=type=cache,target=/c rm /c/x; echo y >>/f2
"#;

/// The digest of the image that these steps make.
fn image(lab: &Lab, flags: &[&str]) -> String {
    let build = lab.rbuild(["--storage-driver=copy", "bud", "--no-cache", "-t", "localhost/x"]).args(flags);
    let done = build.arg(lab.path("context")).env("SOURCE_DATE_EPOCH", "1700000000").output();
    assert_eq!(done.code, 0, "{flags:?}: {done}");
    lab.rbuild(["inspect", "--format", "{{.FromImageDigest}}", "localhost/x"]).ok().stdout
}

#[test]
fn what_a_supervisor_says_is_all_that_changed() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let ways: Vec<String> = WAYS.iter().map(|way| format!("RUN [\"/change\", \"{way}\"]\n")).collect();
    let start = "FROM localhost/busybox\nCOPY --chmod=755 change /change\nCOPY --chown=5:6 own /own\n";
    let dockerfile = format!("{start}{}{STEPS}", ways.concat());
    let own = ["own/o1", "own/o2", "own/o3", "own/o4"].map(|name| (name, "x"));
    let mut files = vec![("Dockerfile", dockerfile.as_str()), ("f", "f")];
    files.extend(own);
    lab.context("context", &files);
    let source = lab.write("touched.c", include_str!("touched.c"));
    let gcc = Run::new("gcc", ["-static", "-no-pie", "-O1", "-o"]).arg(lab.path("context/change"));
    gcc.arg(source).ok();
    let told = image(&lab, &["--isolation=trace"]);
    let seen = image(&lab, &["--isolation=namespaces"]);
    assert_eq!(told, seen);
}
