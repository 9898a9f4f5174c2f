//! `rbuild history`: how an image came about, newest first. buildah has no such verb; the form is podman's and Docker's.

use super::template::Template;
use super::{Error, Global, listing, output, table};
use crate::export::StoredImage;
use crate::oci::Platform;
use crate::ui::human;
use serde_json::{Value, json};

/// Show how an image came about
#[derive(Clone, Debug, clap::Args)]
pub struct HistoryArgs {
    /// The image: name or id
    pub image: String,
    /// `json`, or a Go template for each line
    #[arg(long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Print sizes and times for people
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "true", value_parser = super::values::boolean)]
    pub human: bool,
    /// Print whole instructions and ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
}

/// Docker cuts instructions to this many characters.
const SHORT_TEXT: usize = 45;

/// Shows the history.
pub fn run(args: &HistoryArgs, global: &Global) -> Result<(), Error> {
    let store = global.store()?;
    let found = store.find(&args.image)?;
    let image = StoredImage::any(&store, &found.descriptor, &Platform::host())?;
    output::print(&show(args, &image)?)
}

fn show(args: &HistoryArgs, image: &StoredImage<'_>) -> Result<String, Error> {
    let rows = rows(args, image);
    if args.quiet {
        return Ok(rows.iter().map(|r| text(r, "ID") + "\n").collect());
    }
    match args.format.as_deref() {
        Some("json") => Ok(rows.iter().map(|r| format!("{r}\n")).collect()),
        Some("table") | None => {
            let mut lines = vec![["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned).to_vec()];
            let keys = ["ID", "CreatedSince", "CreatedBy", "Size", "Comment"];
            lines.extend(rows.iter().map(|r| keys.iter().map(|k| text(r, k)).collect()));
            Ok(table::columns(&lines, 10, 3))
        }
        Some(template) => {
            let template = Template::parse(template)?;
            rows.iter().map(|r| Ok(template.render(r)? + "\n")).collect()
        }
    }
}

fn text(row: &Value, key: &str) -> String {
    row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn rows(args: &HistoryArgs, image: &StoredImage<'_>) -> Vec<Value> {
    let mut sizes = image.manifest.layers.iter().map(|l| l.size);
    let mut rows: Vec<Value> = vec![];
    for entry in &image.config.history {
        let size = if entry.empty_layer { 0 } else { sizes.next().unwrap_or(0) };
        let created = entry.created.clone().unwrap_or_default();
        let by = entry.created_by.clone().unwrap_or_default();
        let by = match by.char_indices().nth(SHORT_TEXT - 1) {
            Some((cut, _)) if !args.no_trunc && by.chars().count() > SHORT_TEXT => {
                format!("{}…", by.get(..cut).unwrap_or_default())
            }
            _ => by,
        };
        let age = human::age(listing::age_seconds(created.parse().ok()));
        rows.push(json!({
            "ID": "<missing>",
            "CreatedAt": created,
            "CreatedSince": if args.human { format!("{age} ago") } else { created.clone() },
            "CreatedBy": by,
            "Size": if args.human { human::size(size, "", 3) } else { size.to_string() },
            "Comment": entry.comment.clone().unwrap_or_default(),
        }));
    }
    rows.reverse();
    if let Some(first) = rows.first_mut() {
        let id = image.id();
        first["ID"] = if args.no_trunc { id.to_string() } else { id.short() }.into();
    }
    rows
}
