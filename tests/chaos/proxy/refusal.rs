//! The answer of a node that does not lead a partition.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable as _, Encodable as _};

const NOT_LEADER_OR_FOLLOWER: i16 = 6;

/// Topic and partition.
pub type Place = (String, i32);

struct Produce {
    version: i16,
    header: RequestHeader,
    request: ProduceRequest,
}

impl Produce {
    fn of(frame: &[u8]) -> Option<Self> {
        let mut body = Bytes::copy_from_slice(frame.get(4..)?);
        let version = i16::from_be_bytes(body.get(2..4)?.try_into().ok()?);
        let header =
            RequestHeader::decode(&mut body, ApiKey::Produce.request_header_version(version)).ok()?;
        let request = ProduceRequest::decode(&mut body, version).ok()?;
        Some(Self { version, header, request })
    }
}

/// Where the records of a whole `Produce` request go; nothing when it is to several partitions, which librdkafka's never is.
pub fn place(frame: &[u8]) -> Option<Place> {
    let Produce { request, .. } = Produce::of(frame)?;
    let [topic] = request.topic_data.as_slice() else { return None };
    let [partition] = topic.partition_data.as_slice() else { return None };
    Some((topic.name.to_string(), partition.index))
}

/// The answer to a whole `Produce` request of a node that does not lead its partitions.
pub fn not_leader(frame: &[u8]) -> Option<Vec<u8>> {
    let Produce { version, header, request } = Produce::of(frame)?;
    let refused = |partition: i32| {
        PartitionProduceResponse::default()
            .with_index(partition)
            .with_error_code(NOT_LEADER_OR_FOLLOWER)
            .with_base_offset(-1)
    };
    let topics = request.topic_data.iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|data| refused(data.index)).collect();
        TopicProduceResponse::default().with_name(topic.name.clone()).with_partition_responses(partitions)
    });
    let response = ProduceResponse::default().with_responses(topics.collect());
    let mut body = BytesMut::new();
    let answer = ResponseHeader::default().with_correlation_id(header.correlation_id);
    answer.encode(&mut body, ApiKey::Produce.response_header_version(version)).ok()?;
    response.encode(&mut body, version).ok()?;
    let mut frame = u32::try_from(body.len()).ok()?.to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    Some(frame)
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run where there is a test harness: tests/it/chaos_parts.rs")]
mod tests {
    use super::*;
    use bytes::BufMut as _;

    /// A request as librdkafka writes it; from version 9 on lengths have one byte, and room for tags follows.
    fn request(version: i16, partitions: &[i32]) -> Vec<u8> {
        let is_compact = version >= 9;
        let mut body = BytesMut::new();
        let put_count = |body: &mut BytesMut, count: usize| match is_compact {
            true => body.put_u8(u8::try_from(count + 1).expect("small")),
            false => body.put_u32(u32::try_from(count).expect("small")),
        };
        let put_tags = |body: &mut BytesMut, times: usize| {
            if is_compact {
                body.put_bytes(0, times);
            }
        };
        body.put_i16(0);
        body.put_i16(version);
        body.put_i32(77);
        body.put_slice(b"\0\x04test");
        put_tags(&mut body, 1);
        if is_compact {
            body.put_u8(0)
        } else {
            body.put_i16(-1)
        }
        body.put_i16(-1);
        body.put_i32(1_000);
        put_count(&mut body, 1);
        if is_compact {
            body.put_u8(4)
        } else {
            body.put_i16(3)
        }
        body.put_slice(b"out");
        put_count(&mut body, partitions.len());
        for partition in partitions {
            body.put_i32(*partition);
            put_count(&mut body, 2);
            body.put_slice(b"ab");
            put_tags(&mut body, 1);
        }
        put_tags(&mut body, 2);
        let mut frame = u32::try_from(body.len()).expect("small").to_be_bytes().to_vec();
        frame.extend_from_slice(&body);
        frame
    }

    #[test]
    fn refuses_in_every_version_that_clients_speak() {
        for version in 3..=10 {
            let frame = request(version, &[5]);
            assert_eq!(place(&frame), Some(("out".to_owned(), 5)), "version {version}");
            let answer = not_leader(&frame).expect("an answer");
            assert_eq!(answer.len() - 4, u32::from_be_bytes(answer[..4].try_into().expect("four")) as usize);
            assert_eq!(answer[4..8], 77_i32.to_be_bytes());
            // Name, number of partitions, partition, code, and no offset.
            let (one, told) = if version >= 9 { (&[2][..], 1) } else { (&[0, 0, 0, 1][..], 0) };
            let wanted = [b"out", one, &[0, 0, 0, 5], &[0, 6], &[0xff; 8]].concat();
            let at = answer.windows(wanted.len()).position(|window| window == wanted);
            let begin = 8 + told + one.len() + if version >= 9 { 1 } else { 2 };
            assert_eq!(at, Some(begin), "version {version}: {answer:?}");
        }
    }

    #[test]
    fn several_partitions_have_no_place_and_other_bytes_no_answer() {
        assert_eq!(place(&request(7, &[1, 2])), None);
        assert_eq!(not_leader(&request(7, &[1])[..20]), None);
    }
}
