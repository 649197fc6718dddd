//! Requests about records: produce, fetch, offsets.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::batch::Header;
use super::state::{Call, State};
use super::wire::*;

const READ_COMMITTED: i8 = 1;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

impl State {
    pub(super) fn produce(&mut self, call: &Call, ask: &ProduceRequest) -> ProduceResponse {
        let topics = per_partition!(ask.topic_data, partition_data => TopicProduceResponse.partition_responses, |name, one| {
            let result = call.allow().and_then(|()| self.append(name, one, ask));
            let (base, start) = *result.as_ref().unwrap_or(&(-1, -1));
            made!(PartitionProduceResponse {
                index: one.index,
                error_code: code(&result),
                base_offset: base,
                log_append_time_ms: -1,
                log_start_offset: start,
            })
        });
        made!(ProduceResponse { responses: topics })
    }

    /// Appends to one partition; gives the base offset and the oldest offset that is kept.
    fn append(
        &mut self,
        name: &str,
        data: &PartitionProduceData,
        ask: &ProduceRequest,
    ) -> Result<(i64, i64), ResponseError> {
        if !(-1..=1).contains(&ask.acks) {
            return Err(ResponseError::InvalidRequiredAcks);
        }
        let bytes = data.records.as_deref().unwrap_or_default();
        let header = Header::check(bytes)?;
        let topic = self.topics.get_mut(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let bytes_max = topic.bytes_max(self.settings.partition_bytes_max);
        if bytes.len() > topic.message_bytes_max() {
            return Err(ResponseError::MessageTooLarge);
        }
        let partition = topic.partition(data.index)?;
        if header.is_transactional {
            let id = ask.transactional_id.as_ref().ok_or(ResponseError::InvalidTxnState)?;
            let owner = (header.producer, header.epoch);
            self.transactions.check_write(id, owner, &(name.to_owned(), data.index))?;
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
                let own = room.min(usize::try_from(one.partition_max_bytes).unwrap_or(0));
                let committed = ask.isolation_level == READ_COMMITTED;
                let result = self.fetch_partition(call, &topic.topic, one, committed, (own, bytes == 0));
                let error = code(&result);
                let (mut data, found) = result.unwrap_or_default();
                (data.partition_index, data.error_code) = (one.partition, error);
                failed |= error != 0;
                bytes += found;
                room = room.saturating_sub(found);
                partitions.push(data);
            }
            responses
                .push(made!(FetchableTopicResponse { topic: topic.topic.clone(), partitions: partitions }));
        }
        let enough = bytes >= usize::try_from(ask.min_bytes).unwrap_or(0);
        if enough || failed || last {
            return Some(made!(FetchResponse { responses: responses }));
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

    /// One partition's share and its bytes. `room`: bytes that fit, and whether the first batch may be larger.
    fn fetch_partition(
        &mut self,
        call: &Call,
        topic: &str,
        ask: &FetchPartition,
        committed: bool,
        room: (usize, bool),
    ) -> Result<(PartitionData, usize), ResponseError> {
        call.allow()?;
        let partition = self.partition(topic, ask.partition)?;
        let found = partition.fetch(ask.fetch_offset, committed, room)?;
        let skip = |&(producer, first): &(i64, i64)| {
            made!(AbortedTransaction { producer_id: producer.into(), first_offset: first })
        };
        let data = made!(PartitionData {
            high_watermark: partition.end(),
            last_stable_offset: partition.stable_end(),
            log_start_offset: partition.start(),
            aborted_transactions: committed.then(|| found.aborted.iter().map(skip).collect()),
            records: Some(join(&found.batches, found.bytes)),
        });
        Ok((data, found.bytes))
    }

    pub(super) fn list_offsets(&mut self, call: &Call, ask: &ListOffsetsRequest) -> ListOffsetsResponse {
        let committed = ask.isolation_level == READ_COMMITTED;
        let topics = per_partition!(ask.topics, partitions => ListOffsetsTopicResponse.partitions, |name, one| {
            let result = self.offset_at(call, name, one, committed);
            let (offset, time) = *result.as_ref().unwrap_or(&(-1, -1));
            made!(ListOffsetsPartitionResponse {
                partition_index: one.partition_index,
                error_code: code(&result),
                offset: offset,
                timestamp: time,
                // Older versions have no such field.
                leader_epoch: if call.version >= 4 && offset >= 0 { 0 } else { -1 },
            })
        });
        made!(ListOffsetsResponse { topics: topics })
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
}

fn join(batches: &[Bytes], bytes: usize) -> Bytes {
    if let [one] = batches {
        return one.clone();
    }
    let mut all = BytesMut::with_capacity(bytes);
    batches.iter().for_each(|batch| all.extend_from_slice(batch));
    all.freeze()
}
