//! What is said about an image, as others find it: in the index, among the referrers, in archives.

use crate::harness::{Lab, Registry, busybox_is_missing, require};
use crate::sbom::checked;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const DOCKERFILE: &str = "FROM localhost/busybox AS work\nARG TOKEN\n\
    RUN --mount=type=secret,id=key echo $TOKEN >/out\nFROM localhost/busybox\nCOPY --from=work /out /out\n\
    COPY Cargo.lock /app/\nLABEL secret-label=hush\nCMD [\"true\"]\n";
const LOCK: &str = "version = 4\n[[package]]\nname = \"serde\"\nversion = \"1.0.200\"\n";
/// Flags that make the builds of these tests.
const BUILD: [&str; 4] =
    ["--build-arg=TOKEN=argument-value", "--secret=id=key,src=key", "--target=1", "--label=l=label-value"];

fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    lab.write("key", "secret-value");
    lab.context("context", &[("Dockerfile", DOCKERFILE), ("Cargo.lock", LOCK)]);
    lab
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Where documents and blobs are read from.
enum Place<'a> {
    /// A repository.
    Registry(&'a Lab, String),
    /// An image layout.
    Dir(std::path::PathBuf),
}

impl Place<'_> {
    /// The document or blob of a digest, or of a tag.
    fn text(&self, kind: &str, name: &str) -> String {
        match self {
            Place::Registry(lab, repository) => {
                let (host, path) = repository.split_once('/').unwrap();
                let accept =
                    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
                let url = format!("http://{host}/v2/{path}/{kind}/{name}");
                lab.program("curl", ["-sSf", "-L", "-H", accept, &url]).ok().stdout
            }
            Place::Dir(dir) => {
                let hex = name.strip_prefix("sha256:").unwrap();
                std::fs::read_to_string(dir.join("blobs/sha256").join(hex)).unwrap()
            }
        }
    }

    fn get(&self, kind: &str, name: &str) -> Value {
        json(&self.text(kind, name))
    }
}

/// What is said about the image of an index: the image's entry, the attestation's, and the statements by predicate type.
fn said(place: &Place<'_>, index: &Value) -> (Value, Value, Vec<(String, Value)>) {
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{index:#}");
    let (image, entry) = (&entries[0], &entries[1]);
    assert_eq!(image["platform"]["os"], "linux");
    assert_eq!((&entry["platform"]["os"], &entry["platform"]["architecture"]), (&"unknown".into(), &"unknown".into()));
    assert_eq!(entry["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(entry["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let manifest = place.get("manifests", entry["digest"].as_str().unwrap());
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["subject"]["digest"], image["digest"]);
    assert_eq!(manifest["subject"]["size"], image["size"]);
    let config = place.get("blobs", manifest["config"]["digest"].as_str().unwrap());
    assert_eq!(config["architecture"], "unknown");
    let mut statements = vec![];
    for (n, layer) in manifest["layers"].as_array().unwrap().iter().enumerate() {
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        assert_eq!(config["rootfs"]["diff_ids"][n], layer["digest"]);
        let statement = place.get("blobs", layer["digest"].as_str().unwrap());
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v0.1");
        assert_eq!(statement["predicateType"], layer["annotations"]["in-toto.io/predicate-type"]);
        let hex = image["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        for subject in statement["subject"].as_array().unwrap() {
            assert_eq!(subject["digest"]["sha256"], hex, "{subject}");
        }
        statements.push((statement["predicateType"].as_str().unwrap().to_owned(), statement));
    }
    (image.clone(), entry.clone(), statements)
}

#[test]
fn attestations_are_found_in_the_index_and_among_the_referrers() {
    require!("docker-registry", "curl");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let (lab, registry) = (lab(), Registry::start());
    let name = format!("{}/team/app", registry.host());
    let to = format!("docker://{name}:1");
    let flags = ["--sbom", "--provenance=mode=max,builder-id=https://ci/1", "-t", &to, "--metadata-file=meta"];
    lab.rbuild(["bud"]).args(BUILD).args(flags).arg("context").ok();
    let place = Place::Registry(&lab, name.clone());
    let index = place.get("manifests", "1");
    let (image, entry, statements) = said(&place, &index);
    let types: Vec<&str> = statements.iter().map(|(t, _)| t.as_str()).collect();
    assert_eq!(types, ["https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2"]);
    let subject = format!("pkg:docker/{name}@1?platform=linux%2Famd64");
    assert_eq!(statements[0].1["subject"][0]["name"], subject);

    // The registry lists no referrers on its own.
    let image_digest = image["digest"].as_str().unwrap();
    let referrers = place.get("manifests", &image_digest.replace(':', "-"));
    assert_eq!(referrers["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(referrers["manifests"][0]["digest"], entry["digest"]);
    assert_eq!(referrers["manifests"][0]["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");

    // The image itself is one that everybody can use.
    lab.rbuild(["pull", "--quiet", &format!("{name}:1")]).env("RBUILD_ROOT", lab.path("other")).ok();
    let meta = json(&std::fs::read_to_string(lab.path("meta")).unwrap());
    assert_eq!(meta["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");

    // A second image of the repository, and the same once more: each list keeps what it had.
    lab.rbuild(["bud"]).args(BUILD).args(flags).arg("context").ok();
    let referrers = place.get("manifests", &image_digest.replace(':', "-"));
    assert_eq!(referrers["manifests"].as_array().unwrap().len(), 2, "two builds, two times: {referrers:#}");

    let file = lab.path("said.spdx.json");
    std::fs::write(&file, statements[0].1["predicate"].to_string()).unwrap();
    let Some(listed) = checked("spdx", &file) else { return };
    assert_eq!(listed, ["cargo serde 1.0.200"]);
}

/// Whether a document has a value at each of these paths.
#[track_caller]
fn has(document: &Value, paths: &[&str]) {
    for path in paths {
        assert!(document.pointer(path).is_some_and(|v| !v.is_null()), "no `{path}` in {document:#}");
    }
}

#[test]
fn provenance_has_the_documented_fields_and_no_secret() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let build = |provenance: &str| {
        let (dir, flag) =
            (lab.path(format!("out-{}", provenance.replace(['=', ','], "-"))), format!("--provenance={provenance}"));
        let to = format!("oci:{}", dir.display());
        lab.rbuild(["bud"]).args(BUILD).args([&flag, "-t", &to, "context"]).ok();
        let place = Place::Dir(dir.clone());
        let layout = json(&std::fs::read_to_string(dir.join("index.json")).unwrap());
        let (_, _, mut all) = said(&place, &place.get("", layout["manifests"][0]["digest"].as_str().unwrap()));
        let (kind, statement) = all.pop().unwrap();
        assert!(all.is_empty());
        (kind, statement["predicate"].clone())
    };
    let base = json(&lab.rbuild(["inspect", "localhost/busybox"]).ok().stdout)["FromImageDigest"].clone();
    let base = base.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    for (fields, version) in [("mode=max", 2), ("mode=min", 2), ("mode=max,version=v1", 1), ("mode=min,version=v1", 1)]
    {
        let (kind, it) = build(fields);
        let max = fields.contains("max");
        let text = it.to_string();
        assert!(!text.contains("secret-value"), "{text}");
        for value in ["argument-value", "label-value", "\"id\":\"key\"", "echo $TOKEN"] {
            assert_eq!(text.contains(value), max, "{fields}: {value}: {text}");
        }
        let (materials, steps, sources) = match version {
            2 => {
                assert_eq!(kind, "https://slsa.dev/provenance/v0.2");
                has(
                    &it,
                    &[
                        "/builder/id",
                        "/buildType",
                        "/invocation/configSource/entryPoint",
                        "/invocation/parameters/frontend",
                        "/invocation/parameters/args/target",
                        "/invocation/parameters/locals/0/name",
                        "/invocation/environment/platform",
                        "/materials/0/uri",
                        "/metadata/buildInvocationID",
                        "/metadata/buildStartedOn",
                        "/metadata/buildFinishedOn",
                        "/metadata/completeness/parameters",
                        "/metadata/completeness/environment",
                        "/metadata/completeness/materials",
                        "/metadata/reproducible",
                        "/metadata/https:~1~1mobyproject.org~1buildkit@v1#metadata",
                    ],
                );
                assert_eq!(it["buildType"], "https://mobyproject.org/buildkit@v1");
                let own = &it["metadata"]["https://mobyproject.org/buildkit@v1#metadata"];
                (&it["materials"], &it["buildConfig"]["llbDefinition"], own)
            }
            _ => {
                assert_eq!(kind, "https://slsa.dev/provenance/v1");
                has(
                    &it,
                    &[
                        "/buildDefinition/buildType",
                        "/buildDefinition/externalParameters/configSource/path",
                        "/buildDefinition/externalParameters/request/frontend",
                        "/buildDefinition/externalParameters/request/locals/0/name",
                        "/buildDefinition/internalParameters/builderPlatform",
                        "/buildDefinition/resolvedDependencies/0/uri",
                        "/runDetails/builder/id",
                        "/runDetails/metadata/invocationID",
                        "/runDetails/metadata/startedOn",
                        "/runDetails/metadata/finishedOn",
                        "/runDetails/metadata/buildkit_metadata",
                        "/runDetails/metadata/buildkit_completeness/request",
                        "/runDetails/metadata/buildkit_completeness/resolvedDependencies",
                        "/runDetails/metadata/buildkit_reproducible",
                    ],
                );
                let definition = &it["buildDefinition"];
                let steps = &definition["internalParameters"]["buildConfig"]["llbDefinition"];
                (&definition["resolvedDependencies"], steps, &it["runDetails"]["metadata"]["buildkit_metadata"])
            }
        };
        assert_eq!(materials.as_array().unwrap().len(), 1, "{materials}");
        assert_eq!(materials[0]["digest"]["sha256"], base.as_str());
        assert_eq!(materials[0]["uri"], "pkg:docker/localhost/busybox@latest?platform=linux%2Famd64");
        assert_eq!(steps.is_array(), max);
        if max {
            has(sources, &["/source/infos/0/data", "/source/locations", "/layers"]);
            let exec = steps.as_array().unwrap().iter().find(|s| s["op"]["Op"].get("exec").is_some()).unwrap();
            assert_eq!(exec["op"]["Op"]["exec"]["meta"]["args"][2], "echo $TOKEN >/out");
            assert_eq!(exec["inputs"][0], "step0:0");
        }
    }
}

#[test]
fn what_is_said_follows_an_image_on_its_way() {
    require!("docker-registry", "curl");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let (lab, registry) = (lab(), Registry::start());
    // Docker's command line: an index where something is said, a single manifest where nothing is.
    let args =
        ["buildx", "build", "--provenance=true", "--sbom", "true", "--build-arg=TOKEN=x", "--secret=id=key,src=key"];
    lab.docker(args).args(["-t", "app", "context"]).ok();
    lab.docker(["build", "--build-arg=TOKEN=x", "--secret=id=key,src=key", "-t", "plain", "context"]).ok();
    let stored = |name: &str| json(&lab.rbuild(["manifest", "inspect", name]).ok().stdout);
    assert_eq!(stored("docker.io/library/app")["manifests"].as_array().unwrap().len(), 2);
    assert!(lab.rbuild(["manifest", "inspect", "docker.io/library/plain"]).output().stdout.find("unknown").is_none());
    lab.rbuild(["run", "docker.io/library/app", "cat", "/out"]).ok();
    lab.rbuild(["check"]).ok();

    // Layers are compressed on the way: the image has another digest, and all that is said is said of that one.
    let before = stored("docker.io/library/app")["manifests"][0]["digest"].clone();
    for form in ["gzip", "zstd"] {
        let name = format!("{}/{form}", registry.host());
        lab.rbuild(["push", "--compression-format", form, "docker.io/library/app", &format!("docker://{name}:1")]).ok();
        let place = Place::Registry(&lab, name);
        let (image, _, statements) = said(&place, &place.get("manifests", "1"));
        assert_ne!(image["digest"], before);
        assert_eq!(statements.len(), 2);
        let archive = format!("oci-archive:{}", lab.path(form).with_extension("tar").display());
        lab.rbuild(["push", "--compression-format", form, "docker.io/library/app", &archive]).ok();
        let dir = lab.mkdir(format!("{form}-dir"));
        lab.program("tar", ["-xf", &format!("{form}.tar"), "-C"]).arg(&dir).ok();
        let layout = json(&std::fs::read_to_string(dir.join("index.json")).unwrap());
        let place = Place::Dir(dir);
        let (other, ..) = said(&place, &place.get("", layout["manifests"][0]["digest"].as_str().unwrap()));
        assert_eq!(other["digest"], image["digest"]);
    }

    // Where there is no place for it, that is said.
    let done =
        lab.rbuild(["push", "docker.io/library/app", &format!("docker-archive:{}", lab.path("d.tar").display())]).ok();
    assert!(done.stderr.contains("attestations are left out"), "{done}");
    let bad = lab.rbuild(["bud", "--sbom", "--format=docker", "context"]).fails();
    assert!(bad.stderr.contains("--format oci"), "{bad}");
}

/// A statement in a file: its predicate type, and its subjects as `sha256sum` would write them.
fn statement(path: &Path) -> (String, Vec<String>) {
    let it = json(&std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    assert_eq!(it["_type"], "https://in-toto.io/Statement/v0.1");
    assert!(it["predicate"].as_object().is_some_and(|p| !p.is_empty()), "{it:#}");
    let line = |s: &Value| format!("{}  ./{}", s["digest"]["sha256"].as_str().unwrap(), s["name"].as_str().unwrap());
    (it["predicateType"].as_str().unwrap().to_owned(), it["subject"].as_array().unwrap().iter().map(line).collect())
}

#[test]
fn where_plain_files_go_what_is_said_is_files_too() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let outputs = ["-o", "type=local,dest=out", "-o", "type=tar,dest=files.tar,attestation-prefix=about."];
    let done = lab.rbuild(["bud", "--sbom", "--provenance"]).args(outputs).args(BUILD).arg("context").ok();
    assert!(!done.stderr.contains("gives way"), "{done}");
    lab.mkdir("unpacked");
    lab.program("tar", ["-xf", "files.tar", "-C", "unpacked"]).ok();
    for (dir, prefix) in [("out", ""), ("unpacked", "about.")] {
        let said = [format!("{prefix}sbom.spdx.json"), format!("{prefix}provenance.json")];
        let files = lab.program("find", [dir, "-type", "f", "-printf", "./%P\\0"]).ok().stdout;
        let mut files: Vec<&str> =
            files.split_terminator('\0').filter(|f| !said.contains(&f[2..].to_owned())).collect();
        files.sort_by(|a, b| Path::new(a).cmp(Path::new(b)));
        let sums = lab.program("sha256sum", files).dir(lab.path(dir)).ok().stdout;
        for (name, kind) in said.iter().zip(["https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2"]) {
            let path = lab.path(dir).join(name);
            let (is, subjects) = statement(&path);
            assert_eq!(is, kind);
            assert_eq!(subjects, sums.lines().collect::<Vec<_>>());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
    }
    // Two files of one name: BuildKit's choice, and a word about it.
    lab.context("named", &[("Dockerfile", "FROM scratch\nCOPY provenance.json /\n"), ("provenance.json", "mine")]);
    let flags = ["--platform=linux/amd64,linux/arm64", "--provenance=version=v1", "--sbom=cyclonedx", "-o", "many"];
    let done = lab.rbuild(["bud"]).args(flags).arg("named").ok();
    assert_eq!(done.stderr.matches("`/provenance.json` of the image gives way").count(), 2, "{done}");
    for platform in ["linux_amd64", "linux_arm64"] {
        let dir = lab.path("many").join(platform);
        assert_eq!(statement(&dir.join("provenance.json")).0, "https://slsa.dev/provenance/v1");
        assert_eq!(statement(&dir.join("sbom.cdx.json")).0, "https://cyclonedx.org/bom");
    }
}

#[test]
fn each_platform_has_its_own() {
    let lab = Lab::new();
    lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY Cargo.lock /\n"), ("Cargo.lock", LOCK)]);
    let flags = ["--platform=linux/amd64,linux/arm64", "--attest=type=sbom", "--attest=type=provenance,mode=min"];
    lab.rbuild(["bud", "-t", "app"]).args(flags).arg("context").ok();
    let index = json(&lab.rbuild(["manifest", "inspect", "app"]).ok().stdout);
    let entries = index["manifests"].as_array().unwrap();
    let about = |n: usize| entries[n]["annotations"]["vnd.docker.reference.digest"].clone();
    assert_eq!(entries.len(), 4, "{index:#}");
    assert_eq!((about(2), about(3)), (entries[0]["digest"].clone(), entries[1]["digest"].clone()));
    // One build, one name of it.
    let blob = |digest: &Value| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        json(&std::fs::read_to_string(lab.store().join("blobs/sha256").join(hex)).unwrap())
    };
    let invocation = |n: usize| {
        let manifest = blob(&entries[n]["digest"]);
        blob(&manifest["layers"][1]["digest"])["predicate"]["metadata"]["buildInvocationID"].clone()
    };
    assert_eq!(invocation(2), invocation(3));
    // A list that an image of is replaced loses what was said about the old one.
    let build = |more: &[&str]| lab.rbuild(["bud", "--manifest", "list", "--sbom"]).args(more).arg("context").ok();
    build(&[]);
    lab.write("context/Cargo.lock", LOCK.replace("serde", "syn"));
    build(&[]);
    let list = json(&lab.rbuild(["manifest", "inspect", "list"]).ok().stdout);
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2, "{list:#}");
}

#[test]
fn provenance_knows_the_repository_of_a_local_context() {
    require!("git");
    let lab = Lab::new();
    let files = [
        ("app/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n"),
        ("app/deploy/Other", "FROM scratch\nCOPY Dockerfile /\n"),
    ];
    lab.context("tree", &files);
    let git = |args: &[&str]| {
        lab.program("git", ["-C", "tree", "-c", "user.name=n", "-c", "user.email=e@e"]).args(args).ok().stdout
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    git(&["remote", "add", "origin", "https://user:hidden@git.invalid/team/app.git"]);
    // Programs that a repository names are not run.
    for key in ["core.fsmonitor", "filter.x.clean", "core.sshCommand", "core.pager"] {
        git(&["config", key, &format!("touch {}", lab.path("touched").display())]);
    }
    lab.write("tree/.gitattributes", "* filter=x\n");
    let revision = git(&["rev-parse", "HEAD"]).trim().to_owned();
    let build = |dir: &str, version: &str, more: &[&str]| {
        let out = lab.path("out");
        let (flag, to) = (format!("--provenance={version}"), format!("type=local,dest={}", out.display()));
        let run = lab.rbuild(["bud", &flag, "-o", &to]).args(more).arg(dir);
        (run, move || json(&std::fs::read_to_string(out.join("provenance.json")).unwrap())["predicate"].clone())
    };
    let (run, said) = build("tree/app", "mode=min", &[]);
    run.ok();
    let vcs = said()["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["vcs"].clone();
    let source = "https://git.invalid/team/app.git";
    let wanted = |dockerfile: &str| serde_json::json!({"source": source, "revision": revision, "localdir:context": "app", "localdir:dockerfile": dockerfile});
    assert_eq!(vcs, wanted("app"));
    let (run, said) = build("tree/app", "mode=max,version=v1", &["-f", "deploy/Other"]);
    run.env("GIT_DIR", "/nowhere").ok();
    assert_eq!(said()["runDetails"]["metadata"]["buildkit_metadata"]["vcs"], wanted("app/deploy"));
    assert!(!lab.path("touched").exists() && !said().to_string().contains("hidden"));
    let (run, said) = build("tree/app", "mode=max", &[]);
    run.env("BUILDX_GIT_INFO", "false").ok();
    assert!(!said().to_string().contains("vcs"));
}
