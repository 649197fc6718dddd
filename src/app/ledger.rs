//! The ledger held against the topics: every record that a pipeline has taken has one result.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::app::lag::{self, Reading};
use crate::app::reach;
use crate::event;
use crate::kafka::settings::Connection;
use crate::kafka::tail::{Begin, End, Tail, TailError};
use crate::ledger::{Outcome, Results};
use crate::plan::Plan;
use crate::plan::pipeline::Pipeline;
use crate::position::Partition;
use crate::postgres::pool;
use crate::project::inspect::{self, Stretch};
use crate::record::InRecord;
use crate::secrets::Secret;

/// How long a read waits before it looks whether the end is reached.
const WAIT: Duration = Duration::from_millis(500);

/// How the ledger stands for one pipeline.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// Pipeline.
    pub pipeline: String,
    /// Results in Postgres, all that are kept.
    pub succeeded: i64,
    /// See `succeeded`.
    pub filtered: i64,
    /// See `succeeded`.
    pub dead_lettered: i64,
    /// Records for this pipeline that its input topics still have.
    pub ingested: Option<i64>,
    /// Of these, those that wait in a retry topic.
    pub parked: Option<i64>,
    /// Of these, those whose offset its group has not committed.
    pub in_flight: Option<i64>,
    /// Whether each of the others has a result.
    pub balance: Option<Balance>,
}

/// Whether each record that was taken has its result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Balance {
    /// It has.
    Balanced,
    /// Nobody can tell: the pipeline keeps the results of failures only.
    FailuresOnly,
    /// The projector has not folded all results yet.
    Behind {
        /// Records without a result in Postgres.
        missing: i64,
    },
    /// Records have no result, and the projector is not to blame.
    Off {
        /// Records without a result; below zero, results without a record.
        missing: i64,
    },
}

/// Holds `results` against `done` records, with the projector `lag` behind.
pub fn balance(done: i64, results: i64, lag: i64) -> Balance {
    match done - results {
        0 => Balance::Balanced,
        missing if missing > 0 && missing <= lag => Balance::Behind { missing },
        missing => Balance::Off { missing },
    }
}

/// What one pipeline has in Kafka.
#[derive(Debug, Default)]
struct Seen {
    ingested: i64,
    /// Of these, those whose offset is committed.
    done: i64,
    /// Of these, those that wait in a retry topic.
    parked: i64,
    /// First offset seen, by partition.
    first: BTreeMap<Partition, i64>,
}

/// The ledger of every pipeline. With `kafka` it is held against the input topics, which are read whole.
///
/// # Errors
/// When Postgres or Kafka fails, or the database has no ledger yet.
pub async fn rows(plan: &Plan, postgres: &Secret, kafka: Option<&Connection>) -> anyhow::Result<Vec<Row>> {
    reach::postgres(postgres).await?;
    let pool = pool::lazy(reach::address(postgres)?, "ledger", 1)?;
    let committed = match kafka {
        Some(connection) => {
            reach::kafka(connection).await?;
            Some(committed(plan, connection).await?)
        }
        None => None,
    };
    let no_ledger = "the ledger cannot be read; `millrace apply` makes its tables";
    let scanned = match (kafka, &committed) {
        (Some(connection), Some(committed)) => {
            let (pipelines, connection, committed) =
                (plan.pipelines.clone(), connection.clone(), Arc::clone(committed));
            let scan = move || {
                let mut seen = scan(&pipelines, &connection, &committed)?;
                scan_parked(&pipelines, &connection, &committed, &mut seen)?;
                anyhow::Ok(seen)
            };
            tokio::task::spawn_blocking(scan).await??
        }
        _ => HashMap::new(),
    };
    let lag = match kafka {
        Some(connection) => projector_lag(plan, connection).await?,
        None => 0,
    };
    let outcomes = inspect::outcomes(&pool).await.context(no_ledger)?;
    let count = |pipeline: &Pipeline, outcome: Outcome| {
        let key = (pipeline.name.to_string(), outcome.name().to_owned());
        outcomes.get(&key).copied().unwrap_or(0)
    };
    let mut rows = Vec::new();
    for pipeline in &plan.pipelines {
        let mut row = Row {
            pipeline: pipeline.name.to_string(),
            succeeded: count(pipeline, Outcome::Succeeded),
            filtered: count(pipeline, Outcome::Filtered),
            dead_lettered: count(pipeline, Outcome::DeadLettered),
            ingested: None,
            parked: None,
            in_flight: None,
            balance: None,
        };
        if let (Some(seen), Some(committed)) = (scanned.get(&*pipeline.name), &committed) {
            let stretches = stretches(&seen.first, committed.of(pipeline));
            let results =
                inspect::results_within(&pool, &pipeline.name, &stretches).await.context(no_ledger)?;
            row.ingested = Some(seen.ingested);
            row.in_flight = Some(seen.ingested - seen.done);
            row.parked = Some(seen.parked);
            row.balance = Some(match pipeline.results {
                Results::All => balance(seen.done - seen.parked, results, lag),
                Results::Failures => Balance::FailuresOnly,
            });
        }
        rows.push(row);
    }
    pool.close().await;
    Ok(rows)
}

/// What each pipeline's group has committed.
#[derive(Debug, Default)]
struct Committed(HashMap<String, BTreeMap<Partition, i64>>);

impl Committed {
    fn of(&self, pipeline: &Pipeline) -> &BTreeMap<Partition, i64> {
        static NOTHING: BTreeMap<Partition, i64> = BTreeMap::new();
        self.0.get(&*pipeline.name).unwrap_or(&NOTHING)
    }
}

async fn committed(plan: &Plan, connection: &Connection) -> anyhow::Result<Arc<Committed>> {
    let mut all = Committed::default();
    for group in &plan.groups {
        let positions = lag::positions(connection, &lag::reading(group)).await?;
        let next: BTreeMap<Partition, i64> = positions
            .into_iter()
            .filter_map(|position| Some((position.partition, position.committed?.0)))
            .collect();
        all.0.extend(group.pipelines.iter().map(|pipeline| (pipeline.name.to_string(), next.clone())));
    }
    Ok(Arc::new(all))
}

async fn projector_lag(plan: &Plan, connection: &Connection) -> anyhow::Result<i64> {
    let reading = Reading {
        group: plan.namespace.name("project").to_string(),
        topics: vec![plan.namespace.executions_topic().to_string()],
    };
    let positions = lag::positions(connection, &reading).await?;
    Ok(positions.iter().map(crate::kafka::admin::GroupPosition::lag).sum())
}

/// Reads every input topic to its present end and counts what each pipeline takes.
fn scan(
    pipelines: &[Arc<Pipeline>],
    connection: &Connection,
    committed: &Committed,
) -> anyhow::Result<HashMap<String, Seen>> {
    let mut all: HashMap<String, Seen> =
        pipelines.iter().map(|pipeline| (pipeline.name.to_string(), Seen::default())).collect();
    let topics: BTreeSet<&Arc<str>> = pipelines.iter().flat_map(|pipeline| &pipeline.topics).collect();
    for topic in topics {
        each_record(connection, topic, |record| {
            let partition = Partition::new(Arc::clone(&record.topic), record.partition);
            let kind = event::kind_of(&record);
            for pipeline in pipelines.iter().filter(|pipeline| pipeline.takes(topic, kind)) {
                let Some(seen) = all.get_mut(&*pipeline.name) else { continue };
                seen.first.entry(partition.clone()).or_insert(record.offset);
                seen.ingested += 1;
                let next = committed.of(pipeline).get(&partition);
                seen.done += i64::from(next.is_some_and(|next| record.offset < *next));
            }
        })?;
    }
    Ok(all)
}

/// Hands over every committed record that is in `topic` now; none when there is no such topic.
fn each_record(
    connection: &Connection,
    topic: &Arc<str>,
    mut visit: impl FnMut(InRecord),
) -> anyhow::Result<()> {
    let mut tail = match Tail::open(connection, topic, Begin::Oldest, End::AsOfNow) {
        Ok(tail) => tail,
        Err(TailError::NoTopic(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut records = Vec::new();
    while tail.read(WAIT, &mut records)? {
        records.drain(..).for_each(&mut visit);
    }
    Ok(())
}

/// Counts what waits in the retry topics of each pipeline: what is there and not committed.
fn scan_parked(
    pipelines: &[Arc<Pipeline>],
    connection: &Connection,
    committed: &Committed,
    all: &mut HashMap<String, Seen>,
) -> anyhow::Result<()> {
    for pipeline in pipelines {
        let Some(seen) = all.get_mut(&*pipeline.name) else { continue };
        for tier in pipeline.companions.iter().flat_map(|own| &own.tiers) {
            each_record(connection, &tier.topic, |record| {
                let partition = Partition::new(Arc::clone(&record.topic), record.partition);
                let next = committed.of(pipeline).get(&partition);
                seen.parked += i64::from(next.is_none_or(|next| record.offset >= *next));
            })?;
        }
    }
    Ok(())
}

/// From the first record seen of each partition to what was committed.
fn stretches(first: &BTreeMap<Partition, i64>, committed: &BTreeMap<Partition, i64>) -> Vec<Stretch> {
    let stretch = |(partition, from): (&Partition, &i64)| {
        let to = *committed.get(partition)?;
        let Partition { topic, number } = partition;
        Some(Stretch { topic: topic.to_string(), partition: *number, from: *from, to })
    };
    first.iter().filter_map(stretch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_result_is_the_projectors_only_as_far_as_it_is_behind() {
        assert_eq!(balance(10, 10, 5), Balance::Balanced);
        assert_eq!(balance(10, 8, 5), Balance::Behind { missing: 2 });
        assert_eq!(balance(10, 4, 5), Balance::Off { missing: 6 });
        assert_eq!(balance(10, 11, 5), Balance::Off { missing: -1 });
    }

    #[test]
    fn results_are_counted_between_the_first_record_and_the_commit() {
        let first = BTreeMap::from([(Partition::new("a", 0), 5), (Partition::new("a", 1), 0)]);
        let committed = BTreeMap::from([(Partition::new("a", 0), 9), (Partition::new("b", 0), 3)]);
        let stretch = Stretch { topic: "a".to_owned(), partition: 0, from: 5, to: 9 };
        assert_eq!(stretches(&first, &committed), [stretch]);
    }
}
