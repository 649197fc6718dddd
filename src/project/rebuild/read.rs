//! Reads parts of the fact topic on a thread of its own, a bounded number of records ahead.

use tokio::sync::mpsc;

use crate::kafka::settings::Connection;
use crate::kafka::tail::{self, Tail, TailError};
use crate::position::{NextOffset, Partition};
use crate::project::rebuild::Parts;
use crate::record::InRecord;

/// How long a read waits before it looks whether somebody still wants the records.
const WAIT: std::time::Duration = std::time::Duration::from_millis(500);
/// Records of one batch; a transaction in Postgres takes so many.
const BATCH_RECORDS: usize = 20_000;
/// Batches that wait to be folded.
const BATCHES_MAX: usize = 2;

/// Records as they came; at the end the positions that were reached, for partitions that end in records that were
/// never committed.
#[derive(Debug)]
pub enum Batch {
    /// Records of all partitions, those of each in order.
    Records(Vec<InRecord>),
    /// Everything was read.
    Reached(Parts),
}

/// Why facts cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// Kafka failed.
    Kafka(TailError),
    /// Facts were deleted before they were read.
    Deleted {
        /// Partition.
        partition: i32,
        /// The next one to read.
        next: NextOffset,
    },
    /// The thread ended.
    Ended,
}

/// Facts being read.
#[derive(Debug)]
pub struct Facts {
    batches: mpsc::Receiver<Result<Batch, ReadError>>,
    is_done: bool,
}

impl Facts {
    /// Begins to read `parts` of `topic`.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn open(connection: &Connection, topic: &str, parts: Parts) -> Result<Self, ReadError> {
        let tail = Tail::between(connection, topic, &parts).map_err(ReadError::Kafka)?;
        let (sender, batches) = mpsc::channel(BATCHES_MAX);
        let (connection, topic) = (connection.clone(), topic.to_owned());
        // Ends when the receiver is dropped.
        std::thread::spawn(move || {
            let end = match read(tail, &parts, &sender) {
                Ok(()) => Ok(Batch::Reached(parts)),
                Err(error) => Err(judge(error, &connection, &topic, &parts)),
            };
            let _unheard = sender.blocking_send(end);
        });
        Ok(Self { batches, is_done: false })
    }

    /// The next batch; `None` after [`Batch::Reached`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn next(&mut self) -> Result<Option<Batch>, ReadError> {
        if self.is_done {
            return Ok(None);
        }
        let batch = self.batches.recv().await.ok_or(ReadError::Ended)??;
        self.is_done = matches!(batch, Batch::Reached(_));
        Ok(Some(batch))
    }
}

fn read(
    mut tail: Tail,
    parts: &Parts,
    sender: &mpsc::Sender<Result<Batch, ReadError>>,
) -> Result<(), TailError> {
    let mut records = Vec::with_capacity(BATCH_RECORDS);
    loop {
        let goes_on = tail.read(WAIT, &mut records)?;
        // The first record behind a part may come with it.
        records.retain(|record: &InRecord| {
            parts.get(&record.partition).is_some_and(|(_, to)| record.offset < to.0)
        });
        if sender.is_closed() {
            return Ok(());
        }
        if records.len() >= BATCH_RECORDS || (!goes_on && !records.is_empty()) {
            let full = std::mem::replace(&mut records, Vec::with_capacity(BATCH_RECORDS));
            let _unheard = sender.blocking_send(Ok(Batch::Records(full)));
        }
        if !goes_on {
            return Ok(());
        }
    }
}

/// Whether it failed because what was to be read is not kept any more.
fn judge(error: TailError, connection: &Connection, topic: &str, parts: &Parts) -> ReadError {
    let gone = parts.iter().find(|(number, (from, to))| {
        let range = tail::range(connection, &Partition::new(topic, **number));
        from < to && range.is_ok_and(|(oldest, _)| oldest > *from)
    });
    match gone {
        Some((partition, (next, _))) => ReadError::Deleted { partition: *partition, next: *next },
        None => ReadError::Kafka(error),
    }
}
