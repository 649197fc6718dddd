//! What one pipeline decided about one record.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::engine::answers::Answers;
use crate::fault::Fault;
use crate::ledger::{KpiFact, Outcome};
use crate::record::OutRecord;

/// The end of one record in one pipeline.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// Retry tier in which it waits instead, from 1: it failed, but this is not its end yet.
    pub parked: Option<usize>,
    /// Step at which it was filtered or failed.
    pub stage: Option<Arc<str>>,
    /// Why it failed; given with a dead letter.
    pub fault: Option<Fault>,
    /// Attempts of the step that took most of them in this run; 1 when nothing was retried.
    pub attempts: u32,
    /// What has been answered on the way, also in earlier runs.
    pub answers: Answers,
    /// When the first stage began.
    pub started_at: DateTime<Utc>,
    /// From then to the verdict.
    pub duration: Duration,
    /// Records for output topics; empty for a dead letter, whose outputs are not released.
    pub records: Vec<OutRecord>,
    /// KPI facts; empty for a dead letter.
    pub facts: Vec<KpiFact>,
}
