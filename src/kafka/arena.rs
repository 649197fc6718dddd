//! Records of one polled batch in one piece of memory.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::kafka::fetched::Fetched;
use crate::record::{Header, HeaderName, InRecord};

/// The bytes of one batch's records in one piece of memory: one allocation a batch instead of several a record.
pub(crate) struct Arena {
    bytes: BytesMut,
    pending: Vec<Pending>,
    headers: Vec<(Name, Option<Range>)>,
}

/// How large a batch is: bytes of keys, values and headers, and the numbers of records and headers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Size {
    bytes: usize,
    records: usize,
    headers: usize,
}

impl Size {
    /// Room to begin the next batch with: a batch of which little came does not make it small at once.
    pub(crate) fn or_half_of(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.max(before.bytes / 2),
            records: self.records.max(before.records / 2),
            headers: self.headers.max(before.headers / 2),
        }
    }
}

type Range = std::ops::Range<usize>;

/// Name of a header.
enum Name {
    Common(HeaderName),
    Own(Range),
}

/// A record whose bytes are in the arena.
struct Pending {
    topic: Arc<str>,
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
    key: Option<Range>,
    value: Option<Range>,
    /// Its headers in the list of all headers.
    headers: Range,
}

impl Arena {
    /// Room for a batch of this `size`; grows when more come.
    pub(crate) fn with_capacity(size: Size) -> Self {
        let Size { bytes, records, headers } = size;
        let bytes = BytesMut::with_capacity(bytes);
        Self { bytes, pending: Vec::with_capacity(records), headers: Vec::with_capacity(headers) }
    }

    /// How much there is so far.
    pub(crate) fn size(&self) -> Size {
        Size { bytes: self.bytes.len(), records: self.pending.len(), headers: self.headers.len() }
    }

    /// Records so far.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Bytes of a record, on average; `None` when there is none.
    pub(crate) fn record_bytes(&self) -> Option<usize> {
        self.bytes.len().checked_div(self.pending.len())
    }

    /// Copies a record's bytes.
    pub(crate) fn add(&mut self, topic: Arc<str>, message: &Fetched<'_>) {
        let Self { bytes, pending, headers } = self;
        let mut copy = |slice: &[u8]| {
            let from = bytes.len();
            bytes.extend_from_slice(slice);
            from..bytes.len()
        };
        let headers_from = headers.len();
        let key = message.key().map(&mut copy);
        let value = message.value().map(&mut copy);
        message.each_header(|name, value| {
            let name = HeaderName::common(name).map_or_else(|| Name::Own(copy(name)), Name::Common);
            headers.push((name, value.map(&mut copy)));
        });
        pending.push(Pending {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp_ms(),
            key,
            value,
            headers: headers_from..headers.len(),
        });
    }

    /// Cuts the records out of the arena.
    pub(crate) fn finish(self, records: &mut Vec<InRecord>) {
        let Self { bytes, pending, headers } = self;
        let bytes: Bytes = bytes.freeze();
        let cut = |range: Range| bytes.slice(range);
        records.reserve(pending.len());
        for Pending { topic, partition, offset, timestamp_ms, key, value, headers: own } in pending {
            let headers = headers[own]
                .iter()
                .map(|(name, value)| Header {
                    name: match name {
                        Name::Common(name) => name.clone(),
                        Name::Own(range) => HeaderName::from_bytes(cut(range.clone())),
                    },
                    value: value.clone().map(cut),
                })
                .collect();
            let (key, value) = (key.map(cut), value.map(cut));
            records.push(InRecord { topic, partition, offset, timestamp_ms, key, value, headers });
        }
    }
}
