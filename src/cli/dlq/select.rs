//! Reads the dead letters that are meant.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::app::condition::Condition;
use crate::app::dead_letters::{self, Filter, Letter, LetterId};
use crate::app::decisions::{Decision, Decisions, State};
use crate::app::values::Values;
use crate::app::{reach, redrive};
use crate::cli::args::Common;
use crate::cli::args::dlq::DlqFilter;
use crate::cli::{Exit, check, ends, lint_output, roles, topics};
use crate::kafka::admin::Cluster;
use crate::kafka::settings::Connection;
use crate::ledger::Namespace;
use crate::plan::Plan;
use crate::plan::topics::dead_letter_name;
use crate::record::InRecord;
use crate::yaml::lint::nearest;

const SUFFIX: &str = ".dlq";

/// Which letters are wanted, and which of them are kept when there are more.
pub struct Wanted<'a> {
    /// The filters that were typed.
    pub filter: &'a DlqFilter,
    /// The letters that were named; empty means all that the filters take.
    pub ids: Vec<LetterId>,
    /// In one of these states.
    pub states: &'a [State],
    /// At most so many.
    pub limit: usize,
    /// Whether the newest are kept, or the oldest.
    pub newest: bool,
}

/// A dead letter and how it stands.
#[derive(Clone, Debug)]
pub struct Found {
    /// The letter, without its value.
    pub letter: Letter,
    /// How it stands.
    pub state: State,
    /// The decision that says so, when it is about this very letter.
    pub decision: Option<Decision>,
}

/// Dead letters that were asked for.
pub struct Selection {
    /// How to reach Kafka.
    pub connection: Connection,
    /// Whose.
    pub namespace: Namespace,
    /// The project, where there is one without errors.
    pub plan: Option<Plan>,
    /// Partitions of each topic of the cluster.
    pub topics: BTreeMap<String, i32>,
    /// In the order asked for.
    pub letters: Vec<Found>,
    /// How many there are of each kind, those beyond the limit included.
    pub counts: BTreeMap<Kind, Tally>,
    /// Letters that the condition could not be held against, and what was wrong with the last of them.
    pub unreadable: (usize, String),
}

/// What letters are counted by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Kind {
    /// Pipeline.
    pub pipeline: String,
    /// Class of the fault.
    pub class: String,
    /// Step at which it failed.
    pub stage: Option<String>,
    /// How they stand.
    pub state: State,
}

/// Letters of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// How many.
    pub count: usize,
    /// When the first of them failed.
    pub oldest: Option<DateTime<Utc>>,
    /// When the last of them failed.
    pub newest: Option<DateTime<Utc>>,
}

impl Tally {
    fn add(&mut self, failed_at: Option<DateTime<Utc>>) {
        self.count += 1;
        self.oldest = match (self.oldest, failed_at) {
            (Some(oldest), Some(failed)) => Some(oldest.min(failed)),
            (known, failed) => known.or(failed),
        };
        self.newest = self.newest.max(failed_at);
    }
}

impl Selection {
    /// How many there are, those beyond the limit included.
    pub fn total(&self) -> usize {
        self.counts.values().map(|tally| tally.count).sum()
    }
}

/// Reads the dead-letter topics that are meant, from the oldest record to the present end.
///
/// # Errors
/// When Kafka cannot be reached, or what was named does not exist.
pub fn select(common: &Common, wanted: Wanted<'_>) -> anyhow::Result<Selection> {
    let connection = roles::connection(common)?;
    let namespace = check::namespace(common)?;
    let condition = wanted.filter.condition.as_deref().map(condition).transpose()?;
    let cluster = roles::block_on(reach::kafka(&connection))?;
    let plan = topics::plan_if_any(common);
    let pipelines = pipelines(common, &wanted, &cluster)?;
    let mut scanner = Scanner {
        condition,
        values: topics::values(common, plan.as_ref())?,
        runtime: roles::runtime()?,
        now: Utc::now(),
        filter: filter(&wanted),
        kept: Vec::new(),
        counts: BTreeMap::new(),
        unreadable: (0, String::new()),
        wanted,
    };
    let decisions_topic = namespace.decisions_topic();
    for pipeline in &pipelines {
        // Before the first `apply` of a version that has it there is none.
        let decided = if cluster.topics.contains_key(&*decisions_topic) {
            redrive::decisions_about(&connection, &decisions_topic, pipeline)?
        } else {
            Decisions::default()
        };
        topics::scan(&connection, &dead_letter_name(pipeline), |record| {
            scanner.take(pipeline, &decided, &record);
        })?;
    }
    scanner.keep();
    let Scanner { runtime, kept, counts, unreadable, .. } = scanner;
    runtime.shutdown_background();
    let topics = cluster.topics;
    Ok(Selection { connection, namespace, plan, topics, letters: kept, counts, unreadable })
}

fn filter(wanted: &Wanted<'_>) -> Filter {
    let DlqFilter { pipeline: _, class, stage, key, since, until, condition: _ } = wanted.filter.clone();
    Filter { class, stage, key, since, until, ids: wanted.ids.clone() }
}

fn condition(text: &str) -> anyhow::Result<Condition> {
    Condition::compile("--where", text).map_err(|lints| {
        let text = lint_output::text(&lints, false);
        ends(Exit::Usage, format!("the condition does not compile\n{text}"))
    })
}

/// The pipelines whose letters are to be read; each has a dead-letter topic.
fn pipelines(common: &Common, wanted: &Wanted<'_>, cluster: &Cluster) -> anyhow::Result<BTreeSet<String>> {
    let known = || cluster.topics.keys().filter_map(|topic| topic.strip_suffix(SUFFIX));
    let pipelines: BTreeSet<String> = match &wanted.filter.pipeline {
        Some(pipeline) => BTreeSet::from([pipeline.clone()]),
        None if !wanted.ids.is_empty() => wanted.ids.iter().map(|id| id.pipeline.clone()).collect(),
        None => {
            let own = check::plan(common)?.pipelines;
            // A topic that is not there holds no dead letters.
            let own = own.iter().map(|pipeline| pipeline.name.to_string());
            own.filter(|name| known().any(|known| known == name)).collect()
        }
    };
    if let Some(unknown) = pipelines.iter().find(|name| !known().any(|known| known == name.as_str())) {
        let help = match nearest(unknown, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`millrace apply` creates it".to_owned(),
        };
        return Err(ends(Exit::Usage, format!("there is no topic `{}`; {help}", dead_letter_name(unknown))));
    }
    Ok(pipelines)
}

struct Scanner<'a> {
    wanted: Wanted<'a>,
    filter: Filter,
    condition: Option<Condition>,
    values: Values,
    runtime: tokio::runtime::Runtime,
    now: DateTime<Utc>,
    kept: Vec<Found>,
    counts: BTreeMap<Kind, Tally>,
    unreadable: (usize, String),
}

impl Scanner<'_> {
    fn take(&mut self, pipeline: &str, decided: &Decisions, record: &InRecord) {
        let letter = dead_letters::letter(pipeline, record);
        let (state, decision) = decided.of(&letter);
        // A letter that was named is taken whatever its state, so that why it is left alone can be said.
        let is_wanted = self.wanted.states.contains(&state) || !self.wanted.ids.is_empty();
        if !self.filter.takes(&letter) || !is_wanted || !self.holds(&letter, record) {
            return;
        }
        let Letter { class, stage, .. } = letter.clone();
        let kind = Kind { pipeline: pipeline.to_owned(), class, stage, state };
        self.counts.entry(kind).or_default().add(letter.failed_at);
        self.kept.push(Found { letter: owned(letter), state, decision: decision.cloned() });
        if self.kept.len() > self.wanted.limit.saturating_mul(2).max(1000) {
            self.keep();
        }
    }

    fn holds(&mut self, letter: &Letter, record: &InRecord) -> bool {
        let Some(condition) = &self.condition else { return true };
        let source = source(letter, record);
        let value = self.runtime.block_on(self.values.of(&source));
        condition.holds(&source, value, self.now).unwrap_or_else(|fault| {
            self.unreadable = (self.unreadable.0 + 1, fault.message);
            false
        })
    }

    fn keep(&mut self) {
        let newest = self.wanted.newest;
        self.kept.sort_by(|left, right| {
            let (left, right) = (&left.letter, &right.letter);
            if newest {
                dead_letters::newest_first(left, right)
            } else {
                dead_letters::newest_first(right, left)
            }
        });
        self.kept.truncate(self.wanted.limit);
    }
}

/// The record that failed, as far as its dead letter keeps it: its schema is that of the topic it came from.
pub fn source(letter: &Letter, record: &InRecord) -> InRecord {
    let mut source = record.clone();
    source.timestamp_ms = dead_letters::own_time(record);
    if let Some((topic, partition, offset)) = &letter.origin {
        source.topic = topic.as_str().into();
        (source.partition, source.offset) = (*partition, *offset);
    }
    source
}

/// A key is a slice of everything that was read with it; a list of letters must not keep all that.
fn owned(letter: Letter) -> Letter {
    let key = letter.key.as_deref().map(bytes::Bytes::copy_from_slice);
    Letter { key, ..letter }
}
