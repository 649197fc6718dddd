//! The protocol's words under one roof, and short ways to write them.

pub(super) use kafka_protocol::error::ResponseError;
pub(super) use kafka_protocol::messages::{
    add_partitions_to_txn_response::*, alter_configs_request::*, alter_configs_response::*,
    api_versions_response::*, create_partitions_request::*, create_partitions_response::*,
    create_topics_request::*, create_topics_response::*, delete_topics_response::*,
    describe_configs_response::*, describe_groups_response::*, fetch_request::*, fetch_response::*,
    join_group_response::*, leave_group_request::*, leave_group_response::*, list_groups_response::*,
    list_offsets_request::*, list_offsets_response::*, metadata_response::*, offset_commit_response::*,
    offset_fetch_request::*, offset_fetch_response::*, produce_request::*, produce_response::*,
    txn_offset_commit_response::*, *,
};
pub(super) use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

/// The only node of the cluster.
pub(super) const NODE: BrokerId = BrokerId(1);

/// A message with these fields, and the others at their defaults.
macro_rules! made {
    ($message:ident { $($field:ident: $value:expr),* $(,)? }) => {{
        let mut made = $message::default();
        $(made.$field = $value;)*
        made
    }};
}

/// The answer for each partition of each topic that a request names: `made` of the partition's.
macro_rules! per_partition {
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

pub(super) use {made, per_partition};

/// A string in the protocol's form.
pub(super) fn text(text: impl Into<StrBytes>) -> StrBytes {
    text.into()
}

/// 0, or the error's code.
pub(super) fn code<T>(result: &Result<T, ResponseError>) -> i16 {
    result.as_ref().err().map_or(0, ResponseError::code)
}

/// The error in words.
pub(super) fn words<T>(result: &Result<T, ResponseError>) -> Option<StrBytes> {
    result.as_ref().err().map(|error| text(error.to_string()))
}
