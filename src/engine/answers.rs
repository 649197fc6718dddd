//! What steps with outside effects have answered. A record that is tried again later runs from its first stage, but
//! what has been answered is not asked for again; stages that only compute are computed anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::stages::context::Next;

/// Most bytes of a record's answers, as JSON. When there are more, none is kept and all stages run again: their
/// idempotency keys are the same.
const BYTES_MAX: usize = 64 << 10;

/// Answers of one record in one pipeline.
#[derive(Clone, Default, Debug)]
pub struct Answers {
    /// Hash of the pipeline's text that they belong to.
    config_hash: String,
    steps: BTreeMap<String, Kept>,
    bytes: usize,
    is_over: bool,
}

/// One answer.
#[derive(Clone, Debug)]
struct Kept {
    next: Next,
    answer: Option<Box<RawValue>>,
}

/// An answer as it is taken again.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// How the run went on.
    pub next: Next,
    /// What the stage left for those after it, if anything.
    pub value: Option<Json>,
}

/// The header's JSON.
#[derive(Serialize, Deserialize)]
struct Wire {
    config: String,
    steps: BTreeMap<String, WireStep>,
}

#[derive(Serialize, Deserialize)]
struct WireStep {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    filtered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Box<RawValue>>,
}

/// Where an answer belongs: the step's id, and the numbers of the elements it is within.
pub fn path(step: &str, elements: &[usize]) -> String {
    let mut path = step.to_owned();
    for element in elements {
        path.push('/');
        path.push_str(&element.to_string());
    }
    path
}

impl Answers {
    /// None yet, of a pipeline with this text.
    pub fn of(config_hash: &str) -> Self {
        Self { config_hash: config_hash.to_owned(), ..Self::default() }
    }

    /// Reads a header's value.
    ///
    /// # Errors
    /// When it is no such JSON.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let Wire { config, steps } = serde_json::from_slice(text)?;
        let kept = |step: WireStep| Kept {
            next: if step.filtered { Next::Filtered } else { Next::Continue },
            answer: step.answer,
        };
        let steps = steps.into_iter().map(|(path, step)| (path, kept(step))).collect();
        Ok(Self { config_hash: config, steps, bytes: text.len(), is_over: false })
    }

    /// The header's value; `None` when there is nothing to say, or too much.
    pub fn text(&self) -> Option<String> {
        if self.steps.is_empty() || self.is_over {
            return None;
        }
        let wire =
            |kept: &Kept| WireStep { filtered: kept.next == Next::Filtered, answer: kept.answer.clone() };
        let steps = self.steps.iter().map(|(path, kept)| (path.clone(), wire(kept))).collect();
        serde_json::to_string(&Wire { config: self.config_hash.clone(), steps }).ok()
    }

    /// The answer kept at `path`. After a change of the pipeline's text only steps whose id is written
    /// (`is_named`) are known to be the same: `http-2` may be another call by then.
    pub fn get(&self, path: &str, is_named: bool, config_hash: &str) -> Option<Answer> {
        if !is_named && self.config_hash != config_hash {
            return None;
        }
        let Kept { next, answer } = self.steps.get(path)?;
        let value = match answer {
            Some(text) => Some(serde_json::from_str(text.get()).ok()?),
            None => None,
        };
        Some(Answer { next: *next, value })
    }

    /// Keeps an answer.
    pub fn add(&mut self, path: String, answer: &Answer) {
        let text = answer.value.as_ref().map(serde_json::value::to_raw_value);
        let Ok(text) = text.transpose() else { return };
        self.bytes += path.len() + text.as_ref().map_or(0, |text| text.get().len()) + 32;
        if self.bytes > BYTES_MAX {
            self.is_over = true;
            self.steps.clear();
        }
        if !self.is_over {
            self.steps.insert(path, Kept { next: answer.next, answer: text });
        }
    }

    /// Keeps the answers of `other` too.
    pub fn merge(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.is_over |= other.is_over || self.bytes > BYTES_MAX;
        if self.is_over {
            self.steps.clear();
        } else {
            self.steps.extend(other.steps);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(value: Json) -> Answer {
        Answer { next: Next::Continue, value: Some(value) }
    }

    #[test]
    fn answers_read_back() {
        let mut answers = Answers::of("abc");
        answers.add(path("charge", &[]), &answer(serde_json::json!({"status": 201, "body": {"n": 1.50}})));
        answers.add(path("seen", &[3, 0]), &Answer { next: Next::Filtered, value: None });
        let text = answers.text().expect("text");
        let back = Answers::parse(text.as_bytes()).expect("JSON");
        let charge = back.get("charge", false, "abc").expect("kept");
        assert_eq!(charge, answer(serde_json::json!({"status": 201, "body": {"n": 1.50}})));
        assert_eq!(back.get("seen/3/0", true, "abc").map(|seen| seen.next), Some(Next::Filtered));
        assert_eq!(back.get("seen", true, "abc"), None);
        assert_eq!(back.text(), Some(text));
    }

    #[test]
    fn after_a_change_only_written_ids_are_the_same_steps() {
        let mut answers = Answers::of("abc");
        answers.add("charge".to_owned(), &answer(Json::Null));
        assert!(answers.get("charge", true, "other").is_some());
        assert!(answers.get("charge", false, "other").is_none());
    }

    #[test]
    fn too_many_bytes_keep_nothing() {
        let mut answers = Answers::of("abc");
        answers.add("a".to_owned(), &answer(Json::from("x".repeat(40 << 10))));
        assert!(answers.text().is_some());
        let mut both = answers.clone();
        both.merge(answers.clone());
        assert_eq!(both.text(), None);
        answers.add("b".to_owned(), &answer(Json::from("x".repeat(40 << 10))));
        answers.add("c".to_owned(), &answer(Json::Null));
        assert_eq!(answers.text(), None);
    }
}
