//! What the builder and the init of a step tell each other.
//!
//! To init: a sealed file in memory on descriptor 3: the length of the JSON text (8 bytes, little endian), the text of an
//! [`Order`], then the seccomp filters, one after the other. From init: one [`Message`] a line, as JSON, on descriptor 4.

use super::spec::StepSpec;
use crate::archive::plain::Touched;
use crate::archive::record::Records;
use crate::supervisor::keeper;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::path::PathBuf;

/// Descriptor of init on which the order lies.
pub(super) const ORDER_FD: i32 = 3;
/// Descriptor of init that takes messages.
pub(super) const MESSAGE_FD: i32 = 4;
/// Descriptor of init that ends with the builder.
pub(super) const LEASH_FD: i32 = 5;
/// The name by which init knows itself.
pub(super) const INIT_NAME: &str = "rbuild-init";

/// How the processes of a step are kept apart from others, and what their `/proc` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Isolation {
    /// A pid namespace of the step's own, with a proc file system of its own.
    PidNamespace,
    /// The pod's pid namespace; the step is traced, and its `/proc` is put together from the pod's.
    Traced,
    /// No namespace at all: a supervisor keeps up what the step sees.
    Supervised,
}

/// All that init has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    /// The step.
    pub step: StepSpec,
    /// How it is kept apart.
    pub isolation: Isolation,
    /// What init keeps up of files and processes because the pod cannot give it.
    pub keeps: keeper::Kind,
    /// Whether root of the step is the node's root as far as file permissions go, so that `/proc` needs covers.
    pub node_root: bool,
    /// Text of `/etc/resolv.conf`; `None`: the image's.
    pub resolv_conf: Option<String>,
    /// Text of `/etc/hosts`; `None`: the image's.
    pub hosts: Option<String>,
    /// Kind and length in bytes of each seccomp filter that follows, in the order in which they are to be loaded.
    pub filters: Vec<(FilterKind, usize)>,
    /// Whether Landlock keeps the step's signals inside.
    pub scope_signals: bool,
}

/// A compiled filter and what it is for.
pub(super) type Filter = (FilterKind, Vec<u8>);

/// What a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FilterKind {
    /// It answers by itself.
    Profile,
    /// It asks the tracer.
    Gate,
    /// It asks init.
    Keeper,
}

impl Order {
    /// The bytes that go into the memory file before the filters.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text);
        Ok(bytes)
    }

    /// Reads what [`Order::encode`] wrote, and the filters behind it.
    pub(super) fn decode(mut from: impl Read) -> io::Result<(Order, Vec<Filter>)> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(io::Error::other)?;
        let (text, mut rest) = rest.split_at_checked(length).ok_or_else(short)?;
        let order: Order = serde_json::from_slice(text)?;
        let mut filters = Vec::new();
        for &(kind, length) in &order.filters {
            let (filter, further) = rest.split_at_checked(length).ok_or_else(short)?;
            filters.push((kind, filter.to_vec()));
            rest = further;
        }
        Ok((order, filters))
    }
}

/// What init reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// A proc file system cannot be mounted in a pid namespace here; nothing was changed.
    ProcRefused,
    /// The step cannot be run.
    Failed {
        /// What failed.
        message: String,
        /// Its error number, 0 where there is none.
        errno: i32,
        /// What the user does next.
        hint: Option<String>,
    },
    /// The command could not be started: the code that a shell would exit with.
    NotStarted {
        /// 126 or 127.
        code: i32,
        /// Why.
        message: String,
    },
    /// Something that changes what the step sees.
    Warning(String),
    /// A mount point that had to be made in the upper directory.
    Created(Created),
    /// What is to be recorded of the files of the step's layer.
    Records(Records),
    /// Which files of its root directory the step may have changed.
    Touched(Touched),
    /// The command ended.
    Exited {
        /// Code as a shell reports it.
        code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
    },
}

/// Mount points that init made, to be removed when the step is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Created {
    /// What was made, relative to the root, outermost first.
    #[serde(with = "super::text::list")]
    pub paths: Vec<PathBuf>,
    /// The directory that existed already and in which the first of `paths` was made.
    #[serde(with = "super::text::one")]
    pub parent: PathBuf,
    /// Modification time of `parent` before.
    pub parent_mtime: (i64, i64),
    /// Whether `parent` was in the upper directory before.
    pub parent_in_upper: bool,
    /// Change time of `parent` in the upper directory afterwards.
    pub parent_ctime: (i64, i64),
}

#[cfg(test)]
mod tests {
    use super::super::Root;
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    #[test]
    fn an_order_survives_with_paths_that_are_no_text() {
        let odd = PathBuf::from(OsString::from_vec(b"/a/\xff\xfe".to_vec()));
        let lowers = vec![odd];
        let root = Root::Overlay { lowers, upper: "/u".into(), work: "/w".into(), stub: None };
        let mut step = StepSpec::new(root.clone(), vec![OsString::from("sh")]);
        step.env.push((OsString::from("A"), OsString::from_vec(vec![0xff, b'x'])));
        let order = Order {
            step,
            isolation: Isolation::Traced,
            keeps: keeper::Kind::Ids,
            node_root: false,
            resolv_conf: None,
            hosts: Some("x".to_owned()),
            filters: vec![(FilterKind::Profile, 3), (FilterKind::Gate, 0), (FilterKind::Keeper, 2)],
            scope_signals: false,
        };
        let mut bytes = order.encode().unwrap();
        bytes.extend(b"abcde");
        let (read, filters) = Order::decode(&bytes[..]).unwrap();
        assert_eq!(read.step.root, root);
        assert_eq!(read.step.env, order.step.env);
        let filters: Vec<&[u8]> = filters.iter().map(|(_, f)| f.as_slice()).collect();
        assert_eq!(filters, [&b"abc"[..], b"", b"de"]);
        assert!(Order::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Order::decode(&b"x"[..]).is_err());
    }
}
