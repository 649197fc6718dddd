//! Reads everything back after a case and holds it against the invariants.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::ground::Ground;
use crate::invariants::{self, Bytes, Doubles, Expected, Input, Place, Results, Violation};
use crate::observe::{self, Seen, source_or_nowhere};
use crate::support::readback::{self, Back};

/// What a case counts on.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How often results may come twice.
    pub doubles: Doubles,
    /// Largest resident memory of a role, in MiB.
    pub rss_mib_max: u64,
    /// Roles may end by themselves so often.
    pub exits_max: usize,
    /// Calls that a destination takes in any second.
    pub calls_per_second_max: Option<usize>,
    /// Events of this key become dead letters.
    pub failing_key: Option<String>,
    /// Events of these partitions below these offsets were deleted by the case.
    pub deleted_below: BTreeMap<i32, i64>,
}

/// What came out, in figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Events in the topic.
    pub events: usize,
    /// Outputs of transactions that were not committed: strikes that met work.
    pub aborted: usize,
    /// Results that came twice.
    pub doubled: usize,
    /// Dead letters.
    pub letters: usize,
}

/// What an event must lead to.
fn expected_of(record: &Back, failing_key: Option<&str>) -> Expected {
    let value: Value =
        record.value.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let fails = failing_key.is_some_and(|key| value["key"] == key);
    match (value["kind"].as_str(), value["seq"].is_u64()) {
        (Some("skip"), _) => Expected::Nothing,
        (Some(_), true) if !fails => Expected::Output,
        _ => Expected::DeadLetter,
    }
}

fn place(record: &Back) -> Place {
    (record.partition, record.offset)
}

fn list_of(topic: &str, records: &[Back], seen: &mut Seen) {
    for record in records {
        let list = seen.entry((topic.to_owned(), record.partition)).or_default();
        list.push((record.offset, source_or_nowhere(record)));
    }
}

/// All that a case left behind.
struct Remains {
    inputs: Vec<Back>,
    outputs: Vec<Back>,
    letters: Vec<Back>,
    executions: Vec<Back>,
}

impl Remains {
    fn read(ground: &Ground<'_>) -> Self {
        let kafka = ground.cluster.kafka.as_str();
        let read = |topic: String| readback::read_all(kafka, &topic);
        Self {
            inputs: read(ground.names.input()),
            outputs: read(ground.names.output()),
            letters: read(ground.names.dead_letters()),
            executions: read(ground.names.executions()),
        }
    }

    fn results(&self) -> Results {
        let places = |records: &[Back]| records.iter().map(source_or_nowhere).collect();
        Results {
            outputs: places(&self.outputs),
            letters: places(&self.letters),
            executions: places(&self.executions),
        }
    }
}

/// Holds what is there against the invariants.
pub fn run(ground: &Ground<'_>) -> anyhow::Result<(Vec<Violation>, Figures)> {
    let remains = Remains::read(ground);
    let terms = &ground.terms;
    let failing = terms.failing_key.as_deref();
    let inputs: Vec<Input> = remains
        .inputs
        .iter()
        .map(|record| Input { place: place(record), expected: expected_of(record, failing) })
        .collect();
    let (mut acked, _) = ground.generator.journal();
    acked.retain(|acked| {
        terms.deleted_below.get(&acked.partition).is_none_or(|deleted_below| acked.offset >= *deleted_below)
    });
    let is_kept = |place: &Place| {
        terms.deleted_below.get(&place.0).is_none_or(|deleted_below| place.1 >= *deleted_below)
    };
    let mut results = remains.results();
    for places in [&mut results.outputs, &mut results.letters, &mut results.executions] {
        places.retain(is_kept);
    }
    let mut found = invariants::nothing_lost(&acked, &inputs, &results);
    found.extend(invariants::nothing_doubled(&results, terms.doubles));
    found.extend(key_order(&remains.outputs));
    found.extend(readers(ground, &remains));
    found.extend(offsets(ground, &remains.inputs));
    found.extend(letters(&remains));
    found.extend(open_transactions(ground)?);
    found.extend(calls(ground));
    if ground.workload.has_kpi() {
        found.extend(kpi(ground, &remains)?);
    }
    found.extend(health(ground));
    let all = readback::read_uncommitted(&ground.cluster.kafka, &ground.names.output()).len();
    let doubled = [&results.outputs, &results.letters]
        .into_iter()
        .flat_map(|places| invariants::doubled(places))
        .map(|(_, times)| times as usize - 1)
        .sum();
    let figures = Figures {
        events: inputs.len(),
        aborted: all - remains.outputs.len(),
        doubled,
        letters: remains.letters.len(),
    };
    Ok((found, figures))
}

fn key_order(outputs: &[Back]) -> Vec<Violation> {
    let values: Vec<(String, u64)> = outputs
        .iter()
        .filter_map(|record| {
            let value: Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
            Some((value["key"].as_str()?.to_owned(), value["seq"].as_u64()?))
        })
        .collect();
    invariants::in_key_order(values.iter().map(|(key, seq)| (key.as_str(), *seq)))
}

fn readers(ground: &Ground<'_>, remains: &Remains) -> Vec<Violation> {
    let mut after = BTreeMap::new();
    list_of(&ground.names.output(), &remains.outputs, &mut after);
    list_of(&ground.names.dead_letters(), &remains.letters, &mut after);
    list_of(&ground.names.executions(), &remains.executions, &mut after);
    let seen = ground.follower.seen();
    let mut wrong = invariants::readers_agree(&seen, &after);
    for violation in &mut wrong {
        let behind =
            after.iter().filter(|(partition, all)| seen.get(partition).map_or(0, Vec::len) < all.len());
        let states = behind.map(|((topic, number), _)| {
            format!("{topic}/{number} {}", ground.follower.state_of(topic, *number))
        });
        violation.text += &format!("; its client: {}", states.take(4).collect::<Vec<_>>().join("; "));
    }
    wrong
}

fn offsets(ground: &Ground<'_>, inputs: &[Back]) -> Vec<Violation> {
    let timeline: Vec<_> = ground.offsets.samples().into_iter().map(|(_, offsets)| offsets).collect();
    invariants::offsets_only_grow(&timeline, &nexts(inputs))
}

/// One past the last record of each partition. Marks of transactions may follow, which nobody reads.
pub fn nexts(records: &[Back]) -> BTreeMap<i32, i64> {
    let mut nexts = BTreeMap::new();
    for record in records {
        let next = nexts.entry(record.partition).or_default();
        *next = record.offset.max(*next - 1) + 1;
    }
    nexts
}

fn letters(remains: &Remains) -> Vec<Violation> {
    let bytes = |record: &Back| Bytes {
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.clone(),
    };
    let events: HashMap<Place, Bytes> =
        remains.inputs.iter().map(|record| (place(record), bytes(record))).collect();
    let letters: Vec<(Place, Bytes)> =
        remains.letters.iter().map(|record| (source_or_nowhere(record), bytes(record))).collect();
    invariants::letters_are_whole(&events, &letters)
}

fn open_transactions(ground: &Ground<'_>) -> anyhow::Result<Vec<Violation>> {
    let mut all = BTreeMap::new();
    for topic in [ground.names.output(), ground.names.dead_letters(), ground.names.executions()] {
        all.extend(observe::ends(&ground.cluster.kafka, &topic)?);
    }
    Ok(invariants::nothing_is_open(&all))
}

/// Outputs are in order by their release; whether work was done in order shows in the calls.
fn calls(ground: &Ground<'_>) -> Vec<Violation> {
    let calls = ground.destination.calls();
    let done =
        calls.iter().filter(|call| call.status == 200).map(|call| (call.event.0.as_str(), call.event.1));
    let mut found = invariants::in_key_order(done);
    found.extend(call_rate(ground));
    found
}

fn call_rate(ground: &Ground<'_>) -> Vec<Violation> {
    let Some(limit) = ground.terms.calls_per_second_max else { return Vec::new() };
    let mut times: Vec<u64> = ground.destination.calls().iter().map(|call| call.at_ms).collect();
    times.sort_unstable();
    invariants::calls_keep_their_rate(&times, limit)
}

/// The oracle is made of the events themselves, not of what the workers wrote.
fn kpi(ground: &Ground<'_>, remains: &Remains) -> anyhow::Result<Vec<Violation>> {
    let mut oracle: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
    let good = remains.inputs.iter().filter(|record| expected_of(record, None) == Expected::Output);
    for record in good {
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
        let at = value["at"].as_i64().unwrap_or(0);
        let shop = value["shop"].as_str().unwrap_or_default().to_owned();
        let row = oracle.entry((at - at.rem_euclid(3600), shop)).or_default();
        row.0 += value["amount"].as_i64().unwrap_or(0);
        row.1 += 1;
    }
    let mut found = invariants::kpi_is_right(&ground.database()?.kpi(ground.runtime)?, &oracle);
    let (rows, events) = ground.database()?.executions(ground.runtime)?;
    let wanted = i64::try_from(remains.inputs.len())?;
    if (rows, events) != (wanted, wanted) {
        let text = format!("the ledger has {rows} rows of {events} events, and there are {wanted}");
        found.push(Violation { invariant: "I6", text });
    }
    found.extend(invariants::owners_follow_each_other(&ground.owners));
    Ok(found)
}

fn health(ground: &Ground<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let rss = ground.fleet.rss_kib_max / 1024;
    if rss > ground.terms.rss_mib_max {
        let text = format!("a role took {rss} MiB, at most {} are allowed", ground.terms.rss_mib_max);
        found.push(Violation { invariant: "I8", text });
    }
    let exits = &ground.fleet.exits;
    if exits.len() > ground.terms.exits_max {
        let last = exits.last().map(|exit| crate::fleet::tail(&exit.log, 3)).unwrap_or_default();
        let who: Vec<String> =
            exits.iter().map(|exit| format!("{} with code {:?}", exit.member, exit.code)).collect();
        let text =
            format!("{} roles ended by themselves: {}; the last said: {last}", exits.len(), who.join(", "));
        found.push(Violation { invariant: "I8", text });
    }
    found
}
