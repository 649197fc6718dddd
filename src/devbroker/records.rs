//! Requests about records: produce, fetch, offsets, deletion.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, FetchRequest, FetchResponse, ListOffsetsRequest,
    ListOffsetsResponse, ProduceRequest, ProduceResponse,
};
use tokio::sync::Notify;

use super::batch::Header;
use super::partition::Found;
use super::state::{Call, State, code};

const READ_COMMITTED: i8 = 1;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

impl State {
    pub(super) fn produce(&mut self, call: &Call, ask: &ProduceRequest) -> ProduceResponse {
        let mut responses = Vec::new();
        for topic in &ask.topic_data {
            let mut partitions = Vec::new();
            for data in &topic.partition_data {
                let result = call.allow().and_then(|()| self.append(&topic.name, data, ask.acks));
                let (base, start) = result.unwrap_or((-1, -1));
                let response = PartitionProduceResponse::default()
                    .with_index(data.index)
                    .with_error_code(code(result))
                    .with_base_offset(base)
                    .with_log_append_time_ms(-1);
                partitions.push(response.with_log_start_offset(start));
            }
            let response = TopicProduceResponse::default().with_name(topic.name.clone());
            responses.push(response.with_partition_responses(partitions));
        }
        ProduceResponse::default().with_responses(responses)
    }

    /// Appends to one partition; gives the base offset and the oldest offset that is kept.
    fn append(
        &mut self,
        name: &str,
        data: &PartitionProduceData,
        acks: i16,
    ) -> Result<(i64, i64), ResponseError> {
        if !(-1..=1).contains(&acks) {
            return Err(ResponseError::InvalidRequiredAcks);
        }
        let bytes = data.records.as_deref().unwrap_or_default();
        let header = Header::check(bytes)?;
        let unknown = ResponseError::UnknownTopicOrPartition;
        let topic = self.topics.get_mut(name).ok_or(unknown)?;
        let bytes_max = topic.bytes_max(self.settings.partition_bytes_max);
        if bytes.len() > topic.message_bytes_max() {
            return Err(ResponseError::MessageTooLarge);
        }
        let partition = topic.partition(data.index).ok_or(unknown)?;
        if header.is_transactional() {
            let place = (name.to_owned(), data.index);
            self.transactions.check_write(header.producer, header.epoch, &place)?;
        }
        let base = partition.append(&header, bytes)?;
        let deleted = partition.keep(bytes_max);
        let start = partition.start();
        self.count_deleted(name, deleted);
        Ok((base, start))
    }

    /// What a fetch gets, or nothing when it should wait: then `waiting` is told when there may be more. `last`: it
    /// has waited long enough.
    pub(super) fn fetch(
        &mut self,
        call: &Call,
        ask: &FetchRequest,
        waiting: &Arc<Notify>,
        last: bool,
    ) -> Option<FetchResponse> {
        let mut room = usize::try_from(ask.max_bytes).unwrap_or(0);
        let (mut bytes, mut failed) = (0, false);
        let mut responses = Vec::new();
        for topic in &ask.topics {
            let mut partitions = Vec::new();
            for one in &topic.partitions {
                let (data, found) =
                    self.fetch_partition(call, &topic.topic, one, ask.isolation_level, room, bytes == 0);
                failed |= data.error_code != 0;
                bytes += found;
                room = room.saturating_sub(found);
                partitions.push(data);
            }
            let response = FetchableTopicResponse::default().with_topic(topic.topic.clone());
            responses.push(response.with_partitions(partitions));
        }
        let enough = bytes >= usize::try_from(ask.min_bytes).unwrap_or(0);
        if enough || failed || last {
            return Some(FetchResponse::default().with_responses(responses));
        }
        for topic in &ask.topics {
            for one in &topic.partitions {
                if let Ok(partition) = self.partition(&topic.topic, one.partition) {
                    partition.wait(waiting);
                }
            }
        }
        None
    }

    fn fetch_partition(
        &mut self,
        call: &Call,
        topic: &str,
        ask: &FetchPartition,
        isolation: i8,
        room: usize,
        at_least_one: bool,
    ) -> (PartitionData, usize) {
        let committed = isolation == READ_COMMITTED;
        let mut data = PartitionData::default().with_partition_index(ask.partition).with_high_watermark(-1);
        let partition = match call.allow().and_then(|()| self.partition(topic, ask.partition)) {
            Ok(partition) => partition,
            Err(error) => return (data.with_error_code(error.code()), 0),
        };
        data = data.with_high_watermark(partition.end()).with_last_stable_offset(partition.stable_end());
        if call.version >= 5 {
            data = data.with_log_start_offset(partition.start());
        }
        let own = usize::try_from(ask.partition_max_bytes).unwrap_or(0);
        match partition.fetch(ask.fetch_offset, committed, own.min(room), at_least_one) {
            Ok(Found { batches, bytes, aborted }) => {
                let skip = |aborted: super::partition::Aborted| {
                    AbortedTransaction::default()
                        .with_producer_id(aborted.producer.into())
                        .with_first_offset(aborted.first)
                };
                let aborted = committed.then(|| aborted.into_iter().map(skip).collect());
                (data.with_aborted_transactions(aborted).with_records(Some(join(batches, bytes))), bytes)
            }
            Err(error) => (data.with_error_code(error.code()), 0),
        }
    }

    pub(super) fn list_offsets(&mut self, call: &Call, ask: &ListOffsetsRequest) -> ListOffsetsResponse {
        let mut topics = Vec::new();
        for topic in &ask.topics {
            let mut partitions = Vec::new();
            for one in &topic.partitions {
                let result = self.offset_at(call, &topic.name, one, ask.isolation_level == READ_COMMITTED);
                let (offset, time) = result.unwrap_or((-1, -1));
                let mut response = ListOffsetsPartitionResponse::default()
                    .with_partition_index(one.partition_index)
                    .with_error_code(code(result))
                    .with_offset(offset)
                    .with_timestamp(time);
                if call.version >= 4 && offset >= 0 {
                    response = response.with_leader_epoch(0);
                }
                partitions.push(response);
            }
            topics.push(
                ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions),
            );
        }
        ListOffsetsResponse::default().with_topics(topics)
    }

    /// The offset and time that the request asks for; -1 for both when there is none.
    fn offset_at(
        &mut self,
        call: &Call,
        topic: &str,
        ask: &ListOffsetsPartition,
        committed: bool,
    ) -> Result<(i64, i64), ResponseError> {
        call.allow()?;
        let partition = self.partition(topic, ask.partition_index)?;
        let end = if committed { partition.stable_end() } else { partition.end() };
        match ask.timestamp {
            LATEST => Ok((end, -1)),
            EARLIEST => Ok((partition.start(), -1)),
            time if time < 0 => Err(ResponseError::UnsupportedVersion),
            time => Ok(partition.at_time(time).filter(|(offset, _)| *offset < end).unwrap_or((-1, -1))),
        }
    }

    pub(super) fn delete_records(
        &mut self,
        call: &Call,
        ask: &DeleteRecordsRequest,
    ) -> DeleteRecordsResponse {
        let mut topics = Vec::new();
        for topic in &ask.topics {
            let mut partitions = Vec::new();
            for one in &topic.partitions {
                let allowed = call.allow();
                let partition = allowed.and_then(|()| self.partition(&topic.name, one.partition_index));
                let result = partition.and_then(|partition| partition.delete_before(one.offset));
                partitions.push(
                    DeleteRecordsPartitionResult::default()
                        .with_partition_index(one.partition_index)
                        .with_low_watermark(result.unwrap_or(-1))
                        .with_error_code(code(result)),
                );
            }
            topics.push(
                DeleteRecordsTopicResult::default().with_name(topic.name.clone()).with_partitions(partitions),
            );
        }
        DeleteRecordsResponse::default().with_topics(topics)
    }
}

fn join(batches: Vec<Bytes>, bytes: usize) -> Bytes {
    if let [one] = &*batches {
        return one.clone();
    }
    let mut all = BytesMut::with_capacity(bytes);
    for batch in batches {
        all.extend_from_slice(&batch);
    }
    all.freeze()
}
