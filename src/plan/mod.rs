//! From a Dockerfile, arguments and base image configs to a graph of steps.
//!
//! [`plan`] is pure but for one question, which it asks through [`Resolver`]: which image is this name, and what is its
//! config?

mod error;
mod request;
mod step;

pub use error::Error;
pub use request::{PlanRequest, ResolveError, Resolver};
pub use step::{
    Base, Copy, CopyFrom, CopySource, HeredocFile, Mount, Network, Plan, ResolvedImage, Run, Stage, Step, StepId,
    StepKind,
};

/// Works out every step of a build.
///
/// # Errors
///
/// A fault of the Dockerfile or of the arguments, with its place; what the resolver said; or an instruction that is valid
/// but not supported.
pub fn plan(request: &PlanRequest, resolver: &mut dyn Resolver) -> Result<Plan, Error> {
    let _ = resolver;
    let ast = crate::dockerfile::parse(&request.dockerfile, &request.name)?;
    let _ = ast;
    Err(Error::TargetNotFound { target: "?".into(), hint: None })
}
