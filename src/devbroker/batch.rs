//! Record batches of format 2: their header, the marker that ends a transaction, and where a time is in one.
//!
//! Batches stay opaque: compressed or not, they are kept as they came. Only the base offset and the leader epoch are
//! written by a broker, and neither is under the checksum.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::wire::ResponseError::{self, CorruptMessage, InvalidRecord, UnsupportedForMessageFormat};

/// The checksum covers what follows it, from the attributes on.
const CHECKED_FROM: usize = 21;
const HEADER_BYTES: usize = 61;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// What a broker must know of a batch.
pub(super) struct Header {
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
    pub(super) fn check(bytes: &[u8]) -> Result<Self, ResponseError> {
        if bytes.len() < HEADER_BYTES {
            return Err(CorruptMessage);
        }
        if bytes[16] != 2 {
            return Err(UnsupportedForMessageFormat);
        }
        let int = |at| i32::from_be_bytes(array(bytes, at));
        let (length, sum, count) = (int(8), int(17).cast_unsigned(), int(57));
        let attributes = i16::from_be_bytes(array(bytes, 21));
        let last_delta = int(23);
        let whole = usize::try_from(length).is_ok_and(|length| length == bytes.len() - 12);
        if !whole || crc32c::crc32c(&bytes[CHECKED_FROM..]) != sum {
            return Err(CorruptMessage);
        }
        if attributes & CONTROL != 0 || count < 1 || last_delta != count - 1 {
            return Err(InvalidRecord);
        }
        Ok(Self {
            is_transactional: attributes & TRANSACTIONAL != 0,
            last_delta,
            max_time: i64::from_be_bytes(array(bytes, 35)),
            producer: i64::from_be_bytes(array(bytes, 43)),
            epoch: i16::from_be_bytes(array(bytes, 51)),
            sequence: int(53),
        })
    }
}

/// Bytes of the header, which is known to be whole.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

/// A copy of a checked batch at its place in the log: what its producer wrote as base offset means nothing.
pub(super) fn placed(bytes: &[u8], base: i64) -> Bytes {
    let mut copy = BytesMut::with_capacity(bytes.len());
    copy.put_i64(base);
    copy.put_slice(&bytes[8..12]);
    copy.put_i32(0);
    copy.put_slice(&bytes[16..]);
    copy.freeze()
}

/// The batch that ends a producer's transaction in a partition.
pub(super) fn marker(
    offset: i64,
    producer_id: i64,
    producer_epoch: i16,
    commit: bool,
    timestamp: i64,
) -> Bytes {
    let marker = Record {
        transactional: true,
        control: true,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id,
        producer_epoch,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: -1,
        timestamp,
        // Version 0 and the kind; version 0 and the coordinator's epoch.
        key: Some(Bytes::from_static(if commit { &[0, 0, 0, 1] } else { &[0; 4] })),
        value: Some(Bytes::from_static(&[0; 6])),
        headers: Default::default(),
    };
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    if let Err(error) = RecordBatchEncoder::encode(&mut bytes, [&marker], &options) {
        tracing::error!(%error, "a transaction's marker could not be written");
    }
    bytes.freeze()
}

/// The first record of a stored batch that is not older than `millis`, as (offset, time). Records of a compressed
/// batch cannot be looked at: its first offset stands for all.
pub(super) fn find_time(bytes: &Bytes, base: i64, millis: i64) -> (i64, i64) {
    let records = RecordBatchDecoder::decode(&mut bytes.clone()).map(|set| set.records).unwrap_or_default();
    let found = records.iter().find(|record| record.timestamp >= millis);
    found.map_or((base, millis), |record| (record.offset, record.timestamp))
}
