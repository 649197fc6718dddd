//! Whole lives of a partition of facts against a simple model: batches of any size, late and early facts, records that
//! are none, crashes before a commit, records that are read again after one, and rebuilds from the beginning. Whatever
//! happens, the rows are those that folding every fact once, one by one, gives.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Duration, Utc};
use proptest::prelude::*;
use rust_decimal::Decimal;

use crate::config::kpi::{Aggregate, Window};
use crate::ledger::KpiFact;
use crate::plan::kpis::KpiSpec;
use crate::position::{Epoch, NextOffset};
use crate::project::fold::{Fold, Target};
use crate::project::store::{Position, Rows, Write};
use crate::project::window::{Billionths, KpiRow, Refusal, bounds};
use crate::record::InRecord;
use crate::schema::codec::Codec;
use crate::tests::histories;

#[derive(Clone, Debug)]
enum Step {
    /// So many records are folded and committed; then so many of the last ones are read again.
    Commit { records: usize, again: usize },
    /// So many records are folded, and the process dies before its commit.
    Crash { records: usize },
    /// The rows are dropped and folded anew.
    Rebuild,
    /// Time goes by.
    Wait { seconds: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..12usize, 0..6usize).prop_map(|(records, again)| Step::Commit { records, again }),
        2 => (1..12usize).prop_map(|records| Step::Crash { records }),
        1 => Just(Step::Rebuild),
        3 => (0..90_000_i64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// What a record of the topic is.
#[derive(Clone, Debug)]
enum Content {
    /// A fact so many seconds after the beginning.
    Fact {
        seconds: i64,
        mantissa: i64,
        scale: u32,
        currency: Option<&'static str>,
    },
    /// A fact that no KPI is made of.
    Foreign,
    Tombstone,
    Noise(Vec<u8>),
}

fn content() -> impl Strategy<Value = Content> {
    let currency = prop::option::of(prop_oneof![Just("EUR"), Just("USD")]);
    // Over a change of the clocks, and far enough ahead to be refused.
    let fact = (-200_000_i64..400_000, -10_i64.pow(12)..10_i64.pow(12), 0_u32..=9, currency).prop_map(
        |(seconds, mantissa, scale, currency)| Content::Fact { seconds, mantissa, scale, currency },
    );
    prop_oneof![
        12 => fact,
        1 => Just(Content::Foreign),
        1 => Just(Content::Tombstone),
        1 => prop::collection::vec(any::<u8>(), 0..12).prop_map(Content::Noise),
    ]
}

/// The KPIs: by day and hour with a dimension, and by minute without.
fn specs(lateness: i64) -> Vec<KpiSpec> {
    let spec = |name: &str, windows: &[Window], dimensions: &[&str]| KpiSpec {
        name: Arc::from(name),
        fact: Arc::from("payment"),
        aggregate: Aggregate::Sum,
        windows: windows.to_vec(),
        dimensions: dimensions.iter().map(|name| Arc::from(*name)).collect(),
        time_zone: chrono_tz::Europe::Madrid,
        lateness: Duration::seconds(lateness).to_std().expect("not negative"),
        retention: None,
    };
    vec![
        spec("payments", &[Window::Minute], &[]),
        spec("revenue", &[Window::Hour, Window::Day], &["currency"]),
    ]
}

fn beginning() -> DateTime<Utc> {
    "2026-10-24T00:00:00Z".parse().expect("RFC 3339")
}

fn fact(content: &Content) -> Option<KpiFact> {
    let (name, seconds, value, currency) = match content {
        Content::Fact { seconds, mantissa, scale, currency } => {
            ("payment", *seconds, Decimal::new(*mantissa, *scale), *currency)
        }
        Content::Foreign => ("visit", 0, Decimal::ONE, None),
        Content::Tombstone | Content::Noise(_) => return None,
    };
    let currency = currency.map(|currency| (String::from("currency"), currency.to_owned()));
    Some(KpiFact {
        fact: name.to_owned(),
        value,
        time: beginning() + Duration::seconds(seconds),
        dimensions: currency.into_iter().collect(),
        pipeline: String::from("p"),
        tenant: None,
        topic: String::from("t"),
        partition: 0,
        offset: 0,
    })
}

fn record(codec: &Codec, offset: i64, content: &Content) -> InRecord {
    let value = match content {
        Content::Tombstone => None,
        Content::Noise(bytes) => Some(Bytes::from(bytes.clone())),
        Content::Fact { .. } | Content::Foreign => fact(content).map(|fact| codec.fact(&fact)),
    };
    InRecord {
        topic: Arc::from("f"),
        partition: 0,
        offset,
        timestamp_ms: None,
        key: None,
        value,
        headers: Vec::new(),
    }
}

/// KPI, window, its start, dimensions.
type Key = (String, &'static str, DateTime<Utc>, String);
/// Events, sum, smallest, largest, late ones.
type Sums = (i64, i128, i128, i128, i64);

/// Rows, and what was kept apart, as a database has them after its last commit.
#[derive(Clone, PartialEq, Debug, Default)]
struct Database {
    rows: BTreeMap<Key, Sums>,
    refused: Vec<(String, i64, Refusal)>,
    rejected: Vec<i64>,
    time_max: Option<DateTime<Utc>>,
    next: i64,
}

impl Database {
    fn position(&self) -> Position {
        Position { next: NextOffset(self.next), epoch: Epoch(1), time_max: self.time_max, definitions: 0 }
    }

    fn add(&mut self, key: Key, sums: Sums) {
        let row = self.rows.entry(key).or_insert((0, 0, sums.2, sums.3, 0));
        *row = (row.0 + sums.0, row.1 + sums.1, row.2.min(sums.2), row.3.max(sums.3), row.4 + sums.4);
    }

    /// What Postgres does with a transaction.
    fn commit(&mut self, write: Write<'_>) {
        let Write { to, rows, rejects, records: _ } = write;
        let Rows::Kpis(folded) = rows else { panic!("facts become KPI rows") };
        for row in folded.rows {
            let KpiRow { kpi, window, bounds, dimensions, events, sum, min, max, late_events } = row;
            let Billionths(sum) = sum;
            self.add(
                (kpi.to_string(), window.name(), bounds.start, dimensions),
                (events, sum, min.0, max.0, late_events),
            );
        }
        let refused = folded.refused.into_iter();
        self.refused
            .extend(refused.map(|refused| (refused.kpi.to_string(), refused.offset, refused.refusal)));
        self.rejected.extend(rejects.into_iter().map(|reject| reject.offset));
        (self.time_max, self.next) = (folded.time_max, to.0);
    }

    /// The obvious way: one record.
    fn fold(&mut self, specs: &[KpiSpec], offset: i64, content: &Content, now: DateTime<Utc>) {
        self.next = offset + 1;
        let Some(fact) = fact(content) else { return self.rejected.push(offset) };
        if fact.fact != "payment" {
            return;
        }
        if fact.time > now + Duration::days(1) {
            self.refused.extend(specs.iter().map(|spec| (spec.name.to_string(), offset, Refusal::Ahead)));
            return;
        }
        let billionths = (fact.value * Decimal::from(1_000_000_000_i64)).normalize().mantissa();
        for spec in specs {
            let currency =
                fact.dimensions.get("currency").map_or(String::from("null"), |text| format!("{text:?}"));
            let dimensions = if spec.dimensions.is_empty() {
                String::from("{}")
            } else {
                format!("{{\"currency\":{currency}}}")
            };
            let lateness = Duration::from_std(spec.lateness).expect("a lateness of ours");
            for window in &spec.windows {
                let found = bounds(*window, spec.time_zone, fact.time).expect("a time of ours");
                let is_late = self.time_max.is_some_and(|latest| found.end <= latest - lateness);
                self.add(
                    (spec.name.to_string(), window.name(), found.start, dimensions.clone()),
                    (1, billionths, billionths, billionths, i64::from(is_late)),
                );
            }
        }
        self.time_max = self.time_max.max(Some(fact.time.min(now)));
    }
}

struct World {
    codec: Codec,
    target: Target,
    specs: Vec<KpiSpec>,
    topic: Vec<(InRecord, Content)>,
    /// Index of the next record to read.
    at: usize,
    now: DateTime<Utc>,
    real: Database,
    model: Database,
}

impl World {
    fn new(lateness: i64, contents: &[(i64, Content)]) -> Self {
        let codec = Codec::embedded();
        let mut next = 0;
        let mut topic = Vec::new();
        for (gap, content) in contents {
            topic.push((record(&codec, next + gap, content), content.clone()));
            next += gap + 1;
        }
        let specs = specs(lateness);
        let target = Target::Facts(specs.clone());
        let (real, model) = (Database::default(), Database::default());
        Self { codec, target, specs, topic, at: 0, now: beginning(), real, model }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Commit { records, again } => {
                let end = (self.at + records).min(self.topic.len());
                // Some records before the position come once more.
                let begin = self.at.saturating_sub(*again);
                self.fold(begin, end, true);
                for (record, content) in &self.topic[self.at..end] {
                    self.model.fold(&self.specs, record.offset, content, self.now);
                }
                self.at = end;
            }
            Step::Crash { records } => self.fold(self.at, (self.at + records).min(self.topic.len()), false),
            Step::Rebuild => {
                (self.real, self.model) = (Database::default(), Database::default());
                let read = std::mem::take(&mut self.at);
                self.take(&Step::Commit { records: read, again: 0 });
            }
            Step::Wait { seconds } => self.now += Duration::seconds(*seconds),
        }
    }

    fn fold(&mut self, begin: usize, end: usize, is_committed: bool) {
        let records: Vec<InRecord> =
            self.topic[begin..end].iter().map(|(record, _)| record.clone()).collect();
        let unknown = HashSet::from_iter(records.iter().filter_map(|record| {
            let id = record.value.as_ref()?.get(1..5)?.try_into().ok()?;
            Some(u32::from_be_bytes(id))
        }));
        let fold = Fold { target: &self.target, codec: &self.codec, unknown: &unknown, now: self.now };
        let write = fold.records(self.real.position(), &records).expect("every schema was asked for");
        if is_committed {
            self.real.commit(write);
        }
    }
}

proptest! {
    #![proptest_config(histories::cases(150))]

    #[test]
    fn every_fact_is_folded_once(
        lateness in 0_i64..200_000,
        contents in prop::collection::vec((0..3i64, content()), 1..60),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = World::new(lateness, &contents);
        for step in &steps {
            world.take(step);
        }
        prop_assert_eq!(&world.real, &world.model);
        world.take(&Step::Commit { records: usize::MAX >> 1, again: 3 });
        prop_assert_eq!(&world.real, &world.model);
        let facts = contents.iter().filter(|(_, content)| matches!(content, Content::Fact { .. })).count();
        let of_payments = |name: &str| name == "payments";
        let rows: i64 = world.real.rows.iter().filter(|(key, _)| of_payments(&key.0)).map(|(_, sums)| sums.0).sum();
        let refused = world.real.refused.iter().filter(|(name, ..)| of_payments(name)).count();
        prop_assert_eq!(rows + refused as i64, facts as i64, "each fact is in a row or refused");
    }
}
