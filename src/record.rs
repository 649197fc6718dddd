//! Kafka records as bytes, read ([`InRecord`]) and to be written ([`OutRecord`]).
//!
//! Nothing here is decoded: key, value and header values are the bytes that were on the wire, so that a dead letter
//! can give them back exactly. `Bytes` are slices of one arena per polled batch; cloning one costs a reference count.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Names of headers that most records have.
const COMMON: [&str; 9] = [
    "ce_id",
    "ce_type",
    "ce_time",
    "ce_source",
    "ce_tenant",
    "ce_subject",
    "traceparent",
    "content-type",
    "ce_specversion",
];

/// Name of a record header. UTF-8 by Kafka's protocol.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HeaderName(Bytes);

impl HeaderName {
    /// A name known at compile time; allocates nothing.
    pub const fn from_static(name: &'static str) -> Self {
        Self(Bytes::from_static(name.as_bytes()))
    }

    /// A name as received; bytes that are not UTF-8 are kept but read as an empty [`HeaderName::as_str`].
    pub fn from_bytes(name: Bytes) -> Self {
        Self(name)
    }

    /// A name that most records have, if it is one: shared by all of them.
    pub fn common(name: &[u8]) -> Option<Self> {
        COMMON.iter().find(|common| common.as_bytes() == name).map(|common| Self::from_static(common))
    }

    /// The name as text; empty when its bytes are not UTF-8.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("")
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for HeaderName {
    fn from(name: String) -> Self {
        Self(Bytes::from(name))
    }
}

/// One record header. A name may occur more than once; order counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The header's name.
    pub name: HeaderName,
    /// The header's value; Kafka allows null.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header with a name known at compile time.
    pub fn of(name: &'static str, value: impl Into<Bytes>) -> Self {
        Self { name: HeaderName::from_static(name), value: Some(value.into()) }
    }
}

/// The last header called `name`, as Kafka's own clients resolve repeated names.
pub fn last_header<'a>(headers: &'a [Header], name: &str) -> Option<&'a Bytes> {
    headers
        .iter()
        .rev()
        .find(|header| header.name.as_bytes() == name.as_bytes())
        .and_then(|header| header.value.as_ref())
}

fn size_bytes(key: Option<&Bytes>, value: Option<&Bytes>, headers: &[Header]) -> usize {
    let headers: usize = headers
        .iter()
        .map(|header| header.name.as_bytes().len() + header.value.as_ref().map_or(0, Bytes::len))
        .sum();
    key.map_or(0, Bytes::len) + value.map_or(0, Bytes::len) + headers
}

/// Memory that a record takes up beside its bytes: its struct, its place in queues and tables.
const RECORD_OVERHEAD_BYTES: usize = 320;
/// The same of one header.
const HEADER_OVERHEAD_BYTES: usize = 64;

fn memory_bytes(size_bytes: usize, headers: &[Header]) -> usize {
    size_bytes + RECORD_OVERHEAD_BYTES + HEADER_OVERHEAD_BYTES * headers.len()
}

/// A record as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InRecord {
    /// Topic it was read from.
    pub topic: Arc<str>,
    /// Partition it was read from.
    pub partition: i32,
    /// Its own offset (not the next one).
    pub offset: i64,
    /// Kafka's timestamp, milliseconds since 1970, when the broker has one.
    pub timestamp_ms: Option<i64>,
    /// Key bytes; `None` is a null key.
    pub key: Option<Bytes>,
    /// Value bytes; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in their order.
    pub headers: Vec<Header>,
}

/// Where an event first stood in Kafka. Whatever names its work outside is made of this: idempotency keys, owners of
/// keys that were seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Source<'r> {
    /// Topic.
    pub topic: &'r str,
    /// Partition.
    pub partition: i32,
    /// Its own offset there.
    pub offset: i64,
}

impl fmt::Display for Source<'_> {
    /// `topic/partition/offset`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, offset } = self;
        write!(f, "{topic}/{partition}/{offset}")
    }
}

impl InRecord {
    /// Where this record's event first stood. The one place that decides it: a record that was moved to another topic
    /// to be tried again is still the same work.
    pub fn source(&self) -> Source<'_> {
        Source { topic: &self.topic, partition: self.partition, offset: self.offset }
    }

    /// Bytes this record holds in memory: key, value and headers, without the struct itself.
    pub fn size_bytes(&self) -> usize {
        size_bytes(self.key.as_ref(), self.value.as_ref(), &self.headers)
    }

    /// Memory that this record takes up while it is worked on, the struct included.
    pub fn memory_bytes(&self) -> usize {
        memory_bytes(self.size_bytes(), &self.headers)
    }

    /// Text of the last header called `name`, when it is UTF-8.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(last_header(&self.headers, name)?).ok()
    }
}

/// A record to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutRecord {
    /// Topic to write to.
    pub topic: Arc<str>,
    /// Fixed partition; `None` lets the producer choose by key (murmur2, as Java clients do).
    pub partition: Option<i32>,
    /// Kafka timestamp in milliseconds; `None` takes the time of sending.
    pub timestamp_ms: Option<i64>,
    /// Key bytes.
    pub key: Option<Bytes>,
    /// Value bytes; `None` writes a tombstone.
    pub value: Option<Bytes>,
    /// Headers in their order.
    pub headers: Vec<Header>,
}

impl OutRecord {
    /// Bytes of key, value and headers, to be held against `message.max.bytes`.
    pub fn size_bytes(&self) -> usize {
        size_bytes(self.key.as_ref(), self.value.as_ref(), &self.headers)
    }

    /// Memory that this record takes up until it is sent, the struct included.
    pub fn memory_bytes(&self) -> usize {
        memory_bytes(self.size_bytes(), &self.headers)
    }
}
