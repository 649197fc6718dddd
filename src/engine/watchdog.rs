//! Whether a worker still moves: what is stuck, and since when.
//!
//! A poll loop that never waits never trips the group's own limits, so a worker whose work hangs would hold its
//! partitions for ever. Three things are watched, none of which depends on a broker or database being reachable:
//!
//! | what | sign of life | stuck after |
//! |---|---|---|
//! | poll loop | comes round | [`Patience::round`] |
//! | sender | its present call to Kafka comes back | [`Patience::call`] |
//! | lane | the present attempt of a stage ends | [`Patience::attempt`]: the stage's own time-outs, and a margin |
//!
//! Waits that are meant (back-off between attempts, `rate_limit`) are no attempts. The judging is pure: time is an
//! argument.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::stages::context::Origin;

/// How long each may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// One round of the poll loop.
    pub round: Duration,
    /// One call to Kafka.
    pub call: Duration,
    /// One attempt of a stage.
    pub attempt: Duration,
}

/// An attempt of a stage that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Pipeline.
    pub pipeline: Arc<str>,
    /// Step.
    pub stage: Arc<str>,
    /// Topic of its record.
    pub topic: Arc<str>,
    /// Partition of its record.
    pub partition: i32,
    /// Offset of its record.
    pub offset: i64,
    /// When it began.
    pub since: Instant,
}

/// What does not move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stuck {
    /// The poll loop has not come round for so long.
    Poll(Duration),
    /// The sender has been in this call for so long.
    Sender(&'static str, Duration),
    /// A stage has been at one record for so long; the oldest of them.
    Stage(Attempt, Duration),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poll(waited) => write!(f, "the poll loop has not come round for {} s", waited.as_secs()),
            Self::Sender(call, waited) => {
                write!(f, "the call `{call}` to Kafka has not come back for {} s", waited.as_secs())
            }
            Self::Stage(attempt, waited) => {
                let Attempt { pipeline, stage, topic, partition, offset, since: _ } = attempt;
                let waited = waited.as_secs();
                write!(
                    f,
                    "stage `{stage}` of {pipeline} has been at {topic}/{partition} offset {offset} for {waited} s"
                )
            }
        }
    }
}

/// Everything that is stuck at `now`.
pub fn judge(
    now: Instant,
    patience: &Patience,
    polled_at: Instant,
    call: Option<(&'static str, Instant)>,
    attempt: Option<Attempt>,
) -> Vec<Stuck> {
    let Patience { round, call: call_max, attempt: attempt_max } = *patience;
    let over = |since: Instant, limit: Duration| {
        let waited = now.saturating_duration_since(since);
        (waited >= limit).then_some(waited)
    };
    let mut stuck = Vec::new();
    stuck.extend(over(polled_at, round).map(Stuck::Poll));
    stuck.extend(call.and_then(|(name, since)| Some(Stuck::Sender(name, over(since, call_max)?))));
    stuck.extend(attempt.and_then(|attempt| {
        let waited = over(attempt.since, attempt_max)?;
        Some(Stuck::Stage(attempt, waited))
    }));
    stuck
}

/// The attempts under way in one group.
#[derive(Clone, Default, Debug)]
pub struct Attempts(Arc<Mutex<Running>>);

#[derive(Default, Debug)]
struct Running {
    by_number: HashMap<u64, Attempt>,
    next: u64,
}

impl Attempts {
    /// The one that began first.
    pub fn oldest(&self) -> Option<Attempt> {
        self.lock().by_number.values().min_by_key(|attempt| attempt.since).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        // Every change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

tokio::task_local! {
    /// The group whose record this task works on. Not an argument: only tasks of a worker are watched, and nothing
    /// that a pipeline does may depend on it.
    static WATCHED: Attempts;
}

/// Has the stages that `work` runs noted in `attempts`.
pub async fn watched<T>(attempts: Attempts, work: impl Future<Output = T>) -> T {
    WATCHED.scope(attempts, work).await
}

/// An attempt begins; it ends when the guard is dropped, also with its task. `None` where nobody watches.
pub fn begin(origin: &Origin<'_>, stage: &Arc<str>) -> Option<Guard> {
    let attempts = WATCHED.try_with(Clone::clone).ok()?;
    let record = origin.record;
    let attempt = Attempt {
        pipeline: Arc::clone(origin.pipeline),
        stage: Arc::clone(stage),
        topic: Arc::clone(&record.topic),
        partition: record.partition,
        offset: record.offset,
        since: Instant::now(),
    };
    let mut running = attempts.lock();
    let number = running.next;
    running.next += 1;
    running.by_number.insert(number, attempt);
    drop(running);
    Some(Guard { attempts, number })
}

/// An attempt under way.
#[derive(Debug)]
pub struct Guard {
    attempts: Attempts,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.attempts.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::InRecord;

    const PATIENCE: Patience = Patience {
        round: Duration::from_secs(60),
        call: Duration::from_secs(30),
        attempt: Duration::from_secs(90),
    };

    fn attempt(since: Instant) -> Attempt {
        Attempt {
            pipeline: "leads".into(),
            stage: "upsert".into(),
            topic: "in".into(),
            partition: 3,
            offset: 120,
            since,
        }
    }

    #[test]
    fn says_what_is_stuck_and_since_when() {
        let begun = Instant::now();
        let judged = |seconds: u64| {
            let now = begun + Duration::from_secs(seconds);
            let stuck = judge(now, &PATIENCE, begun, Some(("commit", begun)), Some(attempt(begun)));
            stuck.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(judged(29), Vec::<String>::new());
        assert_eq!(judged(30), ["the call `commit` to Kafka has not come back for 30 s"]);
        assert_eq!(judged(60).len(), 2);
        assert_eq!(judged(95)[2], "stage `upsert` of leads has been at in/3 offset 120 for 95 s");
        assert_eq!(judge(begun, &PATIENCE, begun, None, None), []);
    }

    #[tokio::test]
    async fn an_attempt_ends_with_its_task() {
        let attempts = Attempts::default();
        let stage: Arc<str> = "upsert".into();
        let work = {
            let stage = Arc::clone(&stage);
            async move {
                let (pipeline, record) = (Arc::from("leads"), record());
                let origin = Origin { pipeline: &pipeline, record: &record, now: chrono::Utc::now() };
                let _guard = begin(&origin, &stage);
                std::future::pending::<()>().await;
            }
        };
        let task = tokio::spawn(watched(attempts.clone(), work));
        while attempts.oldest().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(attempts.oldest().map(|attempt| (attempt.stage, attempt.offset)), Some((stage, 7)));
        task.abort();
        assert!(task.await.is_err());
        assert_eq!(attempts.oldest(), None);
    }

    fn record() -> InRecord {
        InRecord {
            topic: Arc::from("in"),
            partition: 0,
            offset: 7,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }
}
