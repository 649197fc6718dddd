//! The task of one partition: takes batches, folds them, writes each in one transaction, tries again while Postgres
//! or the registry is away, and stops when the partition is not its own any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio_util::sync::CancellationToken;

use crate::failpoint::{self, Place, Rule, keeps};
use crate::fault::FaultClass;
use crate::kafka::reader::{Batch, Lane};
use crate::kafka::settings::Connection;
use crate::kafka::tail;
use crate::position::{NextOffset, Partition};
use crate::postgres::fault::SqlFault;
use crate::project::fold::{Fold, Target, Unlearned};
use crate::project::settings::{PartitionStatus, ProjectStatus};
use crate::project::store::{Outcome, Position, Rows, Store, Write};
use crate::record::InRecord;
use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;
use crate::telemetry::{self, logs, names};

/// The first pause after a failure; it doubles from there.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Why a lane ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It was told to, or its partition was given away.
    Stopped,
    /// Somebody else owns the partition now: a higher epoch.
    Fenced,
    /// The epoch is ours, the position is not: a database that was put back.
    Moved,
    /// KPIs are defined anew: the same position, other rows.
    Redefined,
    /// Records that were to be folded are not kept any more.
    Gone {
        /// The oldest record in Kafka.
        oldest: NextOffset,
    },
}

/// Records between the position and the first record of a batch that are not asked about: marks of transactions and
/// records of aborted ones leave gaps everywhere.
const GAP_MAX: i64 = 1_000;

/// How a batch stands to the position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It follows, or overlaps; what lies before the position is left out.
    Follows,
    /// So many offsets lie between: it must be asked whether there were records.
    Gap(i64),
}

/// Compares the first record of a batch with the position that Postgres holds, which the consumer knows nothing of.
pub fn admit(next: NextOffset, first_offset: i64) -> Admission {
    match first_offset.saturating_sub(next.0) {
        gap if gap > GAP_MAX => Admission::Gap(gap),
        _ => Admission::Follows,
    }
}

/// One partition's work.
pub struct PartitionLane {
    /// The partition.
    pub partition: Partition,
    /// What its records become.
    pub target: Arc<Target>,
    /// How values are read.
    pub codec: Arc<Codec>,
    /// Where rows go.
    pub store: Store,
    /// Where it stands.
    pub position: Position,
    /// How to ask Kafka what it keeps.
    pub connection: Connection,
    /// Most records of one transaction.
    pub batch_records_max: usize,
    /// Longest pause between two tries.
    pub retry_max: Duration,
    /// Where progress is shown.
    pub status: ProjectStatus,
    /// Ends the work between two transactions.
    pub stop: CancellationToken,
}

/// Ends a loop from within.
type Flow<T> = Result<T, Ended>;

impl PartitionLane {
    /// Works until the lane or the partition's ownership ends.
    pub async fn run(mut self, mut lane: Lane) -> Ended {
        let mut unknown = HashSet::new();
        loop {
            let batch = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ended::Stopped,
                batch = lane.batches.recv() => batch,
            };
            let Some(first) = batch else { return Ended::Stopped };
            let Batch { records, bytes } = self.gather(first, &mut lane);
            if let Err(ended) = self.take(&records, &mut unknown).await {
                return ended;
            }
            lane.release(bytes);
        }
    }

    /// As much as is there: the slower Postgres, the larger the transactions.
    fn gather(&self, mut batch: Batch, lane: &mut Lane) -> Batch {
        while batch.records.len() < self.batch_records_max {
            let Ok(more) = lane.batches.try_recv() else { break };
            batch.records.extend(more.records);
            batch.bytes += more.bytes;
        }
        batch
    }

    async fn take(&mut self, records: &[InRecord], unknown: &mut HashSet<u32>) -> Flow<()> {
        let first = records.first().map_or(self.position.next.0, |record| record.offset);
        if let Admission::Gap(gap) = admit(self.position.next, first) {
            self.ask(gap).await?;
        }
        self.fold(records, unknown).await
    }

    /// Whether the records of a gap have been deleted, by retention or by somebody.
    async fn ask(&self, gap: i64) -> Flow<()> {
        let mut pause = RETRY_FIRST;
        loop {
            let (connection, partition) = (self.connection.clone(), self.partition.clone());
            let asked = tokio::task::spawn_blocking(move || tail::range(&connection, &partition)).await;
            match asked {
                Ok(Ok((oldest, _))) if oldest > self.position.next => return Err(Ended::Gone { oldest }),
                Ok(Ok(_)) => {
                    tracing::info!(partition = %self.partition, gap, "no committed records here");
                    return Ok(());
                }
                Ok(Err(error)) => self.pause(&mut pause, &logs::chain(&error)).await?,
                Err(panicked) => self.pause(&mut pause, &logs::chain(&panicked)).await?,
            }
        }
    }

    /// Folds and writes records. When Postgres refuses a row, the batch is halved until the record is found, so that
    /// one row cannot hold up a partition.
    async fn fold(&mut self, records: &[InRecord], unknown: &mut HashSet<u32>) -> Flow<()> {
        let mut open = vec![records];
        while let Some(records) = open.pop() {
            let target = Arc::clone(&self.target);
            let codec = Arc::clone(&self.codec);
            let write = loop {
                let fold = Fold { target: &target, codec: &codec, unknown, now: Utc::now() };
                match fold.records(self.position, records) {
                    Ok(write) => break write,
                    Err(Unlearned(id)) => self.learn(id, unknown).await?,
                }
            };
            if write.to == self.position.next {
                continue;
            }
            let Err(refusal) = self.write(&write).await? else { continue };
            if let [only] = records {
                let fold = Fold { target: &target, codec: &codec, unknown, now: Utc::now() };
                let refused =
                    fold.refused(self.position, std::array::from_ref(only), refusal.message.clone());
                if let Err(fault) = self.write(&refused).await? {
                    // A reject is plain text and bytes; if even that is refused, the database is not ours to judge.
                    self.pause(&mut RETRY_FIRST.clone(), &logs::chain(&fault)).await?;
                    open.push(records);
                }
            } else {
                let (left, right) = records.split_at(records.len() / 2);
                open.extend([right, left]);
            }
        }
        Ok(())
    }

    async fn learn(&self, id: u32, unknown: &mut HashSet<u32>) -> Flow<()> {
        let mut pause = RETRY_FIRST;
        loop {
            match self.codec.learn(id).await {
                Ok(()) => return Ok(()),
                Err(error @ SchemaError::Unavailable { .. }) => {
                    self.pause(&mut pause, &logs::chain(&error)).await?
                }
                Err(error) => {
                    tracing::warn!(partition = %self.partition, id, error = logs::chain(&error), "records are rejected");
                    unknown.insert(id);
                    return Ok(());
                }
            }
        }
    }

    /// Writes until it is known to be written; the inner error says that the data are at fault.
    async fn write(&mut self, write: &Write<'_>) -> Flow<Result<(), SqlFault>> {
        let mut pause = RETRY_FIRST;
        if let Rows::Kpis(_) = write.rows {
            failpoint::freeze(Place::BeforeFacts);
        }
        loop {
            match self.store.write(&self.partition, self.position, write).await {
                Ok(Outcome::Done) => {
                    self.done(write);
                    return Ok(Ok(()));
                }
                // The same question as after an error: whose is the partition, and where does it stand?
                Ok(Outcome::Moved) => {}
                Err(fault) if fault.is_data() => return Ok(Err(fault)),
                Err(_) if !keeps(Rule::WritesUntilDone) => {
                    self.done(write);
                    return Ok(Ok(()));
                }
                Err(fault) => {
                    if fault.class == FaultClass::Permanent {
                        tracing::error!(partition = %self.partition, error = logs::chain(&fault), "Postgres refuses; check tables and rights with `millrace doctor`");
                    }
                    telemetry::count(names::PROJECTOR_TRANSACTIONS, &["failed"], 1);
                    self.pause(&mut pause, &logs::chain(&fault)).await?;
                }
            }
            if self.settle(write, &mut pause).await? {
                self.done(write);
                return Ok(Ok(()));
            }
        }
    }

    /// After a transaction whose end is unknown: true when it was committed, false when it was not.
    async fn settle(&self, write: &Write<'_>, pause: &mut Duration) -> Flow<bool> {
        if !keeps(Rule::PositionCas) {
            return Ok(false);
        }
        loop {
            match self.store.position(&self.partition).await {
                Ok(Some(found)) if found.epoch == self.position.epoch => {
                    return match found.next {
                        next if next == write.to => Ok(true),
                        next if next != self.position.next => Err(Ended::Moved),
                        _ if self.is_redefined(found) => Err(Ended::Redefined),
                        _ => Ok(false),
                    };
                }
                Ok(Some(found)) if found.epoch > self.position.epoch => return Err(Ended::Fenced),
                Ok(_) => return Err(Ended::Moved),
                Err(fault) => self.pause(pause, &logs::chain(&fault)).await?,
            }
        }
    }

    fn is_redefined(&self, found: Position) -> bool {
        matches!(*self.target, Target::Facts(_)) && found.definitions != self.position.definitions
    }

    fn done(&mut self, write: &Write<'_>) {
        let Write { to, rows, rejects, records } = write;
        self.position.next = *to;
        let topic = &*self.partition.topic;
        if let Rows::Kpis(folded) = rows {
            self.position.time_max = folded.time_max;
            for refused in &folded.refused {
                telemetry::count(names::PROJECTOR_REJECTED, &[topic, refused.refusal.name()], 1);
            }
        }
        for reject in rejects {
            telemetry::count(names::PROJECTOR_REJECTED, &[topic, reject.reason], 1);
        }
        telemetry::count(names::PROJECTOR_RECORDS, &[topic], records.len() as u64);
        telemetry::count(names::PROJECTOR_TRANSACTIONS, &["committed"], 1);
        show(&self.status, &self.partition, *to);
    }

    /// Waits, longer each time, up to the longest pause; a quarter is chance, so that partitions do not come back all
    /// at once.
    async fn pause(&self, pause: &mut Duration, why: &str) -> Flow<()> {
        tracing::warn!(partition = %self.partition, why, "the projector waits");
        let wait = pause.mul_f64(rand::random_range(0.75..1.0));
        *pause = (*pause * 2).min(self.retry_max);
        tokio::select! {
            () = self.stop.cancelled() => Err(Ended::Stopped),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}

/// Shows a partition's position.
pub fn show(status: &ProjectStatus, partition: &Partition, next: NextOffset) {
    status.change(|partitions| {
        let entry = partitions.entry(partition.clone()).or_insert(PartitionStatus { next, end: None });
        entry.next = next;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_held_against_the_position() {
        let check = |first, wanted| assert_eq!(admit(NextOffset(5_000), first), wanted, "{first}");
        check(0, Admission::Follows);
        check(5_000, Admission::Follows);
        check(5_000 + GAP_MAX, Admission::Follows);
        check(5_001 + GAP_MAX, Admission::Gap(GAP_MAX + 1));
    }
}
