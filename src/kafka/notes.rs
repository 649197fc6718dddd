//! What the callbacks of a group's consumer note for the poll thread, and how an assignment is followed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::bindings::rd_kafka_resp_err_t as ResponseCode;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::kafka::consumer::Intent;
use crate::position::Partition;

/// Notes what happens in callbacks.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) intents: Mutex<Vec<Intent>>,
    /// From then on nobody follows intents, and the callback does it itself.
    pub(crate) is_closing: AtomicBool,
}

impl ClientContext for Notes {
    /// Errors come from the poll, too, which tells of them.
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "consumer");
    }
}

impl ConsumerContext for Notes {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: ResponseCode, list: &mut TopicPartitionList) {
        let is_assign = code == ResponseCode::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.is_closing.load(Ordering::Acquire) {
            let result =
                if is_assign { add_assignment(consumer, list) } else { remove_assignment(consumer, list) };
            if let Err(error) = result {
                tracing::warn!(%error, "could not follow a rebalance while closing");
            }
            return;
        }
        let partitions = partitions_of(list);
        let intent = if is_assign {
            Intent::Assign(partitions)
        } else if consumer.assignment_lost() {
            Intent::Lost(partitions)
        } else {
            Intent::Revoke(partitions)
        };
        locked(&self.intents).push(intent);
    }
}

/// A mutex that only one thread ever takes cannot be left in a broken state by another.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn partitions_of(list: &TopicPartitionList) -> Vec<Partition> {
    list.elements().iter().map(|element| Partition::new(element.topic(), element.partition())).collect()
}

pub(crate) fn list_of<'a>(partitions: impl IntoIterator<Item = &'a Partition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(&partition.topic, partition.number);
    }
    list
}

pub(crate) fn add_assignment<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> Result<(), KafkaError> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
        RebalanceProtocol::None | RebalanceProtocol::Eager => consumer.assign(list),
    }
}

pub(crate) fn remove_assignment<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> Result<(), KafkaError> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
        RebalanceProtocol::None | RebalanceProtocol::Eager => consumer.unassign(),
    }
}
