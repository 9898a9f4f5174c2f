//! Signature policies: what they let in and what not, judged as skopeo judges it as far as that can.

use crate::harness::{Done, Lab, Registry, require, which};
use std::path::PathBuf;

struct World {
    lab: Lab,
    registry: Registry,
}

/// Images in a registry: `team/signed:1` is signed with `key`, `team/plain:1` is not.
fn world() -> World {
    let (lab, registry) = (Lab::new(), Registry::start());
    lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    for name in ["key", "other"] {
        let (private, public) = (format!("{name}.pem"), format!("{name}.pub"));
        let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &private];
        lab.program("openssl", curve).ok();
        lab.program("openssl", ["pkey", "-in", &private, "-pubout", "-out", &public]).ok();
    }
    let world = World { lab, registry };
    let to = |name: &str| format!("docker://{}", world.name(name));
    world.lab.rbuild(["bud", "--sign-key=key.pem", "-t", &to("team/signed:1"), "context"]).ok();
    world.lab.rbuild(["bud", "--label=plain=yes", "-t", &to("team/plain:1"), "context"]).ok();
    // skopeo looks for cosign's signatures where it is told to.
    world.lab.write("registries.d/all.yaml", "default-docker:\n  use-sigstore-attachments: true\n");
    world
}

impl World {
    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.registry.host())
    }

    fn policy(&self, text: &str) -> PathBuf {
        let text = text.replace("HOST", &self.registry.host()).replace("DIR", &self.lab.dir().to_string_lossy());
        self.lab.write("policy.json", text)
    }

    /// A pull by the policy into a store of its own.
    fn pull(&self, image: &str) -> Done {
        let root = tempfile::tempdir_in(self.lab.dir()).unwrap();
        self.lab.own(root.path());
        let root = root.keep();
        let image = format!("docker://{}", self.name(image));
        self.lab
            .rbuild(["--root".as_ref(), root.as_os_str()])
            .args(["pull", "--signature-policy=policy.json", &image])
            .output()
    }

    /// What skopeo makes of the same policy and image.
    fn skopeo(&self, image: &str) -> Option<Done> {
        which("skopeo")?;
        let image = format!("docker://{}", self.name(image));
        let to = tempfile::tempdir_in(self.lab.dir()).unwrap();
        self.lab.own(to.path());
        let to = format!("dir:{}", to.keep().display());
        let flags = ["--policy", "policy.json", "--registries.d", "registries.d"];
        let copy = ["copy", "--remove-signatures", "--src-tls-verify=false", &image, &to];
        Some(self.lab.program("skopeo", flags).args(copy).output())
    }
}

fn signed(more: &str) -> String {
    format!(
        r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"HOST/team": [{{"type": "sigstoreSigned", {more}}}]}}}}}}"#
    )
}

#[test]
fn policies_let_in_what_skopeo_lets_in() {
    require!("docker-registry", "openssl");
    let world = world();
    let repository = r#""signedIdentity": {"type": "matchRepository"}"#;
    let of = |key: &str, identity: &str| signed(&format!(r#""keyPath": "DIR/{key}.pub", {identity}"#));
    let exact = |form: &str| of("key", &format!(r#""signedIdentity": {form}"#));
    for (policy, image, want) in [
        (of("key", repository), "team/signed:1", Ok(())),
        (of("other", repository), "team/signed:1", Err("it is not signed with a key of the policy")),
        (of("key", repository), "team/plain:1", Err("it is not signed")),
        // cosign's signatures name no tag.
        (signed(r#""keyPath": "DIR/key.pub""#), "team/signed:1", Err("it is signed for another name")),
        (exact(r#"{"type": "matchExact"}"#), "team/signed:1", Err("it is signed for another name")),
        (exact(r#"{"type": "exactRepository", "dockerRepository": "HOST/team/signed"}"#), "team/signed:1", Ok(())),
        (
            exact(r#"{"type": "exactRepository", "dockerRepository": "HOST/team/else"}"#),
            "team/signed:1",
            Err("it is signed for another name"),
        ),
        (r#"{"default": [{"type": "insecureAcceptAnything"}]}"#.into(), "team/plain:1", Ok(())),
        (
            r#"{"default": [{"type": "reject"}]}"#.into(),
            "team/signed:1",
            Err("rejected by `default` of signature policy `policy.json`: it rejects everything"),
        ),
        (
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {"HOST/team/plain": [{"type": "insecureAcceptAnything"}]}}}"#.into(),
            "team/plain:1",
            Ok(()),
        ),
        (
            r#"{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {"HOST/team/plain:1": [{"type": "reject"}]}}}"#.into(),
            "team/plain:1",
            Err("team/plain:1` of `docker` of signature policy"),
        ),
        // All requirements count.
        (
            of("key", repository).replace("]}}}", r#", {"type": "reject"}]}}}"#),
            "team/signed:1",
            Err("it rejects everything"),
        ),
        (r#"{"default": [{"type": "insecureAcceptAnything"}], "more": 1}"#.into(), "team/plain:1", Err("unknown field `more`")),
        (
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {"HOST": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/none"}]}}}"#.into(),
            "team/plain:1",
            Err("`signedBy` asks for GPG signatures"),
        ),
        (of("none", repository), "team/signed:1", Err("cannot read the key")),
    ] {
        world.policy(&policy);
        let done = world.pull(image);
        match want {
            Ok(()) => assert_eq!(done.code, 0, "{policy}: {done}"),
            Err(part) => assert!(done.code != 0 && done.stderr.contains(part), "{policy}: {part}: {done}"),
        }
        // Debian's skopeo is built without sigstore.
        if let Some(theirs) = world.skopeo(image).filter(|theirs| !theirs.stderr.contains("sigstore disabled")) {
            assert_eq!(theirs.code == 0, want.is_ok(), "skopeo disagrees about {policy}: {theirs}");
        }
    }
    // By digest and with the key in the policy.
    let key = std::fs::read(world.lab.path("key.pub")).unwrap();
    let data = world.lab.program("base64", ["-w0"]).input(key).ok().stdout;
    world.policy(&signed(&format!(r#""keyDatas": ["{data}"], {repository}"#)));
    assert_eq!(world.pull("team/signed:1").code, 0);
    // Nothing of what is refused comes near the store.
    world.policy(r#"{"default": [{"type": "reject"}]}"#);
    let lab = &world.lab;
    let image = format!("docker://{}", world.name("team/signed:1"));
    let root = lab.mkdir("fresh");
    let run = || lab.rbuild(["--root".as_ref(), root.as_os_str()]);
    run().args(["pull", "--signature-policy=policy.json", &image]).fails();
    let blobs = std::fs::read_dir(root.join("blobs/sha256")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
}

#[test]
fn builds_obey_the_policy_of_the_user() {
    require!("docker-registry", "openssl");
    let world = world();
    let lab = &world.lab;
    let text = signed(r#""keyPath": "DIR/key.pub", "signedIdentity": {"type": "matchRepository"}"#);
    let user = lab.mkdir("home/.config/containers").join("policy.json");
    let there = world.policy(&text);
    std::fs::rename(there, &user).unwrap();
    let build = |dockerfile: &str, more: &[&str]| {
        lab.rbuild(["bud", "-f", "-"])
            .args(more)
            .arg("context")
            .input(dockerfile.replace("HOST", &world.registry.host()))
            .output()
    };
    let (from, copy) = ("FROM HOST/team/signed:1\n", "FROM scratch\nCOPY --from=HOST/team/plain:1 / /\n");
    let done = build(from, &[]);
    assert_eq!(done.code, 0, "{done}");
    for dockerfile in ["FROM HOST/team/plain:1\n", copy] {
        let done = build(dockerfile, &[]);
        assert!(done.code != 0 && done.stderr.contains("it is not signed"), "{done}");
        // A registry that refuses to answer is another thing than a policy that refuses.
        let done = build(dockerfile, &["--pull=ifnewer"]);
        assert!(done.code != 0 && done.stderr.contains("it is not signed"), "{done}");
    }
    // Another policy, by the flag: with it the image comes into the store, and is judged no more.
    world.policy(r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
    assert_eq!(build(copy, &["--signature-policy=policy.json"]).code, 0);
    let image = format!("docker://{}", world.name("team/plain:1"));
    lab.rbuild(["pull", "--signature-policy=policy.json", &image]).ok();
    let done = build(copy, &[]);
    assert_eq!(done.code, 0, "{done}");
    let done = build(copy, &["--pull=always"]);
    assert!(done.code != 0 && done.stderr.contains("it is not signed"), "{done}");
    let done = build(copy, &["--signature-policy=none.json"]);
    assert!(done.code != 0 && done.stderr.contains("cannot read signature policy `none.json`"), "{done}");
}

#[test]
fn a_signed_index_vouches_for_its_images() {
    require!("docker-registry", "openssl");
    let world = world();
    let lab = &world.lab;
    let to = format!("docker://{}", world.name("team/many:1"));
    let platforms = "--platform=linux/amd64,linux/arm64";
    lab.rbuild(["bud", "--sign-key=key.pem", platforms, "-t", &to, "context"]).ok();
    let unsigned = format!("docker://{}", world.name("team/few:1"));
    lab.rbuild(["bud", platforms, "--label=a=b", "-t", &unsigned, "context"]).ok();
    world.policy(&signed(r#""keyPath": "DIR/key.pub", "signedIdentity": {"type": "matchRepository"}"#));
    let done = world.pull("team/many:1");
    assert_eq!(done.code, 0, "{done}");
    assert!(world.pull("team/few:1").stderr.contains("it is not signed"));
}

#[test]
fn lists_take_what_a_policy_lets_in() {
    require!("docker-registry", "openssl");
    let world = world();
    let lab = &world.lab;
    lab.rbuild(["bud", "-t", "oci:layout", "context"]).ok();
    world.policy(&signed(r#""keyPath": "DIR/key.pub", "signedIdentity": {"type": "matchRepository"}"#));
    let image = |name: &str| format!("docker://{}", world.name(name));
    let policy = "--signature-policy=policy.json";
    lab.rbuild(["manifest", "create", "list"]).ok();
    let add = |more: &[&str], image: &str| lab.rbuild(["manifest", "add"]).args(more).args(["list", image]).output();
    let entries = || {
        let list = lab.rbuild(["manifest", "inspect", "list"]).ok().stdout;
        let list: serde_json::Value = serde_json::from_str(&list).expect("a list");
        list["manifests"].as_array().expect("entries").len()
    };
    for (image, words) in [(image("team/plain:1"), "it is not signed"), ("oci:layout".into(), "it rejects everything")]
    {
        let done = add(&[policy], &image);
        assert!(done.code != 0 && done.stderr.contains(words) && entries() == 0, "{done}");
        let done = lab.rbuild(["manifest", "create", policy, "other", &image]).output();
        assert!(done.code != 0 && done.stderr.contains(words), "{done}");
    }
    let done = add(&[policy], &image("team/signed:1"));
    assert!(done.code == 0 && entries() == 1, "{done}");
    lab.rbuild(["manifest", "create", policy, "signed", &image("team/signed:1")]).ok();
    let done = add(&["--signature-policy=none.json"], &image("team/signed:1"));
    assert!(done.code != 0 && done.stderr.contains("cannot read signature policy `none.json`"), "{done}");
    // Nothing refuses it without a policy.
    let done = add(&[], &image("team/plain:1"));
    assert_eq!(done.code, 0, "{done}");
}

#[test]
fn archives_and_directories_have_scopes_of_their_own() {
    require!("docker-registry", "openssl");
    let world = world();
    let lab = &world.lab;
    for to in ["oci:open/layout", "oci:shut/layout", "docker-archive:open/docker.tar", "oci-archive:open/oci.tar"] {
        std::fs::create_dir_all(lab.path("open")).unwrap();
        std::fs::create_dir_all(lab.path("shut")).unwrap();
        lab.own(&lab.path("open"));
        lab.own(&lab.path("shut"));
        lab.rbuild(["bud", "-t", to, "context"]).ok();
    }
    let accept = r#"[{"type": "insecureAcceptAnything"}]"#;
    world.policy(&format!(
        r#"{{"default": [{{"type": "reject"}}], "transports": {{"oci": {{"DIR/open": {accept}}}, "docker-archive": {{"": {accept}}}}}}}"#
    ));
    let pull = |from: &str| lab.rbuild(["pull", "--signature-policy=policy.json", from]).output();
    for good in ["oci:open/layout", "docker-archive:open/docker.tar"] {
        let done = pull(good);
        assert_eq!(done.code, 0, "{done}");
    }
    for bad in ["oci:shut/layout", "oci-archive:open/oci.tar"] {
        let done = pull(bad);
        assert!(done.code != 0 && done.stderr.contains("`default` of signature policy"), "{done}");
    }
    let load = |file: &str| lab.rbuild(["load", "--signature-policy=policy.json", "-i", file]).output();
    assert_eq!(load("open/docker.tar").code, 0);
    let done = load("open/oci.tar");
    assert!(done.code != 0 && done.stderr.contains("`oci-archive:open/oci.tar` is rejected"), "{done}");
    let context = |dir: &str| {
        let named = format!("--build-context=base=oci-layout://{dir}");
        let run = lab.rbuild(["bud", "--signature-policy=policy.json", &named, "-f", "-", "context"]);
        run.input("FROM base\n").output()
    };
    let done = context("open/layout");
    assert_eq!(done.code, 0, "{done}");
    assert!(context("shut/layout").stderr.contains("is rejected by"));
}
