//! What a build is going to do, as far as its display needs to know: stages, their steps, and what those are called.

/// All stages that will be built, in the order of the Dockerfile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// ARG instructions before the first FROM, as written: the classic builder counts them as steps.
    pub global_args: Vec<String>,
    /// The stages.
    pub stages: Vec<StageOutline>,
    /// Index in `stages` of the one that becomes the image.
    pub target: usize,
    /// Whether every step has a layer and an id of its own (`--layers`).
    pub layers: bool,
    /// The platform, where the same stages are built for several.
    pub platform: Option<String>,
}

/// One stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageOutline {
    /// The name given with AS.
    pub name: Option<String>,
    /// Number in the Dockerfile, from 0.
    pub index: usize,
    /// The steps, FROM first.
    pub steps: Vec<StepOutline>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepOutline {
    /// The instruction on one line.
    pub text: String,
    /// Its kind.
    pub verb: Verb,
}

/// The kind of a step, as far as sinks show kinds differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// FROM an image, with its full reference.
    FromImage(String),
    /// FROM a stage of the same Dockerfile.
    FromStage,
    /// FROM scratch.
    FromScratch,
    /// RUN.
    Run,
    /// COPY, ADD or WORKDIR: changes files, runs nothing.
    Files,
    /// Changes only the config.
    Config,
}

/// A place in an [`Outline`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey {
    /// Index in [`Outline::stages`].
    pub stage: usize,
    /// Index in [`StageOutline::steps`]; 0 is the FROM.
    pub step: usize,
}

impl Outline {
    /// The step at this place, if there is one.
    pub fn step(&self, key: StepKey) -> Option<&StepOutline> {
        self.stages.get(key.stage)?.steps.get(key.step)
    }

    /// Whether this is the last step of its stage.
    pub(super) fn is_last(&self, key: StepKey) -> bool {
        self.stages.get(key.stage).is_some_and(|s| key.step + 1 == s.steps.len())
    }
}

#[cfg(test)]
pub(super) mod example {
    use super::*;

    fn step(text: &str, verb: Verb) -> StepOutline {
        StepOutline { text: text.into(), verb }
    }

    /// `FROM … / RUN / CMD`.
    pub fn one_stage() -> Outline {
        Outline {
            stages: vec![StageOutline {
                name: None,
                index: 0,
                steps: vec![
                    step("FROM alpine", Verb::FromImage("docker.io/library/alpine:latest".into())),
                    step("RUN echo hi", Verb::Run),
                    step("CMD [\"sh\"]", Verb::Config),
                ],
            }],
            layers: true,
            ..Default::default()
        }
    }

    /// A named stage and one that copies from it.
    pub fn two_stages() -> Outline {
        let mut o = one_stage();
        o.stages[0].name = Some("b".into());
        o.stages[0].steps[0].text = "FROM alpine AS b".into();
        o.stages[0].steps.pop();
        o.stages.push(StageOutline {
            name: None,
            index: 1,
            steps: vec![step("FROM scratch", Verb::FromScratch), step("COPY --from=b /x /", Verb::Files)],
        });
        o.target = 1;
        o
    }
}
