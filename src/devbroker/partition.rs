//! One partition: batches in memory, its producers' sequences, its open and aborted transactions.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::Notify;

use super::batch::{self, Header};
use super::wire::ResponseError;

/// Batches of a producer whose repetition is known as such; as many as an idempotent producer has in flight.
const BATCHES_REMEMBERED: usize = 5;
/// Idempotent producers that are remembered; beyond, those that wrote longest ago are forgotten.
const PRODUCERS_MAX: usize = 10_000;

struct Stored {
    base: i64,
    /// Offset after its last record.
    next: i64,
    max_time: i64,
    bytes: Bytes,
}

struct Producer {
    epoch: i16,
    /// (first sequence, last sequence, base offset), oldest first.
    recent: VecDeque<(i32, i32, i64)>,
    /// End of the log when it last wrote.
    wrote: i64,
}

/// A transaction that readers of committed records must skip.
struct Aborted {
    producer: i64,
    first: i64,
    /// Its marker.
    last: i64,
}

/// What a fetch finds in a partition.
#[derive(Default)]
pub(super) struct Found {
    pub batches: Vec<Bytes>,
    pub bytes: usize,
    /// Producer and first offset of the transactions in it that were aborted.
    pub aborted: Vec<(i64, i64)>,
}

#[derive(Default)]
pub(super) struct Partition {
    batches: VecDeque<Stored>,
    start: i64,
    end: i64,
    bytes: usize,
    producers: HashMap<i64, Producer>,
    /// First offset of each open transaction, by producer.
    open: BTreeMap<i64, i64>,
    aborted: Vec<Aborted>,
    /// Fetches that wait for more.
    waiting: Vec<Weak<Notify>>,
}

impl Partition {
    /// Oldest offset that is kept.
    pub(super) fn start(&self) -> i64 {
        self.start
    }

    /// Offset of the next record.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// Before this offset every transaction has ended.
    pub(super) fn stable_end(&self) -> i64 {
        self.open.values().min().copied().unwrap_or(self.end)
    }

    /// Appends a checked batch and gives its base offset: that of the first time when the producer repeats it.
    pub(super) fn append(&mut self, header: &Header, bytes: &[u8]) -> Result<i64, ResponseError> {
        if header.producer >= 0 {
            if let Some(base) = self.check_sequence(header)? {
                return Ok(base);
            }
            self.remember(header);
        }
        let base = self.end;
        if header.is_transactional {
            self.open.entry(header.producer).or_insert(base);
        }
        let next = base + i64::from(header.last_delta) + 1;
        self.push(Stored { base, next, max_time: header.max_time, bytes: batch::placed(bytes, base) });
        Ok(base)
    }

    fn push(&mut self, stored: Stored) {
        self.end = stored.next;
        self.bytes += stored.bytes.len();
        self.batches.push_back(stored);
        for waiting in self.waiting.drain(..) {
            if let Some(waiting) = waiting.upgrade() {
                waiting.notify_one();
            }
        }
    }

    /// The base offset when the batch is a repetition; an error when it is not the next.
    fn check_sequence(&self, header: &Header) -> Result<Option<i64>, ResponseError> {
        // A producer that is not known may begin anywhere: its records may have been deleted.
        let Some(producer) = self.producers.get(&header.producer) else { return Ok(None) };
        let out_of_order = ResponseError::OutOfOrderSequenceNumber;
        if header.epoch < producer.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        if header.epoch > producer.epoch {
            return if header.sequence == 0 { Ok(None) } else { Err(out_of_order) };
        }
        let last = advance(header.sequence, header.last_delta);
        let same = |&&(first, end, _): &&(i32, i32, i64)| (first, end) == (header.sequence, last);
        if let Some(&(_, _, base)) = producer.recent.iter().find(same) {
            return Ok(Some(base));
        }
        let expected = producer.recent.back().map_or(0, |&(_, last, _)| advance(last, 1));
        if header.sequence == expected { Ok(None) } else { Err(out_of_order) }
    }

    fn remember(&mut self, header: &Header) {
        let base = self.end;
        let producer = self.producer(header.producer, header.epoch);
        producer.recent.push_back((header.sequence, advance(header.sequence, header.last_delta), base));
        if producer.recent.len() > BATCHES_REMEMBERED {
            producer.recent.pop_front();
        }
        if self.producers.len() > PRODUCERS_MAX {
            let mut ages: Vec<i64> = self.producers.values().map(|producer| producer.wrote).collect();
            let middle = *ages.select_nth_unstable(PRODUCERS_MAX / 2).1;
            let open = &self.open;
            self.producers.retain(|id, producer| producer.wrote > middle || open.contains_key(id));
        }
    }

    fn producer(&mut self, id: i64, epoch: i16) -> &mut Producer {
        let new = || Producer { epoch, recent: VecDeque::new(), wrote: 0 };
        let producer = self.producers.entry(id).or_insert_with(new);
        if producer.epoch != epoch {
            producer.recent.clear();
        }
        (producer.epoch, producer.wrote) = (epoch, self.end);
        producer
    }

    /// Writes the marker that ends a producer's transaction here. From then on only `epoch` and later may write.
    pub(super) fn end_transaction(&mut self, producer: i64, epoch: i16, commit: bool, millis: i64) {
        let base = self.end;
        if let Some(first) = self.open.remove(&producer)
            && !commit
        {
            self.aborted.push(Aborted { producer, first, last: base });
        }
        self.producer(producer, epoch);
        let bytes = batch::marker(base, producer, epoch, commit, millis);
        self.push(Stored { base, next: base + 1, max_time: millis, bytes });
    }

    /// Deletes the oldest batches until at most `bytes_max` are kept, the newest batch in any case; gives how many
    /// records.
    pub(super) fn keep(&mut self, bytes_max: usize) -> u64 {
        if self.bytes <= bytes_max {
            return 0;
        }
        let before = self.start;
        while self.bytes > bytes_max && self.batches.len() > 1 {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
            self.start = oldest.next;
        }
        let start = self.start;
        self.aborted.retain(|aborted| aborted.last >= start);
        u64::try_from(self.start - before).unwrap_or(0)
    }

    /// Batches from the one that holds `from`, up to `room` bytes; the first may be larger if `room` says so.
    pub(super) fn fetch(
        &self,
        from: i64,
        committed: bool,
        (bytes_max, at_least_one): (usize, bool),
    ) -> Result<Found, ResponseError> {
        if from < self.start || from > self.end {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let until = if committed { self.stable_end() } else { self.end };
        let mut found = Found::default();
        let first = self.batches.partition_point(|batch| batch.next <= from);
        let mut next = from;
        for batch in self.batches.range(first..).take_while(|batch| batch.base < until) {
            let must = at_least_one && found.batches.is_empty();
            if found.bytes + batch.bytes.len() > bytes_max && !must {
                break;
            }
            found.bytes += batch.bytes.len();
            found.batches.push(batch.bytes.clone());
            next = batch.next;
        }
        if committed {
            let touched = self.aborted.iter().filter(|aborted| aborted.last >= from && aborted.first < next);
            found.aborted = touched.map(|aborted| (aborted.producer, aborted.first)).collect();
        }
        Ok(found)
    }

    /// First record that is not older than `millis`, as (offset, time).
    pub(super) fn at_time(&self, millis: i64) -> Option<(i64, i64)> {
        let batch = self.batches.iter().find(|batch| batch.max_time >= millis)?;
        let (offset, time) = batch::find_time(&batch.bytes, batch.base, millis);
        Some((offset.max(self.start), time))
    }

    /// Has `waiting` told when there is more to read.
    pub(super) fn wait(&mut self, waiting: &Arc<Notify>) {
        self.waiting
            .retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(waiting)));
        self.waiting.push(Arc::downgrade(waiting));
    }
}

/// The sequence `by` records later; it wraps at the largest.
fn advance(sequence: i32, by: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(by);
    i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}
