//! Calls that librdkafka has and the safe wrapper lacks: unsafe code about a group's offsets.
//!
//! - Generation and member id of the group membership, to refuse a transaction without them.
//! - Leader epochs of records and committed offsets, and the text beside a committed offset, whoever wrote it.

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::IsError;
use rdkafka::topic_partition_list::TopicPartitionList;

/// A time as C takes it.
pub(super) fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

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
    /// For a call that takes it along.
    pub(super) fn as_ptr(&self) -> *const sys::rd_kafka_consumer_group_metadata_t {
        self.0.as_ptr()
    }

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
