//! How the worker follows its group, and how it goes back after a failed transaction.
//!
//! | the group says | the worker |
//! |---|---|
//! | assign | asks for the committed offsets, counts a new epoch, begins there |
//! | revoke | begins nothing new, lets work end and commits it within `revoke_drain`, gives the partitions away |
//! | lost | gives them away at once and commits nothing: they are somebody else's |
//!
//! Until it has followed, the group waits; the loop goes on meanwhile.

use std::time::{Duration, Instant};

use crate::engine::returning::{Purpose, TakeError, Taken, places};
use crate::engine::sender::SenderSettings;
use crate::engine::settings::WorkerError;
use crate::engine::worker::{Handed, Worker};
use crate::failpoint::{Rule, keeps};
use crate::kafka::consumer::{CommitMode, Intent};
use crate::kafka::offsets::Commit;
use crate::kafka::txn::TxnError;
use crate::position::Partition;

const RETRY_PAUSE: Duration = Duration::from_millis(300);
const ABORT_PAUSE_MAX: Duration = Duration::from_secs(5);

impl Worker {
    // ------------------------------------------------------------------------------------------------------ rewinding

    /// A transaction failed: forget all work, and read again from what is committed.
    pub(super) fn throw_away(&mut self, error: &TxnError) {
        let group = self.settings.consumer.group.as_str();
        tracing::warn!(group, error = error as &dyn std::error::Error, "transaction aborted; reading again");
        self.status.counts.aborted += 1;
        self.status.trouble = Some(error.to_string());
        if !keeps(Rule::RereadAfterAbort) {
            return;
        }
        self.tasks.cancel(|_| true);
        self.unsent.retain(|_| false);
        self.ready_since = None;
        // From 10 ms doubling to 5 s, each with up to half of it more, so that instances do not march in step.
        let pause = Duration::from_millis(10 << self.aborts_in_row.min(9)).min(ABORT_PAUSE_MAX);
        let pause = pause.mul_f64(1.0 + rand::random::<f64>() / 2.0);
        self.aborts_in_row += 1;
        self.rewind_at = Some(Instant::now() + pause);
        self.scans.forget(Purpose::Rewind);
    }

    pub(super) fn rewind_if_due(&mut self) {
        if self.rewind_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        match self.rewind() {
            Ok(true) => self.rewind_at = None,
            Ok(false) => {}
            Err(error) => {
                let group = self.settings.consumer.group.as_str();
                tracing::warn!(group, error = &error as &dyn std::error::Error, "cannot read again yet");
                self.rewind_at = Some(Instant::now() + RETRY_PAUSE);
            }
        }
    }

    /// Whether it is done; what waits is looked for first.
    fn rewind(&mut self) -> Result<bool, TakeError> {
        let inputs = self.assigned_inputs();
        let Some(taken) = self.taken(Purpose::Rewind, &inputs)? else { return Ok(false) };
        self.epoch = self.epoch.next();
        let is_held = |one: &Taken| {
            let index = self.assignment.index_of(&one.partition);
            index.is_some_and(|index| self.assignment.get(index).tracker.is_some())
        };
        let taken: Vec<Taken> = taken.into_iter().filter(is_held).collect();
        let paused = self.assignment.paused();
        if !paused.is_empty() {
            self.consumer.resume(&paused)?;
        }
        self.assignment.unpause();
        self.consumer.seek(&places(&taken))?;
        self.begin_taken(taken);
        // Partitions on their way out have nothing left to finish.
        for intent in &self.intents {
            if let Intent::Revoke(partitions) = intent {
                self.with_companions(partitions).iter().for_each(|partition| {
                    self.assignment.drain(partition);
                });
            }
        }
        Ok(true)
    }

    // ------------------------------------------------------------------------------------------------------ the group

    pub(super) fn follow_intents(&mut self) -> Result<(), WorkerError> {
        self.intents.extend(self.consumer.take_intents());
        while let Some(intent) = self.intents.pop_front() {
            let is_followed = match &intent {
                Intent::Assign(partitions) => self.assign(partitions)?,
                Intent::Revoke(partitions) => self.revoke(partitions)?,
                Intent::Lost(partitions) => self.give_away(partitions)?,
            };
            if !is_followed {
                self.intents.push_front(intent);
                return Ok(());
            }
            self.intent_at = None;
            self.status.is_joined = true;
            self.status.counts.rebalances += 1;
        }
        Ok(())
    }

    fn assign(&mut self, partitions: &[Partition]) -> Result<bool, WorkerError> {
        // What is read while everything is thrown away is thrown away too.
        if self.rewind_at.is_some() || self.intent_at.is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        let taken = self.taken(Purpose::Assign, partitions);
        let group = self.settings.consumer.group.as_str();
        let taken = match taken {
            Ok(Some(taken)) => taken,
            Ok(None) => return Ok(false),
            Err(error) => {
                tracing::warn!(group, error = &error as &dyn std::error::Error, "cannot take partitions yet");
                self.intent_at = Some(Instant::now() + RETRY_PAUSE);
                return Ok(false);
            }
        };
        let places = places(&taken);
        tracing::info!(group, partitions = ?places, "assigned");
        self.epoch = self.epoch.next();
        self.begin_taken(taken);
        self.consumer.assign(&places)?;
        Ok(true)
    }

    /// Lets work end and commits it, for a while; then gives the partitions away.
    fn revoke(&mut self, partitions: &[Partition]) -> Result<bool, WorkerError> {
        let all = self.with_companions(partitions);
        let indices: Vec<usize> = all.iter().filter_map(|one| self.assignment.drain(one)).collect();
        let is_meant = |index: usize| indices.contains(&index);
        let drain = self.settings.revoke_drain;
        let until = *self.intent_at.get_or_insert_with(|| Instant::now() + drain);
        self.tasks.discard(is_meant);
        let is_finished = self.tasks.running(is_meant) == 0 && !self.has_unsent(&indices);
        if !is_finished && Instant::now() < until && self.rewind_at.is_none() {
            return Ok(false);
        }
        tracing::info!(group = self.settings.consumer.group, ?partitions, is_finished, "revoked");
        if let SenderSettings::Plain(_) = self.settings.sender {
            self.commit_now(&indices);
        }
        if !keeps(Rule::RevokeCommitsFinished) {
            self.commit_read(&indices)?;
        }
        self.give_away(partitions)
    }

    fn has_unsent(&self, indices: &[usize]) -> bool {
        let is_plain_open = self.unsent.len() > 0 || matches!(self.handed, Some(Handed::Plain(_)));
        let is_open = |index: &usize| {
            let tracker = self.assignment.get(*index).tracker.as_ref();
            tracker.is_some_and(|tracker| tracker.ready() > 0 || tracker.is_releasing())
        };
        is_plain_open || indices.iter().any(is_open)
    }

    /// What a test commits in place of what is finished: all that was read.
    fn commit_read(&mut self, indices: &[usize]) -> Result<(), WorkerError> {
        let read = |index: &usize| {
            let held = self.assignment.get(*index);
            Some(Commit::at(held.partition.clone(), held.tracker.as_ref()?.read()?))
        };
        let commits: Vec<_> = indices.iter().filter_map(read).collect();
        if !commits.is_empty() {
            self.consumer.commit(&commits, CommitMode::Sync)?;
        }
        Ok(())
    }

    fn give_away(&mut self, partitions: &[Partition]) -> Result<bool, WorkerError> {
        let all = self.with_companions(partitions);
        let indices: Vec<usize> = all.iter().filter_map(|one| self.assignment.index_of(one)).collect();
        self.tasks.cancel(|index| indices.contains(&index));
        self.unsent.retain(|ticket| !indices.contains(&ticket.partition));
        let mut paused = Vec::new();
        for index in indices {
            self.park.end(index, &self.assignment.get(index).partition);
            if self.assignment.end(index) {
                paused.push(self.assignment.get(index).partition.clone());
            }
        }
        if !paused.is_empty() {
            // Librdkafka would remember the pause for the next time the partition comes.
            self.consumer.resume(&paused)?;
        }
        self.consumer.unassign(&all)?;
        Ok(true)
    }

    /// Answers what the group still waits for, before leaving it: it would wait for ever.
    pub(super) fn refuse_pending(&mut self) {
        for intent in std::mem::take(&mut self.intents) {
            let result = match &intent {
                Intent::Assign(_) => self.consumer.assign(&[]).map_err(WorkerError::from),
                Intent::Revoke(partitions) | Intent::Lost(partitions) => {
                    self.give_away(partitions).map(|_| ())
                }
            };
            if let Err(error) = result {
                let group = self.settings.consumer.group.as_str();
                tracing::warn!(group, error = &error as &dyn std::error::Error, "leaving the group");
            }
        }
    }
}
