//! COPY and ADD.

use super::stage::{Builder, Outcome, State};
use super::{Copy, CopyFrom, CopySource, Error, StepKind, values};
use crate::dockerfile::expand::Expander;
use crate::dockerfile::{self, Source, Span};

/// What a source of ADD is, by its spelling.
enum Remote {
    Http,
    Git,
}

fn remote(source: &str) -> Option<Remote> {
    let http = source.starts_with("http://") || source.starts_with("https://");
    if http {
        let path = source.split(['#', '?']).next().unwrap_or(source);
        return Some(if path.ends_with(".git") { Remote::Git } else { Remote::Http });
    }
    let git = source.starts_with("git://") || source.starts_with("ssh://") || source.starts_with("git@");
    git.then_some(Remote::Git)
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
        for (flag, given) in [
            ("checksum", copy.checksum.is_some()),
            ("keep-git-dir", copy.keep_git_dir.is_some()),
            ("unpack", copy.unpack.is_some()),
        ] {
            if given {
                return Err(self.unsupported(span, format!("`{keyword} --{flag}`")));
            }
        }
        let optional = |this: &Self, text: &Option<String>| -> Result<Option<String>, Error> {
            let expanded = text.as_ref().map(|t| this.word(t, &state.variables, span)).transpose()?;
            Ok(expanded.filter(|t| !t.is_empty()))
        };
        let chown = optional(self, &copy.chown)?;
        let chmod = optional(self, &copy.chmod)?;
        if let Some(mode) = &chmod {
            values::check_mode(mode).map_err(|m| self.invalid(span, m))?;
        }
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
                    match remote(&path) {
                        Some(_) if !add => return Err(self.invalid(span, format!("COPY cannot read the URL `{path}`"))),
                        Some(Remote::Http) => return Err(self.unsupported(span, "ADD of a URL")),
                        Some(Remote::Git) => return Err(self.unsupported(span, "ADD of a git repository")),
                        None => {}
                    }
                    text.push_str(&format!(" {path}"));
                    paths.push(CopySource::Path(path));
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
        let kind = StepKind::Copy(Copy {
            add,
            from,
            sources: paths,
            dest: values::destination(&state.image.config.working_dir, &written),
            chown,
            chmod,
            exclude,
            parents: copy.parents,
            link: copy.link,
        });
        Ok(Outcome { kind, history: Some((text, true)), inputs: input.into_iter().collect() })
    }
}
