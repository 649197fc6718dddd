//! `at_least_once`: outputs are sent as records finish, and offsets follow when they are acknowledged.
//!
//! Records that are done behind a slow one are told beside the committed offset ([`crate::engine::completed`]), so that
//! a crash repeats only what was not acknowledged and told yet. Commits go one at a time; one that fails is made again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::sender::SenderSettings;
use crate::engine::settings::WorkerError;
use crate::engine::tracker::{Completion, Ticket};
use crate::engine::worker::Worker;
use crate::kafka::consumer::CommitMode;
use crate::kafka::offsets::Commit;
use crate::record::OutRecord;

/// Commits that tell of records beyond the offset come so often: writing them costs a look at every record in flight.
const NOTED_EVERY: Duration = Duration::from_millis(100);

/// Outputs of records that are done: not yet handed to the sender, or not yet acknowledged.
#[derive(Default)]
pub(super) struct Unsent {
    done: VecDeque<(Ticket, Vec<OutRecord>)>,
    bytes: usize,
    handed_bytes: usize,
}

impl Unsent {
    pub(super) fn push(&mut self, ticket: Ticket, outputs: Vec<OutRecord>) {
        self.bytes += memory_bytes(&outputs);
        self.done.push_back((ticket, outputs));
    }

    /// Records not yet handed to the sender.
    pub(super) fn len(&self) -> usize {
        self.done.len()
    }

    /// Memory of all of them, those that the sender has included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.handed_bytes
    }

    /// Hands over up to `count` records, in the order they were done.
    pub(super) fn hand_over(&mut self, count: usize) -> (Vec<Ticket>, Vec<OutRecord>) {
        let count = count.min(self.done.len());
        let (mut tickets, mut records) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (ticket, outputs) in self.done.drain(..count) {
            tickets.push(ticket);
            records.extend(outputs);
        }
        self.handed_bytes = memory_bytes(&records);
        self.bytes -= self.handed_bytes;
        (tickets, records)
    }

    /// The sender is done with what it had.
    pub(super) fn settle(&mut self) {
        self.handed_bytes = 0;
    }

    /// Forgets what is not handed over of records that are not wanted any more.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&Ticket) -> bool) {
        self.done.retain(|(ticket, _)| is_wanted(ticket));
        self.bytes = self.done.iter().map(|(_, outputs)| memory_bytes(outputs)).sum();
    }
}

fn memory_bytes(records: &[OutRecord]) -> usize {
    records.iter().map(OutRecord::memory_bytes).sum()
}

/// What is to be committed.
#[derive(Default)]
pub(super) struct Progress {
    /// Whether each partition, by its index, has something new to commit.
    is_open: Vec<bool>,
    noted_at: Option<Instant>,
}

impl Progress {
    /// The partition at `index` has something new to commit.
    pub(super) fn add(&mut self, index: usize) {
        if self.is_open.len() <= index {
            self.is_open.resize(index + 1, false);
        }
        self.is_open[index] = true;
    }
}

impl Worker {
    /// Outputs are safe, their offsets may be committed.
    pub(super) fn acknowledge(&mut self, tickets: Vec<Ticket>) {
        for ticket in tickets {
            match self.assignment.acknowledge(ticket) {
                Completion::Kept => {
                    self.status.counts.completed += 1;
                    self.progress.add(ticket.partition);
                }
                Completion::Stale => self.status.counts.stale += 1,
            }
        }
    }

    /// Commits what is new, unless a commit is under way.
    pub(super) fn commit_progress(&mut self) -> Result<(), WorkerError> {
        let SenderSettings::Plain(_) = self.settings.sender else { return Ok(()) };
        self.release();
        if self.rewind_at.is_some() || self.consumer.is_committing() {
            return Ok(());
        }
        let may_note = self.progress.noted_at.is_none_or(|at| at.elapsed() >= NOTED_EVERY);
        let mut commits = Vec::new();
        for index in 0..self.progress.is_open.len() {
            let is_noted = self.assignment.has_note(index);
            if self.progress.is_open[index] && (may_note || !is_noted) {
                self.progress.is_open[index] = false;
                commits.extend(self.commit_of(index));
                if is_noted {
                    self.progress.noted_at = Some(Instant::now());
                }
            }
        }
        if !commits.is_empty() {
            self.consumer.commit(&commits, CommitMode::Async)?;
        }
        Ok(())
    }

    /// A commit failed: everything is committed again.
    pub(super) fn commit_again(&mut self) {
        self.assignment.iter().for_each(|(index, _)| self.progress.add(index));
    }

    /// Makes sure that the last commits have arrived.
    pub(super) fn commit_now(&mut self, indices: &[usize]) {
        self.release();
        let commits: Vec<Commit> = indices.iter().filter_map(|index| self.commit_of(*index)).collect();
        if commits.is_empty() {
            return;
        }
        if let Err(error) = self.consumer.commit(&commits, CommitMode::Sync) {
            let group = self.settings.consumer.group.as_str();
            tracing::warn!(group, error = &error as &dyn std::error::Error, "some records will be repeated");
        }
    }

    /// Takes finished prefixes off the trackers. Nothing of them is left to send.
    fn release(&mut self) {
        if self.assignment.ready() > 0 {
            let released = self.assignment.take_prefixes(usize::MAX, &mut Vec::new());
            self.settle(&released);
            released.iter().for_each(|released| self.progress.add(released.index));
        }
    }

    /// The commit of a partition: how far all is done, and what is done beyond. `None` before anything was read.
    fn commit_of(&self, index: usize) -> Option<Commit> {
        let held = self.assignment.get(index);
        let next = held.tracker.as_ref()?.position()?;
        Some(self.consumer.commit_of(held.partition.clone(), next, self.assignment.note(index, next)))
    }
}
