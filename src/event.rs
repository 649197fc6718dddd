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
        let text = |value: &'r Option<Bytes>| std::str::from_utf8(value.as_deref()?).ok();
        let (mut id, mut source, mut kind, mut subject, mut time, mut tenant) =
            (None, None, None, None, None, None);
        // One pass; of a repeated name the last counts, whatever is in it.
        for Header { name, value } in &record.headers {
            match name.as_bytes() {
                b"ce_id" => id = text(value),
                b"ce_source" => source = text(value),
                b"ce_type" => kind = text(value),
                b"ce_subject" => subject = text(value),
                b"ce_time" => time = text(value),
                b"ce_tenant" => tenant = text(value),
                _ => {}
            }
        }
        Self {
            id: id.map_or_else(|| made_up_id(record), Cow::Borrowed),
            source: Cow::Borrowed(source.unwrap_or(&record.topic)),
            kind: Cow::Borrowed(kind.unwrap_or("")),
            subject: subject.map(Cow::Borrowed),
            time: time.and_then(parsed),
            tenant: tenant.map(Cow::Borrowed),
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
        None => made_up_id(record),
    }
}

fn made_up_id(record: &InRecord) -> Cow<'_, str> {
    Cow::Owned(record.source().to_string())
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
    parsed(record.header_text("ce_time")?)
}

fn parsed(time: &str) -> Option<DateTime<Utc>> {
    sayable(DateTime::parse_from_rfc3339(time).ok()?.with_timezone(&Utc))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUES: [&[u8]; 5] = [b"a", b"", b"\xff", b"2026-11-26T01:02:03Z", b"2026-11-26T01:02:03+05:30"];

    proptest! {
        /// Read together, the attributes are what each of them is alone.
        #[test]
        fn attributes_are_those_of_the_last_headers(
            headers in prop::collection::vec(
                (
                    prop::sample::select(
                        &["ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_tenant", "other"][..],
                    ),
                    prop::option::weighted(0.9, prop::sample::select(&VALUES[..])),
                ),
                0..8,
            ),
        ) {
            let headers = headers.into_iter().map(|(name, value)| Header {
                name: HeaderName::from_static(name),
                value: value.map(Bytes::from_static),
            });
            let record = InRecord {
                topic: "in".into(),
                partition: 3,
                offset: 7,
                timestamp_ms: None,
                key: None,
                value: None,
                headers: headers.collect(),
            };
            let Attributes { id, source, kind, subject, time, tenant } = Attributes::lent(&record);
            prop_assert_eq!(id, id_of(&record));
            prop_assert_eq!((&*source, &*kind), (source_of(&record), kind_of(&record)));
            prop_assert_eq!(subject.as_deref(), record.header_text("ce_subject"));
            prop_assert_eq!(tenant.as_deref(), record.header_text("ce_tenant"));
            prop_assert_eq!(time, time_of(&record));
        }
    }
}
