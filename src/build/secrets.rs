//! The secrets of a build: read before its first step, held in memory, given to the steps that ask for them.
//!
//! ```text
//! --secret ─► Secrets ─► sealed memory of the step's init ─► a file in memory in the step's root, or a variable
//!                  └───► what is masked in the output of every step
//! ```
//!
//! Nothing of a secret is in a cache key but its name and where the step wants it; nothing is written to the store.

use super::Error;
use super::mask::Patterns;
use super::request::{SecretOption, SecretSource};
use crate::dockerfile;
use crate::sandbox::{self, Hidden};
use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

/// As BuildKit's.
const MOST_BYTES: u64 = 500 * 1024;

/// The secrets of a build, by id.
#[derive(Default)]
pub(super) struct Secrets {
    by_id: HashMap<String, Hidden>,
    patterns: Patterns,
}

impl Secrets {
    /// Reads them all.
    ///
    /// # Errors
    /// One cannot be read, or is too large.
    pub(super) fn read(options: &[SecretOption]) -> Result<Secrets, Error> {
        let mut by_id = HashMap::new();
        for option in options {
            let unreadable = |reason: String| Error::Secret { id: option.id.clone(), reason };
            let bytes = match &option.source {
                SecretSource::File(path) => {
                    read(path).map_err(|e| unreadable(format!("cannot read `{}`: {e}", path.display())))?
                }
                SecretSource::Variable(name) => {
                    let value = std::env::var_os(name)
                        .ok_or_else(|| unreadable(format!("the environment has no variable `{name}`")))?;
                    std::os::unix::ffi::OsStringExt::into_vec(value)
                }
            };
            if bytes.len() as u64 > MOST_BYTES {
                return Err(unreadable(format!("it is larger than {} KiB", MOST_BYTES >> 10)));
            }
            by_id.insert(option.id.clone(), Hidden::new(bytes));
        }
        let patterns = Patterns::new(by_id.values().map(Hidden::bytes));
        Ok(Secrets { by_id, patterns })
    }

    /// The value of one.
    pub(super) fn get(&self, id: &str) -> Option<&Hidden> {
        self.by_id.get(id)
    }

    /// What is to be masked.
    pub(super) fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    /// What a step gets for one `RUN --mount=type=secret`: nothing, where the secret was not given and is not required.
    ///
    /// # Errors
    /// It is required, or cannot be a variable.
    pub(super) fn mount(&self, options: &dockerfile::Mount) -> Result<Given, Error> {
        let id = options.id.as_deref().unwrap_or_default();
        let Some(content) = self.by_id.get(id) else {
            let (id, reason) = (id.to_owned(), "it was not given".to_owned());
            return if options.required { Err(Error::Secret { id, reason }) } else { Ok(Given::default()) };
        };
        if options.env.is_some() && content.bytes().contains(&0) {
            let reason = "it holds a zero byte, so it cannot be the value of a variable".to_owned();
            return Err(Error::Secret { id: id.to_owned(), reason });
        }
        Ok(Given {
            variable: options.env.clone().map(|name| (name, content.clone())),
            file: options.target.as_ref().map(|target| sandbox::Mount {
                target: target.into(),
                kind: sandbox::MountKind::Secret {
                    content: content.clone(),
                    mode: options.mode.unwrap_or(0o400),
                    uid: options.uid.unwrap_or(0),
                    gid: options.gid.unwrap_or(0),
                },
            }),
        })
    }
}

/// How a step gets a secret.
#[derive(Default)]
pub(super) struct Given {
    pub variable: Option<(String, Hidden)>,
    pub file: Option<sandbox::Mount>,
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![];
    // One byte more tells a large one.
    std::fs::File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::MountFlag;

    fn resolve(text: &str) -> dockerfile::Mount {
        MountFlag { text: text.into() }.resolve(&mut |v| Ok(v.to_owned())).unwrap()
    }

    #[test]
    fn secrets_are_files_or_variables() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "swordfish").unwrap();
        let option = |source| SecretOption { id: "s".into(), source };
        let secrets = Secrets::read(&[option(SecretSource::File(file.clone()))]).unwrap();
        let given = secrets.mount(&resolve("type=secret,id=s,target=/t,env=V,mode=0440,uid=5")).unwrap();
        assert_eq!(given.variable, Some(("V".into(), Hidden::new(b"swordfish".to_vec()))));
        let Some(sandbox::Mount { kind: sandbox::MountKind::Secret { mode, uid, gid, .. }, .. }) = given.file else {
            panic!("no file");
        };
        assert_eq!((mode, uid, gid), (0o440, 5, 0));
        assert!(secrets.mount(&resolve("type=secret,id=other")).unwrap().variable.is_none());
        assert!(secrets.mount(&resolve("type=secret,id=other,required")).is_err());

        assert!(Secrets::read(&[option(SecretSource::File(dir.path().join("none")))]).is_err());
        assert!(Secrets::read(&[option(SecretSource::Variable("RBUILD_NO_SUCH_VARIABLE".into()))]).is_err());
        std::fs::write(&file, vec![b'x'; 500 * 1024 + 1]).unwrap();
        assert!(Secrets::read(&[option(SecretSource::File(file.clone()))]).is_err());
        std::fs::write(&file, b"a\0b").unwrap();
        let zero = Secrets::read(&[option(SecretSource::File(file))]).unwrap();
        assert!(zero.mount(&resolve("type=secret,id=s,env=V")).is_err());
    }
}
