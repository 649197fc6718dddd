//! One partition: batches in memory, its producers' sequences, its open and aborted transactions.
//!
//! Batches of format 2 stay opaque: compressed or not, they are kept as they came. Only the base offset and the leader
//! epoch are written by a broker, and neither is under the checksum; where a topic wants the broker's time, that too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::records::RecordBatchDecoder;
use tokio::sync::Notify;

use super::wire::*;

/// Batches of a producer whose repetition is known as such; as many as an idempotent producer has in flight.
const BATCHES_REMEMBERED: usize = 5;
/// Idempotent producers that are remembered; beyond, those that wrote longest ago are forgotten.
const PRODUCERS_MAX: usize = 10_000;
const HEADER_BYTES: usize = 61;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const LOG_APPEND_TIME: u8 = 0x08;
/// Times that ask for the ends of the log.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

struct Stored {
    base: i64,
    /// Offset after its last record.
    next: i64,
    max_time: i64,
    bytes: Bytes,
}

#[derive(Default)]
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

#[derive(Default)]
pub struct Partition {
    batches: VecDeque<Stored>,
    /// Oldest offset that is kept.
    pub start: i64,
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
    /// Before this offset every transaction has ended.
    pub fn stable_end(&self) -> i64 {
        self.open.values().min().copied().unwrap_or(self.end)
    }

    /// Appends a checked batch, with the broker's time in place of its producer's if there is one, and gives its base
    /// offset: that of the first time when the producer repeats it.
    pub fn append(&mut self, header: &Header, bytes: &[u8], log_time: Option<i64>) -> Answer<i64> {
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
        let max_time = log_time.unwrap_or(header.max_time);
        self.push(i64::from(header.last_delta) + 1, max_time, placed(bytes, base, log_time));
        Ok(base)
    }

    fn push(&mut self, records: i64, max_time: i64, bytes: Bytes) {
        self.bytes += bytes.len();
        self.batches.push_back(Stored { base: self.end, next: self.end + records, max_time, bytes });
        self.end += records;
        self.waiting.drain(..).filter_map(|one| one.upgrade()).for_each(|one| one.notify_one());
    }

    /// The base offset when the batch is a repetition; an error when it is not the next.
    fn check_sequence(&self, header: &Header) -> Answer<Option<i64>> {
        // A producer that is not known may begin anywhere: its records may have been deleted.
        let Some(producer) = self.producers.get(&header.producer) else { return Ok(None) };
        ensure(header.epoch >= producer.epoch, InvalidProducerEpoch)?;
        let mut recent = producer.recent.iter().filter(|_| header.epoch == producer.epoch);
        let expected = recent.clone().next_back().map_or(0, |&(_, last, _)| advance(last, 1));
        let last = advance(header.sequence, header.last_delta);
        if let Some(&(.., base)) = recent.find(|&&(first, end, _)| (first, end) == (header.sequence, last)) {
            return Ok(Some(base));
        }
        ensure(header.sequence == expected, OutOfOrderSequenceNumber)?;
        Ok(None)
    }

    fn remember(&mut self, header: &Header) {
        let producer = self.producer(header.producer, header.epoch);
        let last = advance(header.sequence, header.last_delta);
        producer.recent.push_back((header.sequence, last, producer.wrote));
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
        let producer = self.producers.entry(id).or_default();
        if producer.epoch != epoch {
            producer.recent.clear();
        }
        (producer.epoch, producer.wrote) = (epoch, self.end);
        producer
    }

    /// Writes the marker that ends a producer's transaction here. From then on only `epoch` and later may write.
    pub fn end_transaction(&mut self, (producer, epoch): (i64, i16), commit: bool, millis: i64) {
        let base = self.end;
        let aborted = self.open.remove(&producer).filter(|_| !commit);
        self.aborted.extend(aborted.map(|first| Aborted { producer, first, last: base }));
        self.producer(producer, epoch);
        self.push(1, millis, marker(base, (producer, epoch), commit, millis));
    }

    /// Deletes the oldest batches until at most `bytes_max` are kept, the newest batch in any case; gives how many
    /// records.
    pub fn keep(&mut self, bytes_max: usize) -> u64 {
        let before = self.start;
        while self.bytes > bytes_max && self.batches.len() > 1 {
            self.delete_oldest();
        }
        u64::try_from(self.start - before).unwrap_or(0)
    }

    /// Deletes what is before an offset, -1 for all; gives the oldest that is kept.
    pub fn delete_before(&mut self, offset: i64) -> Answer<i64> {
        let offset = if offset == -1 { self.end } else { offset };
        ensure((0..=self.end).contains(&offset), OffsetOutOfRange)?;
        while self.batches.front().is_some_and(|oldest| oldest.next <= offset) {
            self.delete_oldest();
        }
        self.start = self.start.max(offset);
        Ok(self.start)
    }

    fn delete_oldest(&mut self) {
        let Some(oldest) = self.batches.pop_front() else { return };
        self.bytes -= oldest.bytes.len();
        self.start = oldest.next;
        self.aborted.retain(|aborted| aborted.last >= oldest.next);
    }

    /// Batches from the one that holds `from`, up to `bytes_max` bytes; the first may be larger if that is allowed.
    pub fn fetch(&self, from: i64, committed: bool, room: (usize, bool)) -> Answer<PartitionData> {
        ensure((self.start..=self.end).contains(&from), OffsetOutOfRange)?;
        let until = if committed { self.stable_end() } else { self.end };
        let (bytes_max, may_be_larger) = room;
        let first = self.batches.partition_point(|batch| batch.next <= from);
        let (mut records, mut next) = (BytesMut::new(), from);
        for batch in self.batches.range(first..).take_while(|batch| batch.base < until) {
            let must = may_be_larger && records.is_empty();
            if records.len() + batch.bytes.len() > bytes_max && !must {
                break;
            }
            records.extend_from_slice(&batch.bytes);
            next = batch.next;
        }
        let is_met = |aborted: &&Aborted| aborted.last >= from && aborted.first < next;
        let skip = |&Aborted { producer, first: first_offset, .. }: &Aborted| {
            made!(AbortedTransaction { producer_id: producer.into(), first_offset })
        };
        let skipped = committed.then(|| self.aborted.iter().filter(is_met).map(skip).collect());
        Ok(made!(PartitionData {
            high_watermark: self.end,
            last_stable_offset: self.stable_end(),
            log_start_offset: self.start,
            aborted_transactions: skipped,
            records: Some(records.freeze()),
        }))
    }

    /// Offset and time of the first record that is not older than `millis`, or what the protocol has special numbers
    /// for; -1 for both when there is none.
    pub fn offset_at(&self, millis: i64, committed: bool) -> Answer<(i64, i64)> {
        let end = if committed { self.stable_end() } else { self.end };
        let found = match millis {
            LATEST => Some((end, -1)),
            EARLIEST => Some((self.start, -1)),
            ..0 => return Err(UnsupportedVersion),
            _ => {
                let batch = self.batches.iter().find(|batch| batch.max_time >= millis);
                let found = batch.map(|batch| find_time(&batch.bytes, batch.base, millis));
                found.filter(|(offset, _)| *offset < end).map(|(offset, time)| (offset.max(self.start), time))
            }
        };
        Ok(found.unwrap_or((-1, -1)))
    }

    /// Has `waiting` told when there is more to read.
    pub fn wait(&mut self, waiting: &Arc<Notify>) {
        let waiting = Arc::downgrade(waiting);
        self.waiting.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&waiting));
        self.waiting.push(waiting);
    }
}

/// The sequence `by` records later; it wraps at the largest.
fn advance(sequence: i32, by: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(by);
    i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

/// What a broker must know of a batch.
pub struct Header {
    pub is_transactional: bool,
    /// Records less one.
    pub last_delta: i32,
    pub max_time: i64,
    /// -1 without idempotence.
    pub producer: i64,
    pub epoch: i16,
    pub sequence: i32,
}

impl Header {
    /// Reads and checks the one batch that a produce request may hold for a partition.
    pub fn check(bytes: &[u8]) -> Answer<Self> {
        ensure(bytes.len() >= HEADER_BYTES, CorruptMessage)?;
        let mut rest = &bytes[8..];
        let (length, _, magic, sum) = (rest.get_i32(), rest.get_i32(), rest.get_u8(), rest.get_u32());
        ensure(magic == 2, UnsupportedForMessageFormat)?;
        let is_whole = usize::try_from(length).is_ok_and(|length| length == bytes.len() - 12);
        // The checksum covers what follows it.
        ensure(is_whole && crc32c::crc32c(rest) == sum, CorruptMessage)?;
        let (attributes, last_delta, _) = (rest.get_i16(), rest.get_i32(), rest.get_i64());
        let (max_time, producer, epoch) = (rest.get_i64(), rest.get_i64(), rest.get_i16());
        let (sequence, count) = (rest.get_i32(), rest.get_i32());
        ensure(attributes & CONTROL == 0 && count >= 1 && last_delta == count - 1, InvalidRecord)?;
        let is_transactional = attributes & TRANSACTIONAL != 0;
        Ok(Self { is_transactional, last_delta, max_time, producer, epoch, sequence })
    }
}

/// A copy of a checked batch at its place in the log: what its producer wrote as base offset means nothing.
fn placed(bytes: &[u8], base: i64, log_time: Option<i64>) -> Bytes {
    let mut batch = BytesMut::from(bytes);
    batch[..8].copy_from_slice(&base.to_be_bytes());
    batch[12..16].fill(0);
    if let Some(millis) = log_time {
        batch[22] |= LOG_APPEND_TIME;
        batch[35..43].copy_from_slice(&millis.to_be_bytes());
        seal(&mut batch);
    }
    batch.freeze()
}

/// Writes a batch's checksum.
fn seal(batch: &mut [u8]) {
    let sum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
}

/// The batch that ends a producer's transaction in a partition.
fn marker(base: i64, (producer, epoch): (i64, i16), commit: bool, millis: i64) -> Bytes {
    let mut batch = BytesMut::new();
    batch.put_i64(base);
    batch.put_i32(66); // Bytes that follow.
    batch.put_slice(&[0, 0, 0, 0, 2, 0, 0, 0, 0]); // The leader's epoch, the format, room for the checksum.
    batch.put_i16(TRANSACTIONAL | CONTROL);
    batch.put_i32(0); // The last offset's delta.
    batch.put_i64(millis);
    batch.put_i64(millis);
    batch.put_i64(producer);
    batch.put_i16(epoch);
    batch.put_i32(-1); // No sequence.
    // One record: its length, attributes and deltas, a key of 4 bytes, a value of 6, no headers.
    batch.put_i32(1);
    batch.put_slice(&[32, 0, 0, 0, 8]);
    batch.put_slice(&[0, 0, 0, u8::from(commit)]); // Version 0 and the kind.
    batch.put_slice(&[12, 0, 0, 0, 0, 0, 0, 0]); // Version 0 and the coordinator's epoch.
    seal(&mut batch);
    batch.freeze()
}

/// The first record of a stored batch that is not older than `millis`, as (offset, time). Records of a compressed
/// batch cannot be looked at, and those of one with the broker's time have all the same: its first offset stands for all.
fn find_time(bytes: &Bytes, base: i64, millis: i64) -> (i64, i64) {
    let records = RecordBatchDecoder::decode(&mut bytes.clone()).map(|set| set.records).unwrap_or_default();
    let is_theirs = bytes[22] & LOG_APPEND_TIME == 0;
    let found = records.iter().find(|record| is_theirs && record.timestamp >= millis);
    found.map_or((base, millis), |record| (record.offset, record.timestamp))
}
