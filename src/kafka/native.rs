//! Calls that librdkafka has and the safe wrapper lacks: unsafe code of the way out.
//!
//! - Producing through a topic handle with header bytes as they came.
//! - Generation and member id of the group membership, to refuse a transaction without them.
//! - Leader epochs of records and committed offsets, and the text beside a committed offset, whoever wrote it.
//! - `rd_kafka_flush` with its own waiting: the wrapper polls in steps of 100 ms where no delivery report comes.

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{IsError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::record::{Header, OutRecord};

/// End of a partition as the last fetch told; nothing is asked of the broker. `None` before the first fetch.
pub fn cached_end<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client lives as long as `consumer`; the out-pointers are valid.
    let result = unsafe {
        sys::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (!result.is_error() && high >= 0).then_some(high)
}

/// The element at `index` of a list; `None` behind its end.
fn element(list: &TopicPartitionList, index: usize) -> Option<*mut sys::rd_kafka_topic_partition_t> {
    // SAFETY: the list lives during the call and has `count` elements.
    (index < list.count()).then(|| unsafe { (*list.ptr()).elems.add(index) })
}

/// Has an offset committed together with the leader epoch of the record before it.
pub fn set_leader_epoch(list: &TopicPartitionList, index: usize, epoch: i32) {
    if let Some(element) = element(list, index) {
        // SAFETY: the element belongs to the list, which lives.
        unsafe { sys::rd_kafka_topic_partition_set_leader_epoch(element, epoch) };
    }
}

/// The leader epoch beside an offset.
pub fn leader_epoch(list: &TopicPartitionList, index: usize) -> Option<i32> {
    let element = element(list, index)?;
    // SAFETY: the element belongs to the list, which lives.
    let epoch = unsafe { sys::rd_kafka_topic_partition_get_leader_epoch(element) };
    (epoch >= 0).then_some(epoch)
}

/// The text beside an offset. The safe wrapper panics when it is not UTF-8, which anybody may write.
pub fn note(list: &TopicPartitionList, index: usize) -> String {
    let Some(element) = element(list, index) else { return String::new() };
    // SAFETY: a text that is not null has `metadata_size` bytes and lives as long as the list.
    let bytes = unsafe {
        let (text, size) = ((*element).metadata, (*element).metadata_size);
        if text.is_null() { &[][..] } else { std::slice::from_raw_parts(text.cast::<u8>(), size) }
    };
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the group's coordinator knows a member by. Goes with the offsets of a transaction, so that the broker refuses
/// them from a member that is no longer one.
pub struct Membership(ptr::NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: an immutable copy that librdkafka made for us; nothing else refers to it.
unsafe impl Send for Membership {}

impl Membership {
    /// The membership at this moment. `None` while the consumer is not in the group: the broker accepts offsets
    /// without generation and member id from anybody, so a transaction must not begin without them.
    pub fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the client is alive; the result is ours to destroy.
        let pointer = unsafe { sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr()) };
        let membership = Self(ptr::NonNull::new(pointer)?);
        // SAFETY: the pointer is valid, and the member id is a string of it.
        let (generation, has_id) = unsafe {
            let id = sys::rd_kafka_consumer_group_metadata_member_id(pointer);
            let generation = sys::rd_kafka_consumer_group_metadata_generation_id(pointer);
            (generation, !id.is_null() && !CStr::from_ptr(id).to_bytes().is_empty())
        };
        (generation >= 0 && has_id).then_some(membership)
    }
}

impl Membership {
    /// What a test sends in place of a membership: a group without generation and member, which the broker believes.
    pub fn anonymous(group: &str) -> Option<Self> {
        let group = CString::new(group).ok()?;
        // SAFETY: the name ends with zero and is copied; the result is ours to destroy.
        let pointer = unsafe { sys::rd_kafka_consumer_group_metadata_new(group.as_ptr()) };
        ptr::NonNull::new(pointer).map(Self)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: made by librdkafka for us, destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
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

/// Adds consumed offsets to the open transaction. Blocks; librdkafka ignores the time limit while the coordinator is
/// unreachable, so the caller must run it where waiting does no harm.
pub fn send_offsets<C: ProducerContext>(
    producer: &BaseProducer<C>,
    offsets: &TopicPartitionList,
    membership: &Membership,
    timeout: Duration,
) -> Result<(), TransactionError> {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: all pointers are alive during the call.
    let error = unsafe {
        sys::rd_kafka_send_offsets_to_transaction(
            producer.client().native_ptr(),
            offsets.ptr(),
            membership.0.as_ptr(),
            timeout_ms,
        )
    };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is ours until destroyed below; its string lives as long.
    unsafe {
        let described = TransactionError {
            code: sys::rd_kafka_error_code(error).into(),
            message: CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy().into_owned(),
            is_retriable: sys::rd_kafka_error_is_retriable(error) != 0,
            requires_abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            is_fatal: sys::rd_kafka_error_is_fatal(error) != 0,
        };
        sys::rd_kafka_error_destroy(error);
        Err(described)
    }
}

/// Waits until everything produced is acknowledged or failed; wakes at once. `false` when `timeout` came first.
pub fn flush<C: ProducerContext>(producer: &BaseProducer<C>, timeout: Duration) -> bool {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive.
    !unsafe { sys::rd_kafka_flush(producer.client().native_ptr(), timeout_ms) }.is_error()
}

/// A topic to produce to. Must be dropped before its producer.
pub struct TopicHandle(ptr::NonNull<sys::rd_kafka_topic_t>);

// SAFETY: librdkafka's topic handles may be used from any thread.
unsafe impl Send for TopicHandle {}

impl TopicHandle {
    /// A handle of `topic`; `None` when the name is none.
    pub fn new<C: ProducerContext>(producer: &BaseProducer<C>, topic: &str) -> Option<Self> {
        let name = CString::new(topic).ok()?;
        // SAFETY: the client is alive, the name ends with zero, no configuration of its own.
        let pointer = unsafe {
            sys::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut())
        };
        ptr::NonNull::new(pointer).map(Self)
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) }
    }
}

/// Gives one record to the producer's queue; copies its bytes. Does not block.
pub fn produce<C: ProducerContext>(
    producer: &BaseProducer<C>,
    topic: &TopicHandle,
    partition: i32,
    record: &OutRecord,
) -> Result<(), RDKafkaErrorCode> {
    let (value, value_len) = raw(record.value.as_deref());
    let (key, key_len) = raw(record.key.as_deref());
    let headers = native_headers(&record.headers);
    use sys::rd_kafka_vtype_t as Field;
    // SAFETY: the argument list is pairs of tag and the type that the tag asks for, closed by END; the pointers are
    // valid during the call, which copies key and value.
    let result = unsafe {
        sys::rd_kafka_producev(
            producer.client().native_ptr(),
            Field::RD_KAFKA_VTYPE_RKT,
            topic.0.as_ptr(),
            Field::RD_KAFKA_VTYPE_PARTITION,
            partition,
            Field::RD_KAFKA_VTYPE_MSGFLAGS,
            sys::RD_KAFKA_MSG_F_COPY,
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
