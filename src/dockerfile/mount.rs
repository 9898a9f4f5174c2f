//! The value of `RUN --mount`: `key=value` fields between commas, in CSV's quoting.

use super::ast::{Mount, MountFlag, MountKind, Sharing};
use super::suggest;

const KEYS: [&str; 32] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "size",
    "required",
    "mode",
    "uid",
    "gid",
    "env",
    "z",
    "Z",
    "tmpfs-size",
    "tmpfs-mode",
    "tmpcopyup",
    "bind-propagation",
    "bind-nonrecursive",
    "relabel",
    "nosuid",
    "nodev",
    "noexec",
    "U",
    "no-dereference",
];

/// Why a mount cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountError {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

fn hinted<T>(message: impl Into<String>, hint: &str) -> Result<T, MountError> {
    Err(MountError { message: message.into(), hint: Some(hint.into()) })
}

fn fault<T>(message: impl Into<String>) -> Result<T, MountError> {
    Err(MountError { message: message.into(), hint: None })
}

/// The fields of one CSV record.
fn fields(text: &str) -> Result<Vec<String>, MountError> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next() {
                    None => return fault(format!("missing closing quote in mount `{text}`")),
                    Some('"') if chars.peek() == Some(&'"') => field.extend(chars.next()),
                    Some('"') => break,
                    Some(c) => field.push(c),
                }
            }
            match chars.next() {
                None => {
                    out.push(field);
                    return Ok(out);
                }
                Some(',') => {}
                Some(_) => return fault(format!("unexpected text behind a quoted field in mount `{text}`")),
            }
        } else {
            loop {
                match chars.next() {
                    None => {
                        out.push(field);
                        return Ok(out);
                    }
                    Some(',') => break,
                    Some('"') => return fault(format!("unexpected quote in mount `{text}`")),
                    Some(c) => field.push(c),
                }
            }
        }
        out.push(field);
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, MountError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => fault(format!("invalid value `{value}` for mount option `{key}`: expected `true` or `false`")),
    }
}

/// Bytes of a size with a binary unit: `64m`, `1GiB`.
fn bytes(value: &str) -> Option<u64> {
    let end = value.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(value.len());
    let (number, unit) = value.split_at(end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(n) => n.checked_mul(1 << shift),
        Err(_) => {
            let n: f64 = number.parse().ok()?;
            let total = n * (1u64 << shift) as f64;
            (total.is_finite() && (0.0..9e18).contains(&total)).then_some(total as u64)
        }
    }
}

/// What was said about writing.
#[derive(Clone, Copy, PartialEq)]
enum Access {
    Unsaid,
    ReadOnly,
    ReadWrite,
}

impl MountFlag {
    /// The `from` option, which never holds a variable.
    pub fn from(&self) -> Option<String> {
        let pairs = fields(&self.text).ok()?;
        pairs
            .iter()
            .rev()
            .find_map(|f| f.split_once('=').filter(|(k, _)| k.eq_ignore_ascii_case("from")))
            .map(|(_, v)| v.to_owned())
    }

    /// Whether any option holds a variable.
    pub fn has_variables(&self) -> bool {
        self.text.contains('$')
    }

    /// Reads the options; each value goes through `expand`.
    ///
    /// # Errors
    ///
    /// An unknown option or type, a value that does not fit, options that exclude each other, or what `expand` said.
    pub fn resolve(&self, expand: &mut dyn FnMut(&str) -> Result<String, String>) -> Result<Mount, MountError> {
        let mut m = Mount::default();
        let mut access = Access::Unsaid;
        let mut sharing = None;
        let mut required = None;
        let mut buildah = Buildah::default();
        for field in fields(&self.text)? {
            if matches!(field.as_str(), "z" | "Z") {
                m.relabel = true;
                continue;
            }
            if buildah.take(&field, &mut m)? {
                continue;
            }
            let (key, value) = match field.split_once('=') {
                Some((k, v)) => (k.to_ascii_lowercase(), Some(v)),
                None => (field.to_ascii_lowercase(), None),
            };
            let Some(raw) = value else {
                match key.as_str() {
                    "readonly" | "ro" => access = Access::ReadOnly,
                    "readwrite" | "rw" => access = Access::ReadWrite,
                    "required" => required = Some(true),
                    _ if KEYS.contains(&key.as_str()) => {
                        return fault(format!("mount option `{field}` must be a `key=value` pair"));
                    }
                    _ => return unknown(&key),
                }
                continue;
            };
            let value = if key == "from" {
                if raw.contains('$') {
                    return Err(MountError {
                        message: "the mount option `from` does not expand variables".into(),
                        hint: Some("define a stage with `FROM $NAME AS alias` and use the alias".into()),
                    });
                }
                raw.to_owned()
            } else {
                expand(raw).map_err(|message| MountError { message, hint: None })?
            };
            match key.as_str() {
                "type" => m.kind = kind(&value)?,
                "from" => m.from = Some(value),
                "source" | "src" => m.source = Some(value),
                "target" | "dst" | "destination" => m.target = Some(value),
                "readonly" | "ro" => access = if boolean(&key, &value)? { Access::ReadOnly } else { Access::ReadWrite },
                "readwrite" | "rw" => {
                    access = if boolean(&key, &value)? { Access::ReadWrite } else { Access::ReadOnly }
                }
                "required" => required = Some(boolean(&key, &value)?),
                "id" => m.id = Some(value),
                "sharing" => sharing = Some(sharing_of(&value)?),
                "size" => match bytes(&value) {
                    Some(n) => m.size = Some(n),
                    None => return fault(format!("invalid value `{value}` for mount option `size`")),
                },
                "mode" => m.mode = Some(number(&key, &value, 8)?),
                "uid" => m.uid = Some(number(&key, &value, 10)?),
                "gid" => m.gid = Some(number(&key, &value, 10)?),
                "env" => m.env = Some(value),
                _ => return unknown(&key),
            }
        }
        check(&mut m, access, sharing, required)?;
        buildah.check(&mut m)?;
        Ok(m)
    }
}

/// What buildah has beyond BuildKit's options.
#[derive(Default)]
struct Buildah {
    tmpfs: Option<String>,
    tmpfs_mode: Option<u32>,
    bind: Option<String>,
}

impl Buildah {
    /// Whether `field` is one of them; then it is done with.
    fn take(&mut self, field: &str, m: &mut Mount) -> Result<bool, MountError> {
        let (key, value) = field.split_once('=').map_or((field, None), |(k, v)| (k, Some(v)));
        let flag = || value.map_or(Ok(true), |v| boolean(key, v));
        match key {
            "nosuid" => m.no_suid = flag()?,
            "nodev" => m.no_dev = flag()?,
            "noexec" => m.no_exec = flag()?,
            // Said of mounts that forbid nothing.
            "suid" | "dev" | "exec" if value.is_none() => {}
            "tmpcopyup" => {
                m.copy_up = flag()?;
                self.tmpfs = Some(key.into());
            }
            "tmpfs-size" => {
                let Some(size) = value.and_then(bytes) else {
                    return fault(format!("invalid value `{}` for mount option `{key}`", value.unwrap_or_default()));
                };
                m.size = Some(size);
            }
            "tmpfs-mode" => {
                self.tmpfs_mode = Some(number(key, value.unwrap_or_default(), 8)?);
                self.tmpfs = Some(key.into());
            }
            "relabel" => match value {
                Some("shared" | "private") => m.relabel = true,
                _ => return hinted("invalid value for mount option `relabel`", "use `shared` or `private`"),
            },
            // A step's mounts are seen by the step only, and their sources have no mounts below.
            "bind-nonrecursive" => {
                flag()?;
                self.bind = Some(key.into());
            }
            "bind-propagation" => match value {
                Some("private" | "rprivate" | "slave" | "rslave") => self.bind = Some(key.into()),
                Some(other @ ("shared" | "rshared" | "unbindable" | "runbindable")) => {
                    return hinted(
                        format!("the mount option `bind-propagation={other}` is not supported"),
                        "leave it out: what a step mounts is seen by the step only",
                    );
                }
                _ => return fault("invalid value for mount option `bind-propagation`"),
            },
            "U" if !flag()? => {}
            "U" => {
                return hinted(
                    "the mount option `U` is not supported",
                    "leave it out: files of the context and of stages are not given to others; a cache takes `uid` and `gid`",
                );
            }
            "no-dereference" if !flag()? => {}
            "no-dereference" => {
                return hinted(
                    "the mount option `no-dereference` is not supported",
                    "name the place that the symbolic link leads to as `source`",
                );
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check(self, m: &mut Mount) -> Result<(), MountError> {
        let only = |option: Option<String>, kind: MountKind, name: &str| match option {
            Some(option) if m.kind != kind => {
                fault(format!("mount option `{option}` goes with the mount type `{name}` only"))
            }
            _ => Ok(()),
        };
        only(self.tmpfs, MountKind::Tmpfs, "tmpfs")?;
        only(self.bind, MountKind::Bind, "bind")?;
        if m.copy_up && m.size.is_some() {
            return hinted(
                "a mount with `tmpcopyup` cannot have a size",
                "leave one of them out: what the image has at the place is not copied into memory",
            );
        }
        m.mode = m.mode.or(self.tmpfs_mode);
        Ok(())
    }
}

fn unknown<T>(key: &str) -> Result<T, MountError> {
    Err(MountError { message: format!("unknown mount option `{key}`"), hint: suggest::hint(key, KEYS) })
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, MountError> {
    match u32::from_str_radix(value, radix) {
        Ok(n) if value.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
        _ => fault(format!("invalid value `{value}` for mount option `{key}`: expected a number to base {radix}")),
    }
}

fn kind(value: &str) -> Result<MountKind, MountError> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "bind" => MountKind::Bind,
        "cache" => MountKind::Cache,
        "tmpfs" => MountKind::Tmpfs,
        "secret" => MountKind::Secret,
        "ssh" => MountKind::Ssh,
        _ => {
            let hint = suggest::hint(value, ["bind", "cache", "tmpfs", "secret", "ssh"]);
            return Err(MountError { message: format!("unsupported mount type `{value}`"), hint });
        }
    })
}

fn sharing_of(value: &str) -> Result<Sharing, MountError> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => {
            let hint = suggest::hint(value, ["shared", "private", "locked"]);
            return Err(MountError { message: format!("unsupported sharing `{value}` of a cache mount"), hint });
        }
    })
}

/// Which options go with which type, and the defaults that depend on the type.
fn check(m: &mut Mount, access: Access, sharing: Option<Sharing>, required: Option<bool>) -> Result<(), MountError> {
    use MountKind::{Bind, Cache, Secret, Ssh, Tmpfs};
    let name = match m.kind {
        Bind => "bind",
        Cache => "cache",
        Tmpfs => "tmpfs",
        Secret => "secret",
        Ssh => "ssh",
    };
    let only = |key: &str, given: bool, kinds: &[MountKind]| {
        if given && !kinds.contains(&m.kind) {
            return fault(format!("mount option `{key}` does not go with the mount type `{name}`"));
        }
        Ok(())
    };
    only("mode", m.mode.is_some(), &[Secret, Ssh, Cache])?;
    only("uid", m.uid.is_some(), &[Secret, Ssh, Cache])?;
    only("gid", m.gid.is_some(), &[Secret, Ssh, Cache])?;
    only("required", required.is_some(), &[Secret, Ssh])?;
    only("size", m.size.is_some(), &[Tmpfs])?;
    only("sharing", sharing.is_some(), &[Cache])?;
    only("env", m.env.is_some(), &[Secret])?;
    only("from", m.from.is_some(), &[Bind, Cache, Tmpfs, Ssh])?;
    if m.kind == Secret {
        if m.source.is_none() && m.target.is_none() && m.id.is_none() && m.env.is_none() {
            return fault("a secret mount needs an `id` or a `target`");
        }
        if m.source.is_some() && m.id.is_some() {
            return fault("a secret mount cannot have both `source` and `id`");
        }
    }
    m.required = required.unwrap_or(false);
    m.sharing = sharing.unwrap_or_default();
    m.read_only = match access {
        Access::ReadOnly => true,
        Access::ReadWrite => false,
        Access::Unsaid => !matches!(m.kind, Cache | Tmpfs),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Mount, MountError> {
        MountFlag { text: text.into() }.resolve(&mut |v| Ok(v.replace("$T", "/t")))
    }

    #[test]
    fn options() {
        let m = resolve("type=cache,target=$T,sharing=locked,uid=5,mode=0700").unwrap();
        assert_eq!((m.kind, m.target.as_deref(), m.sharing), (MountKind::Cache, Some("/t"), Sharing::Locked));
        assert_eq!((m.uid, m.mode, m.read_only), (Some(5), Some(0o700), false));
        assert!(resolve("target=/x").unwrap().read_only);
        assert!(!resolve("target=/x,rw").unwrap().read_only);
        assert_eq!(resolve("type=tmpfs,target=/x,size=64m").unwrap().size, Some(64 << 20));
        assert!(resolve("type=secret,id=x,required").unwrap().required);
        for bad in [
            "type=chache,target=/x",
            "target=/x,mode=0700",
            "type=secret",
            "frm=x,target=/x",
            "target=/x,from=$X",
            "target",
            "type=tmpfs,target=/x,size=lots",
            "\"target=/x",
            "type=cache,target=/x,tmpcopyup",
            "type=tmpfs,target=/x,tmpcopyup,size=1m",
            "type=tmpfs,target=/x,tmpfs-size=lots",
            "type=tmpfs,target=/x,tmpfs-mode=9",
            "type=tmpfs,target=/x,bind-propagation=private",
            "target=/x,bind-propagation=shared",
            "target=/x,relabel=other",
            "target=/x,U",
            "target=/x,no-dereference",
        ] {
            assert!(resolve(bad).is_err(), "{bad}");
        }
        let m = resolve("target=/x,bind-propagation=rprivate,nosuid,nodev=true,noexec,exec,relabel=shared,U=false")
            .unwrap();
        assert!(m.no_suid && m.no_dev && m.no_exec && m.relabel);
        let m = resolve("type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=0700").unwrap();
        assert_eq!((m.size, m.mode, m.copy_up), (Some(1 << 20), Some(0o700), false));
        assert!(resolve("type=tmpfs,dst=/x,tmpcopyup").unwrap().copy_up);
        for refused in ["target=/x,U", "target=/x,bind-propagation=rshared", "target=/x,no-dereference"] {
            assert!(resolve(refused).unwrap_err().hint.is_some(), "{refused}");
        }
        assert_eq!(resolve("type=chache,target=/x").unwrap_err().hint.as_deref(), Some("did you mean `cache`?"));
    }
}
