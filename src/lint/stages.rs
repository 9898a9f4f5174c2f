//! Rules about FROM.

use super::scope::{Origin, Scope};
use super::{Linter, Place, Subject, rules};
use crate::dockerfile::Stage;
use crate::dockerfile::expand::{Expanded, Lookup};
use crate::oci::{Location, Platform, Reference};
use std::collections::HashSet;

/// Words that FROM and `--from` give a meaning of their own.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(linter: &mut Linter<'_>, subject: &Subject<'_>, scope: &mut Scope<'_>) {
    let file = linter.file;
    let mut seen = HashSet::new();
    for (number, stage) in file.stages.iter().enumerate() {
        let place = Place::from(stage);
        if let Some(name) = scope.names.get(number).cloned().flatten() {
            if RESERVED.contains(&name.as_str()) {
                let detail = format!("\"{name}\" has a meaning of its own and cannot name a stage");
                linter.report(rules::RESERVED_STAGE_NAME, &place, detail);
            }
            if !seen.insert(name.clone()) {
                let detail = format!("the stage name \"{name}\" is used before");
                linter.report(rules::DUPLICATE_STAGE_NAME, &place, detail);
            }
        }
        let base = scope.expand_global(&stage.from.base);
        let platform = stage.from.platform.as_deref().and_then(|p| scope.expand_global(p));
        for expanded in [&base, &platform].into_iter().flatten() {
            undeclared(linter, scope, expanded, &place);
        }
        default_base(linter, scope, stage, &place);
        if let (Some(written), Some(expanded)) = (&stage.from.platform, &platform) {
            platform_flag(linter, scope, number, written, expanded, &place);
        }
        if subject.needed.as_ref().is_none_or(|n| n.contains(&number)) {
            base_platform(linter, subject, scope, number, &place);
        }
    }
}

/// FROM asks for a variable that no global ARG declares.
fn undeclared(linter: &mut Linter<'_>, scope: &mut Scope<'_>, expanded: &Expanded, place: &Place) {
    for name in expanded.unset.iter().filter(|n| !scope.global_args.contains_key(n.as_str())) {
        let near = scope.budget.nearest(name, scope.global.names());
        let hint = near.map(|n| format!(" (did you mean {n}?)")).unwrap_or_default();
        let detail = format!("FROM uses '{name}', which no ARG before the first FROM declares{hint}");
        linter.report(rules::UNDEFINED_ARG_IN_FROM, place, detail);
    }
}

/// FROM names no image when only the defaults of the ARGs are taken.
fn default_base(linter: &mut Linter<'_>, scope: &mut Scope<'_>, stage: &Stage, place: &Place) {
    let written = &stage.from.base;
    if !written.contains('$') {
        return;
    }
    let variables = scope.defaults.clone();
    let Some(base) = scope.expand(written, &variables) else { return };
    if !Location::has_transport(&base.text) && base.text.parse::<Reference>().is_err() {
        let detail = format!("without build arguments the base `{written}` is empty or no valid name of an image");
        linter.report(rules::INVALID_DEFAULT_ARG_IN_FROM, place, detail);
    }
}

fn platform_flag(
    linter: &mut Linter<'_>,
    scope: &Scope<'_>,
    number: usize,
    written: &str,
    expanded: &Expanded,
    place: &Place,
) {
    if expanded.used.is_empty() && expanded.unset.is_empty() {
        let Ok(platform) = expanded.text.parse::<Platform>() else { return };
        // a stage that says in its name what it is for may be tied to it
        let name = scope.names.get(number).cloned().flatten().unwrap_or_default();
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let detail = format!("the platform of FROM is the constant \"{}\"", expanded.text);
            linter.report(rules::FROM_PLATFORM_FLAG_CONST_DISALLOWED, place, detail);
        }
        return;
    }
    let alone = expanded.unset.is_empty() && expanded.used.len() == 1 && expanded.used.contains("TARGETPLATFORM");
    if alone && scope.global.get("TARGETPLATFORM") == Some(&expanded.text) {
        let detail = format!("the platform {written} is what FROM takes anyway");
        linter.report(rules::REDUNDANT_TARGET_PLATFORM, place, detail);
    }
}

/// The base image is for another platform than it was asked for.
fn base_platform(linter: &mut Linter<'_>, subject: &Subject<'_>, scope: &mut Scope<'_>, number: usize, place: &Place) {
    let Some((Origin::Image(base), wanted)) = scope.origin(number, subject) else { return };
    let Some(config) = subject.bases.get(&(base.clone(), wanted.clone())) else { return };
    let found = config.platform();
    if !found.os.is_empty() && (found.os != wanted.os || found.architecture != wanted.architecture) {
        let (found, wanted) = (found.normalized(), wanted.normalized());
        let detail = format!("the base image {base} is for \"{found}\", and this build is for \"{wanted}\"");
        linter.report(rules::INVALID_BASE_IMAGE_PLATFORM, place, detail);
    }
}

/// Names of the global ARGs that a text of FROM uses.
pub(super) fn global_args_used(scope: &mut Scope<'_>, stage: &Stage) -> Vec<String> {
    let mut waiting: Vec<String> = vec![];
    for word in std::iter::once(&stage.from.base).chain(&stage.from.platform) {
        waiting.extend(scope.expand_global(word).into_iter().flat_map(|e| e.used.into_iter().chain(e.unset)));
    }
    // the default of one ARG may use another
    let mut used = vec![];
    let mut seen = HashSet::new();
    while let Some(name) = waiting.pop() {
        let Some(arg) = scope.global_args.get(name.as_str()).copied() else { continue };
        if !seen.insert(name.clone()) {
            continue;
        }
        if let Some(default) = arg.default.filter(|_| scope.given(&name).is_none()) {
            waiting.extend(scope.expand_global(default).into_iter().flat_map(|e| e.used.into_iter().chain(e.unset)));
        }
        used.push(name);
    }
    used
}
