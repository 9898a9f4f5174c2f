//! `rbuild doctor`: what this pod allows, what rbuild makes of it, and which fields would bring more.

use super::registry_flags::AccessArgs;
use super::{Error, Global, output, registry_flags, values};
use crate::doctor::{self, Finding, Level, Situation, State, Storage, Trial, advice, explain, patch};
use crate::sandbox::isolation;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Instant, SystemTime};

/// Find out what this pod allows, which way builds take in it, and which fields would bring more
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Say what is behind a message of rbuild or another builder
    #[arg(long, value_name = "MESSAGE")]
    pub explain: Option<String>,
    /// Find out whether this image can be pulled, too
    #[arg(long, value_name = "IMAGE")]
    pub registry: Option<String>,
    /// What keeps the trial step apart from the pod: auto, namespaces, chroot, trace [env: RBUILD_ISOLATION]
    #[arg(long, value_name = "HOW")]
    pub isolation: Option<isolation::Choice>,
    /// Name of the container that patches are for
    #[arg(long, value_name = "NAME", default_value = "rbuild")]
    pub container: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// The version of what `--json` prints: raised when a reader of the older one would go wrong.
const SCHEMA: u32 = 1;

/// Prints what was found out. Fails with code 1, and no message, where RUN cannot run.
pub fn run(args: &DoctorArgs, global: &Global) -> Result<(), Error> {
    if let Some(message) = &args.explain {
        return answer(message, args);
    }
    // While there is one thread.
    let situation = Situation::read();
    let root = global.root_dir(&values::process_var)?;
    let storage = Storage::at(&root);
    let driver = global.storage_driver(&values::process_var)?;
    let entered = isolation::enter(super::isolation(args.isolation, &values::process_var)?)?;
    let trial = match global.store() {
        Ok(store) => doctor::trial(&store, driver),
        Err(e) => Trial { step: Err(doctor::Refused { message: e.to_string(), hint: e.hint() }), ..Trial::default() },
    };
    let level = Level::of(entered, trial.step.is_ok());
    let mut findings = doctor::findings(&situation, level);
    findings.extend(storage.findings());
    findings.push(doctor::clock(SystemTime::now()));
    findings.push(doctor::names(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()));
    if let Some(image) = &args.registry {
        findings.push(registry(image, args, global)?);
    }
    let advice = advice::advise(&situation, level, &storage, trial.step.is_ok());
    let report = Report { level, reason: entered.reason.clone(), storage, trial, findings, advice };
    if args.json {
        output::print_line(&output::json(&report.json(&args.container), "  ", false)?)?;
    } else {
        output::print(&report.text(&args.container))?;
    }
    if report.trial.step.is_ok() { Ok(()) } else { Err(Error::Silent(1)) }
}

/// Whether an image can be had.
fn registry(image: &str, args: &DoctorArgs, global: &Global) -> Result<Finding, Error> {
    const NAME: &str = "registry";
    let options = crate::build::request::RegistryOptions { retry: 0, ..args.access.lower()? };
    let client = registry_flags::client(&options, global)?;
    let started = Instant::now();
    let first = client.candidates(image).and_then(|all| match all.first() {
        Some(reference) => client.resolve_digest(reference).map(|found| (reference.to_string(), found.digest)),
        None => client.resolve_digest(&image.parse()?).map(|found| (image.to_owned(), found.digest)),
    });
    Ok(match first {
        Ok((name, digest)) => {
            let took = started.elapsed().as_millis();
            Finding::new(NAME, State::Yes, format!("`{name}` is {digest}, answered in {took} ms"))
        }
        Err(e) => Finding::new(NAME, State::No, e.to_string()),
    })
}

/// Everything that is reported.
struct Report {
    level: Level,
    /// Why the level is not a better one.
    reason: Option<String>,
    storage: Storage,
    trial: Trial,
    findings: Vec<Finding>,
    advice: Vec<advice::Advice>,
}

impl Report {
    fn json(&self, container: &str) -> Value {
        let (took, error, hint) = match &self.trial.step {
            Ok(took) => (Some(took.as_millis() as u64), None, None),
            Err(refused) => (None, Some(&refused.message), refused.hint.as_ref()),
        };
        let better: Vec<Value> = self.advice.iter().map(|a| a.json(container)).collect();
        json!({
            "schema": SCHEMA,
            "runs": self.trial.step.is_ok(),
            "isolation": { "rung": self.level.rung(), "ids": self.level.ids(), "reason": self.reason },
            "storage": {
                "root": self.storage.root,
                "filesystem": self.storage.kind,
                "driver": self.trial.driver,
                "reason": self.trial.driver_note,
            },
            "trial": { "milliseconds": took, "error": error, "hint": hint, "warnings": self.trial.warnings },
            "findings": self.findings,
            "patch": better.first().map(|b| b["patch"].clone()),
            "better": better,
        })
    }

    fn text(&self, container: &str) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "isolation  {}", self.level.text());
        let driver = self.trial.driver.as_deref().unwrap_or("none");
        let _ = writeln!(text, "storage    {driver}, over {} at `{}`", self.storage.kind, self.storage.root.display());
        let _ = match &self.trial.step {
            Ok(took) => writeln!(text, "RUN        works: a step took {} ms", took.as_millis()),
            Err(refused) => writeln!(text, "RUN        does not work: {}", refused.message),
        };
        for note in self.trial.driver_note.iter().chain(&self.trial.warnings) {
            let _ = writeln!(text, "           {note}");
        }
        text.push('\n');
        let width = self.findings.iter().map(|f| f.name.len()).max().unwrap_or(0);
        for finding in &self.findings {
            let mark = match finding.state {
                State::Yes => "+",
                State::Partly => "~",
                State::No => "-",
            };
            let _ = writeln!(text, "{mark} {:width$}  {}", finding.name, finding.text);
        }
        for advice in &self.advice {
            let _ = writeln!(text, "\nto get {}: {}", advice.to.text(), advice.brings);
            let _ = writeln!(text, "(Pod Security `{}`)", advice.standard);
            for need in &advice.needs {
                let _ = writeln!(text, "needs {need}");
            }
            text.push_str(&indented(&patch::yaml(&patch::patch(&advice.changes, container))));
        }
        if !self.advice.is_empty() {
            text.push_str(
                "\nEach of these is a patch for a pod or, below `template:`, for what makes pods:\n    \
                 kubectl patch --local --type strategic -f pod.yaml --patch-file patch.yaml -o yaml\n",
            );
        }
        text
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|l| format!("    {l}\n")).collect()
}

/// `--explain`.
fn answer(message: &str, args: &DoctorArgs) -> Result<(), Error> {
    let Some(row) = explain::explain(message) else {
        if args.json {
            output::print_line("null")?;
        } else {
            output::note("this message is not known; `rbuild doctor` shows what the pod allows");
        }
        return Err(Error::Silent(1));
    };
    if args.json {
        return output::print_line(&output::json(&row.json(&args.container), "  ", false)?);
    }
    let mut text = format!("{}\n{}\n", row.cause, row.fix);
    if let Some(patch) = row.patch(&args.container) {
        text.push('\n');
        text.push_str(&indented(&patch::yaml(&patch)));
    }
    output::print(&text)
}
