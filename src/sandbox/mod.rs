//! Running one command on one root file system.
