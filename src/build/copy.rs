//! COPY, ADD and WORKDIR: steps that change files without a command.

use super::logins::Reach;
use super::{
    Error,
    execute::{Done, Executor, Site},
    keys::{self, Read},
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
use crate::plan::{ContextId, Copy, CopyFrom, CopySource, Step, StepId};
use crate::source::{self, download};
use crate::sys::passwd;
use crate::ui::{Event, StepKey};
use std::{io::Read as _, path::Path, sync::Arc};

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
        // A linked layer is made on top of nothing. What it comes to lie on is in no key, so it serves every base.
        let nothing = Done::default();
        let parent = if copy.link && self.request.output.layers { &nothing } else { parent };
        if copy.link && !self.request.output.layers {
            let text = format!("without layers of its own, `{}` is an ordinary copy", step.name);
            self.around.sink.event(&Event::Warning { text: &text });
        }
        let below = parent.stack.chain();
        if copy.sources.iter().any(|s| matches!(s, CopySource::Web { .. } | CopySource::Git(_))) {
            return self.add(step, key, copy, parent);
        }
        let source = match &copy.from {
            CopyFrom::Context | CopyFrom::Named(_) => None,
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
                from = self.lower(source)?;
                &from.view
            }
            None => self.files(&copy.from)?,
        };
        let request = self.copy_request(copy)?;
        self.warn_of_unmatched(step, &request, tree);
        let memo = match &source {
            Some(_) => None,
            None => self.memo_of(self.files(&copy.from)?),
        };
        if self.request.output.layers {
            let digest = content::digest(&request, tree, memo)?;
            keys.push(keys::copy(below, copy, &Read::Content(digest)));
        }
        self.cached(step, key, parent, &keys, true, |site| {
            let mut request = request.clone();
            request.chown = owner(copy, site)?;
            let mut upper = Upper::open(&site.active.layer(), &site.lower.view)?;
            self.warn_of_replaced(step, &request.dest, copy::copy(&request, tree, &mut upper)?.named);
            upper.finish()?;
            Ok(())
        })
    }

    /// As with BuildKit, several files may go to one name, of which one is left; nobody means that. Only a copy that is
    /// executed knows whether the name is a directory.
    fn warn_of_replaced(&self, step: &Step, dest: &str, named: u64) {
        if named > 1 {
            let text = format!(
                "`{}` writes {named} files to one name, `{dest}`, and only the last one is left: end the destination with `/`",
                step.name
            );
            self.around.sink.event(&Event::Warning { text: &text });
        }
    }

    /// As with BuildKit, a wildcard may match nothing; but few mean it to, so it is said, whether or not the step is cached.
    fn warn_of_unmatched(&self, step: &Step, request: &copy::Request, tree: &dyn Tree) {
        // A source that is wrong is reported where it is read.
        for pattern in copy::unmatched(request, tree).unwrap_or_default() {
            let text = format!("no file matches `{pattern}` in `{}`", step.name);
            self.around.sink.event(&Event::Warning { text: &text });
        }
    }

    /// An ADD of which some sources are fetched: each in turn, as they were written.
    fn add(&self, step: &Step, key: StepKey, copy: &Copy, parent: &Done) -> Result<(Option<Layer>, String), Error> {
        let all = self.copy_request(copy)?;
        let mut parts: Vec<(Option<&CopySource>, copy::Request)> = vec![];
        for (source, item) in copy.sources.iter().zip(&all.sources) {
            let one = copy::Request { sources: vec![item.clone()], ..all.clone() };
            match (source, parts.last_mut()) {
                (CopySource::Web { .. }, _) => {
                    let unpack = copy.unpack == Some(true);
                    parts.push((Some(source), copy::Request { unpack, parents: false, ..one }));
                }
                (CopySource::Git(_), _) => {
                    parts.push((Some(source), copy::Request { unpack: false, parents: false, ..one }));
                }
                (_, Some((None, request))) => request.sources.push(item.clone()),
                _ => parts.push((None, one)),
            }
        }
        let files = self.files(&copy.from)?;
        let mut identities = vec![];
        for (source, request) in &parts {
            identities.push(match source {
                Some(CopySource::Web { url, checksum }) => {
                    let found = self.remotes.web(url, *checksum)?;
                    format!("web {} {} {:?}", download::file_name(url), found.digest, found.modified)
                }
                Some(CopySource::Git(url)) => url.identity(&self.remotes.commit(url)?.id),
                _ => {
                    self.warn_of_unmatched(step, request, files);
                    format!("content {}", content::digest(request, files, self.memo_of(files))?)
                }
            });
        }
        let keys = [keys::copy(parent.stack.chain(), copy, &Read::Parts(identities))];
        self.cached(step, key, parent, &keys, true, |site| {
            let chown = owner(copy, site)?;
            let mut upper = Upper::open(&site.active.layer(), &site.lower.view)?;
            let mut named = 0;
            for (source, request) in &parts {
                let fetched = match source {
                    Some(CopySource::Web { url, checksum }) => {
                        let (found, name) = (self.remotes.web(url, *checksum)?, download::file_name(url));
                        Some(Arc::new(found.as_context(self.around.store, url, &name)?))
                    }
                    Some(CopySource::Git(url)) => {
                        Some(self.remotes.checkout(url, Reach { around: self.around, secrets: self.secrets })?)
                    }
                    _ => None,
                };
                let tree: &dyn Tree = fetched.as_deref().unwrap_or(files);
                named += copy::copy(&copy::Request { chown, ..request.clone() }, tree, &mut upper)?.named;
            }
            self.warn_of_replaced(step, &copy.dest, named);
            upper.finish()?;
            Ok(())
        })
    }

    /// The files of a context.
    pub(super) fn files(&self, from: &CopyFrom) -> Result<&source::Context, Error> {
        match from {
            CopyFrom::Named(id) => self.context.named(*id),
            _ => Ok(&self.context.files),
        }
    }

    /// Digests of files of a context, if they are still of use to the next build.
    pub(super) fn memo_of(&self, context: &source::Context) -> Option<&dyn content::Memo> {
        context.is_local().then(|| self.file_memo())
    }

    /// Digests of files of the build context.
    pub(super) fn file_memo(&self) -> &dyn content::Memo {
        self.memo.get_or_init(|| FileMemo::open(&self.around.store.file_memo_path()))
    }

    fn copy_request(&self, copy: &Copy) -> Result<copy::Request, Error> {
        let item = |s: &CopySource| match s {
            CopySource::Path(p) => Item::Path(p.clone()),
            CopySource::Web { url, .. } => Item::Path(literal(Path::new(&download::file_name(url)))),
            CopySource::Git(_) => Item::Path("/".to_owned()),
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
            unpack: copy.add && copy.unpack.unwrap_or(true),
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

/// The owner that `--chown` names.
fn owner(copy: &Copy, site: &Site) -> Result<Option<(u32, u32)>, Error> {
    let Some(spec) = &copy.chown else { return Ok(None) };
    let (passwd, group) = (read_etc(site.view, "passwd")?, read_etc(site.view, "group")?);
    Ok(Some(passwd::resolve_chown(spec, &passwd, &group)?))
}

/// All files of a named context, to the root: what FROM makes of it.
pub(super) fn everything(context: ContextId) -> Copy {
    Copy {
        add: false,
        unpack: None,
        from: CopyFrom::Named(context),
        sources: vec![CopySource::Path("/".to_owned())],
        dest: "/".to_owned(),
        chown: None,
        chmod: None,
        exclude: vec![],
        parents: false,
        link: false,
    }
}

/// A path as a source that names it and nothing else, whatever characters it has.
pub(super) fn literal(path: &Path) -> String {
    let mut pattern = String::from("/");
    for c in path.to_string_lossy().chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
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
