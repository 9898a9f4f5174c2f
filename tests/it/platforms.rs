//! Several platforms: indexes that are built, changed, pushed and kept.

use crate::harness::{Done, Lab, Registry, busybox_is_missing, require};
use serde_json::Value;

/// A stage of the machine's own platform, and an image for the platform that is asked for.
const DOCKERFILE: &str = "FROM --platform=$BUILDPLATFORM localhost/busybox AS tools\nARG TARGETARCH\n\
    RUN echo for $TARGETARCH >/out\nFROM scratch\nARG TARGETPLATFORM\nLABEL for=$TARGETPLATFORM\nCOPY --from=tools /out /out\n";

const BOTH: &str = "linux/amd64,linux/arm64";

fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    lab.context("context", &[("Dockerfile", DOCKERFILE)]);
    lab
}

#[track_caller]
fn builds(lab: &Lab, more: &[&str]) -> Done {
    lab.rbuild(["bud"]).args(more).arg(lab.path("context")).ok()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn list(lab: &Lab, name: &str) -> Value {
    json(&lab.rbuild(["manifest", "inspect", name]).ok().stdout)
}

/// Architectures and digests of a list.
fn images(list: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let all = list["manifests"].as_array().expect("a list");
    all.iter().map(|m| (text(&m["platform"]["architecture"]), text(&m["digest"]))).collect()
}

fn architectures(list: &Value) -> String {
    images(list).iter().map(|(arch, _)| arch.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn one_build_for_several_platforms_makes_one_index() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let done = builds(&lab, &["-t", "one", "--iidfile", "id", "--metadata-file", "meta", "--platform", BOTH]);
    assert!(done.stdout.contains("[linux/arm64] [2/2] STEP 1/4"), "{done}");
    let index = list(&lab, "one");
    assert_eq!(architectures(&index), "amd64 arm64");
    // Built again it is the same index, and each platform one layer of its own.
    let first = images(&index);
    builds(&lab, &["-t", "two", "--platform=linux/arm64", "--platform=linux/amd64", "--platform=linux/arm64"]);
    let mut second = images(&list(&lab, "two"));
    second.reverse();
    assert_eq!(first, second);
    // Nothing else has an entry, and collecting garbage takes nothing of it.
    lab.rbuild(["rmi", "two"]).ok();
    let ids = lab.rbuild(["images", "-q", "--no-trunc"]).ok().stdout;
    let id = std::fs::read_to_string(lab.path("id")).unwrap();
    assert!(ids.lines().count() == 2 && ids.contains(&id), "{ids}{id}");
    let metadata = json(&std::fs::read_to_string(lab.path("meta")).unwrap());
    assert_eq!(metadata["containerimage.digest"], id);
    assert_eq!(metadata["image.name"], "localhost/one:latest");
    // There are two configs.
    assert!(metadata.get("containerimage.config.digest").is_none(), "{metadata}");
    lab.rbuild(["prune", "--all"]).ok();
    assert!(lab.rbuild(["check"]).ok().stdout.contains("no problem"));
    lab.rbuild(["push", "one", "oci-archive:one.tar"]).ok();
    for arch in ["amd64", "arm64"] {
        let out = format!("docker-archive:{arch}.tar");
        lab.context("from", &[("Dockerfile", "FROM one\nCOPY --from=one /out /again\n")]);
        let platform = format!("--platform=linux/{arch}");
        lab.rbuild(["bud", "--pull=never", &platform, "-t", "x", "-t", &out]).arg(lab.path("from")).ok();
        let config = json(&lab.rbuild(["inspect", "x"]).ok().stdout)["OCIv1"].clone();
        assert_eq!(
            (&config["architecture"], &config["config"]["Labels"]["for"]),
            (&arch.into(), &format!("linux/{arch}").into())
        );
    }
    let done = lab.rbuild(["rmi", "one"]).ok();
    assert!(done.stdout.contains("untagged: localhost/one:latest") && done.stdout.contains(&id[7..]), "{done}");
    assert!(!lab.path(format!("store/blobs/sha256/{}", &first[1].1[7..])).exists(), "images go with their index");
    assert_ne!(lab.rbuild(["manifest", "exists", "one"]).output().code, 0);
}

#[test]
fn the_docker_dialect_makes_indexes_too() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    lab.docker(["buildx", "build", "-t", "d", "--platform", BOTH, "--progress=plain"]).arg(lab.path("context")).ok();
    let index = list(&lab, "docker.io/library/d");
    assert_eq!(architectures(&index), "amd64 arm64");
    assert_eq!(index["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
    let switch = ["build", "-t", "d", "--build-arg", "BUILDKIT_MULTI_PLATFORM=1"];
    lab.docker(switch).arg(lab.path("context")).ok();
    assert_eq!(architectures(&list(&lab, "docker.io/library/d")), "amd64");
}

#[test]
fn images_are_added_to_the_list_of_manifest() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    builds(&lab, &["--manifest", "all", "-t", "arm", "--platform=linux/arm64"]);
    let one = images(&list(&lab, "all"));
    builds(&lab, &["--manifest", "all", "--platform=linux/amd64"]);
    assert_eq!(architectures(&list(&lab, "all")), "arm64 amd64");
    builds(&lab, &["--manifest", "all", "--platform=linux/arm64", "--label", "new=1"]);
    let now = images(&list(&lab, "all"));
    assert_eq!(now.len(), 2);
    assert!(!now.contains(&one[0]), "the new image takes the place of the old one");
    lab.rbuild(["inspect", "--type=image", "arm"]).ok();
    let done = lab.rbuild(["bud", "--manifest", "arm"]).arg(lab.path("context")).fails();
    assert!(done.stderr.contains("no manifest list"), "{done}");
}

#[test]
fn an_image_in_an_index_is_found_by_its_id() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    builds(&lab, &["-t", "one", "--platform", BOTH]);
    let (_, manifest) = images(&list(&lab, "one"))[1].clone();
    let inspected = json(&lab.rbuild(["inspect", "--type=image", &manifest]).ok().stdout);
    let id = inspected["FromImageID"].as_str().expect("an id").trim_start_matches("sha256:").to_owned();
    assert_eq!(inspected["OCIv1"]["architecture"], "arm64");
    for digits in [&id[..12], &id[..], &manifest[7..19]] {
        let image = lab.docker(["inspect", "--type=image", "--format", "{{.Architecture}} {{.Id}}", digits]).ok();
        assert_eq!(image.stdout, format!("arm64 sha256:{id}\n"), "{digits}");
        lab.rbuild(["push", "-q", digits, "oci:one:of-two"]).ok();
        let refused = lab.rbuild(["rmi", digits]).fails();
        assert!(refused.stderr.contains("a part of the index `localhost/one:latest`"), "{refused}");
        assert!(
            refused.stderr.contains(&format!(
                "hint: remove the index, or take the image out of it: `rbuild manifest remove INDEX {manifest}`"
            )),
            "{refused}"
        );
    }
    let refused = lab.docker(["rmi", &id]).fails();
    assert!(refused.stderr.contains("a part of the index"), "{refused}");
    // With a name of its own it is an image as any other.
    lab.rbuild(["tag", &id, "two"]).ok();
    lab.rbuild(["rmi", "one"]).ok();
    assert_eq!(lab.rbuild(["inspect", "--format", "{{.FromImage}}", &id]).ok().stdout, "localhost/two:latest\n");
    lab.rbuild(["rmi", &id[..12]]).ok();
    lab.rbuild(["inspect", &id]).fails();
}

#[test]
fn lists_are_made_and_changed_by_hand() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    builds(&lab, &["-t", "a", "--platform=linux/amd64"]);
    builds(&lab, &["-t", "b", "--platform=linux/arm64"]);
    let manifest = |args: &[&str]| lab.rbuild(["manifest"]).args(args).ok().stdout;
    assert_eq!(manifest(&["create", "l", "a"]).trim().len(), 64);
    let again = lab.rbuild(["manifest", "create", "l"]).fails();
    assert!(again.stderr.contains("is in use"), "{again}");
    let added = manifest(&["add", "--annotation", "k=v", "--os-version", "7", "l", "b"]);
    let index = list(&lab, "l");
    assert_eq!(architectures(&index), "amd64 arm64");
    let digest = images(&index)[1].1.clone();
    assert!(added.trim().ends_with(&format!(": {digest}")), "{added}");
    let entry = index["manifests"][1].clone();
    assert_eq!((&entry["annotations"]["k"], &entry["platform"]["os.version"]), (&"v".into(), &"7".into()));
    manifest(&["annotate", "--arch", "arm", "--variant", "v7", "--annotation", "k=w", "l", &digest]);
    manifest(&["annotate", "--index", "--annotation", "of=list", "l"]);
    let index = list(&lab, "l");
    let entry = index["manifests"][1].clone();
    assert_eq!((&entry["annotations"]["k"], &entry["platform"]["variant"]), (&"w".into(), &"v7".into()));
    assert_eq!((&entry["platform"]["architecture"], &index["annotations"]["of"]), (&"arm".into(), &"list".into()));
    lab.rbuild(["inspect", "--type=manifest", "l"]).ok();
    // The images stay as long as the list, whatever becomes of their own names.
    lab.rbuild(["rmi", "a", "b"]).ok();
    lab.rbuild(["prune", "--all"]).ok();
    lab.rbuild(["push", "--rm", "l", "oci:layout:l"]).ok();
    assert_eq!(lab.rbuild(["manifest", "exists", "l"]).output().code, 1);
    lab.rbuild(["manifest", "create", "l"]).ok();
    builds(&lab, &["-t", "a", "--platform=linux/amd64"]);
    builds(&lab, &["-t", "b", "--platform=linux/arm64"]);
    manifest(&["add", "l", "a"]);
    manifest(&["add", "l", "b"]);
    let digest = images(&list(&lab, "l"))[1].1.clone();
    let removed = manifest(&["remove", "l", &digest]);
    assert!(removed.contains(&digest), "{removed}");
    assert_eq!(architectures(&list(&lab, "l")), "amd64");
    manifest(&["exists", "l"]);
    assert!(manifest(&["rm", "l"]).contains("untagged: localhost/l:latest"));
    assert_eq!(lab.rbuild(["manifest", "exists", "l"]).output().code, 1);
    let done = lab.rbuild(["manifest", "push", "busybox", "oci:x"]).fails();
    assert!(done.stderr.contains("no manifest list"), "{done}");
}

#[test]
fn a_registry_gets_the_index_and_all_its_images() {
    require!("docker-registry", "skopeo");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let registry = Registry::start();
    let name = format!("{}/multi/image:1", registry.host());
    builds(&lab, &["-t", &name, "--platform", BOTH]);
    lab.rbuild(["push", "--all", &name]).ok();
    let skopeo = |args: &[&str]| lab.program("skopeo", args).arg(format!("docker://{name}")).ok().stdout;
    let raw = json(&skopeo(&["inspect", "--tls-verify=false", "--raw"]));
    assert_eq!(architectures(&raw), "amd64 arm64");
    for arch in ["amd64", "arm64"] {
        let seen = json(&skopeo(&["--override-arch", arch, "inspect", "--tls-verify=false"]));
        assert_eq!(seen["Labels"]["for"], format!("linux/{arch}"));
    }
    // A list can be made of what a registry has, of one platform or of all, and builds take all of its platforms.
    lab.rbuild(["manifest", "create", "one", &name]).ok();
    assert_eq!(architectures(&list(&lab, "one")), "amd64");
    let other = format!("{}/multi/other:1", registry.host());
    lab.rbuild(["manifest", "push", "--rm", "--format=docker", "one", &format!("docker://{other}")]).ok();
    assert_ne!(lab.rbuild(["manifest", "exists", "one"]).output().code, 0);
    assert!(list(&lab, &other)["mediaType"].as_str().is_some_and(|m| m.contains("docker")));
    lab.rbuild(["rmi", "--all", "--force"]).ok();
    lab.rbuild(["manifest", "create", "--all", "all", &name]).ok();
    assert_eq!(architectures(&list(&lab, "all")), "amd64 arm64");
    lab.context("from", &[("Dockerfile", &format!("FROM {name}\nLABEL more=1\n"))]);
    lab.rbuild(["bud", "--all-platforms", "-t", "every"]).arg(lab.path("from")).ok();
    assert_eq!(architectures(&list(&lab, "every")), "amd64 arm64");
    assert!(lab.rbuild(["check"]).ok().stdout.contains("no problem"));
}

/// A program of another processor that says so: an ELF file of arm64 that writes `arm64` and ends.
pub fn arm64_program() -> Vec<u8> {
    let code: [u32; 8] = [
        0xd280_0020, // mov x0, #1
        0x1000_00e1, // adr x1, text
        0xd280_00c2, // mov x2, #6
        0xd280_0808, // mov x8, #64 (write)
        0xd400_0001, // svc #0
        0xd280_0000, // mov x0, #0
        0xd280_0ba8, // mov x8, #93 (exit)
        0xd400_0001, // svc #0
    ];
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (base, head) = (0x40_0000_u64, 64 + 56);
    let mut text: Vec<u8> = code.iter().flat_map(|c| c.to_le_bytes()).collect();
    text.extend(b"arm64\n");
    let size = head + text.len() as u64;
    elf.extend([2_u16, 183].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend(1_u32.to_le_bytes());
    elf.extend([base + head, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64_u16, 56, 1, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend([1_u32, 5].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend([0, base, base, size, size, 0x1000].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend(text);
    elf
}

/// Whether the node itself runs programs of other processors, so that nothing would be shown.
fn node_has_emulators() -> bool {
    let entries = std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    entries.into_iter().any(|e| e.file_name().to_string_lossy().contains("qemu"))
}

#[test]
fn programs_of_another_processor_run_in_a_table_of_the_step() {
    require!("qemu-aarch64-static");
    require!(if node_has_emulators(), "the node has emulators registered");
    require!(if cfg!(not(target_arch = "x86_64")), "the program is for another processor on x86_64 only");
    let lab = Lab::new();
    lab.write("context/say", arm64_program());
    let dockerfile = "FROM scratch\nCOPY --chmod=755 say /say\nRUN [\"/say\"]\n";
    lab.write("context/Dockerfile", dockerfile);
    let build = |more: &[&str]| {
        let run = lab.rbuild(["bud", "--no-cache", "--platform=linux/arm64"]).args(more).arg(lab.path("context"));
        run.output()
    };
    let done = build(&[]);
    let newer = done.stderr.contains("cannot mount binfmt_misc");
    require!(if newer, "the kernel is older than Linux 6.7");
    assert!(done.code == 0 && done.stdout.contains("\narm64\n"), "{done}");
    assert!(!node_has_emulators(), "the table is the step's own");
    // Named, and named wrongly: then both ways out are.
    let qemu = crate::harness::which("qemu-aarch64-static").expect("found above");
    let dir = qemu.parent().expect("a directory").display().to_string();
    for given in [qemu.display().to_string(), dir] {
        let done = build(&["--emulator", &given]);
        assert!(done.code == 0 && done.stdout.contains("\narm64\n"), "{done}");
    }
    let done = build(&["--emulator", "/nowhere"]);
    assert!(done.code != 0 && done.stderr.contains("linux/arm64"), "{done}");
    assert!(done.stderr.contains("qemu-aarch64-static") && done.stderr.contains("on the node"), "{done}");
}
