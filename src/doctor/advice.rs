//! Which changes to the pod bring more, least first.

use super::newuidmap::{Hold, Tools};
use super::patch::{self, Change};
use super::storage::Place;
use super::{Level, Situation, Storage};
use serde_json::{Value, json};

/// A change to the pod, and what it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The level that is reached.
    pub to: Level,
    /// What that brings.
    pub brings: &'static str,
    /// The strictest of the Pod Security Standards that allows it, as long as the rest of the pod does.
    pub standard: &'static str,
    /// The fields.
    pub changes: Vec<Change>,
    /// What nodes need for it.
    pub needs: Vec<&'static str>,
}

const SECCOMP_FILE: &str =
    "`seccomp/rbuild-pod.json` on the nodes, as `/var/lib/kubelet/seccomp/profiles/rbuild-pod.json`";
const APPARMOR_FILE: &str = "`apparmor/rbuild-pod` loaded on the nodes";
const USER_NAMESPACES: &str = "Kubernetes 1.33 or newer, and a container runtime with user namespaces for pods";

impl Advice {
    /// As JSON, with the patch for a container.
    pub fn json(&self, container: &str) -> Value {
        json!({
            "rung": self.to.rung(),
            "ids": self.to.ids(),
            "brings": self.brings,
            "podSecurity": self.standard,
            "needs": self.needs,
            "patch": patch::patch(&self.changes, container),
        })
    }
}

/// What would bring more than `level`, where the trial step `runs` or does not.
pub fn advise(s: &Situation, level: Level, storage: &Storage, runs: bool) -> Vec<Advice> {
    let volume = store_change(storage);
    let mut all = Vec::new();
    let mut add = |advice: Advice| {
        // A level that is reached on storage that cannot be used is no help.
        let changes = advice.changes.into_iter().chain(volume.clone()).collect();
        all.push(Advice { changes, ..advice });
    };
    let refused = level <= Level::Trace;
    let mut base = Vec::new();
    let mut needs = Vec::new();
    if refused && s.filtered && s.user_namespace.is_err() {
        base.push(Change::Seccomp);
        needs.push(SECCOMP_FILE);
    }
    if s.mount.is_err() && s.confined_by_apparmor() {
        base.push(Change::AppArmor);
        needs.push(APPARMOR_FILE);
    }

    if !base.is_empty() {
        let ranged = s.root_maps_ranges() || (s.uid != 0 && s.tools == Tools::Ready);
        let mut changes = base.clone();
        if s.uid == 0 && !ranged {
            // Root without SETFCAP may not map itself, anybody else may.
            changes.push(Change::RunAs(1000));
        }
        add(Advice {
            to: if ranged { Level::Range } else { Level::One },
            brings: if runs { "RUN at full speed: nothing is supervised, and no base is copied" } else { "RUN" },
            standard: if s.uid == 0 { "baseline" } else { "restricted" },
            changes,
            needs: needs.clone(),
        });
    }
    if level <= Level::One
        && s.uid != 0
        && (!refused || !base.is_empty())
        && let Tools::Held(holds) = &s.tools
    {
        let mut changes = base;
        changes.extend(holds.iter().map(|hold| match hold {
            Hold::Escalation => Change::Escalation,
            Hold::Capabilities => Change::MapCapabilities,
        }));
        add(Advice {
            to: Level::Range,
            brings: "65536 real ids: owners and `USER` cost nothing",
            standard: "baseline",
            changes,
            needs,
        });
    }
    if level <= Level::One {
        let admin = s.own_users && s.uid == 0;
        add(Advice {
            to: Level::Pod,
            brings: "65536 real ids, in a user namespace that the kubelet makes",
            standard: "privileged",
            changes: vec![if admin { Change::Admin } else { Change::OwnUsers }],
            needs: if s.own_users { Vec::new() } else { vec![USER_NAMESPACES] },
        });
    }
    // A supervisor needs a place that can be written, and has no use for an overlay.
    let supervised = !runs && storage.writable.is_err() && s.supervisor.is_ok() && s.tracing.is_ok();
    if refused
        && supervised
        && let Some(volume) = &volume
    {
        all.insert(
            0,
            Advice {
                to: Level::Trace,
                brings: "RUN, under a supervisor",
                standard: "restricted",
                changes: vec![volume.clone()],
                needs: Vec::new(),
            },
        );
    }
    if !refused && let Some(volume) = volume {
        all.insert(
            0,
            Advice {
                to: level,
                brings: if runs {
                    "the kernel's overlay: nothing is copied, nothing goes through FUSE"
                } else {
                    "RUN, over the kernel's overlay"
                },
                standard: "restricted",
                changes: vec![volume],
                needs: Vec::new(),
            },
        );
    }
    all
}

/// A volume for a store that lies where it cannot be used, or only with copies.
fn store_change(storage: &Storage) -> Option<Change> {
    let unfit = storage.writable.is_err() || matches!(storage.place, Place::ContainerLayer | Place::Network);
    unfit.then(|| Change::EmptyDir(storage.root.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use caps::Capability;

    fn pod(uid: u32, filtered: bool) -> Situation {
        let caps: Vec<Capability> = if uid == 0 { crate::sys::caps::DEFAULT.to_vec() } else { Vec::new() };
        Situation {
            uid,
            gid: uid,
            no_new_privileges: uid != 0,
            filtered,
            own_users: false,
            ids: u32::MAX,
            effective: caps.clone(),
            bounding: caps,
            label: None,
            user_namespace: if filtered { Err("refused".into()) } else { Ok("".into()) },
            mount: if filtered { Err("refused".into()) } else { Ok(String::new()) },
            proc: Ok(String::new()),
            emulators: Ok(String::new()),
            tools: Tools::Held(vec![Hold::Escalation, Hold::Capabilities]),
            supervisor: Ok(String::new()),
            tracing: Ok(String::new()),
            landlock: Some(7),
        }
    }

    fn on(place: Place) -> Storage {
        Storage { root: "/store".into(), kind: String::new(), place, writable: Ok(()) }
    }

    fn levels(s: &Situation, level: Level, storage: &Storage) -> Vec<(Level, Vec<Change>)> {
        let all = advise(s, level, storage, level != Level::None);
        for a in &all {
            assert!(a.to >= level && !a.changes.is_empty(), "{a:?}");
            assert!(a.brings.len() > 2);
        }
        all.into_iter().map(|a| (a.to, a.changes)).collect()
    }

    #[test]
    fn least_first() {
        use Change::*;
        let volume = on(Place::Volume);
        let restricted = levels(&pod(1000, true), Level::None, &volume);
        let wanted = [
            (Level::One, vec![Seccomp]),
            (Level::Range, vec![Seccomp, Escalation, MapCapabilities]),
            (Level::Pod, vec![OwnUsers]),
        ];
        assert_eq!(restricted, wanted);
        assert_eq!(levels(&pod(1000, true), Level::Trace, &volume), wanted);
        assert_eq!(levels(&pod(0, true), Level::None, &volume)[0], (Level::Range, vec![Seccomp]));
        let mut hostusers = pod(0, true);
        hostusers.own_users = true;
        assert_eq!(levels(&hostusers, Level::None, &volume)[1], (Level::Pod, vec![Admin]));
        let mut bare = pod(0, true);
        bare.effective.clear();
        assert_eq!(levels(&bare, Level::None, &volume)[0], (Level::One, vec![Seccomp, RunAs(1000)]));
        assert_eq!(levels(&pod(0, false), Level::Range, &volume), []);
        assert_eq!(levels(&pod(1000, false), Level::One, &volume)[0].1, [Escalation, MapCapabilities]);
        let mut apparmor = pod(1000, true);
        apparmor.label = Some("cri-containerd.apparmor.d (enforce)".into());
        assert_eq!(levels(&apparmor, Level::None, &volume)[0].1, [Seccomp, AppArmor]);
        // Namespaces are there, and mounts are not.
        let mut denied = pod(1000, false);
        (denied.label, denied.mount) = (apparmor.label, Err("denied".into()));
        assert_eq!(levels(&denied, Level::One, &volume)[0], (Level::One, vec![AppArmor]));
        let mut lacking = pod(1000, true);
        lacking.tools = Tools::Lacking("none".into());
        assert_eq!(levels(&lacking, Level::None, &volume).len(), 2);
    }

    #[test]
    fn storage_that_cannot_be_used_gets_a_volume_with_everything() {
        let volume = Change::EmptyDir("/store".into());
        for advice in levels(&pod(1000, true), Level::None, &on(Place::ContainerLayer)) {
            assert_eq!(advice.1.last(), Some(&volume));
        }
        assert_eq!(levels(&pod(0, false), Level::Range, &on(Place::Network)), [(Level::Range, vec![volume.clone()])]);
        let closed = Storage { writable: Err("read-only".into()), ..on(Place::Volume) };
        assert_eq!(levels(&pod(0, false), Level::Range, &closed), [(Level::Range, vec![volume.clone()])]);
        assert_eq!(levels(&pod(1000, true), Level::None, &closed)[0], (Level::Trace, vec![volume]));
    }
}
