//! `rbuild images`.

use super::listing::{self, Listed};
use super::template::Template;
use super::{Error, Global, names::Naming, output, table, values};
use crate::ui::human;
use serde_json::{Value, json};

/// List the images of the store
#[derive(Clone, Debug, clap::Args)]
pub struct ImagesArgs {
    /// Only images of this name
    pub name: Option<String>,
    /// Accepted for buildah's sake: there are no intermediate images
    #[arg(short, long)]
    pub all: bool,
    /// Show digests of manifests
    #[arg(long)]
    pub digests: bool,
    /// Only images that fit: dangling, label, reference, before, since
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// Go template for each line
    #[arg(long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Leave the headings out
    #[arg(short, long)]
    pub noheading: bool,
    /// Print whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Refused: names that an image had are not kept
    #[arg(long, hide = true)]
    pub history: bool,
}

/// Lists images.
pub fn run(args: &ImagesArgs, global: &Global) -> Result<(), Error> {
    if args.history {
        return Err(Error::unsupported("`--history`", "leave it out: names that an image had are not kept"));
    }
    if args.json && args.format.is_some() {
        return Err(Error::usage("`--json` and `--format` contradict each other"));
    }
    let store = global.store()?;
    let mut images = listing::filter(&store, listing::images(&store)?, &values::commas(&args.filter), Naming::Buildah)?;
    if let Some(name) = &args.name {
        let found = store.find(name).ok().map(|f| f.descriptor.digest);
        images.retain_mut(|l| {
            let named = l.names.iter().any(|n| listing::matches(n, name));
            if named {
                l.names.retain(|n| listing::matches(n, name));
            }
            named || found == Some(l.manifest)
        });
        if images.is_empty() {
            return Err(Error::NotFound(format!("{name}: image not known")));
        }
    }
    output::print(&show(args, &images)?)
}

fn show(args: &ImagesArgs, images: &[Listed]) -> Result<String, Error> {
    if args.json {
        let items: Vec<Value> = images.iter().map(|l| json_of(l, args.no_trunc)).collect();
        let value = if items.is_empty() { json!([]) } else { Value::Array(items) };
        return Ok(output::json(&value, "    ", true)? + "\n");
    }
    if args.quiet {
        return Ok(images.iter().map(|l| id(l, args.no_trunc) + "\n").collect());
    }
    let rows = images.iter().flat_map(|l| rows(l, args));
    if let Some(template) = &args.format {
        let template = Template::parse(template)?;
        let mut text = String::new();
        for row in rows {
            text.push_str(&template.render(&row)?);
            text.push('\n');
        }
        return Ok(text);
    }
    let cell = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut keys = vec!["Name", "Tag", "ID", "CreatedAt", "Size"];
    let mut head = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        keys.insert(2, "Digest");
        head.insert(2, "DIGEST");
    }
    let mut lines: Vec<Vec<String>> = rows.map(|row| keys.iter().map(|k| cell(&row, k)).collect()).collect();
    if !args.noheading {
        lines.insert(0, head.into_iter().map(str::to_owned).collect());
    }
    Ok(table::columns(&lines, 0, 3))
}

fn id(image: &Listed, whole: bool) -> String {
    if whole { image.id.to_string() } else { image.id.short() }
}

/// One value for each name of the image, with the fields that templates may use.
fn rows(image: &Listed, args: &ImagesArgs) -> Vec<Value> {
    let row = |repository: String, tag: String| {
        json!({
            "Name": repository,
            "Repository": repository,
            "Tag": tag,
            "ID": id(image, args.no_trunc),
            "Digest": image.manifest.to_string(),
            "CreatedAt": format!("{} ago", human::age(listing::age_seconds(image.created))),
            "CreatedAtRaw": image.created_text,
            "Created": image.created.map_or(0, |t| t.as_second()),
            "Size": human::size(image.size, " ", 3),
            "ReadOnly": false,
        })
    };
    if image.names.is_empty() {
        return vec![row("<none>".into(), "<none>".into())];
    }
    image.names.iter().map(|n| row(n.name(), n.tag.clone().unwrap_or("<none>".into()))).collect()
}

fn json_of(image: &Listed, whole: bool) -> Value {
    let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    json!({
        "id": id(image, whole),
        "names": if names.is_empty() { Value::Null } else { json!(names) },
        "digest": image.manifest.to_string(),
        "createdat": format!("{} ago", human::age(listing::age_seconds(image.created))),
        "size": human::size(image.size, " ", 3),
        "created": image.created.map_or(0, |t| t.as_second()),
        "createdatraw": image.created_text,
        "readonly": false,
        "history": Value::Null,
    })
}
