//! Whether the leaders of partitions know that they lead. Right after a topic was made, a broker may be named as leader
//! that does not know of it yet.

use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{IsError, KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::kafka::native::milliseconds;

/// Asks the leaders of all partitions of `topics` (name and partitions) for their ends: one request for each broker. Blocks
/// up to `timeout`.
///
/// # Errors
/// When a leader does not answer or refuses; [`has_no_leader_yet`] tells whether that passes.
pub fn ask<C: ClientContext>(
    client: &Client<C>,
    topics: &[(String, i32)],
    timeout: Duration,
) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    for (topic, partitions) in topics {
        for partition in 0..*partitions {
            list.add_partition_offset(topic, partition, Offset::End)?;
        }
    }
    // SAFETY: client and list are alive during the call.
    let answer =
        unsafe { sys::rd_kafka_offsets_for_times(client.native_ptr(), list.ptr(), milliseconds(timeout)) };
    if answer.is_error() {
        return Err(KafkaError::MetadataFetch(answer.into()));
    }
    list.elements().iter().try_for_each(|element| element.error())
}

/// Whether partitions are still looking for a leader, as those of a topic that was just made do.
pub fn has_no_leader_yet(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                // The broker has not heard yet that it leads.
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::ReplicaNotAvailable
        )
    )
}
