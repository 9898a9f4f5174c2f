//! COPY and ADD.

use super::stage::{Builder, Outcome, State};
use super::{Copy, CopyFrom, CopySource, Error, StepKind, values};
use crate::dockerfile::expand::Expander;
use crate::dockerfile::{self, Source, Span};
use crate::oci::Digest;
use crate::source::{GitUrl, Written, download, split_login};

/// The source that an address stands for; `None` for a path.
fn remote(text: &str, copy: &dockerfile::Copy) -> Option<Result<CopySource, String>> {
    let Some(git) = GitUrl::parse(text, Written::Dockerfile) else {
        return download::is_web(text).then(|| {
            let checksum =
                copy.checksum.as_deref().map(|c| c.parse::<Digest>().map_err(|e| e.to_string())).transpose()?;
            Ok(CopySource::Web { url: text.to_owned(), checksum })
        });
    };
    Some(git.map_err(|e| e.to_string()).and_then(|mut git| {
        if let Some(commit) = &copy.checksum {
            git.demand(commit).map_err(|e| e.to_string())?;
        }
        git.keep_git_dir = copy.keep_git_dir.unwrap_or(git.keep_git_dir);
        Ok(CopySource::Git(git))
    }))
}

/// An address without what nobody but its server should see.
fn shown(source: &CopySource, written: &str) -> String {
    match source {
        CopySource::Web { url, .. } => split_login(url).0,
        CopySource::Git(git) => match split_login(written) {
            (text, Some(_)) => text,
            _ if written.contains("://") => written.to_owned(),
            _ => git.to_string(),
        },
        _ => written.to_owned(),
    }
}

impl Builder<'_> {
    pub(super) fn copy(
        &mut self,
        stage: usize,
        state: &mut State,
        copy: &dockerfile::Copy,
        add: bool,
        span: Span,
    ) -> Result<Outcome, Error> {
        let keyword = if add { "ADD" } else { "COPY" };
        let optional = |this: &Self, text: &Option<String>| -> Result<Option<String>, Error> {
            let expanded = text.as_ref().map(|t| this.word(t, &state.variables, span)).transpose()?;
            Ok(expanded.filter(|t| !t.is_empty()))
        };
        let chown = optional(self, &copy.chown)?;
        let chmod = optional(self, &copy.chmod)?;
        if let Some(mode) = &chmod {
            values::check_mode(mode).map_err(|m| self.invalid(span, m))?;
        }
        let checksum = optional(self, &copy.checksum)?;
        if checksum.is_some() && copy.sources.len() != 1 {
            return Err(self.invalid(span, "`ADD --checksum` takes one source only"));
        }
        let copy = dockerfile::Copy { checksum, ..copy.clone() };
        let mut exclude = vec![];
        for pattern in &copy.exclude {
            exclude.push(self.word(pattern, &state.variables, span)?);
        }
        let mut text = keyword.to_owned();
        if copy.parents {
            text.push_str(" --parents");
        }
        for (flag, value) in [("chown", &chown), ("chmod", &chmod)] {
            if let Some(v) = value {
                text.push_str(&format!(" --{flag}={v}"));
            }
        }
        let (mut paths, mut inline) = (vec![], vec![]);
        for source in &copy.sources {
            match source {
                Source::Path(path) => {
                    let path = self.word(path, &state.variables, span)?;
                    let source = match remote(&path, &copy) {
                        Some(_) if !add => {
                            let message = format!("COPY cannot read the URL `{}`", split_login(&path).0);
                            return Err(self.invalid_hint(span, message, "use ADD"));
                        }
                        Some(source) => source.map_err(|m| self.invalid(span, m))?,
                        None if copy.checksum.is_some() => {
                            return Err(self.invalid(span, "`ADD --checksum` needs a web address or a git repository"));
                        }
                        None => CopySource::Path(path.clone()),
                    };
                    text.push_str(&format!(" {}", shown(&source, &path)));
                    paths.push(source);
                }
                Source::Heredoc(heredoc) => {
                    let mut content = heredoc.text();
                    if heredoc.expand {
                        let raw = Expander { ignore_quotes: true, ..Expander::new('\\') };
                        content =
                            raw.text(&content, &state.variables).map_err(|e| self.invalid(span, e.to_string()))?;
                    }
                    inline.push(CopySource::Inline { name: heredoc.name.clone(), content });
                }
            }
        }
        for source in &inline {
            if let CopySource::Inline { name, .. } = source {
                text.push_str(&format!(" <<{name}"));
            }
        }
        let written = self.word(&copy.dest, &state.variables, span)?;
        text.push_str(&format!(" {written} # buildkit"));
        paths.append(&mut inline);

        let (from, input) = match &copy.from {
            None => (CopyFrom::Context, None),
            Some(name) => self.origin(stage, name, span)?,
        };
        let known = |id: &str| id == "root" || id.bytes().all(|b| b.is_ascii_digit());
        let link = copy.link && chmod.is_none() && chown.iter().flat_map(|c| c.splitn(2, ':')).all(known);
        let kind = StepKind::Copy(Copy {
            add,
            unpack: copy.unpack,
            from,
            sources: paths,
            dest: values::destination(&state.image.config.working_dir, &written),
            chown,
            chmod,
            exclude,
            parents: copy.parents,
            link,
        });
        Ok(Outcome { kind, history: Some((text, true)), inputs: input.into_iter().collect() })
    }
}
