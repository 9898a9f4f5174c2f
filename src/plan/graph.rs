//! Which stages there are, what each starts from, and which of them the target needs.
//!
//! A stage depends on the stage that it starts from and on those that COPY and RUN read. What it runs is known only when
//! its base is: ONBUILD triggers of the base become instructions of the stage, and may bring new dependencies. So the
//! stages are opened from the target down: opening one finds its base, takes over the triggers, and names the stages that
//! have to be opened next.

use super::{ContextId, Error, NamedContext, PlanRequest, ResolvedImage, Resolver};
use crate::dockerfile::expand::{Expander, Lookup, NoVariables};
use crate::dockerfile::{self, CommandLine, Dockerfile, Instruction, Kind, MountFlag, MountKind, Span, suggest};
use crate::oci::Platform;
use std::collections::HashMap;
use std::sync::Arc;

/// What a stage starts from.
#[derive(Clone, Debug)]
pub(super) enum Start {
    Scratch,
    Stage(usize),
    Image(Arc<ResolvedImage>),
    Files(ContextId),
}

/// Where COPY, ADD and mounts read.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Stage(usize),
    Image(Arc<ResolvedImage>),
    Files(ContextId),
}

/// A stage that the target needs.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) start: Start,
    pub(super) platform: Platform,
    /// The name of the base, expanded.
    pub(super) base: String,
    /// The triggers of the base (`true`), then the instructions of the stage.
    pub(super) instructions: Vec<(Instruction, bool)>,
}

/// Finds stages and images.
pub(super) struct Graph<'a> {
    pub(super) file: &'a Dockerfile,
    pub(super) request: &'a PlanRequest,
    resolver: &'a mut dyn Resolver,
    /// Bases of all stages, expanded; stages that are not needed may have an impossible one.
    bases: Vec<Result<String, String>>,
    /// Names of all stages, variables replaced, lower case.
    pub(super) names: Vec<Option<String>>,
    images: HashMap<(String, Platform), Arc<ResolvedImage>>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(
        file: &'a Dockerfile,
        request: &'a PlanRequest,
        resolver: &'a mut dyn Resolver,
        global: &dyn Lookup,
    ) -> Result<Self, Error> {
        let expander = Expander::new(file.escape);
        let mut names = vec![];
        for stage in &file.stages {
            let Some(written) = &stage.from.name else {
                names.push(None);
                continue;
            };
            let invalid = |message: String| Error::invalid(request, stage.span, message);
            let name = expander.text(written, global).map_err(|e| invalid(e.to_string()))?.to_lowercase();
            if !dockerfile::is_stage_name(&name) {
                return Err(invalid(format!("invalid name `{name}` for a build stage")));
            }
            names.push(Some(name));
        }
        let bases =
            file.stages.iter().map(|s| expander.text(&s.from.base, global).map_err(|e| e.to_string())).collect();
        Ok(Graph { file, request, resolver, bases, names, images: HashMap::new() })
    }

    /// Number of the stage to build.
    pub(super) fn target(&self) -> Result<usize, Error> {
        let last = self.file.stages.len().saturating_sub(1);
        let Some(wanted) = self.request.target.as_deref().filter(|t| !t.is_empty()) else { return Ok(last) };
        let number = wanted.parse().ok().filter(|n| *n <= last);
        match self.named(wanted, self.file.stages.len()).or(number) {
            Some(n) => Ok(n),
            None => {
                let names: Vec<&str> = self.names.iter().flatten().map(String::as_str).collect();
                let hint = suggest::hint(wanted, names.iter().copied()).or_else(|| {
                    (!names.is_empty()).then(|| format!("the Dockerfile has the stages `{}`", names.join("`, `")))
                });
                Err(Error::TargetNotFound { target: wanted.to_owned(), hint })
            }
        }
    }

    /// The last stage before `before` that has this name.
    fn named(&self, name: &str, before: usize) -> Option<usize> {
        let names = self.names.get(..before)?;
        names.iter().rposition(|n| n.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name)))
    }

    /// The image of a name, asked for once.
    fn image(&mut self, name: &str, platform: &Platform, span: Span) -> Result<Arc<ResolvedImage>, Error> {
        let key = (name.to_owned(), platform.clone());
        if let Some(found) = self.images.get(&key) {
            return Ok(found.clone());
        }
        let found = self.resolver.image(name, platform).map_err(|reason| Error::Image {
            name: name.to_owned(),
            reason,
            near: suggest::nearest(name, self.names.iter().flatten().map(String::as_str)).map(str::to_owned),
            location: Box::new(self.request.location(span)),
        })?;
        self.images.insert(key, found.clone());
        Ok(found)
    }

    /// The named context that a name means on a platform.
    fn context(&self, name: &str, platform: &Platform) -> Option<(ContextId, &'a NamedContext)> {
        self.request.context(name, platform)
    }

    /// What a stage starts from that begins with a named context.
    fn start_of(
        &mut self,
        (id, context): (ContextId, &NamedContext),
        number: usize,
        platform: &Platform,
        span: Span,
    ) -> Result<Start, Error> {
        Ok(match context {
            NamedContext::Files => Start::Files(id),
            NamedContext::Image(reference) => Start::Image(self.image(reference, platform, span)?),
            NamedContext::Layout => Start::Image(self.layout(id, platform, span)?),
            NamedContext::Stage(name) => Start::Stage(self.aliased(name, number, span)?),
        })
    }

    fn layout(&mut self, id: ContextId, platform: &Platform, span: Span) -> Result<Arc<ResolvedImage>, Error> {
        let name = self.request.contexts.get(id.0).map_or("", |(name, _)| name.as_str());
        self.resolver.layout(id, platform).map_err(|reason| Error::Image {
            name: name.to_owned(),
            reason,
            near: None,
            location: Box::new(self.request.location(span)),
        })
    }

    /// The stage that a named context stands for.
    fn aliased(&self, name: &str, before: usize, span: Span) -> Result<usize, Error> {
        self.named(name, before).ok_or_else(|| Error::Invalid {
            message: format!("there is no stage `{name}` before this one, which `--build-context` names"),
            hint: None,
            location: Box::new(self.request.location(span)),
        })
    }

    fn stage_span(&self, stage: usize) -> Span {
        self.file.stages.get(stage).map(|s| s.span).unwrap_or_default()
    }

    /// Finds the base of a stage and takes over its triggers.
    pub(super) fn open(&mut self, number: usize, global: &dyn Lookup) -> Result<Opened, Error> {
        let span = self.stage_span(number);
        let Some(stage) = self.file.stages.get(number) else {
            return Err(Error::invalid(self.request, span, format!("there is no stage {number}")));
        };
        let invalid = |message: String| Error::invalid(self.request, span, message);
        let base = match self.bases.get(number) {
            Some(Ok(b)) if !b.is_empty() => b.clone(),
            Some(Err(e)) => return Err(invalid(e.clone())),
            _ => {
                return Err(Error::Invalid {
                    message: format!("the base `{}` is empty when its variables are replaced", stage.from.base),
                    hint: Some("give the ARG before the first FROM a default value".into()),
                    location: Box::new(self.request.location(span)),
                });
            }
        };
        let platform = match &stage.from.platform {
            None => self.request.platform.clone(),
            Some(written) => {
                let text = Expander::new(self.file.escape).text(written, global).map_err(|e| invalid(e.to_string()))?;
                if text.is_empty() {
                    return Err(invalid(format!("the platform `{written}` is empty when its variables are replaced")));
                }
                let p: Platform = text.parse().map_err(|e: crate::oci::PlatformError| invalid(e.to_string()))?;
                p
            }
        };
        // A context with the name of a stage takes its place: nothing of the stage is executed.
        let name = self.names.get(number).cloned().flatten();
        if let Some(context) = name.as_deref().and_then(|name| self.context(name, &platform)) {
            let start = self.start_of(context, number, &platform, span)?;
            return Ok(Opened { start, platform, base, instructions: vec![] });
        }
        let earlier = self.named(&base, number).or_else(|| {
            // a bare number is a stage, as in COPY --from
            base.parse().ok().filter(|n| *n < number && base.bytes().all(|b| b.is_ascii_digit()))
        });
        let mut triggers: Vec<Instruction> = vec![];
        let mut platform = platform;
        let start = if let Some(parent) = earlier {
            if let Some(parent) = self.file.stages.get(parent) {
                triggers.extend(parent.instructions.iter().filter_map(|i| match &i.kind {
                    Kind::Onbuild(o) => Some((*o.instruction).clone()),
                    _ => None,
                }));
            }
            Start::Stage(parent)
        } else if base == "scratch" {
            Start::Scratch
        } else {
            match self.context(&base, &platform) {
                Some(context) => self.start_of(context, number, &platform, span)?,
                None => Start::Image(self.image(&base, &platform, span)?),
            }
        };
        if let Start::Image(image) = &start {
            for text in &image.config.config.on_build {
                let trigger = dockerfile::parse_trigger(text).map_err(|problem| {
                    let message = format!("cannot run the ONBUILD trigger `{text}` of `{base}`: {problem}");
                    Error::invalid(self.request, span, message)
                })?;
                triggers.push(trigger);
            }
            // an image without a variant is as good as one of the asked variant
            if platform.variant.is_none() {
                platform.variant = image.config.variant.clone();
            }
        }
        let triggers = triggers.into_iter().map(|i| (Instruction { span, ..i }, true));
        let own = stage.instructions.iter().map(|i| (i.clone(), false));
        let mut instructions: Vec<(Instruction, bool)> = triggers.chain(own).collect();
        for (i, _) in &mut instructions {
            if let Kind::Run(run) = &mut i.kind {
                let all = self.request.mounts.iter().map(|text| MountFlag { text: text.clone() });
                run.mounts.splice(0..0, all);
            }
        }
        Ok(Opened { start, platform, base, instructions })
    }

    /// The stages that an opened stage needs.
    pub(super) fn needs(&self, number: usize, opened: &Opened) -> Result<Vec<usize>, Error> {
        let mut out = vec![];
        if let Start::Stage(parent) = opened.start {
            out.push(parent);
        }
        for (i, _) in &opened.instructions {
            for name in reads(&i.kind) {
                out.extend(self.stage_read(number, &name, i.span)?);
            }
        }
        Ok(out)
    }

    /// The stage that `--from=name` in stage `number` means; `None` where it is an image.
    fn stage_read(&self, number: usize, name: &str, span: Span) -> Result<Option<usize>, Error> {
        let invalid = |message: String| Error::invalid(self.request, span, message);
        let plain = Expander::new(self.file.escape).text(name, &NoVariables);
        if !plain.is_ok_and(|p| p == name) {
            return Err(Error::Invalid {
                message: format!("variables are not expanded in `--from={name}`"),
                hint: Some("define a stage with `FROM $NAME AS alias` and use the alias".into()),
                location: Box::new(self.request.location(span)),
            });
        }
        if let Ok(index) = name.parse::<usize>() {
            return match index {
                i if i < number => Ok(Some(i)),
                i if i < self.file.stages.len() => {
                    Err(invalid(format!("stage {i} has to be defined before the stage that reads it")))
                }
                i => Err(invalid(format!("there is no stage {i}"))),
            };
        }
        if let Some(earlier) = self.named(name, number) {
            return Ok(Some(earlier));
        }
        if self.named(name, self.file.stages.len()).is_some() {
            return Err(invalid(format!("stage `{name}` has to be defined before the stage that reads it")));
        }
        if let Some((_, NamedContext::Stage(alias))) = self.context(name, &self.request.platform) {
            return self.aliased(alias, number, span).map(Some);
        }
        Ok(None)
    }

    /// What `--from=name` means.
    pub(super) fn origin(&mut self, number: usize, name: &str, span: Span) -> Result<Origin, Error> {
        if let Some(stage) = self.stage_read(number, name, span)? {
            return Ok(Origin::Stage(stage));
        }
        if name == "scratch" {
            return Err(Error::invalid(self.request, span, "`scratch` has no files to read".to_owned()));
        }
        let platform = self.request.platform.clone();
        match self.context(name, &platform) {
            Some((id, NamedContext::Files)) => Ok(Origin::Files(id)),
            Some((id, NamedContext::Layout)) => self.layout(id, &platform, span).map(Origin::Image),
            Some((_, NamedContext::Image(reference))) => self.image(reference, &platform, span).map(Origin::Image),
            _ => self.image(name, &platform, span).map(Origin::Image),
        }
    }
}

/// The names that an instruction reads from.
fn reads(kind: &Kind) -> Vec<String> {
    match kind {
        Kind::Copy(c) | Kind::Add(c) => c.from.iter().cloned().collect(),
        Kind::Run(r) => r.mounts.iter().filter_map(|m| m.from()).filter(|f| !f.is_empty()).collect(),
        _ => vec![],
    }
}

/// Whether mounts of this kind read files from a stage, an image or the context.
pub(super) fn reads_files(kind: MountKind) -> bool {
    matches!(kind, MountKind::Bind | MountKind::Cache)
}

/// The command of a shell form, with the shell in front.
pub(super) fn with_shell(shell: Option<&Vec<String>>, command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Exec(argv) => argv.clone(),
        CommandLine::Shell(text) => {
            let mut argv =
                shell.filter(|s| !s.is_empty()).cloned().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
            argv.push(text.clone());
            argv
        }
    }
}
