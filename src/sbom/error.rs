//! What can go wrong with a bill of materials.

use crate::archive::Error as TreeError;
use crate::error::{Classified, Kind};

/// Why a bill of materials could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files of the image could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The image names more packages than an image can have.
    #[error("the image names more than {0} packages")]
    TooMany(usize),
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Tree(e) => e.kind(),
            Error::TooMany(_) => Kind::Exhausted,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Tree(e) => e.hint(),
            Error::TooMany(_) => Some("leave caches of package managers out of the image".into()),
        }
    }
}
