//! Changes to a pod, as a strategic merge patch.

use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Where a kubelet looks for `seccomp/rbuild-pod.json`, below its directory of profiles.
pub const SECCOMP_PROFILE: &str = "profiles/rbuild-pod.json";
/// The name under which a node loads `apparmor/rbuild-pod`.
pub const APPARMOR_PROFILE: &str = "rbuild-pod";
/// Name of the volume that a patch adds.
const VOLUME: &str = "rbuild-store";

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The seccomp profile that comes with rbuild.
    Seccomp,
    /// The AppArmor profile that comes with rbuild.
    AppArmor,
    /// Programs may gain privilege from their files.
    Escalation,
    /// SETUID and SETGID, for `newuidmap` and `newgidmap`.
    MapCapabilities,
    /// Root of a user namespace that is the pod's own, with SYS_ADMIN in it.
    OwnUsers,
    /// Another user.
    RunAs(u32),
    /// SYS_ADMIN, in a pod that has a user namespace of its own.
    Admin,
    /// The pod's `/proc` is not covered; only together with a user namespace of its own.
    Proc,
    /// A volume for the store.
    EmptyDir(PathBuf),
    /// More memory.
    Memory(&'static str),
}

/// The patch for these changes to a container.
pub fn patch(changes: &[Change], container: &str) -> Value {
    let mut spec = Map::new();
    let mut context = Map::new();
    let mut fields = Map::new();
    for change in changes {
        match change {
            Change::Seccomp => {
                let profile = json!({ "type": "Localhost", "localhostProfile": SECCOMP_PROFILE });
                context.insert("seccompProfile".into(), profile);
            }
            Change::AppArmor => {
                let profile = json!({ "type": "Localhost", "localhostProfile": APPARMOR_PROFILE });
                context.insert("appArmorProfile".into(), profile);
            }
            Change::Escalation => {
                context.insert("allowPrivilegeEscalation".into(), true.into());
            }
            Change::MapCapabilities => {
                context.insert("capabilities".into(), json!({ "add": ["SETGID", "SETUID"] }));
            }
            Change::OwnUsers => {
                spec.insert("hostUsers".into(), false.into());
                context.insert("runAsUser".into(), 0.into());
                context.insert("runAsNonRoot".into(), false.into());
                // An API server refuses `false` beside SYS_ADMIN.
                context.insert("allowPrivilegeEscalation".into(), true.into());
                // What root has by default is of use to files of other users.
                context.insert("capabilities".into(), json!({ "add": ["SYS_ADMIN"], "drop": null }));
            }
            Change::RunAs(uid) => {
                context.insert("runAsUser".into(), (*uid).into());
                context.insert("runAsGroup".into(), (*uid).into());
            }
            Change::Admin => {
                context.insert("allowPrivilegeEscalation".into(), true.into());
                context.insert("capabilities".into(), json!({ "add": ["SYS_ADMIN"], "drop": null }));
            }
            Change::Proc => {
                spec.insert("hostUsers".into(), false.into());
                context.insert("procMount".into(), "Unmasked".into());
            }
            Change::EmptyDir(root) => {
                spec.insert("volumes".into(), json!([{ "name": VOLUME, "emptyDir": {} }]));
                fields.insert("volumeMounts".into(), json!([{ "name": VOLUME, "mountPath": mount_path(root) }]));
            }
            Change::Memory(amount) => {
                fields.insert("resources".into(), json!({ "limits": { "memory": amount } }));
            }
        }
    }
    let mut own = Map::new();
    own.insert("name".into(), container.into());
    if !context.is_empty() {
        own.insert("securityContext".into(), Value::Object(context));
    }
    own.extend(fields);
    spec.insert("containers".into(), json!([own]));
    json!({ "spec": spec })
}

fn mount_path(root: &Path) -> String {
    root.to_string_lossy().into_owned()
}

/// The same as YAML, for people.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    // Depth is that of the patches above, at most seven.
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, indent: usize, text: &mut String) {
    let blank = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                text.push_str(&format!("{blank}{name}:"));
                below(value, indent, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                write(item, indent + 2, &mut inner);
                // The first line of an item stands behind its dash.
                text.push_str(&format!("{blank}- {}", inner.trim_start()));
                if !inner.ends_with('\n') {
                    text.push('\n');
                }
            }
        }
        scalar => text.push_str(&format!("{blank}{}", self::scalar(scalar))),
    }
}

fn below(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write(value, indent + 2, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write(value, indent, text);
        }
        other => text.push_str(&format!(" {}\n", scalar(other))),
    }
}

/// Plain where no reader of YAML could take it for something else, else as JSON writes it, which is YAML as well.
fn scalar(value: &Value) -> String {
    const WORDS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "null", "~"];
    match value {
        Value::String(s)
            if s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
                && s.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
                && !WORDS.contains(&s.to_ascii_lowercase().as_str()) =>
        {
            s.clone()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_of_a_patch() {
        let changes = [Change::OwnUsers, Change::Seccomp, Change::EmptyDir("/work/a b".into())];
        insta::assert_snapshot!(yaml(&patch(&changes, "build")), @r#"
        spec:
          hostUsers: false
          volumes:
          - name: rbuild-store
            emptyDir: {}
          containers:
          - name: build
            securityContext:
              runAsUser: 0
              runAsNonRoot: false
              allowPrivilegeEscalation: true
              capabilities:
                add:
                - SYS_ADMIN
                drop: null
              seccompProfile:
                type: Localhost
                localhostProfile: profiles/rbuild-pod.json
            volumeMounts:
            - name: rbuild-store
              mountPath: "/work/a b"
        "#);
    }

    #[test]
    fn words_that_yaml_reads_as_something_else_are_quoted() {
        for (text, wanted) in
            [("no", "\"no\""), ("1e3", "\"1e3\""), ("", "\"\""), ("a: b", "\"a: b\""), ("rbuild", "rbuild")]
        {
            assert_eq!(scalar(&text.into()), wanted);
        }
    }
}
