//! Which records beyond a committed offset are done already, as text for the metadata of the offset commit.
//!
//! A slow record at the front of a partition holds the committed offset back while thousands behind it are done. After
//! a crash all of them would be worked on again; with this text beside the offset only those that were not done are.
//!
//! | bytes (in base64) | |
//! |---|---|
//! | version | 1; readers ignore what they do not know, and work on everything again |
//! | form | 0 runs, 1 bits: whichever is shorter |
//! | base | varint: the offset it was committed with; with another one (a tool moved it) the text says nothing |
//! | body | runs: pairs of varints, so many offsets not done, so many done. bits: one per offset after the base |
//!
//! Brokers take at most 4,096 bytes (`offset.metadata.max.bytes`). What does not fit is left out from the end: a text
//! may claim less than is done, never more. [`text_bytes_bound`] tells beforehand how long it may become, so that a
//! partition pauses before anything has to be left out.
//!
//! Pure: no clock, no I/O.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::position::NextOffset;

/// Longest text, as brokers are set by default.
pub const TEXT_BYTES_MAX: usize = 4096;
/// A partition whose text may become longer than this takes nothing new: 75 % of [`TEXT_BYTES_MAX`].
pub const TEXT_BYTES_HIGH: usize = TEXT_BYTES_MAX / 4 * 3;

/// Bytes before base64: three for each four characters.
const RAW_BYTES_MAX: usize = TEXT_BYTES_MAX / 4 * 3;
const VERSION: u8 = 1;
const RUNS: u8 = 0;
const BITS: u8 = 1;
/// Longest head: version, form, and a varint of 63 bits.
const HEAD_BYTES_MAX: usize = 2 + 9;

/// Offsets that are done, as ranges: sorted, apart from each other, none empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Completed(Vec<Range<i64>>);

/// Why a text says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not ours, or damaged.
    #[error("it was not written by Millrace, or is damaged")]
    Garbage,
    /// A later Millrace wrote it.
    #[error("it has version {0}, which this Millrace does not know")]
    Version(u8),
    /// The offset beside it was moved.
    #[error("it belongs to offset {0}")]
    OtherOffset(i64),
}

impl Completed {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the record at `offset` is done.
    pub fn contains(&self, offset: i64) -> bool {
        let behind = self.0.partition_point(|range| range.end <= offset);
        self.0.get(behind).is_some_and(|range| range.contains(&offset))
    }

    /// One past the last that is done.
    pub fn end(&self) -> Option<i64> {
        self.0.last().map(|range| range.end)
    }

    /// Adds `range`, which begins at or after the end of all before it. An empty one is nothing.
    pub fn push(&mut self, range: Range<i64>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => self.0.push(range),
        }
    }

    /// Those of `from` and later.
    pub fn since(&self, from: i64) -> impl Iterator<Item = Range<i64>> + '_ {
        let begin = self.0.partition_point(|range| range.end <= from);
        self.0[begin..].iter().map(move |range| range.start.max(from)..range.end)
    }

    /// How many there are of [`Self::since`].
    pub fn ranges_since(&self, from: i64) -> usize {
        self.0.len() - self.0.partition_point(|range| range.end <= from)
    }

    /// The text for a commit of `base`; empty when nothing beyond it is done.
    pub fn encode(&self, base: NextOffset) -> String {
        // The base itself is not done, or the commit would go further.
        let ranges: Vec<Range<i64>> = self.since(base.0 + 1).collect();
        if ranges.is_empty() || base.0 < 0 {
            return String::new();
        }
        let mut raw = vec![VERSION, RUNS];
        push_varint(&mut raw, base.0.unsigned_abs());
        let room = RAW_BYTES_MAX - raw.len();
        let (runs, runs_done) = runs(base.0, &ranges, room);
        let (bits, bits_done) = bits(base.0, &ranges, room);
        let is_bits = bits_done > runs_done || (bits_done == runs_done && bits.len() < runs.len());
        if is_bits {
            raw[1] = BITS;
        }
        raw.extend_from_slice(if is_bits { &bits } else { &runs });
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// Reads the text that was committed with `base`. An empty one says that nothing beyond is done.
    ///
    /// # Errors
    /// When it cannot be relied on.
    pub fn decode(base: NextOffset, text: &str) -> Result<Self, Unreadable> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(Unreadable::Garbage);
        }
        let raw = URL_SAFE_NO_PAD.decode(text).map_err(|_| Unreadable::Garbage)?;
        let [version, form, rest @ ..] = raw.as_slice() else { return Err(Unreadable::Garbage) };
        if *version != VERSION {
            return Err(Unreadable::Version(*version));
        }
        let mut rest = rest;
        let own = take_varint(&mut rest).ok_or(Unreadable::Garbage)?;
        if own != base.0 {
            return Err(Unreadable::OtherOffset(own));
        }
        match *form {
            RUNS => read_runs(base.0, rest),
            BITS => read_bits(base.0, rest),
            _ => None,
        }
        .ok_or(Unreadable::Garbage)
    }
}

/// How long a text may become at most, whatever is completed next: of the `span` offsets after the base there are
/// `apart` places (records not done yet, mostly) that can hold two runs apart.
pub fn text_bytes_bound(span: usize, apart: usize) -> usize {
    let bits = span / 8 + 1;
    let numbers = (2 * (apart + 1)).min(span.max(1)) as f64;
    // A varint of `n` has at most 1 + log128(n) bytes, which add up to the most when the offsets are shared out evenly.
    let share = (span + 1) as f64 / numbers;
    let runs = (numbers * (1.0 + share.max(1.0).ln() / 128_f64.ln())).ceil() as usize;
    let raw = HEAD_BYTES_MAX + bits.min(runs);
    raw.div_ceil(3) * 4
}

fn count(ranges: impl Iterator<Item = Range<i64>>) -> u64 {
    ranges.map(|range| range.end.abs_diff(range.start)).sum()
}

/// As many runs as fit into `room`, and how many offsets they claim.
fn runs(base: i64, ranges: &[Range<i64>], room: usize) -> (Vec<u8>, u64) {
    let mut body = Vec::new();
    let mut at = base;
    for (taken, range) in ranges.iter().enumerate() {
        let before = body.len();
        push_varint(&mut body, range.start.abs_diff(at));
        push_varint(&mut body, range.end.abs_diff(range.start));
        if body.len() > room {
            body.truncate(before);
            return (body, count(ranges[..taken].iter().cloned()));
        }
        at = range.end;
    }
    (body, count(ranges.iter().cloned()))
}

/// As many bits as fit into `room`, and how many offsets they claim.
fn bits(base: i64, ranges: &[Range<i64>], room: usize) -> (Vec<u8>, u64) {
    let first = base + 1;
    let limit = first.saturating_add(i64::try_from(room * 8).unwrap_or(i64::MAX));
    let mut body = Vec::new();
    let mut done = 0;
    for range in ranges {
        for offset in range.start..range.end.min(limit) {
            let bit = usize::try_from(offset - first).expect("ranges begin after the base");
            if body.len() <= bit / 8 {
                body.resize(bit / 8 + 1, 0);
            }
            body[bit / 8] |= 1 << (bit % 8);
            done += 1;
        }
    }
    (body, done)
}

fn read_runs(base: i64, mut body: &[u8]) -> Option<Completed> {
    let mut completed = Completed::default();
    let mut at = base;
    while !body.is_empty() {
        let start = at.checked_add(take_varint(&mut body)?)?;
        let end = start.checked_add(take_varint(&mut body)?)?;
        if start <= at || end <= start {
            return None;
        }
        completed.push(start..end);
        at = end;
    }
    Some(completed)
}

fn read_bits(base: i64, body: &[u8]) -> Option<Completed> {
    let mut completed = Completed::default();
    for (at, byte) in body.iter().enumerate() {
        for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
            let after = i64::try_from(at * 8 + bit + 1).ok()?;
            let offset = base.checked_add(after)?;
            completed.push(offset..offset.checked_add(1)?);
        }
    }
    Some(completed)
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A number of at most 63 bits.
fn take_varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return i64::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
#[path = "completed_tests.rs"]
mod tests;
