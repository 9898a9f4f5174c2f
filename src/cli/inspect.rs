//! `rbuild inspect`: an image in buildah's JSON form.

use super::template::Template;
use super::{Error, Global, output};
use crate::export::StoredImage;
use crate::oci::{Platform, media};
use crate::store::Store;
use serde_json::{Map, Value, json};

/// Show an image as JSON
#[derive(Clone, Debug, clap::Args)]
pub struct InspectArgs {
    /// The image: name or id
    pub image: String,
    /// Go template
    #[arg(short, long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Kind of thing: image
    #[arg(short, long, value_name = "TYPE")]
    pub r#type: Option<String>,
}

/// Shows an image.
pub fn run(args: &InspectArgs, global: &Global) -> Result<(), Error> {
    match args.r#type.as_deref() {
        None | Some("image") => {}
        Some("container") => {
            return Err(Error::unsupported("`--type container`", "there are no working containers: use `image`"));
        }
        Some("manifest") => return super::manifest::inspect(&global.store()?, &args.image, args.format.as_deref()),
        Some(other) => return Err(Error::usage_hint(format!("unknown type `{other}`"), "use `image`")),
    }
    let store = global.store()?;
    let value = buildah_form(&store, &args.image)?;
    match &args.format {
        None => output::print_line(&output::json(&value, "    ", true)?),
        Some(template) => output::print_line(&Template::parse(template)?.render(&value)?),
    }
}

/// The keys of a container that Docker's config has and an OCI config leaves out.
fn docker_config(config: &Value) -> Value {
    let get = |key: &str| config.get(key).cloned();
    let mut out = Map::new();
    for key in ["Hostname", "Domainname", "User"] {
        out.insert(key.into(), get(key).unwrap_or("".into()));
    }
    for key in ["AttachStdin", "AttachStdout", "AttachStderr"] {
        out.insert(key.into(), get(key).unwrap_or(false.into()));
    }
    out.extend(get("ExposedPorts").map(|v| ("ExposedPorts".to_owned(), v)));
    for key in ["Tty", "OpenStdin", "StdinOnce"] {
        out.insert(key.into(), get(key).unwrap_or(false.into()));
    }
    for key in ["Env", "Cmd"] {
        out.insert(key.into(), get(key).unwrap_or_default());
    }
    out.extend(get("Healthcheck").map(|v| ("Healthcheck".to_owned(), v)));
    out.extend(get("ArgsEscaped").map(|v| ("ArgsEscaped".to_owned(), v)));
    out.insert("Image".into(), get("Image").unwrap_or("".into()));
    out.insert("Volumes".into(), get("Volumes").unwrap_or_default());
    out.insert("WorkingDir".into(), get("WorkingDir").unwrap_or("".into()));
    for key in ["Entrypoint", "OnBuild", "Labels"] {
        out.insert(key.into(), get(key).unwrap_or_default());
    }
    for key in ["StopSignal", "StopTimeout", "Shell"] {
        out.extend(get(key).map(|v| (key.to_owned(), v)));
    }
    Value::Object(out)
}

/// The config as the OCI image specification has it.
fn oci_view(config: &Value) -> Value {
    const FIELDS: [&str; 9] =
        ["User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"];
    let mut out = Map::new();
    for key in ["created", "author", "architecture", "variant", "os", "os.version", "os.features"] {
        out.extend(config.get(key).map(|v| (key.to_owned(), v.clone())));
    }
    let inner = config.get("config").and_then(Value::as_object);
    let inner = inner.map(|c| FIELDS.iter().filter_map(|f| Some(((*f).to_owned(), c.get(*f)?.clone()))).collect());
    out.insert("config".into(), Value::Object(inner.unwrap_or_default()));
    for key in ["rootfs", "history"] {
        out.extend(config.get(key).map(|v| (key.to_owned(), v.clone())));
    }
    Value::Object(out)
}

/// The config as Docker has it.
fn docker_view(config: &Value) -> Value {
    let mut out = Map::new();
    for key in ["created", "author"] {
        out.extend(config.get(key).map(|v| (key.to_owned(), v.clone())));
    }
    let inner = docker_config(config.get("config").unwrap_or(&Value::Null));
    out.insert("container_config".into(), inner.clone());
    out.insert("config".into(), inner);
    for key in ["architecture", "variant", "os", "rootfs", "history"] {
        out.extend(config.get(key).map(|v| (key.to_owned(), v.clone())));
    }
    Value::Object(out)
}

/// What `buildah inspect --type image` shows.
pub fn buildah_form(store: &Store, name: &str) -> Result<Value, Error> {
    let found = store.find(name)?;
    let image = StoredImage::any(store, &found.descriptor, &Platform::host())?;
    let config: Value = serde_json::from_slice(&image.config_bytes)
        .map_err(|e| Error::Corrupt(format!("cannot parse config `{}`: {e}", image.id())))?;
    let manifest = store.read_blob(&image.descriptor.digest, crate::registry::MAX_MANIFEST_BYTES)?;
    let annotations = &image.manifest.annotations;
    let namespaces: Vec<Value> = ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"]
        .iter()
        .map(|n| json!({"Name": n, "Host": matches!(*n, "cgroup" | "network"), "Path": ""}))
        .collect();
    Ok(json!({
        "Type": "buildah 0.0.1",
        "FromImage": found.name.clone().unwrap_or_default(),
        "FromImageID": image.id().hex(),
        "FromImageDigest": image.descriptor.digest.to_string(),
        "Config": String::from_utf8_lossy(&image.config_bytes),
        "Manifest": String::from_utf8_lossy(&manifest),
        "Container": "",
        "ContainerID": "",
        "MountPoint": "",
        "ProcessLabel": "",
        "MountLabel": "",
        "ImageAnnotations": if annotations.is_empty() { Value::Null } else { json!(annotations) },
        "ImageCreatedBy": "",
        "OCIv1": oci_view(&config),
        "Docker": docker_view(&config),
        "DefaultMountsFilePath": "",
        "Isolation": "oci",
        "NamespaceOptions": namespaces,
        "Capabilities": null,
        "ConfigureNetwork": "NetworkDefault",
        "History": config.get("history").cloned().unwrap_or_default(),
        "Devices": null,
    }))
}

/// What `docker image inspect` shows.
pub fn docker_form(store: &Store, name: &str) -> Result<Value, Error> {
    let found = store.find(name)?;
    let image = StoredImage::any(store, &found.descriptor, &Platform::host())?;
    let config: Value = serde_json::from_slice(&image.config_bytes)
        .map_err(|e| Error::Corrupt(format!("cannot parse config `{}`: {e}", image.id())))?;
    let names: Vec<crate::oci::Reference> = store
        .list()?
        .into_iter()
        .filter(|e| e.descriptor.digest == found.descriptor.digest)
        .filter_map(|e| e.name?.parse().ok())
        .collect();
    let digests: Vec<String> = match super::listing::is_published(&image) {
        true => names
            .iter()
            .map(|n| {
                format!("{}@{}", crate::oci::Reference { tag: None, ..n.clone() }.familiar(), image.descriptor.digest)
            })
            .collect(),
        false => vec![],
    };
    let text = |key: &str| config.get(key).cloned().unwrap_or("".into());
    let mut out = json!({
        "Id": image.id().to_string(),
        "RepoTags": names.iter().map(crate::oci::Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": digests,
        "Parent": "",
        "Comment": image.config.history.last().and_then(|h| h.comment.clone()).unwrap_or_default(),
        "Created": text("created"),
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": docker_config(config.get("config").unwrap_or(&Value::Null)),
        "Architecture": text("architecture"),
    });
    if let (Some(map), Some(variant)) = (out.as_object_mut(), config.get("variant")) {
        map.insert("Variant".into(), variant.clone());
    }
    let rest = json!({
        "Os": text("os"),
        "Size": image.size(),
        "GraphDriver": {"Data": null, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": image.config.rootfs.diff_ids},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
        "Descriptor": {
            "mediaType": if image.descriptor.media_type.is_empty() { media::OCI_MANIFEST } else { &image.descriptor.media_type },
            "digest": image.descriptor.digest.to_string(),
            "size": image.descriptor.size,
        },
    });
    if let (Some(map), Value::Object(rest)) = (out.as_object_mut(), rest) {
        map.extend(rest);
    }
    Ok(out)
}
