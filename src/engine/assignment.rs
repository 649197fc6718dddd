//! The partitions this worker holds: a tracker each, and who is paused.
//!
//! Pure: says what to pause and resume, the worker does it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::completed::{Completed, TEXT_BYTES_HIGH};
use crate::engine::tracker::{Admission, Completion, Ticket, Tracker};
use crate::position::{Epoch, NextOffset, Partition};
use crate::record::{InRecord, OutRecord};

/// How much may be in flight. At a limit a partition pauses; below half of it, it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of one partition's records and of what they led to, from read to committed.
    pub partition_bytes_max: usize,
    /// Records of one partition, from read to committed.
    pub partition_records_max: usize,
    /// Bytes of all partitions' records.
    pub group_bytes_max: usize,
    /// Whether what is done beyond the committed offset must fit beside it ([`crate::engine::completed`]).
    pub is_text_bounded: bool,
}

impl Default for Limits {
    /// 16 MiB and 20,000 records a partition, 64 MiB in all.
    fn default() -> Self {
        Self {
            partition_bytes_max: 16 << 20,
            partition_records_max: 20_000,
            group_bytes_max: 64 << 20,
            is_text_bounded: false,
        }
    }
}

/// A partition that was assigned at some time.
#[derive(Debug)]
pub struct Held {
    /// Which.
    pub partition: Partition,
    /// `None` while it is not assigned.
    pub tracker: Option<Tracker>,
    /// Whether it is about to be given away: nothing new is begun.
    pub is_draining: bool,
    /// Whether fetching is stopped.
    pub is_paused: bool,
    /// Whether its next record is to be read later: it is paused until then.
    pub is_waiting: bool,
}

impl Held {
    fn new(partition: &Partition, tracker: Tracker) -> Self {
        Self {
            partition: partition.clone(),
            tracker: Some(tracker),
            is_draining: false,
            is_paused: false,
            is_waiting: false,
        }
    }
}

/// What to pause and what to resume.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Pauses {
    /// Over a limit.
    pub pause: Vec<Partition>,
    /// Far enough below it again.
    pub resume: Vec<Partition>,
}

/// All partitions of one worker, by index.
#[derive(Debug, Default)]
pub struct Assignment {
    held: Vec<Held>,
    index: HashMap<Partition, usize>,
    last: usize,
    turn: usize,
    is_over: bool,
}

impl Assignment {
    /// The index of a partition that has been assigned before.
    pub fn index_of(&self, partition: &Partition) -> Option<usize> {
        self.index.get(partition).copied()
    }

    /// Every partition with its index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Held)> {
        self.held.iter().enumerate()
    }

    /// The partition at `index`.
    pub fn get(&self, index: usize) -> &Held {
        &self.held[index]
    }

    /// Partitions that are assigned now.
    pub fn assigned(&self) -> Vec<Partition> {
        self.held.iter().filter(|held| held.tracker.is_some()).map(|held| held.partition.clone()).collect()
    }

    /// A partition was assigned, or is read again from `committed`, beyond which `completed` is done.
    pub fn begin(
        &mut self,
        partition: &Partition,
        epoch: Epoch,
        committed: Option<NextOffset>,
        completed: Completed,
    ) {
        let held = Held::new(partition, Tracker::new(epoch, committed, completed));
        if let Some(index) = self.index_of(partition) {
            self.held[index] = held;
            return;
        }
        self.index.insert(partition.clone(), self.held.len());
        self.held.push(held);
    }

    /// Says whether the next record of a partition is to be read later.
    pub fn wait(&mut self, index: usize, is_waiting: bool) {
        self.held[index].is_waiting = is_waiting;
    }

    /// A partition was resumed out of turn. Whether it was paused.
    pub fn resumed(&mut self, index: usize) -> bool {
        std::mem::take(&mut self.held[index].is_paused)
    }

    /// Whether this is still the assignment that the record was read in.
    pub fn is_current(&self, ticket: &Ticket) -> bool {
        self.held[ticket.partition].tracker.as_ref().is_some_and(|tracker| tracker.epoch() == ticket.epoch)
    }

    /// A partition is about to be given away. Its index, if it is held.
    pub fn drain(&mut self, partition: &Partition) -> Option<usize> {
        let index = self.index_of(partition)?;
        self.held[index].is_draining = true;
        Some(index)
    }

    /// A partition was given away: everything about it is forgotten. Whether it was paused.
    pub fn end(&mut self, index: usize) -> bool {
        let held = &mut self.held[index];
        held.tracker = None;
        held.is_draining = false;
        held.is_waiting = false;
        std::mem::take(&mut held.is_paused)
    }

    /// Takes note of a record. `None` when it is not to be worked on: its partition is not ours, is being given away,
    /// or it was read or done before.
    pub fn admit(&mut self, record: &InRecord, now: Instant) -> Option<Ticket> {
        let (ticket, admission) = self.admission(record, now)?;
        (admission == Admission::Work).then_some(ticket)
    }

    /// As [`Self::admit`], telling records that were done before from those that were read before.
    pub fn admission(&mut self, record: &InRecord, now: Instant) -> Option<(Ticket, Admission)> {
        let index = self.find(&record.topic, record.partition)?;
        let held = &mut self.held[index];
        if held.is_draining {
            return None;
        }
        let tracker = held.tracker.as_mut()?;
        let (epoch, offset) = (tracker.epoch(), record.offset);
        let admission = tracker.admit(offset, record.memory_bytes(), now);
        Some((Ticket { partition: index, epoch, offset }, admission))
    }

    /// The index of a record's partition. Records of one partition come in runs.
    pub fn find(&mut self, topic: &Arc<str>, number: i32) -> Option<usize> {
        let is_last = self
            .held
            .get(self.last)
            .is_some_and(|held| held.partition.number == number && held.partition.topic == *topic);
        if !is_last {
            self.last = self.index_of(&Partition { topic: Arc::clone(topic), number })?;
        }
        Some(self.last)
    }

    /// Forgets all records of all partitions, as if they had been assigned anew; what is committed or safe stays.
    pub fn forget(&mut self, epoch: Epoch) {
        for tracker in self.held.iter_mut().filter_map(|held| held.tracker.as_mut()) {
            *tracker = Tracker::new(epoch, tracker.position(), tracker.completed());
        }
    }

    /// A record is done.
    pub fn complete(&mut self, ticket: Ticket, outputs: Vec<OutRecord>) -> Completion {
        match &mut self.held[ticket.partition].tracker {
            Some(tracker) => tracker.complete(ticket.epoch, ticket.offset, outputs),
            None => Completion::Stale,
        }
    }

    /// A record is done, and everything it led to is safe.
    pub fn acknowledge(&mut self, ticket: Ticket) -> Completion {
        match &mut self.held[ticket.partition].tracker {
            Some(tracker) => tracker.acknowledge(ticket.epoch, ticket.offset),
            None => Completion::Stale,
        }
    }

    /// Whether a commit of the partition at `index` has something to tell beside the offset.
    pub fn has_note(&self, index: usize) -> bool {
        self.held[index].tracker.as_ref().is_some_and(Tracker::has_completed)
    }

    /// What goes beside a commit of `next` for the partition at `index`; mostly empty.
    pub fn note(&self, index: usize, next: NextOffset) -> String {
        let tracker = self.held[index].tracker.as_ref().filter(|tracker| tracker.has_completed());
        tracker.map_or_else(String::new, |tracker| tracker.completed().encode(next))
    }

    /// Releases up to `records_max` finished records, each partition's contiguous prefix; a large one does not always
    /// come first.
    pub fn take_prefixes(&mut self, records_max: usize, outputs: &mut Vec<OutRecord>) -> Vec<Released> {
        let mut left = records_max;
        let mut released = Vec::new();
        let count = self.held.len();
        self.turn = (self.turn + 1) % count.max(1);
        for step in 0..count {
            let index = (self.turn + step) % count;
            let Some(tracker) = &mut self.held[index].tracker else { continue };
            let taken = tracker.ready().min(left);
            if let Some(next) = tracker.take_prefix(left, outputs) {
                released.push(Released { index, epoch: tracker.epoch(), next });
                left -= taken;
            }
        }
        released
    }

    /// What was released is committed, as far as it is still ours.
    pub fn settle(&mut self, released: &[Released]) {
        for Released { index, epoch, next } in released {
            if let Some(tracker) = &mut self.held[*index].tracker {
                tracker.settle(*epoch, *next);
            }
        }
    }

    /// Records that are done and not yet handed over.
    pub fn ready(&self) -> usize {
        self.trackers().map(Tracker::ready).sum()
    }

    /// Bytes of records read and not yet committed, and of what they led to.
    pub fn bytes(&self) -> usize {
        self.trackers().map(Tracker::bytes).sum()
    }

    /// Records read and not yet committed.
    pub fn in_flight(&self) -> usize {
        self.trackers().map(Tracker::in_flight).sum()
    }

    fn trackers(&self) -> impl Iterator<Item = &Tracker> {
        self.held.iter().filter_map(|held| held.tracker.as_ref())
    }

    /// Partitions whose fetching is stopped.
    pub fn paused(&self) -> Vec<Partition> {
        self.held.iter().filter(|held| held.is_paused).map(|held| held.partition.clone()).collect()
    }

    /// All of [`Self::paused`] were resumed.
    pub fn unpause(&mut self) {
        self.held.iter_mut().for_each(|held| held.is_paused = false);
    }

    /// Whom to pause and whom to resume; takes it as done. `is_held` pauses all.
    pub fn pauses(&mut self, limits: &Limits, is_held: bool) -> Pauses {
        let bytes = self.bytes();
        self.is_over = bytes > if self.is_over { limits.group_bytes_max / 2 } else { limits.group_bytes_max };
        let is_over = self.is_over || is_held;
        let mut pauses = Pauses::default();
        for held in &mut self.held {
            let Some(tracker) = &held.tracker else { continue };
            let divisor = if held.is_paused { 2 } else { 1 };
            let wanted = is_over
                || held.is_draining
                || held.is_waiting
                || tracker.bytes() > limits.partition_bytes_max / divisor
                || tracker.in_flight() > limits.partition_records_max / divisor
                || (limits.is_text_bounded && tracker.completed_bytes_bound() > TEXT_BYTES_HIGH / divisor);
            if wanted != held.is_paused {
                held.is_paused = wanted;
                let list = if wanted { &mut pauses.pause } else { &mut pauses.resume };
                list.push(held.partition.clone());
            }
        }
        pauses
    }
}

/// A partition's part of what was handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// Index of the partition.
    pub index: usize,
    /// Its assignment.
    pub epoch: Epoch,
    /// Where it goes on.
    pub next: NextOffset,
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod history;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(partition: i32, offset: i64, bytes: usize) -> InRecord {
        InRecord {
            topic: Arc::from("in"),
            partition,
            offset,
            timestamp_ms: None,
            key: None,
            value: Some(Bytes::from(vec![0; bytes])),
            headers: Vec::new(),
        }
    }

    fn held(partitions: i32) -> Assignment {
        let mut assignment = Assignment::default();
        for number in 0..partitions {
            assignment.begin(&Partition::new("in", number), Epoch(1), None, Completed::default());
        }
        assignment
    }

    /// In memory a record of these tests takes up its value and 320 bytes.
    const LIMITS: Limits = Limits {
        partition_bytes_max: 1_000,
        partition_records_max: 10,
        group_bytes_max: 2_500,
        is_text_bounded: false,
    };

    #[test]
    fn pauses_at_the_limit_and_goes_on_below_half() {
        let mut assignment = held(2);
        let first = Partition::new("in", 0);
        let tickets: Vec<Ticket> = (0..3)
            .map(|offset| assignment.admit(&record(0, offset, 80), Instant::now()).expect("admitted"))
            .collect();
        let pauses = assignment.pauses(&LIMITS, false);
        assert_eq!(pauses, Pauses { pause: vec![first.clone()], resume: vec![] });
        assert_eq!(assignment.pauses(&LIMITS, false), Pauses::default(), "said once");
        let mut settle = |ticket: Ticket| {
            assignment.complete(ticket, vec![]);
            let released = assignment.take_prefixes(10, &mut Vec::new());
            assignment.settle(&released);
            assignment.pauses(&LIMITS, false)
        };
        assert_eq!(settle(tickets[0]), Pauses::default(), "800 bytes are more than half");
        assert_eq!(settle(tickets[1]), Pauses { pause: vec![], resume: vec![first] });
    }

    #[test]
    fn pauses_everybody_when_all_together_are_too_large() {
        let mut assignment = held(3);
        for partition in 0..3 {
            for offset in 0..2 {
                assignment.admit(&record(partition, offset, 110), Instant::now());
            }
        }
        assert_eq!(assignment.pauses(&LIMITS, false).pause.len(), 3);
    }

    #[test]
    fn what_is_forgotten_is_neither_released_nor_completed() {
        let mut assignment = held(2);
        let tickets: Vec<Ticket> = (0..2)
            .map(|partition| assignment.admit(&record(partition, 5, 1), Instant::now()).expect("admitted"))
            .collect();
        assignment.complete(tickets[0], vec![]);
        assert_eq!(assignment.ready(), 1);
        assignment.forget(Epoch(2));
        assert_eq!((assignment.ready(), assignment.in_flight(), assignment.bytes()), (0, 0, 0));
        assert_eq!(assignment.complete(tickets[1], vec![]), Completion::Stale);
        assert_eq!(assignment.take_prefixes(10, &mut Vec::new()), vec![]);
    }

    #[test]
    fn a_drained_partition_takes_nothing_new_and_ends_clean() {
        let mut assignment = held(1);
        let ticket = assignment.admit(&record(0, 5, 1), Instant::now()).expect("admitted");
        let index = assignment.drain(&Partition::new("in", 0)).expect("held");
        assert_eq!(assignment.admit(&record(0, 6, 1), Instant::now()), None);
        assignment.end(index);
        assert_eq!(assignment.complete(ticket, vec![]), Completion::Stale);
        assignment.begin(&Partition::new("in", 0), Epoch(2), Some(NextOffset(5)), Completed::default());
        assert_eq!(assignment.complete(ticket, vec![]), Completion::Stale, "of an earlier assignment");
        assert!(assignment.admit(&record(0, 5, 1), Instant::now()).is_some());
    }
}
