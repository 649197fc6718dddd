//! What was decided about dead letters: replayed, discarded, open again. Dead letters themselves stay as they are until
//! their topic's retention; decisions stand in a compacted topic of the ledger, keyed by the letter's name. Pure.
//!
//! A decision names the failure it is about, not only the place of the letter: when a dead-letter topic is deleted and
//! made anew, its offsets begin again, and old decisions must not hide new letters.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::app::dead_letters::{Letter, LetterId};
use crate::record::{InRecord, OutRecord};

/// What can be decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// The record was written to be worked on again.
    Replayed,
    /// Nothing is to be done about it.
    Discarded,
    /// What was decided before does not hold any more.
    Reopened,
}

/// A decision about one dead letter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// What.
    pub decision: Verb,
    /// When.
    pub decided_at: DateTime<Utc>,
    /// Who, as they said.
    pub actor: String,
    /// The call of the command that decided; the same for all letters it decided about.
    pub run: String,
    /// Why, when they said so.
    pub reason: Option<String>,
    /// When the letter's record had failed.
    pub failed_at: Option<DateTime<Utc>>,
    /// `topic/partition/offset` of the record.
    pub origin: Option<String>,
}

/// How a dead letter stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has decided.
    Open,
    /// It was replayed.
    Replayed,
    /// It was discarded.
    Discarded,
}

impl State {
    /// Name in tables and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

/// `topic/partition/offset` of the record that failed.
pub fn origin_text(letter: &Letter) -> Option<String> {
    let (topic, partition, offset) = letter.origin.as_ref()?;
    Some(format!("{topic}/{partition}/{offset}"))
}

impl Decision {
    /// The record that keeps this decision about the letter `id`.
    pub fn record(&self, topic: &Arc<str>, id: &LetterId) -> OutRecord {
        OutRecord {
            topic: Arc::clone(topic),
            partition: None,
            timestamp_ms: None,
            key: Some(Bytes::from(id.to_string())),
            value: Some(Bytes::from(serde_json::to_vec(self).unwrap_or_default())),
            headers: Vec::new(),
        }
    }

    fn is_about(&self, letter: &Letter) -> bool {
        self.failed_at == letter.failed_at && self.origin == origin_text(letter)
    }
}

/// All decisions, or those about one pipeline's letters.
#[derive(Debug, Default)]
pub struct Decisions {
    by_letter: HashMap<LetterId, Decision>,
    /// The newest failure of a record that a replay has answered, by pipeline and origin.
    replayed: HashMap<(String, String), Option<DateTime<Utc>>>,
}

impl Decisions {
    /// Takes note of a record of the decisions' topic, in the order of the topic. What is no decision is passed over:
    /// a letter is rather shown once too often.
    pub fn add(&mut self, record: &InRecord) {
        let id =
            record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).and_then(LetterId::parse);
        let decision =
            record.value.as_deref().and_then(|value| serde_json::from_slice::<Decision>(value).ok());
        let (Some(id), Some(decision)) = (id, decision) else { return };
        if let Some(origin) = &decision.origin {
            let place = (id.pipeline.clone(), origin.clone());
            match decision.decision {
                Verb::Replayed => {
                    let newest = self.replayed.entry(place).or_insert(decision.failed_at);
                    *newest = (*newest).max(decision.failed_at);
                }
                Verb::Reopened => {
                    self.replayed.remove(&place);
                }
                Verb::Discarded => {}
            }
        }
        self.by_letter.insert(id, decision);
    }

    /// How `letter` stands, and the decision that says so.
    pub fn of(&self, letter: &Letter) -> (State, Option<&Decision>) {
        let own = self.by_letter.get(&letter.id).filter(|decision| decision.is_about(letter));
        match own.map(|decision| decision.decision) {
            Some(Verb::Replayed) => return (State::Replayed, own),
            Some(Verb::Discarded) => return (State::Discarded, own),
            Some(Verb::Reopened) => return (State::Open, own),
            None => {}
        }
        // Another letter of the same failure, or of a later one, was replayed: the record is worked on again.
        let replayed = origin_text(letter)
            .and_then(|origin| self.replayed.get(&(letter.id.pipeline.clone(), origin)))
            .is_some_and(|newest| *newest >= letter.failed_at);
        (if replayed { State::Replayed } else { State::Open }, None)
    }
}

#[cfg(test)]
#[path = "decisions_tests.rs"]
mod tests;
