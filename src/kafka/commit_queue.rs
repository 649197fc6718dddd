//! Commits outside of transactions, and the answers to them.
//!
//! librdkafka tells how an asynchronous commit ended only to whom it was asked by: a callback in the settings, which the
//! safe wrapper does not set, or a queue that is named with the commit. This is that queue.

use std::ffi::c_void;
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{IsError, KafkaError};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::kafka::queue::Queue;

/// A commit that is not answered for so long is taken for lost.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asynchronous commits of one consumer. To be dropped before it.
pub(super) struct CommitQueue {
    queue: Queue,
    /// How many were sent; the number of the last.
    sent: usize,
    /// Since when the last waits for its answer.
    since: Option<Instant>,
    failure: Option<KafkaError>,
}

impl CommitQueue {
    /// A queue; `None` when librdkafka has no memory.
    pub(super) fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        Some(Self { queue: Queue::new(consumer)?, sent: 0, since: None, failure: None })
    }

    /// Has `offsets` committed, without waiting.
    ///
    /// # Errors
    /// When librdkafka does not take it.
    pub(super) fn send<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
        offsets: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        self.sent += 1;
        // The number comes back with the answer; nothing is read through it.
        let number = ptr::without_provenance_mut::<c_void>(self.sent);
        // SAFETY: client, list and queue are alive; the list is copied.
        let result = unsafe {
            let client = consumer.client().native_ptr();
            sys::rd_kafka_commit_queue(client, offsets.ptr(), self.queue.as_ptr(), None, number)
        };
        if result.is_error() {
            return Err(KafkaError::ConsumerCommit(result.into()));
        }
        self.since = Some(Instant::now());
        Ok(())
    }

    /// Takes the answers that have come.
    pub(super) fn serve(&mut self) {
        if self.since.is_none() {
            return;
        }
        let Self { queue, sent, since, failure } = self;
        queue.drain(|event| {
            // SAFETY: the event is valid.
            let (code, number) =
                unsafe { (sys::rd_kafka_event_error(event), sys::rd_kafka_event_opaque(event).addr()) };
            if code.is_error() {
                *failure = Some(KafkaError::ConsumerCommit(code.into()));
            }
            if number == *sent {
                *since = None;
            }
        });
    }

    /// Why a commit failed, once.
    pub(super) fn take_failure(&mut self) -> Option<KafkaError> {
        self.failure.take()
    }

    /// Whether the last commit waits for its answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() < PATIENCE)
    }
}
