//! `docker images`, `rmi`, `inspect`, `image prune`, `builder prune`.

use super::Failure;
use crate::cli::listing::{self, Listed};
use crate::cli::names::Naming;
use crate::cli::template::Template;
use crate::cli::{Error, Global, inspect as inspection, output, rmi as removal, table};
use crate::error::Kind;
use crate::store::{GcOptions, Limit};
use crate::ui::human;
use serde_json::{Value, json};
use std::io::{self, BufRead as _};

/// List images
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ImagesArgs {
    /// [REPOSITORY[:TAG]]
    name: Option<String>,
    /// Show all images
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long)]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long)]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Refused: see `rbuild manifest inspect`
    #[arg(long, hide = true)]
    tree: bool,
}

/// Remove one or more images
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RmiArgs {
    /// The images
    #[arg(required = true)]
    images: Vec<String>,
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
}

/// Return low-level information on images
#[derive(Clone, Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The images
    #[arg(required = true)]
    images: Vec<String>,
    /// Format output using a custom template: 'json', 'TEMPLATE'
    #[arg(short, long)]
    format: Option<String>,
    /// Only inspect objects of the given type
    #[arg(long)]
    r#type: Option<String>,
    /// Accepted for Docker's sake
    #[arg(short, long)]
    size: bool,
}

/// Remove what is not used
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PruneArgs {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Refused: what is removed depends on names alone
    #[arg(long, hide = true)]
    filter: Vec<String>,
    /// Amount of disk space to keep for cache
    #[arg(long, visible_alias = "max-used-space", value_parser = crate::cli::values::size)]
    keep_storage: Option<u64>,
}

/// Docker's words for an image that is not there.
pub(super) fn no_such_image(e: Error) -> Error {
    match &e {
        Error::Failed(inner) if inner.kind() == Kind::NotFound => match inner.to_string().split('`').nth(1) {
            Some(name) => {
                let shown = name.parse().map(|r: crate::oci::Reference| r.with_default_tag().familiar());
                Error::NotFound(format!("No such image: {}", shown.unwrap_or_else(|_| name.to_owned())))
            }
            None => e,
        },
        _ => e,
    }
}

/// Lists images.
pub(super) fn list(args: &ImagesArgs, global: &Global) -> Result<(), Failure> {
    if args.tree {
        return Err(Error::unsupported("`--tree`", "see `rbuild manifest inspect` for the images of an index").into());
    }
    let store = global.store()?;
    let mut filters = args.filter.clone();
    filters.extend(args.name.iter().map(|n| format!("reference={n}")));
    let images = listing::filter(&store, listing::images(&store)?, &filters, Naming::Docker).map_err(no_such_image)?;
    Ok(output::print(&show(args, &images)?)?)
}

/// Placeholder of a template, and the heading of its column.
const COLUMNS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
];

fn show(args: &ImagesArgs, images: &[Listed]) -> Result<String, Error> {
    if args.quiet && args.format.is_none() {
        let mut ids: Vec<String> = images.iter().map(|l| id(l, args.no_trunc)).collect();
        ids.dedup();
        return Ok(ids.into_iter().map(|i| i + "\n").collect());
    }
    let rows: Vec<Value> = images.iter().flat_map(|l| rows(l, args.no_trunc)).collect();
    match args.format.as_deref() {
        Some("json") => Ok(rows.iter().map(|r| format!("{r}\n")).collect()),
        None | Some("table") => {
            let shown = |name: &str| name != "CreatedAt" && (name != "Digest" || args.digests);
            let columns: Vec<_> = COLUMNS.iter().filter(|(name, _)| shown(name)).collect();
            let mut lines = vec![columns.iter().map(|(_, head)| (*head).to_owned()).collect::<Vec<_>>()];
            let text = |r: &Value, k: &str| r.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
            lines.extend(rows.iter().map(|r| columns.iter().map(|(name, _)| text(r, name)).collect()));
            Ok(table::columns(&lines, 10, 3))
        }
        Some(format) => {
            let (headed, body) = match format.strip_prefix("table ") {
                Some(body) => (true, body),
                None => (false, format),
            };
            let template = Template::parse(body)?;
            let mut lines: Vec<Vec<String>> = vec![];
            if headed {
                let heads: serde_json::Map<String, Value> =
                    COLUMNS.iter().map(|(n, h)| ((*n).to_owned(), (*h).into())).collect();
                lines.push(cells(&template.render(&Value::Object(heads))?));
            }
            for row in &rows {
                lines.push(cells(&template.render(row)?));
            }
            if headed {
                return Ok(table::columns(&lines, 10, 3));
            }
            Ok(lines.into_iter().map(|l| l.join("\t") + "\n").collect())
        }
    }
}

fn cells(line: &str) -> Vec<String> {
    line.split('\t').map(str::to_owned).collect()
}

fn id(image: &Listed, whole: bool) -> String {
    if whole { image.id.to_string() } else { image.id.short() }
}

fn rows(image: &Listed, whole: bool) -> Vec<Value> {
    let none = || "<none>".to_owned();
    let row = |repository: String, tag: String| {
        json!({
            "Containers": "N/A",
            "CreatedAt": image.created.map_or(String::new(), |t| t.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()),
            "CreatedSince": format!("{} ago", human::age(listing::age_seconds(image.created))),
            "Digest": if image.published { image.manifest.to_string() } else { none() },
            "ID": id(image, whole),
            "Repository": repository,
            "SharedSize": "N/A",
            "Size": human::size(image.size, "", 3),
            "Tag": tag,
            "UniqueSize": "N/A",
            "VirtualSize": human::size(image.size, "", 3),
        })
    };
    if image.names.is_empty() {
        return vec![row(none(), none())];
    }
    let familiar = |n: &crate::oci::Reference| {
        let tag = n.tag.clone().unwrap_or_else(none);
        row(crate::oci::Reference { tag: None, digest: None, ..n.clone() }.familiar(), tag)
    };
    image.names.iter().map(familiar).collect()
}

/// Removes images.
pub(super) fn rmi(args: &RmiArgs, global: &Global) -> Result<(), Failure> {
    let store = global.store()?;
    let mut failed = vec![];
    for image in &args.images {
        match removal::remove(&store, image, args.force) {
            Ok(removed) => {
                for name in removed.untagged {
                    output::print_line(&format!("Untagged: {}", name.familiar()))?;
                }
                for id in removed.deleted {
                    output::print_line(&format!("Deleted: {id}"))?;
                }
            }
            Err(Error::Usage { .. }) => failed.push(format!(
                "Error response from daemon: conflict: unable to delete {image} (must be forced) - image is referenced in multiple repositories"
            )),
            Err(e) => {
                let e = no_such_image(e);
                if !(args.force && e.kind() == Kind::NotFound) {
                    failed.push(format!("Error response from daemon: {e}"));
                }
            }
        }
    }
    drop(store);
    global.store()?.collect_garbage(GcOptions::default()).map_err(Error::from)?;
    if failed.is_empty() { Ok(()) } else { Err(Failure::Shown(failed, 1)) }
}

/// Shows images as Docker's JSON.
pub(super) fn inspect(args: &InspectArgs, global: &Global) -> Result<(), Failure> {
    if let Some(other) = args.r#type.as_deref().filter(|t| *t != "image") {
        return Err(Error::unsupported(format!("`--type={other}`"), "use `image`: there is nothing else here").into());
    }
    let store = global.store()?;
    let template = match args.format.as_deref() {
        None => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(text) => Some(Template::parse(text)?),
    };
    let (mut found, mut failed) = (vec![], vec![]);
    for image in &args.images {
        match inspection::docker_form(&store, image) {
            Ok(value) => found.push(value),
            Err(e) => failed.push(match (&args.r#type, no_such_image(e)) {
                (None, Error::NotFound(_)) => format!("error: no such object: {image}"),
                (_, e) => format!("Error response from daemon: {e}"),
            }),
        }
    }
    match template {
        Some(template) => {
            for value in &found {
                output::print_line(&template.render(value)?)?;
            }
        }
        None if found.is_empty() => output::print("[]\n")?,
        None => output::print_line(&output::json(&Value::Array(found), "    ", false)?)?,
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Shown(failed, 1)) }
}

/// Removes images without names (`--all`: with names, too), or the step cache.
pub(super) fn prune(args: &PruneArgs, global: &Global, builder: bool) -> Result<(), Failure> {
    if !args.filter.is_empty() {
        return Err(Error::unsupported("`--filter`", "name the images: `docker rmi NAME`").into());
    }
    let warning = match (builder, args.all) {
        (true, _) => "WARNING! This will remove all build cache.",
        (false, false) => "WARNING! This will remove all dangling images.",
        (false, true) => "WARNING! This will remove all images without at least one container associated to them.",
    };
    if !args.force && !confirmed(warning)? {
        return Ok(());
    }
    let store = global.store()?;
    let mut deleted = vec![];
    if !builder {
        for image in listing::images(&store)?.into_iter().filter(|l| args.all || l.names.is_empty()) {
            deleted.extend(image.names.iter().map(|n| format!("untagged: {}", n.familiar())));
            deleted.push(format!("deleted: {}", image.id));
            store.remove_image(&image.manifest).map_err(Error::from)?;
        }
    }
    drop(store);
    let store = global.store()?;
    let keep = args.keep_storage.filter(|_| builder);
    let mut done = store.collect_garbage(GcOptions { all: builder && keep.is_none() }).map_err(Error::from)?;
    if let Some(bytes) = keep {
        done += store.shrink(Limit { bytes, images: false }).map_err(Error::from)?.removed;
    }
    if !deleted.is_empty() {
        output::print_line(&format!("Deleted Images:\n{}\n", deleted.join("\n")))?;
    }
    Ok(output::print_line(&format!("Total reclaimed space: {}", human::size(done.bytes, "", 4)))?)
}

fn confirmed(warning: &str) -> Result<bool, Error> {
    output::print(&format!("{warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Error::file("read", "standard input".as_ref()))?;
    let yes = answer.trim().eq_ignore_ascii_case("y");
    if !yes {
        output::print_line("")?;
    }
    Ok(yes)
}
