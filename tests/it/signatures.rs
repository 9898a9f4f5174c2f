//! Signatures, checked by `rbuild verify` and, from what the registry stores, by the published rules of cosign with OpenSSL.

use crate::harness::{Done, Lab, Registry, require};
use serde_json::Value;
use std::path::Path;

struct World {
    lab: Lab,
    registry: Registry,
}

impl World {
    fn new() -> World {
        let (lab, registry) = (Lab::new(), Registry::start());
        lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
        let world = World { lab, registry };
        world.key("key");
        world
    }

    /// Makes a key as its users do, and its public half.
    fn key(&self, name: &str) {
        let (private, public) = (format!("{name}.pem"), format!("{name}.pub"));
        let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &private];
        self.lab.program("openssl", curve).ok();
        self.lab.program("openssl", ["pkey", "-in", &private, "-pubout", "-out", &public]).ok();
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.registry.host())
    }

    fn curl(&self, more: &[&str], path: &str) -> String {
        let accept = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
        let url = format!("http://{}/v2/{path}", self.registry.host());
        self.lab.program("curl", ["-sSf", "-L", "-H", accept]).args(more).arg(url).ok().stdout
    }

    /// The digest of what a tag names.
    fn digest(&self, repository: &str, tag: &str) -> String {
        let head = self.curl(&["-I"], &format!("{repository}/manifests/{tag}")).to_ascii_lowercase();
        let line = head.lines().find(|l| l.starts_with("docker-content-digest:")).expect("a digest");
        line.split_once(' ').unwrap().1.trim().to_owned()
    }

    fn verify(&self, key: &str, name: &str) -> Done {
        self.lab.rbuild(["verify", "--key", key, name]).output()
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn a_signature_holds_by_cosigns_rules() {
    require!("docker-registry", "curl", "openssl", "base64");
    let world = World::new();
    let (lab, name) = (&world.lab, world.name("team/app:1"));
    lab.rbuild(["bud", "--sign-key=key.pem", "-t", &format!("docker://{name}"), "context"]).ok();
    let image = world.digest("team/app", "1");

    // The tag is made of the digest; each layer is a payload with its signature.
    let tag = image.replace(':', "-") + ".sig";
    let manifest = json(&world.curl(&[], &format!("team/app/manifests/{tag}")));
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    assert_eq!(layers[0]["mediaType"], "application/vnd.dev.cosign.simplesigning.v1+json");
    let payload = world.curl(&[], &format!("team/app/blobs/{}", layers[0]["digest"].as_str().unwrap()));
    lab.write("payload", &payload);
    lab.write("signature.b64", layers[0]["annotations"]["dev.cosignproject.cosign/signature"].as_str().unwrap());
    lab.program("sh", ["-c", "base64 -d signature.b64 >signature"]).ok();
    let openssl = ["dgst", "-sha256", "-verify", "key.pub", "-signature", "signature"];
    let openssl = |file: &str| lab.program("openssl", openssl).arg(file);
    openssl("payload").ok();
    lab.write("flipped", payload.replacen("cosign", "cosigm", 1));
    openssl("flipped").fails();
    // Its claims: what it is, and of which image.
    let claims = json(&payload);
    assert_eq!(claims["critical"]["type"], "cosign container image signature");
    assert_eq!(claims["critical"]["image"]["docker-manifest-digest"], image.as_str());
    assert_eq!(claims["critical"]["identity"]["docker-reference"], world.name("team/app"));

    // It is a referrer as well.
    assert_eq!(manifest["subject"]["digest"], image.as_str());
    let referrers = json(&world.curl(&[], &format!("team/app/manifests/{}", image.replace(':', "-"))));
    assert_eq!(referrers["manifests"][0]["digest"], world.digest("team/app", &tag).as_str());
    assert_eq!(referrers["manifests"][0]["artifactType"], "application/vnd.dev.cosign.artifact.sig.v1+json");

    for by in [name.clone(), world.name(&format!("team/app@{image}"))] {
        let done = world.verify("key.pub", &by);
        assert_eq!(done.code, 0, "{done}");
        assert_eq!(json(&done.stdout)[0], claims);
    }
    // Signed again it is the same signature; another key adds its own.
    world.key("other");
    assert!(world.verify("other.pub", &name).stderr.contains("not made with this key"));
    lab.rbuild(["bud", "--sign-key=key.pem", "-t", &format!("docker://{name}"), "context"]).ok();
    lab.rbuild(["bud", "--sign-key=other.pem", "-t", &format!("docker://{name}"), "context"]).ok();
    let manifest = json(&world.curl(&[], &format!("team/app/manifests/{tag}")));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2, "{manifest:#}");
    for key in ["key.pub", "other.pub"] {
        assert_eq!(world.verify(key, &name).code, 0);
    }
}

#[test]
fn a_changed_byte_or_a_missing_signature_fails() {
    require!("docker-registry", "curl", "openssl");
    let world = World::new();
    let (lab, name) = (&world.lab, world.name("app:1"));
    lab.rbuild(["bud", "-t", "app", "context"]).ok();
    lab.rbuild(["push", "app", &name]).ok();
    let done = world.verify("key.pub", &name);
    assert!(done.code != 0 && done.stderr.contains("it has none"), "{done}");
    lab.rbuild(["push", "--sign-key=key.pem", "app", &name]).ok();
    assert_eq!(world.verify("key.pub", &name).code, 0);

    // The manifest of signatures goes, and comes back with one character of the signature changed.
    let tag = world.digest("app", "1").replace(':', "-") + ".sig";
    let stored = world.curl(&[], &format!("app/manifests/{tag}"));
    world.curl(&["-X", "DELETE"], &format!("app/manifests/{}", world.digest("app", &tag)));
    let put = |text: &str| {
        lab.write("manifest", text);
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
        world.curl(&["-X", "PUT", "-H", kind, "--data-binary", "@manifest"], &format!("app/manifests/{tag}"));
    };
    assert!(world.verify("key.pub", &name).stderr.contains("it has none"));
    let signature = json(&stored)["layers"][0]["annotations"]["dev.cosignproject.cosign/signature"].clone();
    let signature = signature.as_str().unwrap();
    let other = if &signature[20..21] == "A" { "B" } else { "A" };
    put(&stored.replace(signature, &format!("{}{other}{}", &signature[..20], &signature[21..])));
    let done = world.verify("key.pub", &name);
    assert!(done.code != 0 && done.stderr.contains("not made with this key"), "{done}");
    put(&stored);
    assert_eq!(world.verify("key.pub", &name).code, 0);

    // A signature of one image says nothing of another.
    lab.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /other\n");
    lab.rbuild(["bud", "-t", &format!("docker://{}", world.name("app:2")), "context"]).ok();
    let second = world.digest("app", "2").replace(':', "-") + ".sig";
    lab.write("manifest", &stored);
    let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
    world.curl(&["-X", "PUT", "-H", kind, "--data-binary", "@manifest"], &format!("app/manifests/{second}"));
    let done = world.verify("key.pub", &world.name("app:2"));
    assert!(done.code != 0 && done.stderr.contains("it is of another image"), "{done}");
}

#[test]
fn what_cannot_sign_is_said_before_anything_is_built() {
    require!("openssl");
    let lab = Lab::new();
    lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let make = |name: &str, args: &[&str]| drop(lab.program("openssl", args).args(["-out", name]).ok());
    make("rsa.pem", &["genpkey", "-algorithm", "RSA"]);
    make("p384.pem", &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    make("sec1.pem", &["ecparam", "-name", "prime256v1", "-genkey", "-noout"]);
    lab.write(
        "cosign.key",
        "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n",
    );
    for (key, part) in [
        ("rsa.pem", "no ECDSA key of the curve P-256"),
        ("p384.pem", "no ECDSA key of the curve P-256"),
        ("sec1.pem", "openssl pkcs8 -topk8 -nocrypt"),
        ("cosign.key", "cosign encrypted it"),
        ("none.pem", "cannot read `none.pem`"),
    ] {
        assert!(Path::new(&lab.path(key)).exists() || key == "none.pem");
        let done = lab.rbuild(["bud", "--sign-key", key, "-t", "docker://127.0.0.1:9/x", "context"]).fails();
        assert!(done.stderr.contains(part) && !done.stdout.contains("STEP"), "{done}");
        let done = lab.rbuild(["verify", "--key", key, "127.0.0.1:9/x"]).fails();
        assert!(done.stderr.contains("key") || key == "none.pem", "{done}");
    }
    let done = lab.rbuild(["bud", "--sign-key", "rsa.pem", "-t", "x", "context"]).fails();
    assert!(done.stderr.contains("without a registry"), "{done}");
}
