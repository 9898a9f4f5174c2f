//! `--explain-cache`: one line a step.

use super::execute::Executor;
use crate::cache::{self, CacheKey};
use crate::plan::Step;
use crate::ui::Event;

impl Executor<'_> {
    fn say(&self, step: &Step, text: &str) {
        let text = format!("cache: `{}`: {text}", crate::ui::printable(&step.name));
        self.around.sink.event(&Event::Note { text: &text });
    }

    /// A step was found: in the store, or in the cache of this name.
    pub(super) fn explain_hit(&self, step: &Step, from: Option<&str>) {
        if self.request.cache.explain {
            match from {
                None => self.say(step, "hit in the store"),
                Some(name) => self.say(step, &format!("hit in `{name}`")),
            }
        }
    }

    /// A step has to be executed.
    pub(super) fn explain_miss(&self, step: &Step, keys: &[CacheKey]) {
        if !self.request.cache.explain {
            return;
        }
        let why = match keys.first().map(|key| cache::difference(self.around.store, key)) {
            _ if !self.looks_up(step) => "not looked up".to_owned(),
            None | Some(None) => "miss: the store knows no step of this kind that it could be compared with".to_owned(),
            Some(Some(input)) => format!("miss: {} differs from the nearest step that the store knows", named(&input)),
        };
        self.say(step, &why);
    }
}

/// An input of a key, for people.
fn named(input: &str) -> String {
    match input {
        "below" => "what it is executed on".into(),
        "content" | "parts" | "layers" => "what it copies".into(),
        "argv" => "the command".into(),
        "mounts" => "what a mount shows".into(),
        "heredocs" => "a heredoc".into(),
        "options" => "an option of the command line".into(),
        "sources" => "a source".into(),
        "dest" => "the destination".into(),
        "cwd" => "the working directory".into(),
        "version" => "the format of keys".into(),
        other => match other.strip_prefix("env ") {
            Some(variable) => format!("the variable `{variable}`"),
            None => format!("`{other}`"),
        },
    }
}
