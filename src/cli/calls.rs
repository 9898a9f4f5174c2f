//! `--check` and `--call`: what a build can be asked for other than an image. The result goes to standard output; the exit
//! code is 1 where a check found something.

use super::{Error, Global, output, registry_flags};
use crate::build::checks::Read;
use crate::build::{Surroundings, request::BuildRequest};
use crate::lint::report::{self, Source};
use crate::lint::{Fault, Findings};
use crate::sys::signal::Cancel;
use crate::ui::{Event, Sink};
use serde_json::{Value, json};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// What the checks find.
    Check,
    /// What the target takes.
    Outline,
    /// Which targets there are.
    Targets,
    /// Which calls there are.
    Describe,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Format {
    /// Reads `text` or `json`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Format, Error> {
        match text {
            "" | "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(Error::usage_hint(format!("unknown format `{text}`"), "use `text` or `json`")),
        }
    }
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What is asked for.
    pub method: Method,
    /// How it is printed.
    pub format: Format,
    /// The exit code does not tell whether something was found.
    pub ignore_status: bool,
}

impl Call {
    /// The call that `--check` and `--call` make together; `None`: a build.
    ///
    /// # Errors
    /// An unknown call, format or option, or two flags that contradict each other.
    pub fn of_flags(check: Option<bool>, call: Option<&str>) -> Result<Option<Call>, Error> {
        let check = check == Some(true);
        let called = call.map(Call::parse).transpose()?.flatten();
        match (check, call, called) {
            (false, _, called) => Ok(called),
            (true, None, _) => Call::parse("check"),
            (true, Some(_), Some(called)) if called.method == Method::Check => Ok(Some(called)),
            (true, Some(call), _) => Err(Error::usage_hint(
                format!("`--check` and `--call={call}` contradict each other"),
                "`--check` is short for `--call=check`",
            )),
        }
    }

    /// Reads `METHOD[,format=FORMAT][,ignorestatus=BOOL]`; `None` for `build`.
    ///
    /// # Errors
    /// An unknown method, format or option.
    pub fn parse(text: &str) -> Result<Option<Call>, Error> {
        let mut method = None;
        let mut call = Call { method: Method::Check, format: Format::Text, ignore_status: false };
        for (n, field) in text.split(',').enumerate() {
            match field.split_once('=') {
                Some(("format", format)) => call.format = Format::parse(format)?,
                Some(("ignorestatus", value)) => {
                    call.ignore_status = super::values::boolean(value).map_err(Error::usage)?;
                }
                None if n == 0 => method = Some(field),
                _ => {
                    return Err(Error::usage_hint(
                        format!("unknown option `{field}` of a call"),
                        "use `format=json` or `ignorestatus=true`",
                    ));
                }
            }
        }
        call.method = match method.unwrap_or_default() {
            "" | "build" => return Ok(None),
            "check" | "lint" | "frontend.lint" => Method::Check,
            "outline" | "frontend.outline" => Method::Outline,
            "targets" | "frontend.targets" => Method::Targets,
            "subrequests.describe" | "frontend.subrequests.describe" => Method::Describe,
            other => {
                return Err(Error::usage_hint(
                    format!("unknown call `{other}`"),
                    "use `build`, `check`, `outline`, `targets` or `subrequests.describe`",
                ));
            }
        };
        Ok(Some(call))
    }
}

/// Shows warnings on standard error: a check has no steps to show.
pub(super) struct Warnings;

impl Sink for Warnings {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { text } = event {
            output::note(&format!("warning: {text}"));
        }
    }
}

/// Does what is asked for with the Dockerfile of a build.
///
/// # Errors
/// The Dockerfile cannot be read; [`Error::Silent`] 1 where something was found or it cannot be built.
pub fn run(call: &Call, request: &BuildRequest, global: &Global) -> Result<(), Error> {
    if call.method == Method::Describe {
        return describe(call.format);
    }
    let store = global.store()?;
    let client = registry_flags::client(&request.registry, global)?;
    let cancel = Cancel::new().map_err(Error::file("watch", "signals".as_ref()))?;
    let driver = global.storage_driver(&super::values::process_var)?;
    let around =
        Surroundings { store: &store, client: &client, driver, sink: &Warnings, cancel: &cancel, coming: None };
    let read = Read::new(request, Some(around))?;
    if call.method != Method::Check {
        return offer(call, &read);
    }
    let findings = read.check(request, around);
    checked(call, &[(Source { name: read.name(), text: read.text() }, findings)])
}

/// Prints findings.
///
/// # Errors
/// [`Error::Silent`] 1 where something was found or a Dockerfile cannot be built.
pub fn checked(call: &Call, all: &[(Source<'_>, Findings)]) -> Result<(), Error> {
    let found = all.iter().map(|(_, f)| f.found.len()).sum();
    let faults: Vec<&Fault> = all.iter().filter_map(|(_, f)| f.fault.as_ref()).collect();
    match call.format {
        Format::Json => print_json(&report::json(all))?,
        Format::Text => {
            for (source, findings) in all {
                output::print(&report::text(findings, *source))?;
            }
            faults.iter().for_each(|f| failed(f));
            if faults.is_empty() {
                let gap = if found > 0 { "\n" } else { "" };
                output::print_line(&format!("{gap}{}", report::verdict(found)))?;
            }
        }
    }
    let sound = faults.is_empty() && (found == 0 || call.ignore_status);
    if sound { Ok(()) } else { Err(Error::Silent(1)) }
}

/// Prints what a Dockerfile offers: its outline or its targets.
///
/// # Errors
/// [`Error::Silent`] 1 where the Dockerfile cannot be parsed or has no such target.
pub fn offer(call: &Call, read: &Read) -> Result<(), Error> {
    let source = Source { name: read.name(), text: read.text() };
    let printed = match (call.method, call.format) {
        (Method::Targets, format) => read.targets().map(|t| match format {
            Format::Text => output::print(&report::targets_text(&t)),
            Format::Json => print_json(&report::targets_json(&t, source)),
        }),
        (_, format) => read.outline().map(|o| match format {
            Format::Text => output::print(&report::outline_text(&o)),
            Format::Json => print_json(&report::outline_json(&o, source)),
        }),
    };
    printed.unwrap_or_else(|fault| {
        failed(&fault);
        Err(Error::Silent(1))
    })
}

/// Shows why a Dockerfile cannot be built.
pub fn failed(fault: &Fault) {
    output::note(&format!("Error: {}", report::fault_text(fault)));
}

/// Prints JSON as people can read it too.
///
/// # Errors
/// Those of [`output::print_line`].
pub fn print_json(value: &Value) -> Result<(), Error> {
    output::print_line(&output::json(value, "  ", false)?)
}

fn describe(format: Format) -> Result<(), Error> {
    let calls = [
        ("outline", "1.0.0", "what the target takes: arguments, secrets, agents, caches"),
        ("targets", "1.0.0", "the stages that can be built"),
        ("lint", "1.0.0", "what the checks find"),
        ("subrequests.describe", "1.0.0", "this list"),
    ];
    if format == Format::Json {
        let list: Vec<Value> = calls
            .iter()
            .map(|(name, version, description)| {
                json!({ "name": format!("frontend.{name}"), "version": version, "type": "rpc", "description": description })
            })
            .collect();
        return print_json(&Value::Array(list));
    }
    let mut text = format!("{:<22} {:<8} DESCRIPTION\n", "NAME", "VERSION");
    for (name, version, description) in calls {
        let name = if name == "lint" { "check" } else { name };
        text.push_str(&format!("{name:<22} {version:<8} {description}\n"));
    }
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read() {
        let of = |check, call| Call::of_flags(check, call);
        let check = Call { method: Method::Check, format: Format::Text, ignore_status: false };
        assert_eq!(of(None, None).unwrap(), None);
        assert_eq!(of(Some(false), Some("build")).unwrap(), None);
        assert_eq!(of(Some(true), None).unwrap(), Some(check));
        let json = Some(Call { format: Format::Json, ..check });
        assert_eq!(of(Some(true), Some("check,format=json")).unwrap(), json);
        assert_eq!(of(None, Some("lint,format=json")).unwrap(), json);
        let quiet = Some(Call { ignore_status: true, ..check });
        assert_eq!(of(None, Some("check,ignorestatus=true")).unwrap(), quiet);
        for (method, name) in [(Method::Outline, "outline"), (Method::Targets, "targets")] {
            assert_eq!(of(None, Some(name)).unwrap(), Some(Call { method, ..check }));
        }
        for bad in ["what", "check,format=xml", "check,json", "check,ignorestatus=x"] {
            assert!(of(None, Some(bad)).is_err(), "{bad}");
        }
        assert!(of(Some(true), Some("targets")).is_err());
    }
}
