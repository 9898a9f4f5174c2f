//! rbuild: a rootless, daemonless container image builder in one static binary.
//!
//! The modules form levels, and an arrow may only point down: `docs/architecture.md` has the table, and a test reads the
//! `use crate::` lines and fails on one that points up.

#![deny(missing_docs)]

pub mod archive;
pub mod attest;
pub mod build;
pub mod cache;
pub mod cli;
pub mod dockerfile;
pub mod doctor;
pub mod error;
pub mod export;
pub mod lint;
pub mod oci;
pub mod plan;
pub mod registry;
pub mod sandbox;
pub mod sbom;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod supervisor;
pub mod sys;
pub mod ui;
