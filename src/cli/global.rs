//! Flags that stand before or behind every verb, and the store that they lead to.

use super::values::Var;
use super::{Error, values};
use crate::snapshot::Choice;
use crate::store::Store;
use std::path::{Path, PathBuf};

/// Flags of every verb.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Directory of the store [env: RBUILD_ROOT]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Size that the store is brought back to after a build: `10GB`, `500MiB` [env: RBUILD_STORE_LIMIT]
    #[arg(long, global = true, value_name = "SIZE", value_parser = values::size)]
    pub store_limit: Option<u64>,
    /// How steps get their root file system: overlay, fuse, copy; vfs is copy [env: RBUILD_STORAGE_DRIVER]
    #[arg(long, global = true, value_name = "DRIVER")]
    pub storage_driver: Option<Choice>,
    /// registries.conf to read in place of the usual ones
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub registries_conf: Option<PathBuf>,
    /// Directory of further registries.conf files
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub registries_conf_dir: Option<PathBuf>,
    /// Diagnostics on standard error: trace, debug, info, warn, error [env: RBUILD_LOG]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl Global {
    /// Where the store is: `--root`, `RBUILD_ROOT`, `$XDG_DATA_HOME/rbuild`, `~/.local/share/rbuild`.
    ///
    /// # Errors
    /// [`Error::NoRoot`] where none of them says.
    pub fn root_dir(&self, var: &Var<'_>) -> Result<PathBuf, Error> {
        let set = |name: &str| var(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(root) = self.root.clone().or_else(|| set("RBUILD_ROOT")) {
            return Ok(root);
        }
        if let Some(data) = set("XDG_DATA_HOME").filter(|p| p.is_absolute()) {
            return Ok(data.join("rbuild"));
        }
        match set("HOME") {
            None => Err(Error::NoRoot("none of `RBUILD_ROOT`, `XDG_DATA_HOME` and `HOME` is set".into())),
            Some(home) if !home.is_absolute() => {
                Err(Error::NoRoot(format!("`HOME` is `{}`, which is no absolute path", home.display())))
            }
            Some(home) => Ok(home.join(".local/share/rbuild")),
        }
    }

    /// The limit to the store's size in bytes: `--store-limit`, `RBUILD_STORE_LIMIT`, or none.
    ///
    /// # Errors
    /// Where the variable is no size.
    pub fn store_limit(&self, var: &Var<'_>) -> Result<Option<u64>, Error> {
        const NAME: &str = "RBUILD_STORE_LIMIT";
        match (self.store_limit, var(NAME).filter(|v| !v.is_empty())) {
            (Some(limit), _) => Ok(Some(limit)),
            (None, None) => Ok(None),
            (None, Some(text)) => values::size(&text).map(Some).map_err(|e| Error::usage(format!("`{NAME}`: {e}"))),
        }
    }

    /// The storage driver: `--storage-driver`, `RBUILD_STORAGE_DRIVER`, or buildah's `STORAGE_DRIVER` where it names one that
    /// there is.
    ///
    /// # Errors
    /// Where the first variable names none.
    pub fn storage_driver(&self, var: &Var<'_>) -> Result<Choice, Error> {
        const NAME: &str = "RBUILD_STORAGE_DRIVER";
        if let Some(choice) = self.storage_driver {
            return Ok(choice);
        }
        if let Some(name) = var(NAME).filter(|v| !v.is_empty()) {
            return name.parse().map_err(|e| Error::usage(format!("`{NAME}`: {e}")));
        }
        Ok(var("STORAGE_DRIVER").and_then(|name| name.parse().ok()).unwrap_or_default())
    }

    /// Opens the store.
    ///
    /// # Errors
    /// Those of [`Global::root_dir`] and of [`Store::open`].
    pub fn store(&self) -> Result<Store, Error> {
        let root = self.root_dir(&values::process_var)?;
        Store::open(&root).map_err(|e| self.explain(&root, e))
    }

    /// A place that nobody chose and that cannot be written gets the advice to choose one.
    fn explain(&self, root: &Path, e: crate::store::Error) -> Error {
        use crate::error::{Classified as _, Kind};
        let chosen = self.root.is_some() || std::env::var_os("RBUILD_ROOT").is_some();
        let unwritable = matches!(e.kind(), Kind::Denied | Kind::System | Kind::NotFound) && !root.is_dir();
        if chosen || !unwritable { e.into() } else { Error::NoRoot(e.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_storage_driver_is_said_by_flag_variable_or_buildahs_variable() {
        let at = |flag: Option<Choice>, vars: &[(&str, &str)]| {
            let global = Global { storage_driver: flag, ..Global::default() };
            global.storage_driver(&|n| vars.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).into())).ok()
        };
        let all = [("RBUILD_STORAGE_DRIVER", "copy"), ("STORAGE_DRIVER", "overlay")];
        assert_eq!(at(Some(Choice::Fuse), &all), Some(Choice::Fuse));
        assert_eq!(at(None, &all), Some(Choice::Copy));
        assert_eq!(at(None, &all[1..]), Some(Choice::Overlay));
        assert_eq!(at(None, &[("STORAGE_DRIVER", "vfs")]), Some(Choice::Copy));
        assert_eq!(at(None, &[("STORAGE_DRIVER", "btrfs")]), Some(Choice::Best));
        assert_eq!(at(None, &[("RBUILD_STORAGE_DRIVER", "btrfs")]), None);
    }

    #[test]
    fn the_root_is_looked_for_in_order() {
        let global = Global::default();
        let at = |vars: &[(&str, &str)]| {
            let vars: Vec<(String, String)> = vars.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            let var = move |n: &str| vars.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone());
            global.root_dir(&var)
        };
        let all = [("RBUILD_ROOT", "/r"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(at(&all).unwrap(), Path::new("/r"));
        assert_eq!(at(&all[1..]).unwrap(), Path::new("/x/rbuild"));
        assert_eq!(at(&all[2..]).unwrap(), Path::new("/h/.local/share/rbuild"));
        assert_eq!(at(&[("HOME", "/")]).unwrap(), Path::new("/.local/share/rbuild"));
        let none = at(&[]).unwrap_err();
        assert!(none.hint().unwrap().contains("RBUILD_ROOT"), "{none}");
        let flag = Global { root: Some("/f".into()), ..Global::default() };
        assert_eq!(flag.root_dir(&|_| Some("/r".into())).unwrap(), Path::new("/f"));
    }
}
