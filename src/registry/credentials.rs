//! Users, passwords and tokens: where they are found, and how `login` and `logout` keep them.
//!
//! Searched are, in this order and the first hit wins: what the command line gave; files with tokens that are set for a registry
//! ([`super::token_file`]); the text in `DOCKER_AUTH_CONFIG`; and
//! the files `auth.json` of the run-time directory and of the user's configuration, and Docker's `config.json`. A file
//! that was named (`--authfile`, `REGISTRY_AUTH_FILE`) is the only one that is read.
//!
//! In each file, keys from the most to the least specific are tried (`host/a/b`, `host/a`, `host`), so that one registry
//! can have several accounts. Format: `containers-auth.json(5)` and Docker's `config.json`. Files are written with mode
//! 0600, next to the old one and renamed over it, with all unknown keys kept.

use super::{Environment, Error, Options, TokenFile, conf::DOCKER_HUB, options::TOKEN_FILES};
use crate::sys::userns;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use serde_json::{Map, Value};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

/// Longest file of credentials and longest answer of a helper, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// What Docker calls its own registry in `config.json` and to helpers.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// The user name with which a helper marks an identity token.
const TOKEN_USER: &str = "<token>";
/// Files come with and without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What opens a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// User and password.
    Password {
        /// Name of the account.
        user: String,
        /// Its password.
        password: String,
    },
    /// A long-lived token that buys access tokens.
    Identity(String),
    /// A token to be shown as it is.
    Bearer(String),
    /// A token that the token server exchanges, and for whom the result is.
    Subject { token: String, audience: Option<String> },
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Secret::Password { .. } => "Secret::Password",
            Secret::Identity(_) => "Secret::Identity",
            Secret::Bearer(_) => "Secret::Bearer",
            Secret::Subject { .. } => "Secret::Subject",
        })
    }
}

/// Finds credentials; each answer is remembered.
pub(super) struct Credentials {
    fixed: Option<Secret>,
    token_files: Vec<Arc<TokenFile>>,
    sources: Vec<Source>,
    environment: Environment,
    found: Mutex<HashMap<(String, String), Option<Secret>>>,
}

enum Source {
    /// A file, and whether it must exist.
    File(PathBuf, bool),
    /// The text of a file.
    Text(String),
}

impl Credentials {
    /// Where credentials are looked for.
    ///
    /// # Errors
    /// Where a variable cannot be understood.
    pub(super) fn new(options: &Options) -> Result<Credentials, Error> {
        let env = &options.environment;
        let mut sources = vec![];
        if let Some(file) = &options.authfile {
            sources.push(Source::File(file.clone(), true));
        } else if let Some(file) = &env.registry_auth_file {
            sources.push(Source::File(file.clone(), true));
        } else {
            sources.extend(env.docker_auth_config.clone().map(Source::Text));
            let mut files = vec![];
            match &env.runtime_dir {
                Some(dir) => files.push(dir.join("containers/auth.json")),
                // One in a directory that is closed to this user is another one's.
                None => files.extend(Some(per_user_file()).filter(|f| !is_closed(f))),
            }
            files.extend(env.config_dir().map(|d| d.join("containers/auth.json")));
            files.extend(docker_file(env));
            sources.extend(files.into_iter().map(|f| Source::File(f, false)));
        }
        let fixed = options.creds.clone().map(|(user, password)| Secret::Password { user, password });
        let more = TokenFile::list(env.token_files.as_deref().unwrap_or_default())
            .map_err(|why| Error::Config { path: format!("${TOKEN_FILES}").into(), why })?;
        let token_files = options.token_files.iter().cloned().chain(more).map(Arc::new).collect();
        Ok(Credentials { fixed, token_files, sources, environment: env.clone(), found: Mutex::default() })
    }

    /// The file with a token that is set for a repository: the most specific one.
    pub(super) fn token_file(&self, registry: &str, repository: &str) -> Option<Arc<TokenFile>> {
        let fits = |file: &&Arc<TokenFile>| file.fits(registry, repository);
        // Of equals the first, which is that of the command line.
        let of = self.token_files.iter().rev().filter(|_| self.fixed.is_none());
        of.filter(|file| fits(file).is_some()).max_by_key(fits).cloned()
    }

    /// Credentials that were given, for every registry.
    pub(super) fn fixed(user: &str, password: &str) -> Credentials {
        Credentials {
            fixed: Some(Secret::Password { user: user.to_owned(), password: password.to_owned() }),
            token_files: vec![],
            sources: vec![],
            environment: Environment::default(),
            found: Mutex::default(),
        }
    }

    /// The credentials for a repository (empty: for the registry as such). Blocks: reads files, may run a helper.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Result<Option<Secret>, Error> {
        if self.fixed.is_some() {
            return Ok(self.fixed.clone());
        }
        let key = (registry.to_owned(), repository.to_owned());
        // held while a helper runs: parallel requests must not each start one
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = found.get(&key) {
            return Ok(known.clone());
        }
        let mut secret = None;
        for source in &self.sources {
            let (document, origin) = match source {
                Source::File(path, must_exist) => match read_document(path)? {
                    Some(document) => (document, path.clone()),
                    None if *must_exist => {
                        let source = io::Error::from(io::ErrorKind::NotFound);
                        return Err(Error::File { verb: "read", path: path.clone(), source });
                    }
                    None => continue,
                },
                Source::Text(text) => {
                    let origin = PathBuf::from("$DOCKER_AUTH_CONFIG");
                    (parse_document(text.as_bytes(), &origin)?, origin)
                }
            };
            secret = lookup(&document, &origin, registry, repository, self.environment.path.as_deref())?;
            if secret.is_some() {
                break;
            }
        }
        found.insert(key, secret.clone());
        Ok(secret)
    }
}

/// The file that `login` writes where none is named: the first of those that are read and can be made.
pub(super) fn default_file(options: &Options) -> Result<PathBuf, Error> {
    let env = &options.environment;
    if let Some(file) = options.authfile.as_ref().or(env.registry_auth_file.as_ref()) {
        return Ok(file.clone());
    }
    let dir = env.runtime_dir.clone().or_else(|| env.config_dir());
    dir.map(|d| d.join("containers/auth.json")).ok_or_else(|| Error::Config {
        path: PathBuf::from("auth.json"),
        why: "neither `XDG_RUNTIME_DIR` nor `HOME` is set: name a file with `--authfile`".into(),
    })
}

fn per_user_file() -> PathBuf {
    PathBuf::from(format!("/run/containers/{}/auth.json", userns::caller()))
}

fn is_closed(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
}

fn docker_file(env: &Environment) -> Option<PathBuf> {
    let dir = env.docker_config.clone().or_else(|| env.home.as_ref().map(|h| h.join(".docker")))?;
    Some(dir.join("config.json"))
}

fn read_document(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let failed = |source| Error::File { verb: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut text = vec![];
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::Config { path: path.to_owned(), why: format!("larger than {MAX_FILE_BYTES} bytes") });
    }
    parse_document(&text, path).map(Some)
}

fn parse_document(text: &[u8], origin: &Path) -> Result<Map<String, Value>, Error> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    // where it broke off, but never what stood there: it may be a password
    serde_json::from_slice(text).map_err(|e| Error::Config {
        path: origin.to_owned(),
        why: format!("not a JSON object (line {}, column {})", e.line(), e.column()),
    })
}

/// The keys under which credentials for a repository may be stored, most specific first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = vec![];
    let mut path = repository;
    while !path.is_empty() {
        keys.push(format!("{registry}/{path}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    keys.push(registry.to_owned());
    if registry == DOCKER_HUB {
        keys.push("index.docker.io".into());
    }
    keys
}

/// A key as old tools wrote it (`https://host/v1/`) in its plain form (`host`).
fn plain_key(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

/// The name of a registry as helpers know it.
fn helper_key(registry: &str) -> &str {
    if registry == DOCKER_HUB { DOCKER_KEY } else { registry }
}

/// The helper that a file names for a registry: one of its own, or the one for all.
fn helper_of(document: &Map<String, Value>, registry: &str) -> (Option<String>, Option<String>) {
    let own = document.get("credHelpers").and_then(Value::as_object).and_then(|helpers| {
        let names = [registry, helper_key(registry), "index.docker.io"];
        let count = if registry == DOCKER_HUB { 3 } else { 1 };
        names.into_iter().take(count).find_map(|n| helpers.get(n)).and_then(Value::as_str)
    });
    let store = document.get("credsStore").and_then(Value::as_str);
    let name = |n: &str| (!n.is_empty()).then(|| n.to_owned());
    (own.and_then(name), store.and_then(name))
}

fn lookup(
    document: &Map<String, Value>,
    origin: &Path,
    registry: &str,
    repository: &str,
    path: Option<&std::ffi::OsStr>,
) -> Result<Option<Secret>, Error> {
    let (own, store) = helper_of(document, registry);
    if let Some(helper) = own {
        return helper_get(&helper, registry, path);
    }
    if let Some(auths) = document.get("auths").and_then(Value::as_object) {
        for key in keys(registry, repository) {
            let entry = auths.get(&key).or_else(|| auths.iter().find(|(k, _)| plain_key(k) == key).map(|(_, v)| v));
            if let Some(secret) = entry.map(|e| secret_of(e, origin, &key)).transpose()?.flatten() {
                return Ok(Some(secret));
            }
        }
    }
    match store {
        Some(helper) => helper_get(&helper, registry, path),
        None => Ok(None),
    }
}

/// What an entry of `auths` holds; nothing where a helper keeps the secret.
fn secret_of(entry: &Value, origin: &Path, key: &str) -> Result<Option<Secret>, Error> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Secret::Identity(token.to_owned())));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Secret::Bearer(token.to_owned())));
    }
    if let Some(auth) = text("auth") {
        let bad = || Error::Config {
            path: origin.to_owned(),
            why: format!("the entry for `{key}` is not base64 of `user:password`"),
        };
        let plain = LENIENT.decode(auth.trim()).map_err(|_| bad())?;
        let plain = String::from_utf8(plain).map_err(|_| bad())?;
        let (user, password) = plain.split_once(':').ok_or_else(bad)?;
        return Ok(Some(Secret::Password {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        }));
    }
    match (text("username"), text("password")) {
        (Some(user), Some(password)) => {
            Ok(Some(Secret::Password { user: user.to_owned(), password: password.to_owned() }))
        }
        _ => Ok(None),
    }
}

/// Runs a credential helper. Its input and output are those of `docker-credential-*` programs.
fn run_helper(
    name: &str,
    verb: &str,
    input: &[u8],
    path: Option<&std::ffi::OsStr>,
) -> Result<Result<Vec<u8>, String>, Error> {
    let program = format!("docker-credential-{name}");
    let failed = |why: String| Error::Helper { program: program.clone(), why };
    if name.contains('/') {
        return Err(failed("its name must not hold a `/`".into()));
    }
    let mut command = Command::new(&program);
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut child = command.spawn().map_err(|e| failed(format!("cannot run it: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // a helper that does not read its input may still know the answer
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(Ok(output.stdout));
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().chars().take(512).collect::<String>();
    let text = match said(&output.stdout) {
        text if text.is_empty() => said(&output.stderr),
        text => text,
    };
    Ok(Err(if text.is_empty() { output.status.to_string() } else { text }))
}

fn helper_get(name: &str, registry: &str, path: Option<&std::ffi::OsStr>) -> Result<Option<Secret>, Error> {
    let failed = |why: String| Error::Helper { program: format!("docker-credential-{name}"), why };
    let answer = match run_helper(name, "get", helper_key(registry).as_bytes(), path)? {
        Ok(answer) => answer,
        Err(text) if text.contains("credentials not found") => return Ok(None),
        Err(text) => return Err(failed(text)),
    };
    // the text of a parse error could quote the secret
    let value: Value = serde_json::from_slice(&answer).map_err(|_| failed("its answer is not JSON".into()))?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(match (text("Username"), text("Secret")) {
        (_, secret) if secret.is_empty() => None,
        (user, secret) if user == TOKEN_USER => Some(Secret::Identity(secret)),
        (user, password) => Some(Secret::Password { user, password }),
    })
}

/// `registry` as typed (`https://host/`, `docker.io`, `host/path`) in the form of a key.
pub(super) fn normal_registry(registry: &str) -> &str {
    match plain_key(registry) {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DOCKER_HUB,
        other => other,
    }
}

/// Docker's own file names Docker's own registry by a URL.
fn file_key<'a>(file: &Path, registry: &'a str) -> &'a str {
    let dockers = file.file_name().is_some_and(|n| n == "config.json");
    if dockers { helper_key(registry) } else { registry }
}

/// Stores user and password for a registry in a file, or with the helper that the file names.
pub(super) fn store(file: &Path, registry: &str, user: &str, password: &str, env: &Environment) -> Result<(), Error> {
    change(file, |document| {
        let (own, all) = helper_of(document, registry);
        let key = file_key(file, registry).to_owned();
        if let Some(helper) = own.or(all) {
            let entry = serde_json::json!({"ServerURL": helper_key(registry), "Username": user, "Secret": password});
            let said = run_helper(&helper, "store", entry.to_string().as_bytes(), env.path.as_deref())?;
            said.map_err(|why| Error::Helper { program: format!("docker-credential-{helper}"), why })?;
            auths(document, file)?.insert(key, Value::Object(Map::new()));
        } else {
            let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
            let auths = auths(document, file)?;
            auths.retain(|k, _| normal_registry(k) != registry);
            auths.insert(key, serde_json::json!({ "auth": auth }));
        }
        Ok(true)
    })
    .map(|_| ())
}

/// Forgets a registry. Returns whether it was known.
pub(super) fn erase(file: &Path, registry: &str, env: &Environment) -> Result<bool, Error> {
    if !file.exists() {
        return Ok(false);
    }
    change(file, |document| {
        let (own, all) = helper_of(document, registry);
        let mut known = false;
        if let Some(helper) = own.or(all) {
            let said = run_helper(&helper, "erase", helper_key(registry).as_bytes(), env.path.as_deref())?;
            known = said.is_ok();
        }
        if let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|k, _| normal_registry(k) != registry);
            known |= auths.len() != before;
        }
        Ok(known)
    })
}

fn auths<'a>(document: &'a mut Map<String, Value>, file: &Path) -> Result<&'a mut Map<String, Value>, Error> {
    document
        .entry("auths")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .ok_or_else(|| Error::Config { path: file.to_owned(), why: "`auths` is not an object".into() })
}

/// Changes a file under a lock on its directory, atomically; nothing is written where `edit` says that nothing changed.
fn change(file: &Path, edit: impl FnOnce(&mut Map<String, Value>) -> Result<bool, Error>) -> Result<bool, Error> {
    // a link is written through: the file may lie in a volume
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let failed = |source| Error::File { verb: "write", path: target.clone(), source };
    let dir = match target.parent() {
        Some(d) if !d.as_os_str().is_empty() => d.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
    let lock = File::open(&dir).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut document = read_document(&target)?.unwrap_or_default();
    if !edit(&mut document)? {
        return Ok(false);
    }
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = dir.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        // what a killed process left behind; the lock keeps others out
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let mut text = serde_json::to_vec_pretty(&document)?;
        text.push(b'\n');
        out.write_all(&text)?;
        out.sync_all()?;
        fs::rename(&temporary, &target)?;
        lock.sync_all()
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        failed(source)
    })?;
    Ok(true)
}
