//! Which records of one partition are done: the bookkeeping behind "nothing is committed but a contiguous prefix".
//!
//! Offsets come in order and with gaps (transaction markers, compaction, aborted records); only those that were really
//! read are tracked, so a gap holds nothing up. Work ends in any order, and what it wrote waits here until all earlier
//! records are done too:
//!
//! | released | waiting behind | running |          offsets 4 and 5 are committed or on their way (`from..next`),
//! |----------|----------------|---------|          7 is done and waits for 6,
//! | 4 5      | 7              | 6 8     |          commits may go up to `→6` and no further.
//!
//! Everything here belongs to one assignment of the partition. Completions carry the epoch they were born in; those of
//! an older one are refused, because their record will be (or has been) read again, by us or by somebody else.
//!
//! Pure: no clock, no I/O.

use std::collections::VecDeque;
use std::time::Instant;

use crate::failpoint::{Rule, keeps};
use crate::position::{Epoch, NextOffset};
use crate::record::OutRecord;

/// A record on its way: where its completion belongs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    /// Index of the partition in the worker.
    pub partition: usize,
    /// Assignment it was read in.
    pub epoch: Epoch,
    /// Its own offset.
    pub offset: i64,
}

/// What became of a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// Taken.
    Kept,
    /// Its assignment is over, or it was completed before: thrown away.
    Stale,
}

#[derive(Debug)]
struct Slot {
    offset: i64,
    bytes: usize,
    admitted_at: Instant,
    /// What the record led to, once it is done.
    outputs: Option<Vec<OutRecord>>,
}

/// Offsets of one partition during one assignment.
#[derive(Debug)]
pub struct Tracker {
    epoch: Epoch,
    slots: VecDeque<Slot>,
    /// Done records at the front of `slots`.
    ready: usize,
    /// Bytes of records in `slots`, and of what they led to.
    bytes: usize,
    /// Released and not yet settled.
    released: Option<NextOffset>,
    released_bytes: usize,
    released_records: usize,
    /// Highest offset admitted.
    seen: Option<i64>,
    committed: Option<NextOffset>,
}

impl Tracker {
    /// A tracker for an assignment that goes on at `committed`, when something is committed.
    pub fn new(epoch: Epoch, committed: Option<NextOffset>) -> Self {
        Self {
            epoch,
            slots: VecDeque::new(),
            ready: 0,
            bytes: 0,
            released: None,
            released_bytes: 0,
            released_records: 0,
            seen: None,
            committed,
        }
    }

    /// The assignment this tracker belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes note of a record. `false` when its offset is not above all before it: such a record was read twice and
    /// must not be worked on again.
    pub fn admit(&mut self, offset: i64, bytes: usize, now: Instant) -> bool {
        if self.seen.is_some_and(|seen| offset <= seen) {
            return false;
        }
        self.seen = Some(offset);
        self.bytes += bytes;
        self.slots.push_back(Slot { offset, bytes, admitted_at: now, outputs: None });
        true
    }

    /// Takes note that the record at `offset` is done and led to `outputs`.
    pub fn complete(&mut self, epoch: Epoch, offset: i64, outputs: Vec<OutRecord>) -> Completion {
        if epoch != self.epoch {
            return Completion::Stale;
        }
        let Some(index) = self.index_of(offset) else { return Completion::Stale };
        let slot = &mut self.slots[index];
        if slot.outputs.is_some() {
            return Completion::Stale;
        }
        let output_bytes: usize = outputs.iter().map(OutRecord::size_bytes).sum();
        slot.bytes += output_bytes;
        self.bytes += output_bytes;
        slot.outputs = Some(outputs);
        while self.slots.get(self.ready).is_some_and(|slot| slot.outputs.is_some()) {
            self.ready += 1;
        }
        if !keeps(Rule::CommitsPrefix) {
            self.ready = self.ready.max(index + 1);
        }
        Completion::Kept
    }

    /// Most records complete in order, or nearly so: look at the front and the back first.
    fn index_of(&self, offset: i64) -> Option<usize> {
        let (first, last) = (self.slots.front()?, self.slots.back()?);
        if offset == last.offset {
            return Some(self.slots.len() - 1);
        }
        let guess = usize::try_from(offset - first.offset).ok()?;
        if self.slots.get(guess).is_some_and(|slot| slot.offset == offset) {
            return Some(guess);
        }
        self.slots.binary_search_by_key(&offset, |slot| slot.offset).ok()
    }

    /// Releases up to `records_max` records of the finished prefix: appends what they led to and returns how far a
    /// commit may go then. `None` when nothing is ready.
    pub fn take_prefix(&mut self, records_max: usize, outputs: &mut Vec<OutRecord>) -> Option<NextOffset> {
        let count = self.ready.min(records_max);
        if count == 0 {
            return None;
        }
        for slot in self.slots.drain(..count) {
            self.bytes -= slot.bytes;
            self.released_bytes += slot.bytes;
            self.released = Some(NextOffset::after(slot.offset));
            outputs.extend(slot.outputs.into_iter().flatten());
        }
        self.ready -= count;
        self.released_records += count;
        self.released
    }

    /// What was released is committed. Returns whether it was this assignment's.
    pub fn settle(&mut self, epoch: Epoch, next: NextOffset) -> bool {
        if epoch != self.epoch {
            return false;
        }
        debug_assert!(self.committed <= Some(next), "commits only move on");
        self.committed = Some(next);
        if self.released == Some(next) {
            self.released = None;
            self.released_bytes = 0;
            self.released_records = 0;
        }
        true
    }

    /// Up to where everything is read.
    pub fn read(&self) -> Option<NextOffset> {
        self.seen.map(NextOffset::after)
    }

    /// Up to where everything is committed.
    pub fn committed(&self) -> Option<NextOffset> {
        self.committed
    }

    /// Records done that [`Self::take_prefix`] would release.
    pub fn ready(&self) -> usize {
        self.ready
    }

    /// Records read and not yet committed.
    pub fn in_flight(&self) -> usize {
        self.slots.len() + self.released_records
    }

    /// Whether released records wait for their commit.
    pub fn is_releasing(&self) -> bool {
        self.released.is_some()
    }

    /// Bytes of records read and not yet committed, and of what they led to.
    pub fn bytes(&self) -> usize {
        self.bytes + self.released_bytes
    }

    /// The oldest record not yet released: its offset, when it was read, and whether it is done.
    pub fn oldest(&self) -> Option<(i64, Instant, bool)> {
        self.slots.front().map(|slot| (slot.offset, slot.admitted_at, slot.outputs.is_some()))
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
