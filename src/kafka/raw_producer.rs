//! A producer as C knows it: transactions, records with header bytes as they came, acknowledgements. Unsafe code of the
//! way out.
//!
//! The wrapper's own producer cannot be told to look at acknowledgements before they are thrown away, and flushes in steps
//! of 100 ms. Reports come for records that failed; of the others, each is looked at on librdkafka's threads, once.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{IsError, KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::{RDKafkaRespErr, RDKafkaType};

use crate::kafka::fetched::Fetched;
use crate::kafka::native::{Membership, milliseconds};
use crate::kafka::queue::Queue;
use crate::record::{Header, OutRecord};

/// Name under which librdkafka knows who looks at acknowledgements.
const WATCH: &CStr = c"acknowledgements";

/// A producer that tells of failed records alone.
pub struct RawProducer<C: ClientContext + 'static> {
    // Before the client: to be dropped first.
    queue: Queue,
    client: Client<C>,
    /// Records that librdkafka takes as written without having been told where. After the client: its threads write here
    /// until it is destroyed.
    unproven: Box<AtomicU64>,
}

// SAFETY: librdkafka's clients may be used from any thread.
unsafe impl<C: ClientContext> Send for RawProducer<C> {}

/// Counts an acknowledgement without an offset.
///
/// librdkafka takes the records of a failed request as written when a later request of the partition succeeds
/// ("implicit acknowledgement"), since a broker does not take a later sequence number before an earlier one. It does when it
/// has no state of the producer yet: a leader that was not one when the first request came refuses that one, takes the second,
/// and the records of the first are lost (KAFKA-15591; confluent-kafka-go issue 921). What the broker did acknowledge has an
/// offset, so whatever has none may be missing.
unsafe extern "C" fn watch(
    _client: *mut sys::rd_kafka_t,
    message: *mut sys::rd_kafka_message_t,
    unproven: *mut c_void,
) -> RDKafkaRespErr {
    // SAFETY: the message is valid during the call; the counter outlives the client.
    unsafe {
        if !(*message).err.is_error() && (*message).offset < 0 {
            (*unproven.cast::<AtomicU64>()).fetch_add(1, Ordering::Relaxed);
        }
    }
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// Called when the client is made, the only time at which it can be watched.
unsafe extern "C" fn begin_watch(
    client: *mut sys::rd_kafka_t,
    _config: *const sys::rd_kafka_conf_t,
    unproven: *mut c_void,
    _text: *mut c_char,
    _text_size: usize,
) -> RDKafkaRespErr {
    // SAFETY: as librdkafka asks: from `on_new`, with a function and a pointer that outlive the client.
    unsafe { sys::rd_kafka_interceptor_add_on_acknowledgement(client, WATCH.as_ptr(), Some(watch), unproven) }
}

impl<C: ClientContext> RawProducer<C> {
    /// Starts a producer. Brokers need not answer yet.
    ///
    /// # Errors
    /// When librdkafka does not take the settings.
    pub fn start(config: &ClientConfig, context: C) -> Result<Self, KafkaError> {
        let mut config = config.clone();
        // A report for each record that did not fail is wasted work: `watch` sees them.
        config.set("delivery.report.only.error", "true");
        let unproven = Box::new(AtomicU64::new(0));
        let native = config.create_native_config()?;
        let events = sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_STATS | sys::RD_KAFKA_EVENT_ERROR;
        // SAFETY: the configuration is alive; the counter does not move and outlives the client.
        let refused = unsafe {
            sys::rd_kafka_conf_set_events(native.ptr(), events);
            let counter = ptr::from_ref(&*unproven).cast_mut().cast();
            sys::rd_kafka_conf_interceptor_add_on_new(
                native.ptr(),
                WATCH.as_ptr(),
                Some(begin_watch),
                counter,
            )
        };
        if refused.is_error() {
            return Err(KafkaError::ClientCreation(format!("cannot watch acknowledgements: {refused:?}")));
        }
        let client = Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, context)?;
        let no_queue = || KafkaError::ClientCreation("no memory for a queue".to_owned());
        Ok(Self { queue: Queue::main(&client).ok_or_else(no_queue)?, client, unproven })
    }

    /// What it was started with.
    pub fn context(&self) -> &C {
        self.client.context()
    }

    /// The client below it.
    pub fn client(&self) -> &Client<C> {
        &self.client
    }

    /// How many records were taken as written so far without proof (see [`watch`]). They may be in their topics or not.
    pub fn unproven(&self) -> u64 {
        self.unproven.load(Ordering::Relaxed)
    }

    /// Events that wait to be served.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Serves everything that librdkafka wants to tell, without waiting. `failed` is told of records that were not
    /// delivered.
    pub fn serve(&self, mut failed: impl FnMut(&Fetched<'_>)) {
        self.queue.drain(|event| self.take(event, &mut failed));
    }

    fn take(&self, event: *mut sys::rd_kafka_event_t, failed: &mut impl FnMut(&Fetched<'_>)) {
        let context = self.client.context();
        // SAFETY: the event is alive; each getter is the one of its type, and what it gives lives as long as the event.
        unsafe {
            match sys::rd_kafka_event_type(event) {
                sys::RD_KAFKA_EVENT_DR => {
                    while let Some(message) = NonNull::new(sys::rd_kafka_event_message_next(event).cast_mut())
                    {
                        let report = Fetched::lent(message);
                        if report.error().is_some() {
                            failed(&report);
                        }
                    }
                }
                sys::RD_KAFKA_EVENT_STATS => {
                    context.stats_raw(text(sys::rd_kafka_event_stats(event)).to_bytes())
                }
                sys::RD_KAFKA_EVENT_ERROR => {
                    let error = KafkaError::Global(sys::rd_kafka_event_error(event).into());
                    context.error(error, &text(sys::rd_kafka_event_error_string(event)).to_string_lossy());
                }
                sys::RD_KAFKA_EVENT_LOG => {
                    let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
                    if sys::rd_kafka_event_log(event, &mut facility, &mut line, &mut level) == 0 {
                        let (facility, line) =
                            (text(facility).to_string_lossy(), text(line).to_string_lossy());
                        context.log(log_level(level), facility.trim(), line.trim());
                    }
                }
                _ => {}
            }
        }
    }

    /// Prepares transactions; ends what a former producer of the same `transactional.id` left open. Blocks.
    pub fn init_transactions(&self, timeout: Duration) -> Result<(), TransactionError> {
        // SAFETY: the client is alive.
        said(unsafe { sys::rd_kafka_init_transactions(self.client.native_ptr(), milliseconds(timeout)) })
    }

    /// Begins a transaction.
    pub fn begin_transaction(&self) -> Result<(), TransactionError> {
        // SAFETY: the client is alive.
        said(unsafe { sys::rd_kafka_begin_transaction(self.client.native_ptr()) })
    }

    /// Commits the open transaction; without a limit it blocks until that is decided. All records must have been flushed.
    pub fn commit_transaction(&self, limit: Option<Duration>) -> Result<(), TransactionError> {
        let limit = limit.map_or(-1, milliseconds);
        // SAFETY: the client is alive.
        said(unsafe { sys::rd_kafka_commit_transaction(self.client.native_ptr(), limit) })
    }

    /// Adds consumed offsets to the open transaction. Blocks; librdkafka ignores the time limit while the coordinator is
    /// unreachable, so the caller must run it where waiting does no harm.
    pub fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        membership: &Membership,
        timeout: Duration,
    ) -> Result<(), TransactionError> {
        // SAFETY: all pointers are alive during the call.
        said(unsafe {
            sys::rd_kafka_send_offsets_to_transaction(
                self.client.native_ptr(),
                offsets.ptr(),
                membership.as_ptr(),
                milliseconds(timeout),
            )
        })
    }

    /// Waits until everything produced is acknowledged or failed; wakes at once. `false` when `timeout` came first, or
    /// reports of failed records wait to be served.
    pub fn flush(&self, timeout: Duration) -> bool {
        // SAFETY: the client is alive.
        !unsafe { sys::rd_kafka_flush(self.client.native_ptr(), milliseconds(timeout)) }.is_error()
    }

    /// Gives one record to the queue; copies its key and headers, and not its value. Does not block.
    ///
    /// # Safety
    /// If it is taken, the bytes of its value must stay where they are until it is acknowledged or has failed, which is
    /// what [`Self::flush`] tells, or until this producer is dropped.
    pub unsafe fn produce(
        &self,
        topic: &TopicHandle,
        partition: i32,
        record: &OutRecord,
    ) -> Result<(), RDKafkaErrorCode> {
        let (value, value_len) = raw(record.value.as_deref());
        let (key, key_len) = raw(record.key.as_deref());
        let headers = native_headers(&record.headers);
        use sys::rd_kafka_vtype_t as Field;
        // SAFETY: the argument list is pairs of tag and the type that the tag asks for, closed by END; the pointers are
        // valid during the call, which copies the key. Without a flag the value is neither copied nor freed; the caller
        // keeps it.
        let result = unsafe {
            sys::rd_kafka_producev(
                self.client.native_ptr(),
                Field::RD_KAFKA_VTYPE_RKT,
                topic.0.as_ptr(),
                Field::RD_KAFKA_VTYPE_PARTITION,
                partition,
                Field::RD_KAFKA_VTYPE_MSGFLAGS,
                0,
                Field::RD_KAFKA_VTYPE_VALUE,
                value,
                value_len,
                Field::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                Field::RD_KAFKA_VTYPE_TIMESTAMP,
                record.timestamp_ms.unwrap_or(0),
                Field::RD_KAFKA_VTYPE_HEADERS,
                headers,
                Field::RD_KAFKA_VTYPE_END,
            )
        };
        if !result.is_error() {
            return Ok(());
        }
        if !headers.is_null() {
            // SAFETY: a refused record leaves its headers with us.
            unsafe { sys::rd_kafka_headers_destroy(headers) };
        }
        Err(result.into())
    }
}

impl<C: ClientContext> Drop for RawProducer<C> {
    fn drop(&mut self) {
        let everything = sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT;
        // SAFETY: the client is alive until its own drop, which follows.
        unsafe { sys::rd_kafka_purge(self.client.native_ptr(), everything) };
    }
}

/// A text of librdkafka's; empty instead of null.
unsafe fn text<'a>(text: *const c_char) -> &'a CStr {
    // SAFETY: the caller's: null, or ended with zero and alive for 'a.
    if text.is_null() { c"" } else { unsafe { CStr::from_ptr(text) } }
}

/// librdkafka's levels are those of syslog.
fn log_level(level: i32) -> RDKafkaLogLevel {
    match level {
        ..=2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}

/// What a transactional call came to.
fn said(error: *mut sys::rd_kafka_error_t) -> Result<(), TransactionError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is ours until destroyed below; its string lives as long.
    unsafe {
        let described = TransactionError {
            code: sys::rd_kafka_error_code(error).into(),
            message: text(sys::rd_kafka_error_string(error)).to_string_lossy().into_owned(),
            is_retriable: sys::rd_kafka_error_is_retriable(error) != 0,
            requires_abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            is_fatal: sys::rd_kafka_error_is_fatal(error) != 0,
        };
        sys::rd_kafka_error_destroy(error);
        Err(described)
    }
}

/// The three bits by which librdkafka says what a failed transactional call leaves to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message} ({code:?})")]
pub struct TransactionError {
    /// librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// librdkafka's words.
    pub message: String,
    /// The same call may be made again.
    pub is_retriable: bool,
    /// The transaction must be aborted.
    pub requires_abort: bool,
    /// The producer cannot be used any more.
    pub is_fatal: bool,
}

/// A topic to produce to. Must be dropped before its producer.
pub struct TopicHandle(NonNull<sys::rd_kafka_topic_t>);

// SAFETY: librdkafka's topic handles may be used from any thread.
unsafe impl Send for TopicHandle {}

impl TopicHandle {
    /// A handle of `topic`; `None` when the name is none.
    pub fn new<C: ClientContext>(producer: &RawProducer<C>, topic: &str) -> Option<Self> {
        let name = CString::new(topic).ok()?;
        // SAFETY: the client is alive, the name ends with zero, no configuration of its own.
        let pointer =
            unsafe { sys::rd_kafka_topic_new(producer.client.native_ptr(), name.as_ptr(), ptr::null_mut()) };
        NonNull::new(pointer).map(Self)
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) }
    }
}

fn raw(bytes: Option<&[u8]>) -> (*mut std::ffi::c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

fn native_headers(headers: &[Header]) -> *mut sys::rd_kafka_headers_t {
    if headers.is_empty() {
        return ptr::null_mut();
    }
    // SAFETY: names and values are copied with the lengths given; a length always fits, as no slice is longer.
    unsafe {
        let list = sys::rd_kafka_headers_new(headers.len());
        for header in headers {
            let name = header.name.as_bytes();
            let (value, value_len) = raw(header.value.as_deref());
            sys::rd_kafka_header_add(
                list,
                name.as_ptr().cast(),
                name.len() as isize,
                value,
                value_len as isize,
            );
        }
        list
    }
}
