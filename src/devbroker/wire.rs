//! The protocol's words under one roof, and short ways to write them.

use std::time::Duration;

pub use kafka_protocol::error::ResponseError::{self, *};
pub use kafka_protocol::messages::{
    add_partitions_to_txn_response::*, alter_configs_request::*, alter_configs_response::*,
    api_versions_response::*, create_partitions_request::*, create_partitions_response::*,
    create_topics_request::*, create_topics_response::*, delete_records_response::*,
    delete_topics_response::*, describe_configs_response::*, describe_groups_response::*, fetch_request::*,
    fetch_response::*, join_group_response::*, leave_group_request::*, leave_group_response::*,
    list_groups_response::*, list_offsets_response::*, metadata_response::*, offset_commit_response::*,
    offset_fetch_request::*, offset_fetch_response::*, produce_request::*, produce_response::*,
    txn_offset_commit_response::*, *,
};
pub use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

/// The only node of the cluster, and where it is.
pub const NODE: BrokerId = BrokerId(1);
pub const HOST: StrBytes = StrBytes::from_static_str("127.0.0.1");

/// What comes of one thing that a request asks for: an error of Kafka's protocol otherwise.
pub type Answer<T> = Result<T, ResponseError>;

/// A message with these fields, and the others at their defaults.
macro_rules! made {
    (@value $field:ident) => { $field };
    (@value $field:ident $value:expr) => { $value };
    ($message:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {{
        let mut made = $message::default();
        $(made.$field = made!(@value $field $($value)?);)*
        made
    }};
}

/// The answer for each partition of each topic that a request names: `made` of the partition's.
macro_rules! each {
    ($topics:expr, $asked:ident => $topic:ident.$answers:ident, |$name:ident, $one:ident| $answer:expr) => {
        ($topics.iter())
            .map(|topic| {
                let $name = &topic.name;
                let answers = topic.$asked.iter().map(|$one| $answer).collect();
                made!($topic { name: topic.name.clone(), $answers: answers })
            })
            .collect()
    };
}

pub(super) use {each, made};

/// Refuses unless it is so.
pub fn ensure(is_so: bool, error: ResponseError) -> Answer<()> {
    if is_so { Ok(()) } else { Err(error) }
}

/// 0, or the error's code.
pub fn code<T>(result: &Answer<T>) -> i16 {
    result.as_ref().err().map_or(0, ResponseError::code)
}

/// A time of the protocol; less than none is none.
pub fn millis(number: i32) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}
