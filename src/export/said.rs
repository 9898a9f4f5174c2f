//! What is said about an image, as files among its own: where its root file system goes there is no index that could hold it.
//! Statements are about each regular file there, as BuildKit writes them.

use super::{Error, StoredImage};
use crate::archive::merged::Merged;
use crate::archive::node::{Kind, Time};
use crate::archive::upper::{Attrs, Upper};
use crate::attest::{Said, Subject};
use crate::oci::Hashing;
use crate::snapshot::Active;
use crate::ui::{Event, Sink};
use std::io::{self, BufWriter};
use std::path::Path;

/// Puts what is said about an image on top of its files, under names that begin with `prefix`.
pub(super) fn write_said(
    view: &Merged,
    top: &Active,
    (said, prefix): (&[Said], &str),
    image: &StoredImage<'_>,
    sink: &dyn Sink,
) -> Result<(), Error> {
    let subjects = subjects(view)?;
    let created = image.config.created.as_deref().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let time = created.map(|t| Time { sec: t.as_second(), nsec: 0 });
    let mut upper = Upper::create(&top.layer(), view)?;
    for statement in said {
        let name = format!("{prefix}{}", statement.file_name());
        let path = Path::new(&name);
        if view.lookup(path)?.is_some() {
            let text = format!(
                "`/{name}` of the image gives way to what is said about the image: \
                 `attestation-prefix=` of `--output` gives that another name"
            );
            sink.event(&Event::Warning { text: &text });
        }
        upper.file(path, &Attrs::root(0o600, time), |file| {
            let written = statement.write(&subjects, &mut BufWriter::new(file));
            written.map_err(crate::archive::Error::file("write", path))
        })?;
    }
    Ok(upper.finish()?)
}

/// The regular files of an image, as BuildKit lists them: paths without the first slash, in order.
fn subjects(view: &Merged) -> Result<Vec<Subject>, Error> {
    let mut all = vec![];
    let root = view.lookup(Path::new(""))?;
    let mut levels = vec![if root.is_some() { view.read_dir(Path::new(""))? } else { vec![] }.into_iter()];
    while let Some(level) = levels.last_mut() {
        let Some((_, node)) = level.next() else {
            levels.pop();
            continue;
        };
        match node.meta.kind {
            Kind::Dir => levels.push(view.read_dir(&node.path)?.into_iter()),
            Kind::File => {
                let mut hash = Hashing::new(io::sink());
                io::copy(&mut view.open_file(&node)?, &mut hash).map_err(Error::file("read", &node.path))?;
                let (_, digest, _) = hash.finish();
                all.push(Subject { name: node.path.to_string_lossy().into_owned(), digest });
            }
            _ => {}
        }
    }
    Ok(all)
}
