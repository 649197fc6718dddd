//! The event: CloudEvents 1.0 attributes beside the vendor's untouched bytes, in Kafka binary content mode
//! (`ce_*` headers, value as is; CloudEvents Kafka protocol binding 1.0.2).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};

use crate::record::{Header, HeaderName, InRecord, OutRecord};

/// CloudEvents attributes of an event, as far as Millrace uses them. Empty text means "not given".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes<Text = String> {
    /// `ce_id`: the vendor's id of the event. For records without one: `topic/partition/offset`.
    pub id: Text,
    /// `ce_source`: the connector's name, or the topic for records without one.
    pub source: Text,
    /// `ce_type`: the vendor's event type.
    pub kind: Text,
    /// `ce_subject`.
    pub subject: Option<Text>,
    /// `ce_time`: when it happened, as the vendor says.
    pub time: Option<DateTime<Utc>>,
    /// `ce_tenant`: extension attribute; the tenant the event belongs to.
    pub tenant: Option<Text>,
}

impl<'r> Attributes<Cow<'r, str>> {
    /// Reads the attributes of a record. A record that is no CloudEvent gets the id `topic/partition/offset`, its
    /// topic as source and an empty type, so that every record can be traced.
    pub fn lent(record: &'r InRecord) -> Self {
        Self {
            id: id_of(record),
            source: Cow::Borrowed(source_of(record)),
            kind: Cow::Borrowed(kind_of(record)),
            subject: record.header_text("ce_subject").map(Cow::Borrowed),
            time: time_of(record),
            tenant: record.header_text("ce_tenant").map(Cow::Borrowed),
        }
    }
}

impl Attributes {
    /// As [`Attributes::lent`], copied.
    pub fn of(record: &InRecord) -> Self {
        let Attributes { id, source, kind, subject, time, tenant } = Attributes::lent(record);
        Self {
            id: id.into_owned(),
            source: source.into_owned(),
            kind: kind.into_owned(),
            subject: subject.map(Cow::into_owned),
            time,
            tenant: tenant.map(Cow::into_owned),
        }
    }
}

/// Id of a record's event, without building its other attributes.
pub fn id_of(record: &InRecord) -> Cow<'_, str> {
    match record.header_text("ce_id") {
        Some(id) => Cow::Borrowed(id),
        None => Cow::Owned(format!("{}/{}/{}", record.topic, record.partition, record.offset)),
    }
}

/// Source of a record's event.
pub fn source_of(record: &InRecord) -> &str {
    record.header_text("ce_source").unwrap_or(&record.topic)
}

/// Type of a record's event; empty when it has none.
pub fn kind_of(record: &InRecord) -> &str {
    record.header_text("ce_type").unwrap_or("")
}

/// When a record's event happened, as its sender says.
pub fn time_of(record: &InRecord) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(record.header_text("ce_time")?).ok()?;
    sayable(time.with_timezone(&Utc))
}

/// `time`, if `ce_time` can say it: RFC 3339 has the years 0 to 9999.
pub fn sayable(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (0..=9999).contains(&time.year()).then_some(time)
}

/// When a record's event happened: as its sender says, else Kafka's timestamp, else `now`.
pub fn event_time_of(record: &InRecord, now: DateTime<Utc>) -> DateTime<Utc> {
    time_of(record).or_else(|| DateTime::from_timestamp_millis(record.timestamp_ms?)).unwrap_or(now)
}

/// An event on its way into Kafka.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// CloudEvents attributes.
    pub attributes: Attributes,
    /// Ordering key: becomes the record's key.
    pub key: Option<Bytes>,
    /// Media type of the payload (`content-type` header).
    pub content_type: String,
    /// W3C trace context, carried through when the sender gave one.
    pub traceparent: Option<String>,
    /// The vendor's bytes, untouched.
    pub payload: Bytes,
}

impl Event {
    /// The record of this event in binary content mode.
    pub fn into_record(self, topic: Arc<str>) -> OutRecord {
        let Self { attributes, key, content_type, traceparent, payload } = self;
        let Attributes { id, source, kind, subject, time, tenant } = attributes;
        let mut headers = vec![
            Header::of("ce_specversion", "1.0"),
            Header::of("ce_id", id),
            Header::of("ce_source", source),
            Header::of("ce_type", kind),
            Header::of("content-type", content_type),
        ];
        let time = time.map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        let optional =
            [("ce_subject", subject), ("ce_time", time), ("ce_tenant", tenant), ("traceparent", traceparent)];
        for (name, value) in optional {
            if let Some(value) = value {
                headers.push(Header { name: HeaderName::from_static(name), value: Some(Bytes::from(value)) });
            }
        }
        OutRecord { topic, partition: None, timestamp_ms: None, key, value: Some(payload), headers }
    }
}
