//! registries.conf, version 2: which servers stand behind a name, and what a short name means.
//!
//! One main file is read (`CONTAINERS_REGISTRIES_CONF`, else the user's, else the system's), then the `*.conf` files of
//! the drop-in directories in the order of their names. A later file replaces a `[[registry]]` table of the same prefix
//! and the search list as a whole; aliases are merged.
//!
//! A name belongs to the table with the longest matching prefix. Its `location` replaces the prefix; its mirrors come
//! first when pulling, and never take part in a push.

use super::{Error, Options};
use crate::oci::Reference;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Longest configuration file that is read, in bytes.
const MAX_CONF_BYTES: u64 = 4 << 20;
/// Where names without a registry lead when nothing is configured.
pub(super) const DOCKER_HUB: &str = "docker.io";

/// One place where an image may be found: a server and a repository on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host with optional port; `docker.io` stands for Docker's own.
    pub(super) host: String,
    /// Repository on that server.
    pub(super) repository: String,
    /// Whether certificates go unchecked and plain HTTP is allowed.
    pub(super) insecure: bool,
}

/// The merged configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Conf {
    /// `None`: not configured at all.
    search: Option<Vec<String>>,
    enforcing: bool,
    aliases: BTreeMap<String, String>,
    registries: Vec<Registry>,
}

/// A `[[registry]]` table, checked.
#[derive(Clone, Debug, PartialEq)]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

#[derive(Clone, Debug, PartialEq)]
struct Mirror {
    location: String,
    insecure: bool,
    by_digest: bool,
    by_tag: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<String>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    #[serde(default)]
    registry: Vec<RegistryTable>,
    #[serde(flatten)]
    unknown: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RegistryTable {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
    #[serde(flatten)]
    unknown: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, toml::Value>,
}

impl Conf {
    /// Reads the configuration that these options lead to. A file that was named must exist.
    pub(super) fn load(options: &Options) -> Result<Conf, Error> {
        let env = &options.environment;
        let user_file = env.config_dir().map(|d| d.join("containers/registries.conf")).filter(|p| p.is_file());
        let mut conf = Conf::default();
        let mut system_drop_ins = true;
        if let Some(named) = options.registries_conf.as_ref().or(env.registries_conf.as_ref()) {
            conf.read(named)?;
        } else if let Some(file) = user_file {
            system_drop_ins = false;
            conf.read(&file)?;
        } else {
            let system = env.etc.join("containers/registries.conf");
            if system.is_file() {
                conf.read(&system)?;
            }
        }
        let mut dirs = vec![];
        if let Some(dir) = &options.registries_conf_dir {
            dirs.push(dir.clone());
        } else {
            if system_drop_ins {
                dirs.push(env.etc.join("containers/registries.conf.d"));
            }
            dirs.extend(env.config_dir().map(|d| d.join("containers/registries.conf.d")));
        }
        for dir in dirs {
            for file in drop_ins(&dir)? {
                conf.read(&file)?;
            }
        }
        // the longest prefix is found first
        conf.registries.sort_by_key(|r| std::cmp::Reverse(r.prefix.len()));
        Ok(conf)
    }

    fn read(&mut self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::File { verb: "read", path: path.to_owned(), source };
        if fs::metadata(path).map_err(failed)?.len() > MAX_CONF_BYTES {
            return Err(Error::Config { path: path.to_owned(), why: format!("larger than {MAX_CONF_BYTES} bytes") });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        self.merge(&text, path).map_err(|why| Error::Config { path: path.to_owned(), why })
    }

    fn merge(&mut self, text: &str, origin: &Path) -> Result<(), String> {
        let file: File = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        if file.unknown.contains_key("registries") {
            return Err("this is version 1 of the format, which is not supported: use `[[registry]]` tables".into());
        }
        warn_unknown(&file.unknown, origin);
        if let Some(search) = file.unqualified_search_registries {
            self.search = Some(search);
        }
        match file.short_name_mode.as_deref() {
            None => {}
            Some("enforcing") => self.enforcing = true,
            Some("permissive" | "disabled") => self.enforcing = false,
            Some(other) => {
                return Err(format!(
                    "invalid `short-name-mode` `{other}`: expected `enforcing`, `permissive` or `disabled`"
                ));
            }
        }
        for (name, target) in file.aliases {
            // an empty target takes an alias of an earlier file away
            if target.is_empty() {
                self.aliases.remove(&name);
            } else {
                self.aliases.insert(name, target);
            }
        }
        for table in file.registry {
            warn_unknown(&table.unknown, origin);
            let registry = Registry::from_table(table, origin)?;
            self.registries.retain(|r| r.prefix != registry.prefix);
            self.registries.push(registry);
        }
        Ok(())
    }

    /// The full names that a name may mean, best first, each with tag or digest.
    pub(super) fn candidates(&self, name: &str) -> Result<Vec<Reference>, Error> {
        let typed: Reference = name.parse()?;
        if typed.registry.is_some() {
            return Ok(vec![typed.docker_normalized().with_default_tag()]);
        }
        if let Some(target) = self.aliases.get(&typed.repository) {
            let mut full: Reference = target.parse()?;
            if full.registry.is_none() || full.tag.is_some() || full.digest.is_some() {
                return Err(Error::ShortName {
                    name: name.to_owned(),
                    why: format!("its alias `{target}` is not a registry and a repository"),
                });
            }
            (full.tag, full.digest) = (typed.tag, typed.digest);
            return Ok(vec![full.docker_normalized().with_default_tag()]);
        }
        let default = [DOCKER_HUB.to_owned()];
        let search = self.search.as_deref().unwrap_or(&default);
        if search.is_empty() {
            return Err(Error::ShortName {
                name: name.to_owned(),
                why: "`unqualified-search-registries` is empty".into(),
            });
        }
        if self.enforcing && search.len() > 1 {
            return Err(Error::ShortName {
                name: name.to_owned(),
                why: format!("`short-name-mode` is `enforcing`, and it could be in any of `{}`", search.join("`, `")),
            });
        }
        search
            .iter()
            .map(|registry| {
                // an entry may go on with a path below the host
                let full: Reference = format!("{registry}/{}", typed.repository).parse()?;
                let full = Reference { tag: typed.tag.clone(), digest: typed.digest, ..full };
                Ok(full.docker_normalized().with_default_tag())
            })
            .collect()
    }

    /// Where to look for a full name when pulling: mirrors first, then the registry itself.
    pub(super) fn pull_endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, Error> {
        let name = full_name(reference)?;
        let Some((registry, rest)) = self.find(&name) else {
            return Ok(vec![endpoint(&name, false).map_err(|why| bad_location(&name, why))?]);
        };
        if registry.blocked {
            return Err(Error::Blocked { reference: reference.to_string() });
        }
        let digest = reference.digest.is_some();
        let usable = registry.mirrors.iter().filter(|m| if digest { m.by_digest } else { m.by_tag });
        let mut found = vec![];
        for mirror in usable {
            let place = format!("{}{rest}", mirror.location);
            found.push(endpoint(&place, mirror.insecure).map_err(|why| bad_location(&place, why))?);
        }
        let place = registry.rewritten(&name, rest);
        found.push(endpoint(&place, registry.insecure).map_err(|why| bad_location(&place, why))?);
        Ok(found)
    }

    /// Where to push a full name.
    pub(super) fn push_endpoint(&self, reference: &Reference) -> Result<Endpoint, Error> {
        let name = full_name(reference)?;
        let (place, insecure) = match self.find(&name) {
            Some((registry, _)) if registry.blocked => {
                return Err(Error::Blocked { reference: reference.to_string() });
            }
            Some((registry, rest)) => (registry.rewritten(&name, rest), registry.insecure),
            None => (name, false),
        };
        endpoint(&place, insecure).map_err(|why| bad_location(&place, why))
    }

    /// Whether configuration says that a server (host with optional port) is insecure.
    pub(super) fn insecure_host(&self, host: &str) -> bool {
        self.find(host).is_some_and(|(r, _)| r.insecure)
            || self.registries.iter().any(|r| r.insecure && r.location.split('/').next() == Some(host))
    }

    /// The table of a name, and what follows the part of the name that matched.
    fn find<'a>(&self, name: &'a str) -> Option<(&Registry, &'a str)> {
        self.registries.iter().find_map(|r| Some((r, r.matches(name)?)))
    }
}

impl Registry {
    fn from_table(table: RegistryTable, origin: &Path) -> Result<Registry, String> {
        let RegistryTable { prefix, location, insecure, blocked, mirror_by_digest_only, mirror, .. } = table;
        let wildcard = prefix.starts_with("*.");
        let location = checked(&location)?;
        let prefix = if prefix.is_empty() { location.clone() } else { prefix.trim_end_matches('/').to_owned() };
        if prefix.is_empty() {
            return Err("a `[[registry]]` table needs `prefix` or `location`".into());
        }
        if !wildcard {
            checked(&prefix)?;
        } else if prefix.contains(['/', ':', '@']) {
            return Err(format!("invalid prefix `{prefix}`: a wildcard stands for hosts only"));
        }
        let mut mirrors = vec![];
        for m in mirror {
            warn_unknown(&m.unknown, origin);
            let (by_digest, by_tag) = match m.pull_from_mirror.as_deref() {
                None | Some("all" | "") => (true, !mirror_by_digest_only),
                Some("digest-only") => (true, false),
                Some("tag-only") => (false, true),
                Some(other) => {
                    return Err(format!(
                        "invalid `pull-from-mirror` `{other}`: expected `all`, `digest-only` or `tag-only`"
                    ));
                }
            };
            let location = checked(&m.location)?;
            if location.is_empty() {
                return Err(format!("a mirror of `{prefix}` has no location"));
            }
            mirrors.push(Mirror { location, insecure: m.insecure, by_digest, by_tag });
        }
        // without a location, the prefix is where it leads
        let location = if location.is_empty() && !wildcard { prefix.clone() } else { location };
        Ok(Registry { prefix, location, insecure, blocked, mirrors })
    }

    /// What follows the matching part of `name`; `None` where the table is not for it.
    fn matches<'a>(&self, name: &'a str) -> Option<&'a str> {
        if let Some(suffix) = self.prefix.strip_prefix('*') {
            let host = name.split(['/', '@']).next().unwrap_or(name);
            let bare = host.rsplit_once(':').map_or(host, |(h, _)| h);
            return (bare.ends_with(suffix) || host.ends_with(suffix)).then(|| name.get(host.len()..).unwrap_or(""));
        }
        let rest = name.strip_prefix(self.prefix.as_str())?;
        // `a/b` is a prefix of `a/b/c`, not of `a/bc`
        (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(rest)
    }

    fn rewritten(&self, name: &str, rest: &str) -> String {
        if self.location.is_empty() { name.to_owned() } else { format!("{}{rest}", self.location) }
    }
}

/// A location or prefix without trailing slashes; it must have no scheme.
fn checked(location: &str) -> Result<String, String> {
    let trimmed = location.trim_end_matches('/');
    if trimmed.contains("://") {
        return Err(format!("invalid location `{location}`: leave the scheme out"));
    }
    Ok(trimmed.to_owned())
}

/// Registry and repository of a reference that must name a registry.
fn full_name(reference: &Reference) -> Result<String, Error> {
    if reference.registry.is_none() {
        return Err(Error::ShortName { name: reference.to_string(), why: "it names no registry".into() });
    }
    Ok(reference.clone().docker_normalized().name())
}

fn endpoint(place: &str, insecure: bool) -> Result<Endpoint, String> {
    let parsed: Reference = place.parse().map_err(|e: crate::oci::ReferenceError| e.to_string())?;
    let host = parsed.registry.ok_or_else(|| format!("`{place}` does not begin with a host"))?;
    Ok(Endpoint { host, repository: parsed.repository, insecure })
}

fn bad_location(place: &str, why: String) -> Error {
    Error::ShortName { name: place.to_owned(), why: format!("registries.conf leads nowhere: {why}") }
}

fn warn_unknown(unknown: &BTreeMap<String, toml::Value>, origin: &Path) {
    for key in unknown.keys() {
        tracing::warn!("`{}`: key `{key}` is not supported and has no effect", origin.display());
    }
}

/// The `*.conf` files of a directory by name; none where there is no directory.
fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File { verb: "read", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(vec![]),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!("cannot read `{}`: {e}", dir.display());
            return Ok(vec![]);
        }
        Err(e) => return Err(failed(e)),
    };
    let mut files = vec![];
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|x| x == "conf") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Conf {
        let mut c = Conf::default();
        c.merge(text, Path::new("test.conf")).unwrap();
        c.registries.sort_by_key(|r| std::cmp::Reverse(r.prefix.len()));
        c
    }

    fn pulls(c: &Conf, name: &str) -> Vec<String> {
        let r: Reference = name.parse().unwrap();
        let show = |e: Endpoint| format!("{}/{}{}", e.host, e.repository, if e.insecure { " insecure" } else { "" });
        c.pull_endpoints(&r).unwrap().into_iter().map(show).collect()
    }

    fn names(c: &Conf, name: &str) -> Vec<String> {
        c.candidates(name).unwrap().iter().map(Reference::to_string).collect()
    }

    #[test]
    fn prefixes_lead_to_locations() {
        let c = conf(
            r#"
            [[registry]]
            prefix = "docker.io"
            location = "localhost:5000/hub"
            insecure = true
            [[registry]]
            prefix = "docker.io/library/special"
            location = "localhost:6000/s"
            [[registry]]
            location = "plain.test"
            insecure = true
            [[registry]]
            prefix = "*.wild.test"
            insecure = true
            [[registry]]
            prefix = "bad.test/x"
            blocked = true
            "#,
        );
        for (name, want) in [
            ("docker.io/library/a:1", "localhost:5000/hub/library/a insecure"),
            ("docker.io/busybox", "localhost:5000/hub/library/busybox insecure"),
            ("docker.io/library/special", "localhost:6000/s"),
            ("docker.io/library/special/er", "localhost:6000/s/er"),
            ("docker.io/library/specialist", "localhost:5000/hub/library/specialist insecure"),
            ("plain.test/x", "plain.test/x insecure"),
            ("plain.test:80/x", "plain.test:80/x insecure"),
            ("plain.tester/x", "plain.tester/x"),
            ("a.b.wild.test/x", "a.b.wild.test/x insecure"),
            ("a.wild.test:443/x", "a.wild.test:443/x insecure"),
            ("wild.test/x", "wild.test/x"),
            ("bad.test/y", "bad.test/y"),
        ] {
            assert_eq!(pulls(&c, name), [want], "{name}");
        }
        let blocked = c.pull_endpoints(&"bad.test/x:1".parse().unwrap()).unwrap_err();
        assert!(matches!(blocked, Error::Blocked { .. }), "{blocked}");
        assert!(c.push_endpoint(&"bad.test/x/y".parse().unwrap()).is_err());
        assert_eq!(c.push_endpoint(&"docker.io/u/a".parse().unwrap()).unwrap().repository, "hub/u/a");
        assert!(c.insecure_host("localhost:5000"));
        assert!(!c.insecure_host("localhost:6000"));
    }

    #[test]
    fn mirrors_come_first_and_only_for_what_they_serve() {
        let c = conf(
            r#"
            [[registry]]
            prefix = "r.test"
            [[registry.mirror]]
            location = "all.test/cache"
            [[registry.mirror]]
            location = "digest.test"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tag.test"
            pull-from-mirror = "tag-only"
            "#,
        );
        assert_eq!(pulls(&c, "r.test/a:1"), ["all.test/cache/a", "tag.test/a", "r.test/a"]);
        let by_digest = format!("r.test/a@{}", crate::oci::Digest::of("x"));
        assert_eq!(pulls(&c, &by_digest), ["all.test/cache/a", "digest.test/a insecure", "r.test/a"]);
        assert_eq!(c.push_endpoint(&"r.test/a".parse().unwrap()).unwrap().host, "r.test");
    }

    #[test]
    fn short_names_go_through_aliases_and_the_search_list() {
        assert_eq!(names(&Conf::default(), "busybox"), ["docker.io/library/busybox:latest"]);
        let c = conf(
            r#"
            unqualified-search-registries = ["a.test", "docker.io", "b.test/sub"]
            [aliases]
            "tool" = "c.test/x/tool"
            "#,
        );
        assert_eq!(names(&c, "u/x:1"), ["a.test/u/x:1", "docker.io/u/x:1", "b.test/sub/u/x:1"]);
        assert_eq!(names(&c, "tool"), ["c.test/x/tool:latest"]);
        assert_eq!(names(&c, "tool:9"), ["c.test/x/tool:9"]);
        assert_eq!(names(&c, "localhost/tool"), ["localhost/tool:latest"]);
        let c = conf("short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"a.test\", \"b.test\"]");
        assert!(matches!(c.candidates("x"), Err(Error::ShortName { .. })));
        let c = conf("unqualified-search-registries = []");
        assert!(matches!(c.candidates("x"), Err(Error::ShortName { .. })));
        assert_eq!(names(&c, "a.test/x"), ["a.test/x:latest"]);
    }

    #[test]
    fn later_files_replace_tables_of_the_same_prefix() {
        let mut c = conf(
            "unqualified-search-registries = [\"a.test\"]\n[[registry]]\nlocation = \"r.test\"\ninsecure = true\n[aliases]\nx = \"q.test/x\"\ny = \"q.test/y\"",
        );
        c.merge("[[registry]]\nlocation = \"r.test\"\n[aliases]\nx = \"\"", Path::new("b.conf")).unwrap();
        assert_eq!(pulls(&c, "r.test/x"), ["r.test/x"]);
        assert_eq!(names(&c, "x"), ["a.test/x:latest"]);
        assert_eq!(names(&c, "y"), ["q.test/y:latest"]);
    }

    #[test]
    fn broken_files_are_refused_with_a_reason() {
        for (text, reason) in [
            ("[registries.search]\nregistries = ['x']", "version 1"),
            ("[[registry]]\nlocation = \"https://x.test\"", "scheme"),
            ("[[registry]]\ninsecure = true", "needs `prefix`"),
            ("[[registry]]\nprefix = \"*.x/y\"", "wildcard"),
            ("short-name-mode = \"maybe\"", "short-name-mode"),
            (
                "[[registry]]\nlocation = \"x\"\n[[registry.mirror]]\nlocation = \"y\"\npull-from-mirror = \"z\"",
                "pull-from",
            ),
            ("x = [", "TOML"),
        ] {
            let e = Conf::default().merge(text, Path::new("t")).unwrap_err();
            assert!(e.contains(reason), "{text}: {e}");
        }
    }

    #[test]
    fn files_are_found_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, registry: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("unqualified-search-registries = [\"{registry}\"]")).unwrap();
        };
        let environment = super::super::Environment {
            home: Some(dir.path().join("home")),
            etc: dir.path().join("etc"),
            ..Default::default()
        };
        let mut options = Options { environment, ..Options::default() };
        let first = |o: &Options| names(&Conf::load(o).unwrap(), "x").remove(0);
        assert_eq!(first(&options), "docker.io/library/x:latest");
        write("etc/containers/registries.conf", "system.test");
        assert_eq!(first(&options), "system.test/x:latest");
        write("etc/containers/registries.conf.d/10.conf", "drop.test");
        write("etc/containers/registries.conf.d/00.conf", "early.test");
        assert_eq!(first(&options), "drop.test/x:latest");
        write("home/.config/containers/registries.conf", "user.test");
        assert_eq!(first(&options), "user.test/x:latest");
        options.registries_conf = Some(dir.path().join("absent"));
        assert!(matches!(Conf::load(&options), Err(Error::File { .. })));
    }
}
