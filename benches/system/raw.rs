//! The least that is needed to consume in batches from librdkafka directly.
//!
//! The client is built through `rdkafka::client::Client::new`, which takes a native configuration: that is the
//! public way to have a `rebalance_cb` (the safe consumer always turns rebalances into events, and a batch
//! call then drops the assignment, because an event cannot be handed out from inside a batch).

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::{RDKafka, RDKafkaRespErr, RDKafkaType};

pub type Message = sys::rd_kafka_message_t;
pub type Outcome<T> = Result<T, String>;

/// Counts rebalances: a batch that straddles one may hold records of a partition that is no longer ours.
#[derive(Default)]
pub struct Assignment {
    pub epoch: AtomicU64,
}

impl ClientContext for Assignment {}

pub struct BatchConsumer {
    queue: *mut sys::rd_kafka_queue_t,
    batch: Vec<*mut Message>,
    client: Client<Assignment>,
}

// SAFETY: a batch call may run on any one thread at a time, which `&mut self` of `receive` ensures.
unsafe impl Send for BatchConsumer {}

impl BatchConsumer {
    /// A consumer that hands out at most `batch_max` records a call.
    pub fn new(config: &ClientConfig, batch_max: usize) -> Outcome<BatchConsumer> {
        let native = config.create_native_config().map_err(|e| e.to_string())?;
        // SAFETY: the configuration is alive, and the callback matches the declared signature.
        unsafe { sys::rd_kafka_conf_set_rebalance_cb(native.ptr(), Some(on_rebalance)) };
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_CONSUMER, Assignment::default())
            .map_err(|e| e.to_string())?;
        // SAFETY: the client is alive; forwarding the main queue makes one queue of the two.
        let queue = unsafe {
            sys::rd_kafka_poll_set_consumer(client.native_ptr());
            sys::rd_kafka_queue_get_consumer(client.native_ptr())
        };
        Ok(BatchConsumer { queue, batch: vec![ptr::null_mut(); batch_max], client })
    }

    pub fn native(&self) -> *mut RDKafka {
        self.client.native_ptr()
    }

    pub fn assignment_epoch(&self) -> u64 {
        self.client.context().epoch.load(Ordering::Relaxed)
    }

    pub fn subscribe(&self, topic: &str) -> Outcome<()> {
        let list = PartitionList::new();
        list.add(topic, -1, None);
        // SAFETY: both pointers are alive; librdkafka copies the list.
        check(unsafe { sys::rd_kafka_subscribe(self.native(), list.0) }, "subscribe")
    }

    pub fn assign(&self, list: &PartitionList) -> Outcome<()> {
        // SAFETY: both pointers are alive; librdkafka copies the list.
        check(unsafe { sys::rd_kafka_assign(self.native(), list.0) }, "assign")
    }

    /// Waits up to `wait` for the first record, then takes what is already there, at most one batch.
    ///
    /// One call with a timeout would wait for the whole timeout unless the batch fills up.
    pub fn receive(&mut self, wait: Duration) -> Batch<'_> {
        let first = self.take(0, 1, wait.as_millis() as c_int);
        let rest = if first == 1 { self.take(1, self.batch.len() - 1, 0) } else { 0 };
        Batch::of(&mut self.batch[..first + rest])
    }

    fn take(&mut self, at: usize, count: usize, timeout_ms: c_int) -> usize {
        // SAFETY: the buffer has room for `count` pointers from `at` on.
        let taken = unsafe {
            sys::rd_kafka_consume_batch_queue(self.queue, timeout_ms, self.batch[at..].as_mut_ptr(), count)
        };
        usize::try_from(taken).unwrap_or(0)
    }

    pub fn seek(&self, list: &PartitionList) -> Outcome<()> {
        // SAFETY: both pointers are alive.
        check_error(unsafe { sys::rd_kafka_seek_partitions(self.native(), list.0, 10_000) }, "seek")
    }
}

impl Drop for BatchConsumer {
    fn drop(&mut self) {
        // SAFETY: close runs the last rebalance callback while the context is alive; the queue handle goes first.
        unsafe {
            sys::rd_kafka_consumer_close(self.native());
            sys::rd_kafka_queue_destroy(self.queue);
        }
    }
}

/// Records owned by the caller; dropped, they go back to librdkafka.
pub struct Batch<'a>(&'a mut [*mut Message]);

impl<'a> Batch<'a> {
    /// Takes ownership of the messages, which a batch call has just handed out. A topic made a moment ago may
    /// still be reported as unknown, which passes: such reports are left out.
    pub fn of(messages: &'a mut [*mut Message]) -> Batch<'a> {
        let mut kept = 0;
        for at in 0..messages.len() {
            // SAFETY: librdkafka handed out a valid message, which is destroyed once.
            unsafe {
                if (*messages[at]).err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART {
                    sys::rd_kafka_message_destroy(messages[at]);
                    continue;
                }
            }
            messages.swap(kept, at);
            kept += 1;
        }
        Batch(&mut messages[..kept])
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Message> {
        // SAFETY: librdkafka handed out valid messages, which live until `drop`.
        self.0.iter().map(|message| unsafe { &**message })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for message in self.0.iter() {
            // SAFETY: each message is destroyed once.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

/// The bytes of a payload or key; empty when there are none.
///
/// # Safety
/// `data` points to `len` readable bytes that outlive the result, or is null.
pub unsafe fn bytes<'a>(data: *const c_void, len: usize) -> &'a [u8] {
    if data.is_null() {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(data.cast(), len) }
}

/// Assigns what the group gave us, at once. An engine would record an intent here and drain first.
unsafe extern "C" fn on_rebalance(
    client: *mut RDKafka,
    err: RDKafkaRespErr,
    partitions: *mut sys::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: the opaque pointer is the `Assignment` of the client, which outlives its callbacks.
    unsafe {
        (*opaque.cast::<Assignment>()).epoch.fetch_add(1, Ordering::Relaxed);
        let protocol = CStr::from_ptr(sys::rd_kafka_rebalance_protocol(client));
        let cooperative = protocol.to_bytes() == b"COOPERATIVE";
        let assigned = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        match (cooperative, assigned) {
            (true, true) => sys::rd_kafka_error_destroy(sys::rd_kafka_incremental_assign(client, partitions)),
            (true, false) => {
                sys::rd_kafka_error_destroy(sys::rd_kafka_incremental_unassign(client, partitions))
            }
            (false, true) => drop(sys::rd_kafka_assign(client, partitions)),
            (false, false) => drop(sys::rd_kafka_assign(client, ptr::null())),
        }
    }
}
/// An owned list of topic, partition and offset.
pub struct PartitionList(pub *mut sys::rd_kafka_topic_partition_list_t);

impl PartitionList {
    pub fn new() -> PartitionList {
        // SAFETY: allocates an empty list.
        PartitionList(unsafe { sys::rd_kafka_topic_partition_list_new(8) })
    }

    pub fn add(&self, topic: &str, partition: i32, offset: Option<i64>) {
        let name = CString::new(topic).expect("topic names hold no zero byte");
        // SAFETY: the list is alive and the name is copied.
        unsafe {
            let added = sys::rd_kafka_topic_partition_list_add(self.0, name.as_ptr(), partition);
            if let Some(offset) = offset {
                (*added).offset = offset;
            }
        }
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0) };
    }
}

/// An error code as an outcome; `what` names the call.
pub fn check(err: RDKafkaRespErr, what: &str) -> Outcome<()> {
    if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    // SAFETY: the name is a static string.
    let name = unsafe { CStr::from_ptr(sys::rd_kafka_err2name(err)) };
    Err(format!("{what}: {}", name.to_string_lossy()))
}

/// An error object as an outcome; the object is freed.
pub fn check_error(error: *mut sys::rd_kafka_error_t, what: &str) -> Outcome<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is alive until it is destroyed here.
    unsafe {
        let text = CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy().into_owned();
        sys::rd_kafka_error_destroy(error);
        Err(format!("{what}: {text}"))
    }
}
