//! From a Dockerfile, arguments and base image configs to a graph of steps.

mod step;

pub use step::{
    Base, Copy, CopyFrom, CopySource, HeredocFile, Network, Plan, ResolvedImage, Run, Stage, Step, StepId, StepKind,
};
