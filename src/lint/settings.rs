//! Which rules run: the `check` directive, the build argument that replaces it, and the comments above instructions.
//!
//! ```text
//! # check=skip=StageNameCasing,FromAsCasing;error=true
//! # check=skip=all;experimental=InvalidDefinitionDescription
//! ```

use super::Rule;
use std::collections::BTreeSet;

/// The build argument that replaces the directive.
pub const BUILD_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// A set of names of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: BTreeSet<String>,
}

impl Names {
    fn parse(text: &str) -> Names {
        match text.trim() {
            "all" => Names { all: true, names: BTreeSet::new() },
            list => Names { all: false, names: list.split(',').map(|n| n.trim().to_owned()).collect() },
        }
    }

    fn has(&self, rule: &Rule) -> bool {
        self.all || self.names.contains(rule.name)
    }
}

/// Which rules run, and whether a finding ends the build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    skip: Names,
    experimental: Names,
    /// `error=true`: a build with findings fails before its first step.
    pub fatal: bool,
}

impl Settings {
    /// Reads `skip=A,B;error=true;experimental=C`; each part is optional.
    ///
    /// # Errors
    /// A part that is unknown, given twice or without a value.
    pub fn parse(text: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        let mut seen = BTreeSet::new();
        for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("invalid check option `{part}`: expected `name=value`"));
            };
            let (key, value) = (key.trim(), value.trim());
            if !seen.insert(key) {
                return Err(format!("the check option `{key}` is given twice"));
            }
            match key {
                "skip" => settings.skip = Names::parse(value),
                "experimental" => settings.experimental = Names::parse(value),
                "error" => {
                    settings.fatal = match value {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        _ => return Err(format!("invalid check option `{part}`: expected `true` or `false`")),
                    }
                }
                _ => {
                    return Err(format!("unknown check option `{key}`: expected `skip`, `error` or `experimental`"));
                }
            }
        }
        Ok(settings)
    }

    /// Whether a rule runs where only these settings hold.
    pub(super) fn runs(&self, rule: &Rule) -> bool {
        if rule.experimental { self.experimental.has(rule) } else { !self.skip.has(rule) }
    }

    /// The settings of the first `check=` among the comments above an instruction. What stands behind a blank is an
    /// explanation; settings that cannot be read say nothing.
    pub(super) fn of_comments(comments: &[String]) -> Option<Settings> {
        let value = comments.iter().find_map(|c| check_comment(c))?;
        Settings::parse(value.split(' ').next().unwrap_or_default()).ok()
    }
}

/// The value of a comment `check=…`.
pub(super) fn check_comment(comment: &str) -> Option<&str> {
    let (key, value) = comment.split_once('=')?;
    key.trim().eq_ignore_ascii_case("check").then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;

    #[test]
    fn settings_are_read() {
        let s = Settings::parse(" skip=StageNameCasing, FromAsCasing ; error=true").unwrap();
        assert!(s.fatal && !s.runs(rules::STAGE_NAME_CASING) && !s.runs(rules::FROM_AS_CASING));
        assert!(s.runs(rules::UNDEFINED_VAR) && !s.runs(rules::INVALID_DEFINITION_DESCRIPTION));
        let s = Settings::parse("skip=all;experimental=all").unwrap();
        assert!(!s.runs(rules::UNDEFINED_VAR) && s.runs(rules::INVALID_DEFINITION_DESCRIPTION));
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        for bad in ["skip", "error=perhaps", "skp=all", "skip=a;skip=b"] {
            assert!(Settings::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn comments_hold_settings() {
        let of = |lines: &[&str]| Settings::of_comments(&lines.iter().map(|l| l.to_string()).collect::<Vec<_>>());
        let skip = of(&["words", "check=skip=UndefinedVar // because", "check=skip=all"]).unwrap();
        assert!(!skip.runs(rules::UNDEFINED_VAR) && skip.runs(rules::STAGE_NAME_CASING));
        assert_eq!(of(&["words"]), None);
        assert_eq!(of(&["check=what"]), None);
    }
}
