//! Tar archives and directory trees: reading, writing, extraction, diffs, compression.
