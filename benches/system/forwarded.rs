//! A batch consumer whose group events stay with the safe consumer.
//!
//! On assignment the fetch queue of each partition is forwarded to one queue of ours. Records are taken from that
//! queue in batches; rebalances, errors, statistics and tokens still come from `BaseConsumer::poll`, as events.
//! So no rebalance runs inside a batch call, and no `rebalance_cb` is needed.

use std::ffi::{CString, c_int};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::types::RDKafka;

use crate::job::Job;
use crate::raw::{Batch, Message, Outcome};

/// Forwards partitions to the data queue before they are assigned.
pub struct Forwarding {
    data: AtomicPtr<sys::rd_kafka_queue_t>,
    epoch: AtomicU64,
}

impl ClientContext for Forwarding {}

impl ConsumerContext for Forwarding {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let Rebalance::Assign(partitions) = rebalance else { return };
        for assigned in partitions.elements() {
            let Ok(topic) = CString::new(assigned.topic()) else { continue };
            let data = self.data.load(Ordering::Acquire);
            forward(consumer.client().native_ptr(), &topic, assigned.partition(), data);
        }
    }
}

/// Sends what is fetched of a partition to `data`. Set before the assignment, it outlives it.
fn forward(client: *mut RDKafka, topic: &CString, partition: i32, data: *mut sys::rd_kafka_queue_t) {
    // SAFETY: client, topic and queue are alive; the handle of the partition's queue is given back.
    unsafe {
        let fetched = sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
        if !fetched.is_null() {
            sys::rd_kafka_queue_forward(fetched, data);
            sys::rd_kafka_queue_destroy(fetched);
        }
    }
}

pub struct ForwardedConsumer {
    consumer: BaseConsumer<Forwarding>,
    data: *mut sys::rd_kafka_queue_t,
    batch: Vec<*mut Message>,
}

impl ForwardedConsumer {
    pub fn new(job: &Job) -> Outcome<ForwardedConsumer> {
        let context = Forwarding { data: AtomicPtr::new(ptr::null_mut()), epoch: AtomicU64::new(0) };
        let consumer: BaseConsumer<Forwarding> =
            job.consumer().create_with_context(context).map_err(|e| e.to_string())?;
        // SAFETY: the client is alive; the queue is destroyed when the consumer is dropped.
        let data = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        consumer.context().data.store(data, Ordering::Release);
        consumer.subscribe(&[&job.input]).map_err(|e| e.to_string())?;
        Ok(ForwardedConsumer { consumer, data, batch: vec![ptr::null_mut(); job.batch] })
    }

    /// How often the assignment has changed.
    pub fn assignment_epoch(&self) -> u64 {
        self.consumer.context().epoch.load(Ordering::Relaxed)
    }

    /// Serves what the group wants, then waits up to `wait` for the first record and takes what is there.
    pub fn receive(&mut self, wait: Duration) -> Outcome<Batch<'_>> {
        match self.consumer.poll(Duration::ZERO) {
            None => {}
            Some(Ok(_)) => return Err("a record came by the consumer's own queue".to_owned()),
            Some(Err(error)) => return Err(error.to_string()),
        }
        let first = self.take(0, 1, wait.as_millis() as c_int);
        let rest = if first == 1 { self.take(1, self.batch.len() - 1, 0) } else { 0 };
        Ok(Batch::of(&mut self.batch[..first + rest]))
    }

    fn take(&mut self, at: usize, count: usize, timeout_ms: c_int) -> usize {
        let room = self.batch[at..].as_mut_ptr();
        // SAFETY: the buffer has room for `count` pointers from `at` on.
        let taken = unsafe { sys::rd_kafka_consume_batch_queue(self.data, timeout_ms, room, count) };
        usize::try_from(taken).unwrap_or(0)
    }
}

impl Drop for ForwardedConsumer {
    fn drop(&mut self) {
        // SAFETY: the handle is destroyed once, while the client lives; forwarded partitions hold references.
        unsafe { sys::rd_kafka_queue_destroy(self.data) };
    }
}
