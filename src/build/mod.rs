//! Runs the graph of steps.

pub mod request;
