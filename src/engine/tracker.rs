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
//! A done record is *safe* when what it led to is acknowledged already, so that only its offset is left to commit: under
//! `at_least_once` every done one, and always those that an earlier assignment left done behind a slow one
//! ([`Completed`]). They are not worked on again, and what [`Tracker::completed`] says of them goes with each commit.
//!
//! Pure: no clock, no I/O.

use std::collections::VecDeque;
use std::time::Instant;

use crate::engine::completed::{self, Completed};
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

/// What is to be done with a record that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Work on it.
    Work,
    /// Nothing: it was done in an earlier assignment.
    Done,
    /// Nothing: it was read before.
    Repeated,
}

#[derive(Debug)]
enum State {
    Running,
    /// Done; what it led to is still to be sent.
    Done(Vec<OutRecord>),
    Safe,
}

#[derive(Debug)]
struct Slot {
    offset: i64,
    bytes: usize,
    admitted_at: Instant,
    state: State,
}

impl Slot {
    fn is_done(&self) -> bool {
        !matches!(self.state, State::Running)
    }
}

/// Offsets of one partition during one assignment.
#[derive(Debug)]
pub struct Tracker {
    epoch: Epoch,
    slots: VecDeque<Slot>,
    /// Done records at the front of `slots`.
    ready: usize,
    /// Done records in `slots`.
    done: usize,
    /// Safe records in `slots`.
    safe: usize,
    /// What an earlier assignment left done.
    carried: Completed,
    /// Bytes of records in `slots`, and of what they led to.
    bytes: usize,
    /// Released and not yet settled.
    released: Option<NextOffset>,
    released_bytes: usize,
    released_records: usize,
    /// Lowest offset admitted.
    first: Option<i64>,
    /// Highest offset admitted.
    seen: Option<i64>,
    committed: Option<NextOffset>,
}

impl Tracker {
    /// A tracker for an assignment that goes on at `committed`, when something is committed, with what is done beyond it.
    pub fn new(epoch: Epoch, committed: Option<NextOffset>, carried: Completed) -> Self {
        Self {
            epoch,
            slots: VecDeque::new(),
            ready: 0,
            done: 0,
            safe: 0,
            carried,
            bytes: 0,
            released: None,
            released_bytes: 0,
            released_records: 0,
            first: None,
            seen: None,
            committed,
        }
    }

    /// The assignment this tracker belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes note of a record. Offsets only go up; one that does not was read twice.
    pub fn admit(&mut self, offset: i64, bytes: usize, now: Instant) -> Admission {
        if self.seen.is_some_and(|seen| offset <= seen) {
            return Admission::Repeated;
        }
        self.first.get_or_insert(offset);
        self.seen = Some(offset);
        if !self.carried.is_empty() && self.carried.contains(offset) {
            self.slots.push_back(Slot { offset, bytes: 0, admitted_at: now, state: State::Safe });
            self.safe += 1;
            self.advance(self.slots.len() - 1);
            return Admission::Done;
        }
        self.bytes += bytes;
        self.slots.push_back(Slot { offset, bytes, admitted_at: now, state: State::Running });
        Admission::Work
    }

    /// Takes note that the record at `offset` is done and led to `outputs`, which are still to be sent.
    pub fn complete(&mut self, epoch: Epoch, offset: i64, outputs: Vec<OutRecord>) -> Completion {
        let Some((index, slot)) = self.running(epoch, offset) else { return Completion::Stale };
        let output_bytes: usize = outputs.iter().map(OutRecord::memory_bytes).sum();
        slot.bytes += output_bytes;
        slot.state = State::Done(outputs);
        self.bytes += output_bytes;
        self.advance(index);
        Completion::Kept
    }

    /// Takes note that the record at `offset` is done and everything it led to is safe: nothing of it is held any more.
    pub fn acknowledge(&mut self, epoch: Epoch, offset: i64) -> Completion {
        let Some((index, slot)) = self.running(epoch, offset) else { return Completion::Stale };
        let bytes = std::mem::take(&mut slot.bytes);
        slot.state = State::Safe;
        self.bytes -= bytes;
        self.safe += 1;
        self.advance(index);
        Completion::Kept
    }

    /// The slot of a record that is not done yet, with its index.
    fn running(&mut self, epoch: Epoch, offset: i64) -> Option<(usize, &mut Slot)> {
        if epoch != self.epoch {
            return None;
        }
        let index = self.index_of(offset)?;
        let slot = self.slots.get_mut(index).filter(|slot| !slot.is_done())?;
        Some((index, slot))
    }

    /// The record at `index` is done now.
    fn advance(&mut self, index: usize) {
        self.done += 1;
        while self.slots.get(self.ready).is_some_and(Slot::is_done) {
            self.ready += 1;
        }
        if !keeps(Rule::CommitsPrefix) {
            self.ready = self.ready.max(index + 1);
        }
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
            match slot.state {
                // Only where a test has switched the rule off.
                State::Running => continue,
                State::Done(own) => outputs.extend(own),
                State::Safe => self.safe -= 1,
            }
            self.done -= 1;
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

    /// What a commit may say without moving on: what is committed, else where this assignment began.
    pub fn position(&self) -> Option<NextOffset> {
        self.committed.or(self.first.map(NextOffset))
    }

    /// Records that are safe and wait for an earlier one, and those that an earlier assignment left done and that were
    /// not read again yet. Offsets between two neighbours that are both safe belong to them: there is no record.
    pub fn completed(&self) -> Completed {
        let mut completed = Completed::default();
        if self.safe > 0 {
            let mut neighbour = None;
            for Slot { offset, state, .. } in &self.slots {
                let is_safe = matches!(state, State::Safe);
                if is_safe {
                    completed.push(neighbour.unwrap_or(*offset)..*offset + 1);
                }
                neighbour = is_safe.then_some(*offset + 1);
            }
        }
        let unseen = self.seen.map_or(i64::MIN, |seen| seen + 1);
        self.carried.since(unseen).for_each(|range| completed.push(range));
        completed
    }

    /// Whether [`Self::completed`] has anything to say.
    pub fn has_completed(&self) -> bool {
        self.safe > 0 || self.carried.end() > self.seen.map(|seen| seen + 1)
    }

    /// How long the text of [`Self::completed`] may become, whatever of the records read is completed next.
    pub fn completed_bytes_bound(&self) -> usize {
        let (Some(seen), Some(front)) = (self.seen, self.slots.front()) else { return 0 };
        let end = self.carried.end().map_or(seen, |end| end.max(seen));
        let base = self.committed.map_or(front.offset, |committed| committed.0.min(front.offset));
        let span = usize::try_from(end.abs_diff(base)).unwrap_or(usize::MAX);
        // Of what was carried over and not read again yet nobody knows what lies between.
        let unread = self.carried.ranges_since(seen + 1);
        completed::text_bytes_bound(span, self.slots.len() - self.safe + unread)
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
        self.slots.front().map(|slot| (slot.offset, slot.admitted_at, slot.is_done()))
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
