//! Runs the graph of steps.
