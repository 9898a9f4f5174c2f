//! Foreign command lines: one file a dialect. Each reads another program's words and lowers them into the same requests
//! that rbuild's own verbs make.

pub mod docker;
