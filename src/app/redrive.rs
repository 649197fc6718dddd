//! Carries out what was decided about dead letters, each decision once.
//!
//! A replayed record and the decision that it was replayed are in one Kafka transaction, under an id of which there is
//! one owner at a time for each pipeline ([`Exclusive`]). Whoever begins takes the id over, waits until all that was
//! written to the decisions' topic is decided, and reads it: so a run that was killed is gone on with by typing the same
//! again, and of two runs at once the earlier one stops. A decision about a letter that is decided already is passed
//! over.
//!
//! Transactions are short, whatever the rate: what is to be written is collected while none is open.
//!
//! Blocks; not for a thread that serves others.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio_util::sync::CancellationToken;

use crate::app::dead_letters::{self, From, Letter, LetterId, Ways};
use crate::app::decisions::{self, Decision, Decisions, State, Verb};
use crate::kafka::exclusive::{Committed, Exclusive};
use crate::kafka::settings::{Connection, ProducerSettings, TransactionSettings};
use crate::kafka::tail::{self, Begin, End as TailEnd, Tail, TailError};
use crate::kafka::txn::TxnError;
use crate::ledger::Namespace;
use crate::plan::topics::dead_letter_name;
use crate::record::{InRecord, OutRecord};
use crate::telemetry::logs;

/// A transaction holds at most so many letters and bytes, and what becomes due within so long.
const BATCH_LETTERS_MAX: usize = 200;
const BATCH_BYTES_MAX: usize = 4 << 20;
const BATCH_SPAN: Duration = Duration::from_millis(250);
/// Longest wait for transactions that others have open. Brokers end those of a killed process within half a minute.
const DECIDED_PATIENCE: Duration = Duration::from_secs(60);
/// Attempts that follow one another without getting any further, and the pause between them.
const ATTEMPTS_MAX: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_secs(2);
/// How long a read waits before it looks whether the end is reached, and a wait whether it is to stop.
const TICK: Duration = Duration::from_millis(100);

/// What is to be done.
pub struct Order<'a> {
    /// How to reach Kafka.
    pub connection: &'a Connection,
    /// Whose decisions.
    pub namespace: &'a Namespace,
    /// What to decide.
    pub verb: Verb,
    /// Where letters are replayed to.
    pub ways: &'a Ways,
    /// With which stage they begin there.
    pub from: From,
    /// Who decides.
    pub actor: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
    /// Letters a second.
    pub rate: u32,
    /// Ends it after the transaction in hand.
    pub stop: &'a CancellationToken,
    /// Told of each letter that is decided.
    pub progress: &'a mut dyn FnMut(usize),
}

/// How it went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Name of this run in its decisions.
    pub run: String,
    /// Letters decided by this run.
    pub decided: usize,
    /// Letters that somebody else had decided meanwhile.
    pub passed_over: usize,
    /// Letters that are not in their topic any more.
    pub missing: usize,
    /// Whether it was told to stop.
    pub was_stopped: bool,
    /// What ended it early.
    pub failed: Option<String>,
}

/// Why a pass over the letters of a pipeline ended early.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("cannot read")]
    Read(#[from] TailError),
    #[error("cannot write")]
    Write(#[from] TxnError),
    #[error("a commit was slow, or a connection broke")]
    Suspect,
}

impl Trouble {
    fn is_final(&self) -> bool {
        match self {
            Self::Read(error) => matches!(error, TailError::NoTopic(_) | TailError::Open { .. }),
            Self::Write(error) => error.is_final(),
            Self::Suspect => false,
        }
    }

    fn text(&self, pipeline: &str) -> String {
        match self {
            Self::Write(TxnError::Fenced { .. }) => format!(
                "another replay or discard of `{pipeline}` began and took over; nothing is done twice, \
                 and it goes on alone"
            ),
            Self::Read(TailError::NoTopic(topic)) => {
                format!("there is no topic `{topic}`; `millrace apply` creates it")
            }
            other => logs::chain(other),
        }
    }
}

/// Carries `order` out for the letters `ids`, in the order of their topics.
pub fn run(order: Order<'_>, ids: &HashSet<LetterId>) -> Done {
    let mut by_pipeline: BTreeMap<&str, HashSet<LetterId>> = BTreeMap::new();
    for id in ids {
        by_pipeline.entry(&id.pipeline).or_default().insert(id.clone());
    }
    let done = Done { run: uuid::Uuid::new_v4().to_string(), ..Done::default() };
    let topic = order.namespace.decisions_topic();
    let mut work = Work { order, topic, next_at: Instant::now(), done };
    for (pipeline, mut ids) in by_pipeline {
        if let Err(trouble) = work.pipeline(pipeline, &mut ids) {
            work.done.failed = Some(trouble.text(pipeline));
            break;
        }
        if work.done.was_stopped {
            break;
        }
        work.done.missing += ids.len();
    }
    work.done
}

struct Work<'a> {
    order: Order<'a>,
    /// Of the decisions.
    topic: Arc<str>,
    /// When the next letter may go. Time that was lost is not caught up: the rate is a limit at every moment.
    next_at: Instant,
    done: Done,
}

/// Letters that are about to be decided.
#[derive(Default)]
struct Batch {
    letters: Vec<LetterId>,
    records: Vec<OutRecord>,
    bytes: usize,
    since: Option<Instant>,
}

impl Work<'_> {
    /// Takes letters off `ids` as they are decided; goes over them again after a fault that may pass.
    fn pipeline(&mut self, pipeline: &str, ids: &mut HashSet<LetterId>) -> Result<(), Trouble> {
        let mut attempts = 0;
        loop {
            let left = ids.len();
            let trouble = match self.pass(pipeline, ids) {
                Ok(()) => return Ok(()),
                Err(trouble) => trouble,
            };
            attempts = if ids.len() < left { 1 } else { attempts + 1 };
            if trouble.is_final() || attempts >= ATTEMPTS_MAX || self.order.stop.is_cancelled() {
                return Err(trouble);
            }
            if !matches!(trouble, Trouble::Suspect) {
                tracing::warn!(pipeline, error = logs::chain(&trouble), "trying again");
                self.sleep_until(Instant::now() + ATTEMPT_PAUSE);
            }
        }
    }

    fn pass(&mut self, pipeline: &str, ids: &mut HashSet<LetterId>) -> Result<(), Trouble> {
        let Order { connection, namespace, .. } = self.order;
        let producer = ProducerSettings::new(connection.clone());
        let settings = TransactionSettings::new(producer, &*namespace.redrive_id(pipeline));
        let mut writer = Exclusive::open(settings)?;
        tail::wait_until_decided(connection, &self.topic, DECIDED_PATIENCE)?;
        let decided = decisions_about(connection, &self.topic, pipeline)?;
        let mut letters =
            Tail::open(connection, &dead_letter_name(pipeline), Begin::Oldest, TailEnd::AsOfNow)?;
        let mut records = Vec::new();
        let mut batch = Batch::default();
        while !ids.is_empty() && letters.read(TICK, &mut records)? {
            for record in records.drain(..) {
                let id = LetterId {
                    pipeline: pipeline.to_owned(),
                    partition: record.partition,
                    offset: record.offset,
                };
                if !ids.contains(&id) {
                    continue;
                }
                let letter = dead_letters::letter(pipeline, &record);
                if !self.is_due(&decided, &letter) {
                    ids.remove(&id);
                    continue;
                }
                // One that cannot be written is none of those that were chosen: the topic was made anew meanwhile.
                let Some(records) = self.records(pipeline, &record, &letter) else { continue };
                let due = self.next_at.max(Instant::now());
                if batch.is_full(due) {
                    self.commit(&mut writer, &mut batch, ids)?;
                }
                if !self.sleep_until(due) {
                    self.commit(&mut writer, &mut batch, ids)?;
                    self.done.was_stopped = true;
                    return Ok(());
                }
                self.next_at = due + pace(self.order.rate);
                batch.add(id, records);
            }
        }
        self.commit(&mut writer, &mut batch, ids)
    }

    /// Whether there is something to decide about this letter; counts it when not.
    fn is_due(&mut self, decided: &Decisions, letter: &Letter) -> bool {
        let (state, decision) = decided.of(letter);
        let is_due = match self.order.verb {
            Verb::Replayed | Verb::Discarded => state == State::Open,
            Verb::Reopened => state != State::Open,
        };
        if !is_due {
            // A commit of ours that was left undecided was one after all.
            if decision.is_some_and(|decision| decision.run == self.done.run) {
                self.done.decided += 1;
                (self.order.progress)(1);
            } else {
                self.done.passed_over += 1;
            }
        }
        is_due
    }

    /// What is written about a letter in one transaction; `None` when it cannot be replayed, and so must not be decided.
    fn records(&self, pipeline: &str, record: &InRecord, letter: &Letter) -> Option<Vec<OutRecord>> {
        let decision = Decision {
            decision: self.order.verb,
            decided_at: Utc::now(),
            actor: self.order.actor.to_owned(),
            run: self.done.run.clone(),
            reason: self.order.reason.map(str::to_owned),
            failed_at: letter.failed_at,
            origin: decisions::origin_text(letter),
        };
        let mut records = match self.order.verb {
            Verb::Replayed => {
                let topic = self.order.ways.of(letter).ok()?;
                vec![dead_letters::replay(pipeline, record, topic, self.order.from)?]
            }
            Verb::Discarded | Verb::Reopened => Vec::new(),
        };
        records.push(decision.record(&self.topic, &letter.id));
        Some(records)
    }

    fn commit(
        &mut self,
        writer: &mut Exclusive,
        batch: &mut Batch,
        ids: &mut HashSet<LetterId>,
    ) -> Result<(), Trouble> {
        let Batch { letters, records, .. } = std::mem::take(batch);
        if letters.is_empty() {
            return Ok(());
        }
        if writer.is_suspect() {
            return Err(Trouble::Suspect);
        }
        let committed = writer.commit(records)?;
        self.done.decided += letters.len();
        (self.order.progress)(letters.len());
        for id in &letters {
            ids.remove(id);
        }
        match committed {
            Committed::Promptly => Ok(()),
            Committed::Doubtfully => Err(Trouble::Suspect),
        }
    }

    /// Waits; `false` when it is to stop.
    fn sleep_until(&self, until: Instant) -> bool {
        while !self.order.stop.is_cancelled() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(TICK));
        }
        false
    }
}

impl Batch {
    fn add(&mut self, id: LetterId, records: Vec<OutRecord>) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += records.iter().map(OutRecord::size_bytes).sum::<usize>();
        self.letters.push(id);
        self.records.extend(records);
    }

    /// Whether it goes before a letter that is due at `due`.
    fn is_full(&self, due: Instant) -> bool {
        self.letters.len() >= BATCH_LETTERS_MAX
            || self.bytes >= BATCH_BYTES_MAX
            || self.since.is_some_and(|since| due.saturating_duration_since(since) > BATCH_SPAN)
    }
}

/// From one letter to the next, at `rate` a second.
fn pace(rate: u32) -> Duration {
    Duration::from_secs(1) / rate.max(1)
}

/// What has been decided about the letters of `pipeline`, as far as it is committed.
///
/// # Errors
/// When the topic cannot be read.
pub fn decisions_about(connection: &Connection, topic: &str, pipeline: &str) -> Result<Decisions, TailError> {
    let mut decisions = Decisions::default();
    let mut tail = Tail::open(connection, topic, Begin::Oldest, TailEnd::AsOfNow)?;
    let prefix = format!("{pipeline}/");
    let mut records = Vec::new();
    while tail.read(TICK, &mut records)? {
        for record in records.drain(..) {
            if record.key.as_deref().is_some_and(|key| key.starts_with(prefix.as_bytes())) {
                decisions.add(&record);
            }
        }
    }
    Ok(decisions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_keep_their_pace() {
        assert_eq!(pace(10), Duration::from_millis(100));
        assert_eq!(pace(0), Duration::from_secs(1));
    }

    #[test]
    fn a_batch_waits_for_no_letter_that_is_due_much_later() {
        let mut batch = Batch::default();
        let now = Instant::now();
        assert!(!batch.is_full(now + Duration::from_secs(10)), "there is nothing to send");
        batch.add(LetterId { pipeline: String::from("p"), partition: 0, offset: 0 }, Vec::new());
        assert!(!batch.is_full(now + Duration::from_millis(100)));
        assert!(batch.is_full(now + Duration::from_secs(1)));
    }
}
