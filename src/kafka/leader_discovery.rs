//! A fault of librdkafka 2.12.1 is mended here, between two of its own files, when the program is linked.
//!
//! With an answer to a fetch, a broker names the new leaders of partitions that it does not lead (KIP-951). A broker that
//! was just started does not know all of them yet and names -1 for some. `rd_kafka_handle_Fetch_metadata_update` makes
//! room for as many partitions as are named, fills in those that have a leader, and hands on all of them: for the rest,
//! whatever was in memory before is taken for a partition, its leader and its leader's epoch. Seen on Kafka: a partition
//! that was never read again, since its leader's epoch seemed to be 2021161080, and programs that ended with a
//! segmentation fault.
//!
//! Two functions that it calls in another file go through here (`build.rs` asks the linker): the list of a topic
//! begins empty and grows with each partition that is filled in. `tests` below tells when librdkafka is another.

use std::ffi::{c_char, c_int, c_void};

use rdkafka::bindings as sys;

/// `rd_kafka_Uuid_t`, which goes by value.
#[repr(C)]
struct Uuid {
    most: i64,
    least: i64,
    text: [c_char; 23],
}

unsafe extern "C" {
    fn __real_rd_kafkap_leader_discovery_set_topic(
        buffer: *mut c_void,
        metadata: *mut sys::rd_kafka_metadata_t,
        topic: c_int,
        id: Uuid,
        name: *mut c_char,
        partitions: c_int,
    );
    fn __real_rd_kafkap_leader_discovery_set_CurrentLeader(
        buffer: *mut c_void,
        metadata: *mut sys::rd_kafka_metadata_t,
        topic: c_int,
        index: c_int,
        partition: i32,
        leader: *mut c_void,
    );
}

/// Makes room for the partitions of a topic. The internal metadata begins with the public one.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rd_kafkap_leader_discovery_set_topic(
    buffer: *mut c_void,
    metadata: *mut sys::rd_kafka_metadata_t,
    topic: c_int,
    id: Uuid,
    name: *mut c_char,
    partitions: c_int,
) {
    // SAFETY: the arguments are those of librdkafka's call.
    unsafe { __real_rd_kafkap_leader_discovery_set_topic(buffer, metadata, topic, id, name, partitions) };
    // SAFETY: it has just filled in the topic.
    unsafe { set_count(metadata, topic, 0) };
}

/// Fills in the partition at `index`; they come one after the other.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rd_kafkap_leader_discovery_set_CurrentLeader(
    buffer: *mut c_void,
    metadata: *mut sys::rd_kafka_metadata_t,
    topic: c_int,
    index: c_int,
    partition: i32,
    leader: *mut c_void,
) {
    // SAFETY: the arguments are those of librdkafka's call.
    unsafe {
        __real_rd_kafkap_leader_discovery_set_CurrentLeader(
            buffer, metadata, topic, index, partition, leader,
        );
    }
    // SAFETY: the topic was filled in before its partitions.
    unsafe { set_count(metadata, topic, index + 1) };
}

/// # Safety
/// `metadata` must hold the topic.
unsafe fn set_count(metadata: *mut sys::rd_kafka_metadata_t, topic: c_int, count: c_int) {
    let Ok(topic) = usize::try_from(topic) else { return };
    // SAFETY: the caller's.
    unsafe { (*(*metadata).topics.add(topic)).partition_cnt = count };
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    /// `rd_tmpabuf_t`.
    #[repr(C)]
    struct Buffer {
        size: usize,
        used: usize,
        bytes: *mut u64,
        failed: c_int,
        asserts: bool,
    }

    /// `rd_kafkap_CurrentLeader_t`.
    #[repr(C)]
    struct Leader {
        id: i32,
        epoch: i32,
    }

    unsafe extern "C" {
        fn rd_kafkap_leader_discovery_set_topic_cnt(
            buffer: *mut c_void,
            metadata: *mut c_void,
            topics: c_int,
        );
        fn rd_kafkap_leader_discovery_set_topic(
            buffer: *mut c_void,
            metadata: *mut c_void,
            topic: c_int,
            id: Uuid,
            name: *mut c_char,
            partitions: c_int,
        );
        fn rd_kafkap_leader_discovery_set_CurrentLeader(
            buffer: *mut c_void,
            metadata: *mut c_void,
            topic: c_int,
            index: c_int,
            partition: i32,
            leader: *mut c_void,
        );
    }

    #[test]
    fn this_is_the_librdkafka_that_needs_it() {
        // SAFETY: it takes nothing.
        let version = unsafe { sys::rd_kafka_version() };
        assert_eq!(
            version, 0x020c_01ff,
            "look whether rd_kafka_handle_Fetch_metadata_update and its two helpers are as they were"
        );
    }

    /// As librdkafka calls them when a broker names leaders for two of five partitions of a topic, and for none of another.
    #[test]
    fn partitions_without_a_leader_are_left_out() {
        let mut memory = vec![u64::MAX; 512];
        let mut buffer =
            Buffer { size: memory.len() * 8, used: 0, bytes: memory.as_mut_ptr(), failed: 0, asserts: true };
        // Larger than `rd_kafka_metadata_internal_t`, which begins with the public one.
        let mut metadata = [0u64; 64];
        let (buffer, place) =
            (ptr::from_mut(&mut buffer).cast::<c_void>(), metadata.as_mut_ptr().cast::<c_void>());
        let id = || Uuid { most: 1, least: 2, text: [0; 23] };
        // SAFETY: buffer and metadata are as large as librdkafka's and live during the calls.
        let topics = unsafe {
            rd_kafkap_leader_discovery_set_topic_cnt(buffer, place, 2);
            rd_kafkap_leader_discovery_set_topic(buffer, place, 0, id(), ptr::null_mut(), 5);
            for (index, partition) in [3, 4].into_iter().enumerate() {
                let mut leader = Leader { id: 1, epoch: 7 };
                let leader = ptr::from_mut(&mut leader).cast::<c_void>();
                rd_kafkap_leader_discovery_set_CurrentLeader(
                    buffer,
                    place,
                    0,
                    index as c_int,
                    partition,
                    leader,
                );
            }
            rd_kafkap_leader_discovery_set_topic(buffer, place, 1, id(), ptr::null_mut(), 3);
            std::slice::from_raw_parts((*place.cast::<sys::rd_kafka_metadata_t>()).topics, 2)
        };
        assert_eq!(topics[0].partition_cnt, 2, "the other three are what was in memory");
        // SAFETY: two partitions were filled in.
        let partitions = unsafe { std::slice::from_raw_parts(topics[0].partitions, 2) };
        assert_eq!(partitions.iter().map(|of| (of.id, of.leader)).collect::<Vec<_>>(), [(3, 1), (4, 1)]);
        assert_eq!(topics[1].partition_cnt, 0);
    }
}
