//! Fetched records in batches: half the cost of asking for each of them.
//!
//! The queue of each assigned partition is forwarded to one queue of ours. Records come from there, many at a call;
//! rebalances, errors and commits still come as events of the safe consumer's own queue, between two batches and never
//! inside one. What was fetched before a seek, a pause or a new assignment librdkafka leaves out by itself.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{IsError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;

use crate::kafka::native::milliseconds;
use crate::kafka::queue::{Queue, Waker};
use crate::position::Partition;

/// A record, or an error, that librdkafka holds.
pub struct Fetched<'m> {
    message: NonNull<sys::rd_kafka_message_t>,
    _lent: PhantomData<&'m ()>,
}

impl<'m> Fetched<'m> {
    /// A record that the safe consumer handed out.
    pub fn of(message: &'m BorrowedMessage<'_>) -> Option<Self> {
        NonNull::new(message.ptr()).map(|message| Self { message, _lent: PhantomData })
    }

    /// A record that librdkafka lends out, or an error.
    ///
    /// # Safety
    /// It must live for `'m`.
    pub unsafe fn lent(message: NonNull<sys::rd_kafka_message_t>) -> Self {
        Self { message, _lent: PhantomData }
    }

    fn message(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: not null, and alive for 'm by the ways in which a value is made.
        unsafe { self.message.as_ref() }
    }

    /// Why this is no record.
    pub fn error(&self) -> Option<RDKafkaErrorCode> {
        let error = self.message().err;
        error.is_error().then(|| error.into())
    }

    /// Name of the topic.
    pub fn topic(&self) -> &str {
        let topic = self.message().rkt;
        if topic.is_null() {
            return "";
        }
        // SAFETY: the message keeps its topic alive; names end with a zero byte, and Kafka's are ASCII.
        unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(topic)) }.to_str().unwrap_or("")
    }

    /// Tells topics of records of one call of [`FetchQueue::take`] apart, without their names.
    pub fn topic_handle(&self) -> usize {
        self.message().rkt.addr()
    }

    /// Number of the partition.
    pub fn partition(&self) -> i32 {
        self.message().partition
    }

    /// The record's offset.
    pub fn offset(&self) -> i64 {
        self.message().offset
    }

    /// Epoch of the leader that wrote it; negative when the broker does not tell.
    pub fn leader_epoch(&self) -> i32 {
        // SAFETY: the message is valid.
        unsafe { sys::rd_kafka_message_leader_epoch(self.message.as_ptr()) }
    }

    /// The record's key; `None` is null.
    pub fn key(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: a key that is not null has `key_len` bytes and lives as the message.
        (!message.key.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(message.key.cast::<u8>(), message.key_len) })
    }

    /// The record's value; `None` is null.
    pub fn value(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: a value that is not null has `len` bytes and lives as the message.
        (!message.payload.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len) })
    }

    /// Milliseconds since 1970, when the broker has a time.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: message and out-pointer are valid.
        let time = unsafe { sys::rd_kafka_message_timestamp(self.message.as_ptr(), &mut kind) };
        let is_given = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (is_given && time != -1).then_some(time)
    }

    /// Hands each header to `each`, name and value as they were on the wire. The safe wrapper panics on a name that is
    /// not UTF-8, which anybody may send.
    pub fn each_header(&self, mut each: impl FnMut(&[u8], Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: librdkafka owns the list and frees it with the message.
        let found = unsafe { sys::rd_kafka_message_headers(self.message.as_ptr(), &mut headers) };
        if found.is_error() || headers.is_null() {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: out-pointers are valid; an index past the end is answered by an error.
            let found =
                unsafe { sys::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size) };
            if found.is_error() {
                return;
            }
            // SAFETY: names end with a zero byte; a value that is not null has `size` bytes; both live as the message.
            unsafe {
                let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
                each(CStr::from_ptr(name).to_bytes(), value);
            }
        }
    }
}

/// The queue that all assigned partitions are forwarded to. To be dropped before its consumer.
pub struct FetchQueue {
    queue: Queue,
    waker: Waker,
    batch: Vec<*mut sys::rd_kafka_message_t>,
}

// SAFETY: used by one thread at a time; `batch` is empty between calls.
unsafe impl Send for FetchQueue {}

impl FetchQueue {
    /// A queue; `None` when librdkafka has no memory.
    pub fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        let queue = Queue::new(consumer)?;
        Some(Self { waker: Waker::of(&queue), queue, batch: Vec::new() })
    }

    /// Ends a wait in [`Self::take`].
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Lets the records of `partition` come here. To be called before it is assigned; it sticks.
    pub fn forward<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, partition: &Partition) {
        let Ok(topic) = CString::new(&*partition.topic) else { return };
        // SAFETY: client, topic and both queues are alive; the handle of the partition's queue is given back.
        unsafe {
            let client = consumer.client().native_ptr();
            let fetched = sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition.number);
            if !fetched.is_null() {
                sys::rd_kafka_queue_forward(fetched, self.queue.as_ptr());
                sys::rd_kafka_queue_destroy(fetched);
            }
        }
    }

    /// Waits up to `wait` for the first record, takes those that are there already, up to `records_max`, and hands
    /// each to `each`. Returns whether there were fewer.
    pub fn take(&mut self, records_max: usize, wait: Duration, mut each: impl FnMut(&Fetched<'_>)) -> bool {
        self.batch.resize(records_max.max(1), ptr::null_mut());
        let wait_ms = milliseconds(wait);
        // A call for many would wait its whole time unless all of them came.
        let first = self.fill(0, 1, wait_ms);
        let rest = if first == 1 { self.fill(1, self.batch.len() - 1, 0) } else { 0 };
        for message in &self.batch[..first + rest] {
            let Some(message) = NonNull::new(*message) else { continue };
            each(&Fetched { message, _lent: PhantomData });
            // SAFETY: handed to us by the call above, destroyed once, and not lent any more.
            unsafe { sys::rd_kafka_message_destroy(message.as_ptr()) };
        }
        first + rest < self.batch.len()
    }

    fn fill(&mut self, at: usize, count: usize, wait_ms: i32) -> usize {
        let room = self.batch[at..].as_mut_ptr();
        // SAFETY: from `at` on there is room for `count` pointers.
        let taken = unsafe { sys::rd_kafka_consume_batch_queue(self.queue.as_ptr(), wait_ms, room, count) };
        usize::try_from(taken).unwrap_or(0)
    }
}

impl Drop for FetchQueue {
    fn drop(&mut self) {
        self.waker.end();
    }
}
