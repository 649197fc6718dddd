//! As much of Kafka's protocol as a proxy needs: where a message ends, what it asks for, and who asks.
//!
//! A request is `length, api key, version, correlation id, client id, ...`, a response `length, correlation id, ...`;
//! the order of both on a connection is the same. <https://kafka.apache.org/protocol>

use std::io::{self, Read};

/// `Produce`.
pub const PRODUCE: i16 = 0;
/// `OffsetCommit`, which is in no transaction.
pub const OFFSET_COMMIT: i16 = 8;
/// `Heartbeat` of a group's member.
pub const HEARTBEAT: i16 = 12;
/// `AddPartitionsToTxn`.
pub const ADD_PARTITIONS: i16 = 24;
/// `AddOffsetsToTxn`.
pub const ADD_OFFSETS: i16 = 25;
/// `EndTxn`.
pub const END_TXN: i16 = 26;
/// `TxnOffsetCommit`.
pub const TXN_OFFSET_COMMIT: i16 = 28;

/// A longer message is none: brokers take 100 MiB at most.
const FRAME_BYTES_MAX: usize = 128 << 20;

/// Reads one message, its length included; `None` at the end of the connection.
pub fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let bytes = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if bytes > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message of Kafka"));
    }
    let mut frame = vec![0; 4 + bytes];
    frame[..4].copy_from_slice(&length);
    from.read_exact(&mut frame[4..])?;
    Ok(Some(frame))
}

/// What a request's header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What it asks for.
    pub api_key: i16,
    /// In which version of the protocol.
    pub version: i16,
    /// Number of the request on its connection.
    pub correlation: i32,
    /// `client.id`.
    pub client: String,
    /// `transactional.id`, of the requests that librdkafka begins with it.
    pub transactional: Option<String>,
}

impl Request {
    /// Reads the header of a whole message; `None` when it is too short to be one.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mut rest = Rest(frame.get(4..)?);
        let (api_key, version, correlation) = (rest.i16()?, rest.i16()?, rest.i32()?);
        let client = rest.text()?.unwrap_or_default();
        // From version 3 on these have another encoding, which librdkafka does not speak.
        let has_id = matches!(api_key, ADD_PARTITIONS | ADD_OFFSETS | END_TXN) && version < 3;
        let transactional = if has_id { rest.text()? } else { None };
        Some(Self { api_key, version, correlation, client, transactional })
    }
}

/// The correlation id of a whole response.
pub fn correlation_of_response(frame: &[u8]) -> Option<i32> {
    Rest(frame.get(4..)?).i32()
}

struct Rest<'f>(&'f [u8]);

impl<'f> Rest<'f> {
    fn take(&mut self, count: usize) -> Option<&'f [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Text with its length before it; the length -1 is no text.
    #[allow(clippy::option_option, reason = "cut off, or without text: two things")]
    fn text(&mut self) -> Option<Option<String>> {
        let Ok(length) = usize::try_from(self.i16()?) else { return Some(None) };
        Some(Some(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run where there is a test harness: tests/it/chaos_parts.rs")]
mod tests {
    use super::*;

    fn end_txn() -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&END_TXN.to_be_bytes());
        body.extend_from_slice(&1_i16.to_be_bytes());
        body.extend_from_slice(&77_i32.to_be_bytes());
        for text in ["worker-a", "ns.group.a.0"] {
            body.extend_from_slice(&i16::try_from(text.len()).expect("short").to_be_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        body.extend_from_slice(&[0; 11]);
        let mut frame = i32::try_from(body.len()).expect("short").to_be_bytes().to_vec();
        frame.extend(body);
        frame
    }

    #[test]
    fn reads_who_asks_for_what() {
        let request = Request::of(&end_txn()).expect("a request");
        let expected = Request {
            api_key: END_TXN,
            version: 1,
            correlation: 77,
            client: "worker-a".to_owned(),
            transactional: Some("ns.group.a.0".to_owned()),
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn splits_a_stream_and_finds_its_end() {
        let one = end_txn();
        let stream = [one.clone(), one.clone()].concat();
        let mut from = stream.as_slice();
        for _ in 0..2 {
            assert_eq!(read_frame(&mut from).expect("it reads"), Some(one.clone()));
        }
        assert_eq!(read_frame(&mut from).expect("it reads"), None);
    }

    #[test]
    fn what_is_cut_off_or_far_too_long_is_no_message() {
        let frame = end_txn();
        assert!(read_frame(&mut &frame[..9]).is_err(), "cut off");
        assert!(read_frame(&mut [0x7f, 0xff, 0xff, 0xff].as_slice()).is_err(), "too long");
        for length in 0..13 {
            assert_eq!(Request::of(&frame[..length]), None, "{length} bytes");
        }
    }
}
