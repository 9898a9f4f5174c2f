//! The step cache.
