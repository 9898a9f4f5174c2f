//! COPY, ADD and WORKDIR: steps that change files without a command.

use super::{
    Error,
    execute::{Done, Executor, Site},
    keys::{self, Read},
    rootfs,
    stack::{Layer, Stack},
};
use crate::archive::{
    Time,
    content::{self, FileMemo},
    copy::{self, Item, Mode, Tree},
    merged::Merged,
    upper::{Attrs, Upper},
};
use crate::dockerfile::ignore::Patterns;
use crate::plan::{Copy, CopyFrom, CopySource, Step, StepId};
use crate::sys::passwd;
use crate::ui::{Event, StepKey};
use std::{io::Read as _, path::Path};

/// Longest passwd or group file of an image that is read, in bytes.
const PASSWD_LIMIT: u64 = 16 << 20;

impl Executor<'_> {
    pub(super) fn copy(
        &self,
        step: &Step,
        key: StepKey,
        copy: &Copy,
        parent: &Done,
        result_of: &dyn Fn(StepId) -> Option<Done>,
    ) -> Result<(Option<Layer>, String), Error> {
        let below = parent.stack.chain();
        let source = match &copy.from {
            CopyFrom::Context => None,
            CopyFrom::Stage(id) => Some(result_of(*id).ok_or(Error::Cancelled)?.stack),
            CopyFrom::Image(image) => Some(Stack::of(self.bases.get(image).ok_or(Error::Cancelled)?)),
        };
        let mut keys = vec![];
        if let Some(source) = &source {
            keys.push(keys::copy(below, copy, &Read::Layers(source.chain())));
            if self.lookup(step, &keys[0]).is_some() {
                return self.cached(step, key, parent, &keys, true, |_| Ok(()));
            }
        }
        let from;
        let tree: &dyn Tree = match &source {
            Some(source) => {
                from = rootfs::open(&self.snapshots, self.images, source)?;
                &from.view
            }
            None => &self.context.files,
        };
        let request = self.copy_request(copy)?;
        self.warn_of_unmatched(step, &request, tree);
        let from_context = matches!(copy.from, CopyFrom::Context);
        let memo = from_context.then(|| self.file_memo());
        if self.request.output.layers {
            let digest = content::digest(&request, tree, memo)?;
            keys.push(keys::copy(below, copy, &Read::Content(digest)));
        }
        self.cached(step, key, parent, &keys, true, |site| {
            let mut request = request.clone();
            if let Some(spec) = &copy.chown {
                let (passwd, group) = (read_etc(site.view, "passwd")?, read_etc(site.view, "group")?);
                request.chown = Some(passwd::resolve_chown(spec, &passwd, &group)?);
            }
            let mut upper = Upper::open(&site.active.layer(), &site.lower.view)?;
            copy::copy(&request, tree, &mut upper)?;
            upper.finish()?;
            Ok(())
        })
    }

    /// As with BuildKit, a wildcard may match nothing; but few mean it to, so it is said, whether or not the step is cached.
    fn warn_of_unmatched(&self, step: &Step, request: &copy::Request, tree: &dyn Tree) {
        // A source that is wrong is reported where it is read.
        for pattern in copy::select(request, tree).unwrap_or_default().unmatched {
            let text = format!("no file matches `{pattern}` in `{}`", step.name);
            self.around.sink.event(&Event::Warning { text: &text });
        }
    }

    /// Digests of files of the build context.
    pub(super) fn file_memo(&self) -> &dyn content::Memo {
        self.memo.get_or_init(|| FileMemo::open(&self.around.store.file_memo_path()))
    }

    fn copy_request(&self, copy: &Copy) -> Result<copy::Request, Error> {
        let item = |s: &CopySource| match s {
            CopySource::Path(p) => Item::Path(p.clone()),
            CopySource::Inline { name, content } => {
                Item::Inline { name: name.clone(), content: content.clone().into_bytes() }
            }
        };
        let chmod = match &copy.chmod {
            Some(text) => Some(Mode::parse(text)?),
            None => None,
        };
        Ok(copy::Request {
            sources: copy.sources.iter().map(item).collect(),
            dest: copy.dest.clone(),
            chown: None,
            chmod,
            exclude: Patterns::new(&copy.exclude).map_err(copy::Error::from)?,
            parents: copy.parents,
            unpack: copy.add,
            must_match: false,
            implicit_mtime: self.epoch().unwrap_or_else(|| jiff::Timestamp::now().as_second()),
        })
    }

    pub(super) fn make_workdir(&self, path: &str, user: &str, site: &Site) -> Result<(), Error> {
        let (uid, gid) = workdir_owner(user, &read_etc(site.view, "passwd")?, &read_etc(site.view, "group")?)?;
        let mut upper = Upper::open(&site.active.layer(), &site.lower.view)?;
        let mtime = Some(Time::seconds(self.epoch().unwrap_or_else(|| jiff::Timestamp::now().as_second())));
        let attrs = Attrs { mode: 0o755, uid, gid, mtime, ..Attrs::default() };
        upper.ensure_dir(Path::new(path), &attrs)?;
        upper.finish()?;
        Ok(())
    }
}

/// Who owns the directory that WORKDIR makes. As with BuildKit, a user that the image does not know is root here (it is an
/// error only where a command is to run), and a number without a group is the group's number, too.
fn workdir_owner(user: &str, passwd: &[u8], group: &[u8]) -> Result<(u32, u32), passwd::Error> {
    let (name, group_name) = user.split_once(':').unwrap_or((user, ""));
    let (uid, own_gid) = match passwd::resolve_chown(name, passwd, group) {
        Err(passwd::Error::NoUser(_)) => (0, 0),
        other => other?,
    };
    let gid = match passwd::resolve_chown(&format!(":{group_name}"), passwd, group) {
        _ if group_name.is_empty() => own_gid,
        Err(passwd::Error::NoGroup(_)) => own_gid,
        other => other?.1,
    };
    Ok((uid, gid))
}

/// The content of `/etc/passwd` or `/etc/group` of an image; empty where there is none.
pub(super) fn read_etc(view: &Merged, name: &str) -> Result<Vec<u8>, Error> {
    let found = view.resolve(&Path::new("etc").join(name), true)?;
    let Some(node) = found.node.filter(|n| n.is_file()) else { return Ok(vec![]) };
    let mut bytes = vec![];
    view.open_file(&node)?
        .take(PASSWD_LIMIT)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::File { path: Path::new("/etc").join(name), source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_of_working_directories() {
        let (passwd, group) = (&b"foo:x:10000:10001::/home/foo:/bin/sh\n"[..], &b"bar:x:77:\n"[..]);
        let owner = |user| workdir_owner(user, passwd, group).unwrap();
        for (user, want) in [
            ("", (0, 0)),
            ("9999", (9999, 9999)),
            ("9999:5", (9999, 5)),
            ("foo", (10000, 10001)),
            ("foo:bar", (10000, 77)),
            ("10000:bar", (10000, 77)),
            ("nobody-knows", (0, 0)),
            ("nobody-knows:bar", (0, 77)),
            ("foo:nobody-knows", (10000, 10001)),
        ] {
            assert_eq!(owner(user), want, "{user}");
        }
        assert!(workdir_owner("4294967295", passwd, group).is_err());
    }
}
