//! What a step sees where the pod cannot give it the real thing: ids of processes and owners of files.
//!
//! Where one id is mapped, or none, every process of a step has the same ids to the kernel, and every file the same owner.
//! What each of them would have with a range of ids is kept here, and the calls that ask for it or change it are answered
//! from here: [`ids`] knows what the kernel would do with the credentials of a process, [`owners`] which files have an
//! owner, a mode or a device number that the file system does not.

pub mod ids;
pub mod owners;
