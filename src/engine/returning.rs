//! How the worker reads the companions of its input partitions: records that come back to a pipeline.
//!
//! Companions are not subscribed to. They are assigned and given away together with their input partition, and their
//! offsets are committed in the same transactions. Before an input partition is worked on, what waits in its companions
//! is read, keys only, on a thread of its own; the group waits for it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::engine::assignment::Released;
use crate::engine::comeback;
use crate::engine::completed::Completed;
use crate::engine::park::{Arrival, Found, Park, Place, Way, Woken};
use crate::engine::sender::SenderSettings;
use crate::engine::settings::WorkerError;
use crate::engine::tasks::with_own_bytes;
use crate::engine::tracker::{Admission, Ticket};
use crate::engine::worker::Worker;
use crate::kafka::consumer::{ConsumerError, From};
use crate::kafka::offsets::Commit;
use crate::kafka::scan::{self, ScanError};
use crate::kafka::settings::{Connection, Start};
use crate::position::Partition;
use crate::record::InRecord;

/// How often the positions in companions are committed again. Kafka forgets those of topics that nobody subscribes to
/// after `offsets.retention.minutes`, 7 days by default.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// When they are first committed again after the start.
const REMEMBER_FIRST: Duration = Duration::from_secs(60);

/// What partitions are looked at for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// They are about to be taken.
    Assign,
    /// They are about to be read again.
    Rewind,
}

/// A partition to be worked on.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) partition: Partition,
    from: From,
    /// The text beside the committed offset.
    note: String,
    /// What waits in it.
    found: Found,
}

/// Why partitions cannot be taken yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeError {
    #[error("the committed offsets are not known")]
    Ask(#[from] ConsumerError),
    #[error("what waits in the retry topics is not known; `millrace apply` makes missing topics")]
    Scan(#[from] ScanError),
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
    #[error("the scan of the retry topics panicked")]
    Panicked,
}

/// A look at companions that is under way.
struct Scan {
    purpose: Purpose,
    found: Receiver<Result<Vec<Taken>, ScanError>>,
}

/// Looks that are under way, and when positions are committed again.
pub(super) struct Scans {
    under_way: Vec<Scan>,
    remember_at: Instant,
    remembers: bool,
}

impl Default for Scans {
    fn default() -> Self {
        Self { under_way: Vec::new(), remember_at: Instant::now() + REMEMBER_FIRST, remembers: false }
    }
}

impl Scans {
    /// What was begun for this purpose is not wanted any more.
    pub(super) fn forget(&mut self, purpose: Purpose) {
        self.under_way.retain(|scan| scan.purpose != purpose);
    }
}

impl Worker {
    // -------------------------------------------------------------------------------------------------------- taking

    /// Where input partitions and their companions go on, and what waits; `None` while that is looked for.
    pub(super) fn taken(
        &mut self,
        purpose: Purpose,
        inputs: &[Partition],
    ) -> Result<Option<Vec<Taken>>, TakeError> {
        if let Some(at) = self.scans.under_way.iter().position(|scan| scan.purpose == purpose) {
            let found = match self.scans.under_way[at].found.try_recv() {
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => Err(TakeError::Panicked),
                Ok(found) => found.map_err(TakeError::from),
            };
            self.scans.under_way.remove(at);
            return found.map(Some);
        }
        let take = |(partition, from, note)| Taken { partition, from, note, found: Found::default() };
        let mut taken: Vec<Taken> = self.consumer.resolve(inputs)?.into_iter().map(take).collect();
        // Nothing committed means that nothing was done yet, wherever the group begins with its inputs.
        let companions = self.consumer.resolve_from(&self.park.companions(inputs), Start::Earliest)?;
        if companions.is_empty() {
            return Ok(Some(taken));
        }
        let companions: Vec<Taken> = companions.into_iter().map(take).collect();
        let (tell, found) = sync_channel(1);
        let (connection, look) =
            (self.settings.consumer.connection.clone(), Look::new(&self.park, companions));
        std::thread::Builder::new().name("scan".to_owned()).spawn(move || {
            // Nobody listens any more when the partitions are not wanted.
            let _ = tell.send(look.run(&connection).map(|back| {
                taken.extend(back);
                taken
            }));
        })?;
        self.scans.under_way.push(Scan { purpose, found });
        Ok(None)
    }

    /// Begins with partitions in the present epoch. Their trackers know what an earlier owner left done behind a slow
    /// record.
    pub(super) fn begin_taken(&mut self, taken: Vec<Taken>) {
        for Taken { partition, .. } in &taken {
            if let Some(index) = self.assignment.index_of(partition) {
                self.park.end(index, partition);
            }
        }
        for Taken { partition, from, note, found } in taken {
            let next = match from {
                From::Offset(next) => Some(next),
                From::Oldest => None,
            };
            let completed = match next.map(|next| Completed::decode(next, &note)) {
                Some(Ok(completed)) => completed,
                Some(Err(error)) => {
                    let group = self.settings.consumer.group.as_str();
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(group, %partition, error, "the text beside the committed offset is ignored");
                    Completed::default()
                }
                None => Completed::default(),
            };
            self.assignment.begin(&partition, self.epoch, next, completed);
            self.park.begin(&partition, found);
        }
    }

    /// Input partitions that are held.
    pub(super) fn assigned_inputs(&self) -> Vec<Partition> {
        let mut assigned = self.assignment.assigned();
        assigned.retain(|partition| self.park.place(&partition.topic) == Place::Input);
        assigned
    }

    /// Input partitions and those of their companions that are held.
    pub(super) fn with_companions(&self, inputs: &[Partition]) -> Vec<Partition> {
        let is_held = |partition: &Partition| {
            let index = self.assignment.index_of(partition);
            index.is_some_and(|index| self.assignment.get(index).tracker.is_some())
        };
        let companions = self.park.companions(inputs).into_iter().filter(is_held);
        inputs.iter().cloned().chain(companions).collect()
    }

    // ------------------------------------------------------------------------------------------------------- records

    /// Whether a record comes back to a pipeline.
    pub(super) fn is_back(&self, record: &InRecord) -> bool {
        !self.park.is_empty() && self.park.place(&record.topic) != Place::Input
    }

    /// Takes a record of a companion when it is due; else its partition waits.
    pub(super) fn take_back(&mut self, record: InRecord, now: Instant, time: DateTime<Utc>) {
        let Some(index) = self.assignment.find(&record.topic, record.partition) else { return };
        let due_ms = comeback::due_ms(&record);
        let arrival = self.park.arrival(index, &record, due_ms, time.timestamp_millis());
        self.assignment.wait(index, self.park.is_waiting(index));
        if arrival == Arrival::Skipped {
            return;
        }
        let Some((ticket, admission)) = self.assignment.admission(&record, now) else { return };
        if admission != Admission::Repeated {
            self.park.read(&self.assignment.get(index).partition, record.offset, record.key.as_deref());
        }
        match (admission, arrival) {
            (Admission::Done | Admission::Repeated, _) => {}
            (Admission::Work, Arrival::Held) => self.park.hold(ticket, with_own_bytes(record), due_ms),
            (Admission::Work, Arrival::Due | Arrival::Skipped) => self.begin(ticket, record, time),
        }
    }

    /// Begins with what has become due, and reads on behind it.
    pub(super) fn wake(&mut self) -> Result<(), WorkerError> {
        if self.park.is_empty()
            || self.rewind_at.is_some()
            || self.stopping_until.is_some()
            || self.is_halted()
        {
            return Ok(());
        }
        self.remember();
        let time = Utc::now();
        let Woken { records, go_on, read_again } = self.park.wake(time.timestamp_millis());
        for (ticket, record) in records {
            self.begin(ticket, record, time);
        }
        go_on.into_iter().for_each(|index| self.assignment.wait(index, false));
        for (index, next) in read_again {
            let partition = self.assignment.get(index).partition.clone();
            if self.assignment.resumed(index) {
                self.consumer.resume(std::slice::from_ref(&partition))?;
            }
            if let Err(error) = self.consumer.seek(&[(partition, From::Offset(next))]) {
                let group = self.settings.consumer.group.as_str();
                tracing::warn!(group, error = &error as &dyn std::error::Error, "reading all again");
                self.tasks.cancel(|_| true);
                self.unsent.retain(|_| false);
                self.rewind_at = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// How a record is to be taken now.
    pub(super) fn way(&self, ticket: &Ticket, record: &InRecord) -> Way {
        let partition = &self.assignment.get(ticket.partition).partition;
        if self.park.keeps_any_order() || self.is_back(record) {
            self.park.way(partition, record.key.as_deref())
        } else {
            Way::OPEN
        }
    }

    /// What was released is committed.
    pub(super) fn settle(&mut self, released: &[Released]) {
        self.assignment.settle(released);
        for Released { index, epoch, next } in released {
            let held = self.assignment.get(*index);
            if held.tracker.as_ref().is_some_and(|tracker| tracker.epoch() == *epoch) {
                self.park.settled(&held.partition, *next);
            }
        }
    }

    /// Now and then makes companions part of the next hand-over, so that their positions are committed again.
    fn remember(&mut self) {
        if Instant::now() < self.scans.remember_at {
            return;
        }
        self.scans.remember_at = Instant::now() + REMEMBER_INTERVAL;
        match self.settings.sender {
            SenderSettings::Transactions(_) => self.scans.remembers = true,
            SenderSettings::Plain(_) => {
                let back = self.assignment.iter().filter(|(_, held)| self.is_companion(&held.partition));
                let back: Vec<usize> = back.map(|(index, _)| index).collect();
                back.into_iter().for_each(|index| self.progress.add(index));
            }
        }
    }

    fn is_companion(&self, partition: &Partition) -> bool {
        self.park.place(&partition.topic) != Place::Input
    }

    /// Whether positions are to be committed although nothing is done.
    pub(super) fn has_to_remember(&self) -> bool {
        self.scans.remembers
    }

    /// The positions in companions, when they are to be committed again; not of those in `released`.
    pub(super) fn remembered(&mut self, released: &[Released]) -> Vec<Commit> {
        if !std::mem::take(&mut self.scans.remembers) {
            return Vec::new();
        }
        let is_left_out = |index: usize| released.iter().any(|released| released.index == index);
        let held = self.assignment.iter();
        let held = held.filter(|(index, held)| self.is_companion(&held.partition) && !is_left_out(*index));
        held.filter_map(|(_, held)| {
            let next = held.tracker.as_ref()?.committed()?;
            Some(self.consumer.commit_of(held.partition.clone(), next, String::new()))
        })
        .collect()
    }
}

/// What is to be looked at in companions.
struct Look {
    companions: Vec<Taken>,
    /// Whether the keys of each count.
    counts: Vec<bool>,
    hasher: RandomState,
}

impl Look {
    fn new(park: &Park, companions: Vec<Taken>) -> Self {
        let counts = companions.iter().map(|taken| park.keeps_order(&taken.partition)).collect();
        Self { companions, counts, hasher: park.hasher() }
    }

    /// Blocks until everything is read.
    fn run(self, connection: &Connection) -> Result<Vec<Taken>, ScanError> {
        let Self { mut companions, counts, hasher } = self;
        let ends = scan::keys(connection, &places(&companions), &counts, |index, key| {
            if let Some(key) = key {
                companions[index].found.add(hasher.hash_one(key));
            }
        })?;
        for (taken, end) in companions.iter_mut().zip(ends) {
            taken.found.end = end.0;
        }
        Ok(companions)
    }
}

/// Partitions and where they go on.
pub(super) fn places(taken: &[Taken]) -> Vec<(Partition, From)> {
    taken.iter().map(|taken| (taken.partition.clone(), taken.from)).collect()
}
