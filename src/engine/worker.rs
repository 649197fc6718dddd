//! The loop of one consumer group: read, work, hand over what is done, follow the group. The file to read first.
//!
//! One thread of the operating system owns all of it: consumer, trackers, lanes. It never waits for anything but new
//! records, so the group is served whatever pipelines, destinations and brokers do:
//! - Pipelines that only compute run to completion here, record by record; a channel would cost more than they do.
//!   Others run on tokio, in order per key ([`crate::engine::lanes`]), and report back.
//! - The transaction runs on the sender's thread ([`crate::engine::sender`]), one at a time. Whenever that thread is
//!   idle and the poll came back short, it is given all that is ready, so an idle group commits at once and a busy one
//!   in growing batches. Handing over whole batches costs about a fifth more than sending from here (`benches/`,
//!   0.3 CPU-seconds per million); it is paid because every transactional call blocks, some without an end.
//!
//! What is promised, and by what:
//! - *Nothing lost*: only the contiguous finished prefix of a partition is handed over ([`crate::engine::tracker`]).
//! - *Nothing doubled* (`exactly_once`): outputs and offsets are one transaction, carrying the group membership from
//!   before its begin; a member that has lost a partition cannot commit for it.
//! - After a failed transaction nothing in memory is trusted: all work is thrown away, and every partition is read
//!   again from what the broker says is committed.
//! - *Never a stall*: limits pause partitions and resume them; waiting for the sender is bounded; a sender that does
//!   not come back, or work that vanishes, ends the worker with an error instead of silence.
//!
//! `at_least_once` sends outputs as records finish, and commits offsets after the acknowledgements.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::engine::assignment::{Assignment, Released};
use crate::engine::at_least_once::{Progress, Unsent};
use crate::engine::budget::Share;
use crate::engine::pace::Pace;
use crate::engine::park::{Park, Way};
use crate::engine::returning::Scans;
use crate::engine::sender::{Order, Outcome, Sender, SenderSettings};
use crate::engine::settings::{Process, Processing, Stop, WorkerError, WorkerSettings};
use crate::engine::status::{self, GroupStatus};
use crate::engine::tasks::Tasks;
use crate::engine::tracker::{Completion, Ticket};
use crate::failpoint::{Rule, keeps};
use crate::kafka::consumer::{CommitMode, GroupConsumer, Intent};
use crate::kafka::offsets::Commit;
use crate::kafka::txn::Batch;
use crate::position::Epoch;
use crate::record::{InRecord, OutRecord};
use crate::telemetry::{self, Histogram, names};

/// Records of one poll.
const POLL_RECORDS_MAX: usize = 1000;
/// Wait for new records while other things go on, whose end is looked for in between. The sender's ends the wait.
const BUSY_WAIT: Duration = Duration::from_millis(1);
/// Wait for new records while nothing goes on.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// The sender is waited for so long, without polling, when enough is ready for several transactions.
const BACKLOG_WAIT: Duration = Duration::from_millis(500);
/// A transaction holds at most so many times [`WorkerSettings::batch_records`].
const BACKLOG_BATCHES: usize = 4;
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// A worker that runs.
pub struct Running {
    /// How it is doing.
    pub status: watch::Receiver<GroupStatus>,
    ended: oneshot::Receiver<Result<(), WorkerError>>,
}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// When it ended by itself.
    pub async fn ended(self) -> Result<(), WorkerError> {
        self.ended.await.unwrap_or(Err(WorkerError::Panicked))
    }
}

/// Starts a worker on threads of its own; waiting work runs on `runtime`.
///
/// # Errors
/// When the system gives no thread. Everything else shows in [`Running::ended`].
pub fn spawn(
    settings: WorkerSettings,
    process: Process,
    runtime: Handle,
    stop: Stop,
) -> Result<Running, WorkerError> {
    let (status, watcher) = watch::channel(GroupStatus::new(&settings.consumer.group));
    let (tell, ended) = oneshot::channel();
    let name = format!("poll {}", settings.consumer.group);
    std::thread::Builder::new().name(name).spawn(move || {
        let _runtime = runtime.enter();
        let result =
            Worker::start(settings, process, runtime.clone(), stop, status).and_then(|worker| worker.run());
        // Nobody waits any more when the process is ending.
        let _ = tell.send(result);
    })?;
    Ok(Running { status: watcher, ended })
}

/// What the sender has in hand.
pub(super) enum Handed {
    Transaction(Vec<Released>),
    Plain(Vec<Ticket>),
}

pub(super) struct Worker {
    pub(super) settings: WorkerSettings,
    pub(super) process: Process,
    pub(super) stop: Stop,
    pub(super) consumer: GroupConsumer,
    /// Empty between two polls; keeps its room.
    inbox: Vec<InRecord>,
    pub(super) sender: Sender,
    pace: Pace,
    pub(super) tasks: Tasks,
    pub(super) assignment: Assignment,
    pub(super) share: Share,
    pub(super) park: Park,
    /// What waits in partitions that are about to be taken, or read again.
    pub(super) scans: Scans,
    pub(super) epoch: Epoch,
    pub(super) handed: Option<Handed>,
    /// At least once: what is done and not yet acknowledged.
    pub(super) unsent: Unsent,
    /// At least once: what is to be committed.
    pub(super) progress: Progress,
    pub(super) ready_since: Option<Instant>,
    pub(super) was_short: bool,
    pub(super) intents: VecDeque<Intent>,
    /// Until when the partitions of the first intent may finish; or when to try again to follow it.
    pub(super) intent_at: Option<Instant>,
    /// When to read everything again from the committed offsets; nothing is worked on until then.
    pub(super) rewind_at: Option<Instant>,
    pub(super) aborts_in_row: u32,
    pub(super) stopping_until: Option<Instant>,
    pub(super) status: GroupStatus,
    pub(super) reported_at: Instant,
    pub(super) report_to: watch::Sender<GroupStatus>,
    pub(super) durations: Histogram,
}

impl Worker {
    fn start(
        settings: WorkerSettings,
        process: Process,
        runtime: Handle,
        stop: Stop,
        report_to: watch::Sender<GroupStatus>,
    ) -> Result<Self, WorkerError> {
        let group = settings.consumer.group.clone();
        let consumer = GroupConsumer::join(&settings.consumer)?;
        let (beacon, waker) = (settings.beacon.clone(), consumer.waker());
        let sender = Sender::spawn(&group, settings.sender.clone(), beacon, waker)?;
        let tasks = Tasks::new(settings.ordering, settings.running_max, runtime);
        let order_max = settings.batch_records * BACKLOG_BATCHES;
        Ok(Self {
            process,
            stop,
            consumer,
            inbox: Vec::new(),
            sender,
            pace: Pace::new(order_max, settings.sender.delivery_timeout()),
            tasks,
            assignment: Assignment::default(),
            share: settings.budget.join(),
            park: Park::new(settings.lines.clone(), settings.limits.group_bytes_max / 4),
            scans: Scans::default(),
            epoch: Epoch::default(),
            handed: None,
            unsent: Unsent::default(),
            progress: Progress::default(),
            ready_since: None,
            was_short: true,
            intents: VecDeque::new(),
            intent_at: None,
            rewind_at: None,
            aborts_in_row: 0,
            stopping_until: None,
            status: GroupStatus::new(&group),
            reported_at: Instant::now(),
            report_to,
            durations: telemetry::histogram(names::TRANSACTION_DURATION, &[&group]),
            settings,
        })
    }

    fn run(mut self) -> Result<(), WorkerError> {
        let result = self.turn_until_end();
        self.tasks.cancel(|_| true);
        self.report();
        self.refuse_pending();
        // Leaving the group follows rebalances inside the callback, as nobody else will.
        self.consumer.begin_close();
        let Self { consumer, sender, .. } = self;
        drop(consumer);
        sender.stop(Duration::from_secs(2));
        result
    }

    fn turn_until_end(&mut self) -> Result<(), WorkerError> {
        loop {
            self.take_outcome()?;
            self.take_finished()?;
            self.follow_intents()?;
            self.rewind_if_due();
            self.halt_if_told();
            self.wake()?;
            self.begin_waiting_work();
            self.hand_over()?;
            self.commit_progress()?;
            if self.stop.now.is_cancelled() || self.is_stopped()? {
                return Ok(());
            }
            self.keep_limits()?;
            self.watch()?;
            self.read()?;
        }
    }

    // ------------------------------------------------------------------------------------------- reading and working

    fn read(&mut self) -> Result<(), WorkerError> {
        if self.has_backlog() && !self.sender.is_busy_for(BACKLOG_WAIT) {
            // `take_outcome` waits for the sender instead.
            return Ok(());
        }
        let is_quiet = self.tasks.is_idle() && !self.sender.is_busy() && self.ready() == 0;
        let is_quiet = is_quiet && self.intents.is_empty() && self.rewind_at.is_none();
        let wait = if is_quiet { IDLE_WAIT } else { BUSY_WAIT };
        let mut records = std::mem::take(&mut self.inbox);
        self.was_short = self.consumer.poll(POLL_RECORDS_MAX, wait, &mut records)?;
        if self.rewind_at.is_some() || self.stopping_until.is_some() || self.is_halted() {
            return Ok(());
        }
        let (now, time) = (Instant::now(), Utc::now());
        self.status.counts.records += records.len() as u64;
        // Most records are of the topic of the one before.
        let mut last: Option<(Arc<str>, bool)> = None;
        for record in records.drain(..) {
            let is_back = match &last {
                Some((topic, is_back)) if Arc::ptr_eq(topic, &record.topic) => *is_back,
                _ => {
                    let is_back = self.is_back(&record);
                    last = Some((Arc::clone(&record.topic), is_back));
                    is_back
                }
            };
            if is_back {
                self.take_back(record, now, time);
            } else if let Some(ticket) = self.assignment.admit(&record, now) {
                if self.settings.is_cpu_only && !self.park.keeps_any_order() {
                    self.work(ticket, record, Way::OPEN, time);
                } else {
                    self.begin(ticket, record, time);
                }
            }
        }
        self.inbox = records;
        Ok(())
    }

    /// A record's turn among those of its partition has come.
    pub(super) fn begin(&mut self, ticket: Ticket, record: InRecord, time: DateTime<Utc>) {
        if !self.settings.is_cpu_only {
            self.tasks.push(ticket, record);
            return;
        }
        let way = self.way(&ticket, &record);
        self.work(ticket, record, way, time);
    }

    /// Works on a record of a group that does not wait.
    fn work(&mut self, ticket: Ticket, record: InRecord, way: Way, time: DateTime<Utc>) {
        match (self.process)(record, way, time) {
            Processing::Done(outputs) => self.complete(ticket, outputs),
            Processing::Pending(work) => self.tasks.run_unordered(ticket, work),
        }
    }

    fn begin_waiting_work(&mut self) {
        if self.rewind_at.is_some() {
            return;
        }
        let time = Utc::now();
        while let Some((lane, ticket, record)) = self.tasks.start() {
            // Not before: what an earlier record of its key came to decides.
            let way = self.way(&ticket, &record);
            match (self.process)(record, way, time) {
                Processing::Done(outputs) => {
                    self.tasks.skip(lane);
                    self.complete(ticket, outputs);
                }
                Processing::Pending(work) => self.tasks.run(lane, ticket, work),
            }
        }
    }

    fn take_finished(&mut self) -> Result<(), WorkerError> {
        while let Some((ticket, outputs)) = self.tasks.finished()? {
            self.complete(ticket, outputs);
        }
        Ok(())
    }

    fn complete(&mut self, ticket: Ticket, outputs: Vec<OutRecord>) {
        if self.assignment.is_current(&ticket) {
            self.park.sent(&outputs);
        }
        match self.settings.sender {
            SenderSettings::Transactions(..) => match self.assignment.complete(ticket, outputs) {
                Completion::Kept => self.status.counts.completed += 1,
                Completion::Stale => self.status.counts.stale += 1,
            },
            SenderSettings::Plain(_) => self.unsent.push(ticket, outputs),
        }
    }

    // ------------------------------------------------------------------------------------------------------- sending

    /// Records that are done and not handed over.
    fn ready(&self) -> usize {
        match self.settings.sender {
            SenderSettings::Transactions(..) => self.assignment.ready(),
            SenderSettings::Plain(_) => self.unsent.len(),
        }
    }

    /// Whether so much waits for the sender that nothing more is read until it is free. Pausing would throw away what
    /// is fetched already.
    fn has_backlog(&self) -> bool {
        if !self.sender.is_busy() {
            return false;
        }
        let ready = self.ready();
        ready >= self.settings.batch_records * BACKLOG_BATCHES
            || (ready > 0 && self.held_bytes() >= self.settings.limits.group_bytes_max / 4)
    }

    fn hand_over(&mut self) -> Result<(), WorkerError> {
        let ready = self.ready();
        let is_idle = ready == 0 && !self.has_to_remember();
        if is_idle || self.sender.is_busy() || self.rewind_at.is_some() || self.is_halted() {
            return Ok(());
        }
        let since = *self.ready_since.get_or_insert_with(Instant::now);
        let WorkerSettings { batch_records, batch_interval, .. } = self.settings;
        let is_leaving = !self.intents.is_empty() || self.stopping_until.is_some();
        let is_due = self.was_short || is_leaving || ready >= batch_records;
        if !is_due && since.elapsed() < batch_interval {
            return Ok(());
        }
        let count = self.pace.begin(ready);
        let order = match self.settings.sender {
            SenderSettings::Transactions(..) => {
                // Taken before the transaction begins. Without one the group is about to tell us more.
                let Some(membership) = self.consumer.membership() else { return Ok(()) };
                let mut records = Vec::with_capacity(count);
                let released = self.assignment.take_prefixes(count, &mut records);
                let mut offsets = self.offsets(&released);
                offsets.extend(self.remembered(&released));
                if !keeps(Rule::OffsetsInTransaction) {
                    self.consumer.commit(&std::mem::take(&mut offsets), CommitMode::Async)?;
                }
                self.handed = Some(Handed::Transaction(released));
                Order::Transaction(Batch { records: Arc::new(records), offsets, membership })
            }
            SenderSettings::Plain(_) => {
                let (tickets, records) = self.unsent.hand_over(count);
                self.handed = Some(Handed::Plain(tickets));
                Order::Plain(Arc::new(records))
            }
        };
        self.ready_since = None;
        self.sender.hand_over(order);
        Ok(())
    }

    fn offsets(&self, released: &[Released]) -> Vec<Commit> {
        let commit = |Released { index, epoch: _, next }: &Released| {
            let partition = self.assignment.get(*index).partition.clone();
            self.consumer.commit_of(partition, *next, self.assignment.note(*index, *next))
        };
        released.iter().map(commit).collect()
    }

    fn take_outcome(&mut self) -> Result<(), WorkerError> {
        let wait = if self.has_backlog() && !self.sender.is_busy_for(BACKLOG_WAIT) {
            BACKLOG_WAIT
        } else {
            Duration::ZERO
        };
        let busy_since = self.sender.busy_since();
        let Some(outcome) = self.sender.outcome(wait)? else { return Ok(()) };
        let handed = self.handed.take();
        if let (Some(since), Some(_)) = (busy_since, &handed) {
            self.pace.end(matches!(outcome, Outcome::Sent { .. }), since.elapsed());
        }
        self.unsent.settle();
        match outcome {
            Outcome::Ready => Ok(()),
            Outcome::Sent { took, replaced } => {
                self.durations.record(took);
                self.status.counts.replaced = replaced;
                self.status.counts.committed += 1;
                self.status.trouble = None;
                self.aborts_in_row = 0;
                match handed {
                    Some(Handed::Transaction(released)) => self.settle(&released),
                    Some(Handed::Plain(tickets)) => self.acknowledge(tickets),
                    // A rewind has thrown it away meanwhile.
                    None => {}
                }
                Ok(())
            }
            Outcome::Failed(error) => {
                self.throw_away(&error);
                Ok(())
            }
            Outcome::Broken(source) => {
                Err(WorkerError::Transaction { group: self.settings.consumer.group.clone(), source })
            }
        }
    }

    // ---------------------------------------------------------------------------------------------- limits and the end

    fn keep_limits(&mut self) -> Result<(), WorkerError> {
        if !keeps(Rule::Limits) {
            return Ok(());
        }
        let is_over = self.share.hold(self.held_bytes());
        let is_held = is_over
            || self.stopping_until.is_some()
            || self.is_halted()
            || (self.has_backlog() && self.sender.is_busy_for(BACKLOG_WAIT));
        let pauses = self.assignment.pauses(&self.settings.limits, is_held);
        if !pauses.pause.is_empty() {
            self.consumer.pause(&pauses.pause)?;
        }
        if !pauses.resume.is_empty() {
            self.consumer.resume(&pauses.resume)?;
        }
        Ok(())
    }

    /// Memory of records in flight and of what they led to.
    fn held_bytes(&self) -> usize {
        self.assignment.bytes() + self.unsent.bytes()
    }

    /// Whether the stop was asked for and everything begun is done, or its time is over.
    fn is_stopped(&mut self) -> Result<bool, WorkerError> {
        if !self.stop.drain.is_cancelled() {
            return Ok(false);
        }
        let drain = self.settings.stop_drain;
        let until = *self.stopping_until.get_or_insert_with(|| Instant::now() + drain);
        self.tasks.discard(|_| true);
        let is_done = self.tasks.is_idle() && self.ready() == 0 && self.handed.is_none();
        if !is_done && self.rewind_at.is_none() && Instant::now() < until {
            return Ok(false);
        }
        if let SenderSettings::Plain(_) = self.settings.sender {
            let all: Vec<usize> = self.assignment.iter().map(|(index, _)| index).collect();
            self.commit_now(&all);
        }
        tracing::info!(group = self.settings.consumer.group, is_done, "stopped");
        Ok(true)
    }

    fn watch(&mut self) -> Result<(), WorkerError> {
        if let Some(error) = self.consumer.take_commit_failure() {
            self.commit_again();
            tracing::warn!(group = self.settings.consumer.group, %error, "offset commit failed");
        }
        if self.reported_at.elapsed() < STATUS_INTERVAL {
            return Ok(());
        }
        self.report();
        let Some((call, since)) = self.settings.beacon.current() else { return Ok(()) };
        let waited = since.elapsed();
        if waited < self.settings.stuck_after {
            return Ok(());
        }
        Err(WorkerError::Stuck { group: self.settings.consumer.group.clone(), call, waited })
    }

    fn report(&mut self) {
        self.reported_at = Instant::now();
        self.status.polled_at = self.reported_at;
        self.status.held_bytes = self.held_bytes();
        self.status.sending_for = self.sender.busy_since().map(|since| since.elapsed());
        self.status.partitions = status::partitions(&self.assignment, &self.tasks, &self.consumer);
        let before = self.report_to.send_replace(self.status.clone());
        status::report(&before, &self.status);
    }
}
