//! Record batches of format 2: their header, the marker that ends a transaction, and where a time is in one.
//!
//! Batches stay opaque: compressed or not, they are kept as they came. Only the base offset and the leader epoch are
//! written by a broker, and neither is under the checksum.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;

/// Where the records begin.
const HEADER_BYTES: usize = 61;
/// The checksum covers what follows it, from the attributes on.
const CHECKED_FROM: usize = 21;
const COMPRESSION: i16 = 0x07;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// What a broker must know of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub attributes: i16,
    pub last_delta: i32,
    pub base_time: i64,
    pub max_time: i64,
    /// -1 without idempotence.
    pub producer: i64,
    pub epoch: i16,
    pub sequence: i32,
}

impl Header {
    /// Reads and checks the one batch that a produce request may hold for a partition.
    pub(super) fn check(bytes: &[u8]) -> Result<Self, ResponseError> {
        let corrupt = ResponseError::CorruptMessage;
        let magic = *bytes.get(16).ok_or(corrupt)?;
        if magic != 2 {
            return Err(ResponseError::UnsupportedForMessageFormat);
        }
        let header = Self::read(bytes).ok_or(corrupt)?;
        let length = i32::from_be_bytes(array(bytes, 8).ok_or(corrupt)?);
        let sum = u32::from_be_bytes(array(bytes, 17).ok_or(corrupt)?);
        let count = i32::from_be_bytes(array(bytes, 57).ok_or(corrupt)?);
        if usize::try_from(length).ok().and_then(|length| length.checked_add(12)) != Some(bytes.len())
            || crc32c::crc32c(&bytes[CHECKED_FROM..]) != sum
        {
            return Err(corrupt);
        }
        if header.attributes & CONTROL != 0 || count < 1 || header.last_delta != count - 1 {
            return Err(ResponseError::InvalidRecord);
        }
        Ok(header)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            attributes: i16::from_be_bytes(array(bytes, 21)?),
            last_delta: i32::from_be_bytes(array(bytes, 23)?),
            base_time: i64::from_be_bytes(array(bytes, 27)?),
            max_time: i64::from_be_bytes(array(bytes, 35)?),
            producer: i64::from_be_bytes(array(bytes, 43)?),
            epoch: i16::from_be_bytes(array(bytes, 51)?),
            sequence: i32::from_be_bytes(array(bytes, 53)?),
        })
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// A copy of the batch at its place in the log: what a producer wrote as base offset means nothing.
pub(super) fn placed(bytes: &[u8], base: i64) -> Bytes {
    let mut copy = BytesMut::with_capacity(bytes.len());
    copy.put_i64(base);
    copy.put_slice(&bytes[8..12]);
    copy.put_i32(0);
    copy.put_slice(&bytes[16..]);
    copy.freeze()
}

/// The batch that ends a producer's transaction in a partition.
pub(super) fn marker(base: i64, producer: i64, epoch: i16, commit: bool, millis: i64) -> Bytes {
    let mut checked = BytesMut::with_capacity(64);
    checked.put_i16(TRANSACTIONAL | CONTROL);
    checked.put_i32(0);
    checked.put_i64(millis);
    checked.put_i64(millis);
    checked.put_i64(producer);
    checked.put_i16(epoch);
    checked.put_i32(-1);
    checked.put_i32(1);
    // One record: its length 16, attributes, two deltas of 0, a key of 4 bytes, a value of 6, no headers; the varints
    // are zigzag.
    checked.put_slice(&[32, 0, 0, 0, 8]);
    checked.put_i16(0);
    checked.put_i16(i16::from(commit));
    checked.put_u8(12);
    checked.put_i16(0);
    checked.put_i32(0);
    checked.put_u8(0);
    let mut batch = BytesMut::with_capacity(CHECKED_FROM + checked.len());
    batch.put_i64(base);
    batch.put_i32(9 + i32::try_from(checked.len()).unwrap_or(0));
    batch.put_i32(0);
    batch.put_u8(2);
    batch.put_u32(crc32c::crc32c(&checked));
    batch.put_slice(&checked);
    batch.freeze()
}

/// The first record of a stored batch that is not older than `millis`, as (offset, time). The records of a compressed
/// batch are not looked at: its first stands for all.
pub(super) fn find_time(bytes: &[u8], base: i64, millis: i64) -> (i64, i64) {
    let Some(header) = Header::read(bytes) else { return (base, millis) };
    let first = (base, header.base_time);
    if header.attributes & COMPRESSION != 0 {
        return first;
    }
    let mut rest = bytes.get(HEADER_BYTES..).unwrap_or_default();
    while let Some(length) = varint(&mut rest) {
        let Some(mut record) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
            break;
        };
        rest = &rest[record.len()..];
        record = record.get(1..).unwrap_or_default();
        let (Some(time), Some(offset)) = (varint(&mut record), varint(&mut record)) else { break };
        if header.base_time + time >= millis {
            return (base + offset, header.base_time + time);
        }
    }
    first
}

/// A zigzag number of variable length.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_a_batch_with_a_right_checksum() {
        let marker = marker(7, 3, 1, true, 1_000);
        assert_eq!(
            Header::check(&marker),
            Err(ResponseError::InvalidRecord),
            "clients may not write markers"
        );
        let mut open = marker.to_vec();
        open[22] &= !0x20;
        assert_eq!(Header::check(&open), Err(ResponseError::CorruptMessage), "the attributes are checked");
        let sum = crc32c::crc32c(&open[CHECKED_FROM..]).to_be_bytes();
        open[17..21].copy_from_slice(&sum);
        let header = Header::check(&open).expect("a batch otherwise");
        assert_eq!((header.producer, header.epoch, header.last_delta), (3, 1, 0));
        assert_eq!(i64::from_be_bytes(array(&placed(&open, 99), 0).expect("eight bytes")), 99);
        for cut in 0..open.len() {
            assert!(Header::check(&open[..cut]).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn numbers_of_variable_length() {
        for (bytes, value) in [(&[0u8][..], 0), (&[1], -1), (&[2], 1), (&[0xac, 2], 150), (&[0xff], 0)] {
            let mut rest = bytes;
            assert_eq!(varint(&mut rest), (bytes != [0xff]).then_some(value), "{bytes:?}");
        }
    }
}
