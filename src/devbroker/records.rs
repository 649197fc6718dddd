//! Requests about records: produce, fetch, offsets, deletion.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::partition::Header;
use super::state::State;
use super::wire::*;

const READ_COMMITTED: i8 = 1;
type Batch = PartitionProduceData;

impl State {
    pub fn produce(&mut self, ask: &ProduceRequest) -> ProduceResponse {
        let data = &ask.topic_data;
        let responses = each!(data, partition_data => TopicProduceResponse.partition_responses, |name, one| {
            let result = self.append(name, one, ask);
            let error_code = code(&result);
            let mut response = result.unwrap_or_else(|_| made!(PartitionProduceResponse { base_offset: -1 }));
            (response.index, response.error_code) = (one.index, error_code);
            response
        });
        made!(ProduceResponse { responses })
    }

    /// Appends to one partition; gives what was done, without the partition's name.
    fn append(&mut self, name: &str, one: &Batch, ask: &ProduceRequest) -> Answer<PartitionProduceResponse> {
        ensure((-1..=1).contains(&ask.acks), InvalidRequiredAcks)?;
        let bytes = one.records.as_deref().unwrap_or_default();
        let header = Header::check(bytes)?;
        let partition_bytes_max = self.settings.partition_bytes_max;
        let topic = self.topic(name)?;
        let bytes_max = topic.bytes_max(partition_bytes_max);
        let log_time = (topic.config("message.timestamp.type") == "LogAppendTime")
            .then(|| chrono::Utc::now().timestamp_millis());
        ensure(bytes.len() <= topic.bytes("max.message.bytes"), MessageTooLarge)?;
        if header.is_transactional {
            let id = ask.transactional_id.as_ref().ok_or(InvalidTxnState)?;
            self.check_write(id, (header.producer.into(), header.epoch), &(name.to_owned(), one.index))?;
        }
        let partition = self.partition(name, one.index)?;
        let base_offset = partition.append(&header, bytes, log_time)?;
        let (deleted, log_start_offset) = (partition.keep(bytes_max), partition.start);
        self.deleted += deleted;
        if deleted > 0 && !std::mem::replace(&mut self.topic(name)?.is_cut, true) {
            tracing::warn!(topic = name, "full partitions lose their oldest records from now on");
        }
        let log_append_time_ms = log_time.unwrap_or(-1);
        Ok(made!(PartitionProduceResponse { base_offset, log_append_time_ms, log_start_offset }))
    }

    /// What a fetch gets now, and whether that is enough to answer it.
    pub fn fetch(&mut self, ask: &FetchRequest) -> (FetchResponse, bool) {
        let bytes_max = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
        let committed = ask.isolation_level == READ_COMMITTED;
        let (mut room, mut bytes, mut failed) = (bytes_max(ask.max_bytes), 0, false);
        let mut of_partition = |topic: &TopicName, one: &FetchPartition| {
            // The first batch of an answer may be larger than asked for.
            let limits = (room.min(bytes_max(one.partition_max_bytes)), bytes == 0);
            let partition = self.partition(topic, one.partition);
            let found = partition.and_then(|partition| partition.fetch(one.fetch_offset, committed, limits));
            let error_code = code(&found);
            let mut data = found.unwrap_or_default();
            (data.partition_index, data.error_code) = (one.partition, error_code);
            let found = data.records.as_ref().map_or(0, Bytes::len);
            (room, bytes, failed) = (room.saturating_sub(found), bytes + found, failed || error_code != 0);
            data
        };
        let responses = ask.topics.iter().map(|FetchTopic { topic, partitions, .. }| {
            let partitions = partitions.iter().map(|one| of_partition(topic, one)).collect();
            made!(FetchableTopicResponse { topic: topic.clone(), partitions })
        });
        (made!(FetchResponse { responses: responses.collect() }), failed || bytes >= bytes_max(ask.min_bytes))
    }

    /// Has `waiting` told when there may be more for a fetch.
    pub fn wait(&mut self, ask: &FetchRequest, waiting: &Arc<Notify>) {
        for topic in &ask.topics {
            for one in &topic.partitions {
                let _ = self.partition(&topic.topic, one.partition).map(|partition| partition.wait(waiting));
            }
        }
    }

    pub fn list_offsets(&mut self, ask: &ListOffsetsRequest) -> ListOffsetsResponse {
        let committed = ask.isolation_level == READ_COMMITTED;
        let topics = each!(ask.topics, partitions => ListOffsetsTopicResponse.partitions, |name, one| {
            let partition = self.partition(name, one.partition_index);
            let found = partition.and_then(|partition| partition.offset_at(one.timestamp, committed));
            let (offset, timestamp) = *found.as_ref().unwrap_or(&(-1, -1));
            let (partition_index, error_code) = (one.partition_index, code(&found));
            made!(ListOffsetsPartitionResponse { partition_index, error_code, offset, timestamp })
        });
        made!(ListOffsetsResponse { topics })
    }

    pub fn delete_records(&mut self, ask: &DeleteRecordsRequest) -> DeleteRecordsResponse {
        let topics = each!(ask.topics, partitions => DeleteRecordsTopicResult.partitions, |name, one| {
            let partition = self.partition(name, one.partition_index);
            let start = partition.and_then(|partition| partition.delete_before(one.offset));
            let (partition_index, error_code) = (one.partition_index, code(&start));
            let low_watermark = start.unwrap_or(-1);
            made!(DeleteRecordsPartitionResult { partition_index, error_code, low_watermark })
        });
        made!(DeleteRecordsResponse { topics })
    }
}
