//! `passwd`, `group`, `subuid` and `subgid` files, parsed without the C library.
//!
//! The C library's `getpwnam` loads name-service modules at run time, which a static binary must not do; and the files
//! that matter lie in images, not in the pod. So everything here is a pure function over the bytes of a file.
//! Lines that are not well-formed are skipped, as the C library does.

use thiserror::Error;

/// Who a RUN step runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct UserIds {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Home directory of the user's passwd entry; `None` where there is no entry.
    pub home: Option<String>,
}

/// A user or group that cannot be resolved.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// A name that is in no passwd file.
    #[error("unable to find user `{0}`: no matching entries in passwd file")]
    NoUser(String),
    /// A name that is in no group file.
    #[error("unable to find group `{0}`: no matching entries in group file")]
    NoGroup(String),
    /// A number that is no id.
    #[error("`{0}` is not a valid user or group id: ids go from 0 to 4294967294")]
    Range(String),
}

impl crate::error::Classified for Error {
    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::NotFound
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::NoUser(name) => {
                Some(format!("create the user in an earlier step (`RUN useradd {name}`), or use a number"))
            }
            Error::NoGroup(name) => {
                Some(format!("create the group in an earlier step (`RUN groupadd {name}`), or use a number"))
            }
            Error::Range(_) => None,
        }
    }
}

/// One line of a passwd file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

/// One line of a group file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Group name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Names of the members.
    pub members: Vec<String>,
}

/// The well-formed lines of a passwd file.
pub fn users(passwd: &[u8]) -> impl Iterator<Item = User> + '_ {
    fields(passwd).filter_map(|f| {
        let (uid, gid) = (f.get(2)?.parse().ok()?, f.get(3)?.parse().ok()?);
        Some(User { name: f.first()?.clone(), uid, gid, home: f.get(5).cloned().unwrap_or_default() })
    })
}

/// The well-formed lines of a group file.
pub fn groups(group: &[u8]) -> impl Iterator<Item = Group> + '_ {
    fields(group).filter_map(|f| {
        let gid = f.get(2)?.parse().ok()?;
        let members = f.get(3).map(|m| m.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect());
        Some(Group { name: f.first()?.clone(), gid, members: members.unwrap_or_default() })
    })
}

/// Resolves the value of a `USER` instruction against the files of an image, as BuildKit and Docker do.
///
/// `""` is root. Numbers need no entry; a user number without an entry has group 0. Supplementary groups are those
/// whose member list names the user, and only where no group was given.
pub fn resolve(user: &str, passwd: &[u8], group: &[u8]) -> Result<UserIds, Error> {
    let user = if user.is_empty() { "0" } else { user };
    let (user_part, group_part) = split(user);
    let user_id = number(user_part)?;
    let group_id = number(group_part)?;

    let entry = users(passwd).find(|u| match user_id {
        _ if user_part.is_empty() => u.uid == 0,
        Some(id) => u.uid == id,
        None => u.name == user_part,
    });
    let mut ids = UserIds::default();
    let mut matched = None;
    match entry {
        Some(u) => {
            ids.uid = u.uid;
            ids.gid = u.gid;
            ids.home = (!u.home.is_empty()).then_some(u.home);
            matched = Some(u.name);
        }
        None if user_part.is_empty() => {}
        None => ids.uid = user_id.ok_or_else(|| Error::NoUser(user_part.to_owned()))?,
    }

    if !group_part.is_empty() {
        ids.gid = match groups(group).find(|g| match group_id {
            Some(id) => g.gid == id,
            None => g.name == group_part,
        }) {
            Some(g) => g.gid,
            None => group_id.ok_or_else(|| Error::NoGroup(group_part.to_owned()))?,
        };
    } else if let (Some(name), true) = (&matched, user_id.is_none() || !user.contains(':')) {
        ids.groups = groups(group).filter(|g| g.members.contains(name)).map(|g| g.gid).collect();
        ids.groups.sort_unstable();
        ids.groups.dedup();
    }
    Ok(ids)
}

/// Resolves the value of `--chown` against the files of an image, as BuildKit does: a user number without a group means the
/// group of the same number, a user name without a group means the user's primary group, an empty user means root. `root`
/// is 0 whatever the files say, and where there are none.
pub fn resolve_chown(spec: &str, passwd: &[u8], group: &[u8]) -> Result<(u32, u32), Error> {
    let (user_part, group_part) = split(spec);
    let (uid, mut gid) = match number(user_part)? {
        Some(id) => (id, id),
        None if matches!(user_part, "" | "root") => (0, 0),
        None => users(passwd)
            .find(|u| u.name == user_part)
            .map(|u| (u.uid, u.gid))
            .ok_or_else(|| Error::NoUser(user_part.to_owned()))?,
    };
    if !group_part.is_empty() {
        gid = match number(group_part)? {
            Some(id) => id,
            None if group_part == "root" => 0,
            None => groups(group)
                .find(|g| g.name == group_part)
                .map(|g| g.gid)
                .ok_or_else(|| Error::NoGroup(group_part.to_owned()))?,
        };
    }
    Ok((uid, gid))
}

/// The first range that a `subuid` or `subgid` file gives to a user, who is looked for by each of `names` (login name,
/// number): first id and count.
pub fn subordinate_ranges(file: &[u8], names: &[&str]) -> Vec<(u32, u32)> {
    fields(file)
        .filter(|f| f.first().is_some_and(|owner| names.contains(&owner.as_str())))
        .filter_map(|f| {
            let (start, count): (u32, u32) = (f.get(1)?.parse().ok()?, f.get(2)?.parse().ok()?);
            (count > 0 && start.checked_add(count).is_some()).then_some((start, count))
        })
        .collect()
}

fn split(spec: &str) -> (&str, &str) {
    spec.split_once(':').unwrap_or((spec, ""))
}

/// `None` where the text is a name.
fn number(text: &str) -> Result<Option<u32>, Error> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        _ => Err(Error::Range(text.to_owned())),
    }
}

fn fields(file: &[u8]) -> impl Iterator<Item = Vec<String>> + '_ {
    file.split(|&b| b == b'\n').filter_map(|line| {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        let comment = text.is_empty() || text.starts_with('#') || text.starts_with('+') || text.starts_with('-');
        (!comment).then(|| text.split(':').map(str::to_owned).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# c\nbroken\n\nwww-data:x:33:33:w:/var/www:/x\n\
        app:x:1000:1001::/home/app:/bin/sh\nnumeric:x:77:78::/n:/bin/sh\nlast:x:5:6::";
    const GROUP: &[u8] = b"root:x:0:root\nadm:x:4:app,root\nwww-data:x:33:\nstaff:x:50:app\napp:x:1001:\n";

    fn ids(uid: u32, gid: u32, groups: &[u32], home: Option<&str>) -> Result<UserIds, Error> {
        Ok(UserIds { uid, gid, groups: groups.to_vec(), home: home.map(str::to_owned) })
    }

    #[test]
    fn user_instruction() {
        let table = [
            ("", ids(0, 0, &[0, 4], Some("/root"))),
            ("root", ids(0, 0, &[0, 4], Some("/root"))),
            ("0", ids(0, 0, &[0, 4], Some("/root"))),
            ("0:0", ids(0, 0, &[], Some("/root"))),
            ("app", ids(1000, 1001, &[4, 50], Some("/home/app"))),
            ("1000", ids(1000, 1001, &[4, 50], Some("/home/app"))),
            ("app:www-data", ids(1000, 33, &[], Some("/home/app"))),
            ("app:12345", ids(1000, 12345, &[], Some("/home/app"))),
            ("4242", ids(4242, 0, &[], None)),
            ("4242:4343", ids(4242, 4343, &[], None)),
            (":staff", ids(0, 50, &[], Some("/root"))),
            ("last", ids(5, 6, &[], None)),
            ("nobody", Err(Error::NoUser("nobody".into()))),
            ("app:nogroup", Err(Error::NoGroup("nogroup".into()))),
            ("4294967295", Err(Error::Range("4294967295".into()))),
            ("99999999999", Err(Error::Range("99999999999".into()))),
        ];
        for (spec, expected) in table {
            assert_eq!(resolve(spec, PASSWD, GROUP), expected, "{spec}");
        }
        assert_eq!(resolve("", b"", b""), ids(0, 0, &[], None));
    }

    #[test]
    fn chown_flag() {
        let table = [
            ("1000", Ok((1000, 1000))),
            ("7", Ok((7, 7))),
            ("app", Ok((1000, 1001))),
            ("app:app", Ok((1000, 1001))),
            ("app:0", Ok((1000, 0))),
            ("33:staff", Ok((33, 50))),
            (":staff", Ok((0, 50))),
            ("nobody", Err(Error::NoUser("nobody".into()))),
            ("0:nogroup", Err(Error::NoGroup("nogroup".into()))),
        ];
        for (spec, expected) in table {
            assert_eq!(resolve_chown(spec, PASSWD, GROUP), expected, "{spec}");
        }
        for spec in ["root", "root:root", ":root", "0:root"] {
            assert_eq!(resolve_chown(spec, b"", b""), Ok((0, 0)), "{spec}");
        }
    }

    #[test]
    fn subordinate_ids_by_name_or_number() {
        let file = b"other:1:2\npod:100000:65536\n1001:300000:10\npod:x:y\npod:4294967295:5\npod:5:0\n";
        assert_eq!(subordinate_ranges(file, &["pod", "1001"]), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(subordinate_ranges(file, &["nobody"]), []);
    }
}
