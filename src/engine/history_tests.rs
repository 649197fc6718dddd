//! Whole lives of a worker against a simple model: records are read, worked on and finished in any order, handed over,
//! committed or thrown away; partitions come and go, other workers have them meanwhile, and completions arrive that
//! nobody waits for any more. Whatever happens, the outputs that are committed are those of every record, once and in
//! order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::engine::assignment::{Assignment, Released};
use crate::engine::completed::Completed;
use crate::engine::lanes::{Lane, Lanes};
use crate::engine::tracker::{Completion, Ticket};
use crate::plan::pipeline::Ordering;
use crate::position::{Epoch, NextOffset, Partition};
use crate::record::{InRecord, OutRecord};
use crate::tests::histories;

const PARTITIONS: usize = 3;
const PLACES: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    /// The worker reads so many records of a partition.
    Read { partition: usize, count: usize },
    /// Work begins that is next.
    Begin,
    /// Work ends, any of that which runs.
    End { which: usize },
    /// A completion that was told already is told again.
    Repeat { which: usize },
    /// What is finished goes to the sender.
    HandOver { records_max: usize },
    /// The sender's transaction is committed, if the broker takes it.
    Commit,
    /// It is not: everything is read again.
    Abort,
    /// A partition is about to be given away.
    Drain { partition: usize },
    /// It is given away.
    Revoke { partition: usize },
    /// It comes (back).
    Assign { partition: usize },
    /// Whoever has it otherwise works through some of it.
    Elsewhere { partition: usize, count: usize },
    /// Time goes by.
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let partition = 0..PARTITIONS;
    prop_oneof![
        8 => (partition.clone(), 1..5usize).prop_map(|(partition, count)| Step::Read { partition, count }),
        8 => Just(Step::Begin),
        8 => any::<usize>().prop_map(|which| Step::End { which }),
        1 => any::<usize>().prop_map(|which| Step::Repeat { which }),
        5 => (1..9usize).prop_map(|records_max| Step::HandOver { records_max }),
        5 => Just(Step::Commit),
        1 => Just(Step::Abort),
        1 => partition.clone().prop_map(|partition| Step::Drain { partition }),
        1 => partition.clone().prop_map(|partition| Step::Revoke { partition }),
        2 => partition.clone().prop_map(|partition| Step::Assign { partition }),
        1 => (partition, 1..4usize).prop_map(|(partition, count)| Step::Elsewhere { partition, count }),
        1 => (1..100u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// Records of a partition: the gap before each, its key, and its bytes.
fn log() -> impl Strategy<Value = Vec<(i64, u8, usize)>> {
    prop::collection::vec((0..3i64, 0..3u8, 0..50usize), 0..24)
}

/// What the broker has of a partition.
struct Log {
    records: Vec<InRecord>,
    committed: Option<NextOffset>,
    /// Offsets whose outputs are committed, in the order in which they stand in the output topic.
    written: Vec<i64>,
}

impl Log {
    fn new(number: usize, records: &[(i64, u8, usize)]) -> Self {
        let mut next = 0;
        let record = |(gap, key, bytes): &(i64, u8, usize)| {
            let offset = next + gap;
            next = offset + 1;
            InRecord {
                topic: Arc::from("in"),
                partition: i32::try_from(number).expect("few partitions"),
                offset,
                timestamp_ms: None,
                // Some records have none, and keep no order.
                key: (*key > 0).then(|| Bytes::from(vec![*key])),
                value: Some(Bytes::from(vec![0; *bytes])),
                headers: Vec::new(),
            }
        };
        Self { records: records.iter().map(record).collect(), committed: None, written: Vec::new() }
    }

    /// Index of the first record from `next` on.
    fn index_of(&self, next: Option<NextOffset>) -> usize {
        self.records
            .iter()
            .position(|record| Some(record.offset) >= next.map(|next| next.0))
            .unwrap_or(self.records.len())
    }
}

/// A partition as the model sees it while the worker has it.
#[derive(Default)]
struct Holding {
    epoch: Epoch,
    is_draining: bool,
    /// Index of the next record to read.
    position: usize,
    /// Read and not released: offset to bytes, when it was read, and whether it is done.
    open: BTreeMap<i64, (usize, Instant, bool)>,
    /// Released and not committed.
    released: BTreeMap<i64, usize>,
}

struct World {
    ordering: Ordering,
    logs: Vec<Log>,
    held: Vec<Option<Holding>>,
    assignment: Assignment,
    lanes: Lanes<Ticket>,
    running: Vec<(Lane, Ticket)>,
    told: Vec<Ticket>,
    handed: Option<(Vec<Released>, Vec<OutRecord>)>,
    epoch: Epoch,
    now: Instant,
}

fn output(ticket: &Ticket) -> OutRecord {
    OutRecord {
        topic: Arc::from("out"),
        partition: Some(i32::try_from(ticket.partition).expect("few partitions")),
        timestamp_ms: None,
        key: None,
        value: Some(Bytes::from(ticket.offset.to_be_bytes().to_vec())),
        headers: Vec::new(),
    }
}

fn partition(number: usize) -> Partition {
    Partition::new("in", i32::try_from(number).expect("few partitions"))
}

impl World {
    fn new(ordering: Ordering, logs: &[Vec<(i64, u8, usize)>]) -> Self {
        let mut world = Self {
            ordering,
            logs: logs.iter().enumerate().map(|(number, records)| Log::new(number, records)).collect(),
            held: logs.iter().map(|_| None).collect(),
            assignment: Assignment::default(),
            lanes: Lanes::new(ordering, PLACES),
            running: Vec::new(),
            told: Vec::new(),
            handed: None,
            epoch: Epoch::default(),
            now: Instant::now(),
        };
        // Index of the assignment and number of the partition are the same then.
        (0..PARTITIONS).for_each(|number| world.assign(number));
        world
    }

    fn assign(&mut self, number: usize) {
        self.epoch = self.epoch.next();
        let log = &self.logs[number];
        self.assignment.begin(&partition(number), self.epoch, log.committed, Completed::default());
        let position = log.index_of(log.committed);
        self.held[number] = Some(Holding { epoch: self.epoch, position, ..Holding::default() });
    }

    fn take(&mut self, step: Step) -> TestCaseResult {
        match step {
            Step::Read { partition, count } => self.read(partition, count)?,
            Step::Begin => self.begin()?,
            Step::End { which } => self.end(which)?,
            Step::Repeat { which } => {
                if let Some(ticket) = self.told.get(which % self.told.len().max(1)) {
                    let completion = self.assignment.complete(*ticket, vec![output(ticket)]);
                    prop_assert_eq!(completion, Completion::Stale, "told twice");
                }
            }
            Step::HandOver { records_max } => self.hand_over(records_max)?,
            Step::Commit => self.commit()?,
            Step::Abort => self.abort(),
            Step::Drain { partition: number } => {
                if let Some(held) = &mut self.held[number] {
                    held.is_draining = true;
                    prop_assert_eq!(self.assignment.drain(&partition(number)), Some(number));
                }
            }
            Step::Revoke { partition } => {
                if self.held[partition].take().is_some() {
                    self.assignment.end(partition);
                    self.lanes.discard(|ticket| ticket.partition == partition);
                }
            }
            Step::Assign { partition } => {
                if self.held[partition].is_none() {
                    self.assign(partition);
                }
            }
            Step::Elsewhere { partition, count } => self.elsewhere(partition, count),
            Step::Wait { seconds } => self.now += Duration::from_secs(seconds),
        }
        self.agrees()
    }

    fn read(&mut self, number: usize, count: usize) -> TestCaseResult {
        let Some(held) = &mut self.held[number] else { return Ok(()) };
        for record in self.logs[number].records.iter().skip(held.position).take(count) {
            let ticket = self.assignment.admit(record, self.now);
            if held.is_draining {
                prop_assert_eq!(ticket, None, "a partition that is given away takes nothing new");
                continue;
            }
            let expected = Ticket { partition: number, epoch: held.epoch, offset: record.offset };
            prop_assert_eq!(ticket, Some(expected));
            prop_assert_eq!(self.assignment.admit(record, self.now), None, "read twice");
            self.lanes.push(self.lanes.lane(number, record.key.as_deref()), expected);
            held.position += 1;
            held.open.insert(record.offset, (record.memory_bytes(), self.now, false));
        }
        Ok(())
    }

    fn begin(&mut self) -> TestCaseResult {
        let Some((lane, ticket)) = self.lanes.start() else { return Ok(()) };
        let key = |ticket: &Ticket| {
            let records = &self.logs[ticket.partition].records;
            let record = records.iter().find(|record| record.offset == ticket.offset);
            record.and_then(|record| record.key.clone())
        };
        for (_, other) in self.running.iter().filter(|(_, other)| other.partition == ticket.partition) {
            let is_together = match self.ordering {
                Ordering::None => false,
                Ordering::Partition => true,
                Ordering::Key => key(other).is_some() && key(other) == key(&ticket),
            };
            prop_assert!(!is_together, "{ticket:?} beside {other:?}");
        }
        self.running.push((lane, ticket));
        Ok(())
    }

    fn end(&mut self, which: usize) -> TestCaseResult {
        if self.running.is_empty() {
            return Ok(());
        }
        let (lane, ticket) = self.running.swap_remove(which % self.running.len());
        self.lanes.finish(lane);
        let held = self.held[ticket.partition].as_mut().filter(|held| held.epoch == ticket.epoch);
        let outputs = vec![output(&ticket)];
        let bytes: usize = outputs.iter().map(OutRecord::memory_bytes).sum();
        let completion = self.assignment.complete(ticket, outputs);
        let expected = if held.is_some() { Completion::Kept } else { Completion::Stale };
        prop_assert_eq!(completion, expected);
        if let Some(slot) = held.and_then(|held| held.open.get_mut(&ticket.offset)) {
            *slot = (slot.0 + bytes, slot.1, true);
        }
        self.told.push(ticket);
        Ok(())
    }

    fn hand_over(&mut self, records_max: usize) -> TestCaseResult {
        if self.handed.is_some() {
            return Ok(());
        }
        let mut outputs = Vec::new();
        let released = self.assignment.take_prefixes(records_max, &mut outputs);
        prop_assert!(outputs.len() <= records_max);
        for Released { index, epoch, next } in &released {
            let held = self.held[*index].as_mut().expect("what is released is held");
            prop_assert_eq!(*epoch, held.epoch);
            let later = held.open.split_off(&next.0);
            for (offset, (bytes, _, is_done)) in std::mem::replace(&mut held.open, later) {
                prop_assert!(is_done, "{offset} is released and not done");
                held.released.insert(offset, bytes);
            }
        }
        if !released.is_empty() {
            self.handed = Some((released, outputs));
        }
        Ok(())
    }

    /// The broker refuses the transaction of a member that has lost one of its partitions.
    fn commit(&mut self) -> TestCaseResult {
        let Some((released, outputs)) = self.handed.take() else { return Ok(()) };
        let is_ours = |released: &Released| {
            self.held[released.index].as_ref().is_some_and(|held| held.epoch == released.epoch)
        };
        if !released.iter().all(is_ours) {
            self.abort();
            return Ok(());
        }
        for output in &outputs {
            let bytes = output.value.as_deref().expect("every output has a value");
            let offset = i64::from_be_bytes(bytes.try_into().expect("eight bytes"));
            let number =
                usize::try_from(output.partition.expect("every output has one")).expect("not negative");
            self.logs[number].written.push(offset);
        }
        for Released { index, next, .. } in &released {
            let log = &mut self.logs[*index];
            prop_assert!(log.committed < Some(*next), "commits only move on");
            log.committed = Some(*next);
            if let Some(held) = &mut self.held[*index] {
                held.released.clear();
            }
        }
        self.assignment.settle(&released);
        Ok(())
    }

    /// Nothing in memory is trusted any more.
    fn abort(&mut self) {
        self.handed = None;
        self.lanes.discard(|_| true);
        for number in 0..PARTITIONS {
            let is_draining = self.held[number].as_ref().map(|held| held.is_draining);
            if let Some(is_draining) = is_draining {
                self.assign(number);
                if let (true, Some(held)) = (is_draining, &mut self.held[number]) {
                    held.is_draining = true;
                    self.assignment.drain(&partition(number));
                }
            }
        }
    }

    fn elsewhere(&mut self, number: usize, count: usize) {
        if self.held[number].is_some() {
            return;
        }
        let log = &mut self.logs[number];
        let from = log.index_of(log.committed);
        for record in log.records.iter().skip(from).take(count) {
            log.written.push(record.offset);
            log.committed = Some(NextOffset::after(record.offset));
        }
    }

    /// What the worker says of itself is what the model knows.
    fn agrees(&self) -> TestCaseResult {
        let held = || self.held.iter().flatten();
        let open: usize = held().map(|held| held.open.len()).sum();
        let released: usize = held().map(|held| held.released.len()).sum();
        let open_bytes: usize = held().flat_map(|held| held.open.values()).map(|(bytes, ..)| bytes).sum();
        let released_bytes: usize = held().flat_map(|held| held.released.values()).sum();
        let ready: usize =
            held().map(|held| held.open.values().take_while(|(.., is_done)| *is_done).count()).sum();
        prop_assert_eq!(self.assignment.in_flight(), open + released);
        prop_assert_eq!(self.assignment.bytes(), open_bytes + released_bytes);
        prop_assert_eq!(self.assignment.ready(), ready);
        prop_assert_eq!(self.lanes.running(), self.running.len());
        for (number, model) in self.held.iter().enumerate() {
            let Some(tracker) = &self.assignment.get(number).tracker else {
                prop_assert!(model.is_none());
                continue;
            };
            let model = model.as_ref().expect("only what is held has a tracker");
            let oldest = model.open.iter().next().map(|(offset, (_, at, done))| (*offset, *at, *done));
            prop_assert_eq!(tracker.oldest(), oldest);
            prop_assert_eq!(tracker.committed(), self.logs[number].committed);
            prop_assert_eq!(tracker.is_releasing(), !model.released.is_empty());
        }
        Ok(())
    }

    /// Everything that is left is worked through, without further trouble.
    fn work_off(&mut self) -> TestCaseResult {
        self.take(Step::Commit)?;
        for number in 0..PARTITIONS {
            if self.held[number].as_ref().is_some_and(|held| held.is_draining) {
                self.take(Step::Revoke { partition: number })?;
            }
            self.take(Step::Assign { partition: number })?;
            self.take(Step::Read { partition: number, count: usize::MAX })?;
        }
        while self.lanes.waiting() > 0 || !self.running.is_empty() {
            self.take(Step::Begin)?;
            self.take(Step::End { which: self.running.len() / 2 })?;
        }
        self.take(Step::HandOver { records_max: usize::MAX })?;
        self.take(Step::Commit)?;
        prop_assert_eq!(self.assignment.in_flight(), 0, "everything ends");
        Ok(())
    }
}

proptest! {
    #![proptest_config(histories::cases(200))]

    #[test]
    fn every_record_is_written_once_and_in_order(
        ordering in prop_oneof![Just(Ordering::Key), Just(Ordering::Partition), Just(Ordering::None)],
        logs in prop::collection::vec(log(), PARTITIONS),
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let mut world = World::new(ordering, &logs);
        for step in steps {
            world.take(step)?;
        }
        world.work_off()?;
        for log in &world.logs {
            let all: Vec<i64> = log.records.iter().map(|record| record.offset).collect();
            prop_assert_eq!(&log.written, &all);
        }
    }
}
