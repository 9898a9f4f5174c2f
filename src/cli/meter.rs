//! What the steps of a build used, kept for the file of metadata, and shown only to those who asked.

use crate::ui::{Event, Outline, Sink, StepKey, Usage};
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};

/// Stands between a build and who shows it.
pub struct Meter<'a> {
    inner: &'a dyn Sink,
    shows: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outline: Outline,
    steps: Vec<Step>,
}

struct Step {
    platform: Option<String>,
    stage: Option<String>,
    text: String,
    usage: Usage,
}

impl<'a> Meter<'a> {
    /// Passes everything on; what steps used only where it `shows` that.
    pub fn new(inner: &'a dyn Sink, shows: bool) -> Meter<'a> {
        Meter { inner, shows, state: Mutex::default() }
    }

    /// The RUN steps that were executed, in the order in which they ended. Times are in seconds, sizes in bytes.
    pub fn json(&self) -> Value {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = state.steps.iter().map(|step| {
            let usage = &step.usage;
            json!({
                "platform": step.platform,
                "stage": step.stage,
                "step": step.text,
                "wallSeconds": usage.took.as_secs_f64(),
                "userSeconds": usage.user.as_secs_f64(),
                "systemSeconds": usage.system.as_secs_f64(),
                "maxRssBytes": usage.max_rss,
                "memoryPeakBytes": usage.peak,
                "readBytes": usage.read,
                "writtenBytes": usage.written,
            })
        });
        steps.collect()
    }

    fn keep(&self, key: StepKey, usage: Usage) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let step = Step {
            platform: state.outline.platform.clone(),
            stage: state.outline.stages.get(key.stage).and_then(|s| s.name.clone()),
            text: state.outline.step(key).map_or(String::new(), |s| s.text.clone()),
            usage,
        };
        state.steps.push(step);
    }
}

impl Sink for Meter<'_> {
    fn event(&self, event: &Event<'_>) {
        match *event {
            Event::Planned(outline) => {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).outline = outline.clone();
            }
            Event::StepUsage { step, usage } => {
                self.keep(step, usage);
                if !self.shows {
                    return;
                }
            }
            _ => {}
        }
        self.inner.event(event);
    }
}
