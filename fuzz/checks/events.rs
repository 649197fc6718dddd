//! Whatever a body holds, events made of it are within their limits and hold bytes of the body; an event's attributes
//! come back from its record as they were; whatever headers a record has, it has an identity.

use std::sync::{Arc, LazyLock};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chrono::DateTime;
use millrace::connectors::request::{ATTRIBUTE_BYTES_MAX, Refusal, Unverified};
use millrace::connectors::source::{Extract, Extractors, Source};
use millrace::connectors::{github, hubspot, standard_webhooks, stripe};
use millrace::event::{self, Attributes, Event};
use millrace::record::{Header, HeaderName, InRecord, OutRecord};

use super::honest::{self, Request, SCHEMES, SOURCES, Scheme};

/// Headers that are read of a record, and one that is not.
const HEADERS: [&str; 8] =
    ["ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_tenant", "traceparent", "other"];

/// A source whose events are read by expressions.
static EXTRACTING: LazyLock<Source> = LazyLock::new(|| {
    let read = |name: &'static str| -> Option<Extract> {
        Some(Box::new(move |body| body.get(name)?.as_str().map(str::to_owned)))
    };
    let extract = Extractors { id: read("id"), kind: read("type"), time: read("time"), key: read("key") };
    honest::source("{scheme: none}", extract)
});

/// Input: a byte for the kind of input; then the body of a request, or choices for a record's headers.
pub fn check(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    match usize::from(*choice) {
        0 => drafts(rest),
        1 => bodies(
            &EXTRACTING,
            &Request {
                method: "POST",
                target: String::from("/"),
                headers: Vec::new(),
                body: Bytes::copy_from_slice(rest),
            },
        ),
        2 => {
            // Too few bytes to choose with: nothing to check.
            let _ = record(Unstructured::new(rest));
        }
        scheme => {
            let at = scheme % SCHEMES.len();
            let (scheme, _) = SCHEMES[at];
            let mut request = Request::signed(scheme, String::from("/"), Bytes::copy_from_slice(rest));
            if scheme == Scheme::GitHub {
                request.headers.push(("x-github-delivery", b"1".to_vec()));
                request.headers.push(("x-github-event", b"push".to_vec()));
            }
            request.headers.push(("traceparent", rest[..rest.len().min(55)].to_vec()));
            bodies(&SOURCES[at], &request);
        }
    }
}

/// What each scheme reads of a body, before gaps are filled.
fn drafts(body: &[u8]) {
    let body = Bytes::copy_from_slice(body);
    let headers: [(&str, &[u8]); 5] = [
        ("x-github-delivery", b"1"),
        ("x-github-event", b"push"),
        ("webhook-id", b"1"),
        ("webhook-timestamp", b"1700000000"),
        ("webhook-signature", b"v1,"),
    ];
    let request = Unverified { method: "POST", target: "/", headers: &headers, body: &body };
    for whole in
        [stripe::normalise(&request), github::normalise(&request), standard_webhooks::normalise(&request)]
    {
        let Ok(drafts) = whole else { continue };
        assert!(drafts.len() == 1 && drafts[0].payload == body);
    }
    let Ok(drafts) = hubspot::normalise(&request) else { return };
    assert!(!drafts.is_empty());
    let mut at = body.as_ptr() as usize;
    let end = at + body.len();
    for draft in drafts {
        let from = draft.payload.as_ptr() as usize;
        assert!(from >= at && from + draft.payload.len() <= end, "bytes of the body, in their order");
        at = from + draft.payload.len();
    }
}

/// The events of a request that is verified.
fn bodies(source: &Source, request: &Request) {
    let events = match request.judge(source, 0, |verified| verified.normalise()) {
        Ok(Ok(events)) => events,
        Ok(Err(Refusal::BadBody(_) | Refusal::UnsupportedType)) => return,
        // A trace context that is no text, or none at all.
        Ok(Err(refusal)) | Err(refusal) => panic!("an honest request is refused: {refusal}"),
    };
    assert!(!events.is_empty());
    for event in events {
        let Attributes { id, source: name, kind, subject, time: _, tenant } = &event.attributes;
        let key = event.key.as_ref().map_or(0, Bytes::len);
        let longest = [id.len(), kind.len(), subject.as_ref().map_or(0, String::len), key].into_iter().max();
        assert!(longest <= Some(ATTRIBUTE_BYTES_MAX) && !id.is_empty() && name == "fuzz" && tenant.is_none());
        comes_back(event);
    }
}

/// An event's record says the same of it.
fn comes_back(event: Event) {
    let Event { attributes, key, content_type, traceparent, payload } = event.clone();
    let record = read_again(event.into_record(Arc::from("t")));
    assert_eq!(Attributes::of(&record), attributes);
    assert_eq!((record.key.as_ref(), record.value.as_ref()), (key.as_ref(), Some(&payload)));
    assert_eq!(record.header_text("content-type"), Some(content_type.as_str()));
    assert_eq!(record.header_text("traceparent"), traceparent.as_deref());
    assert_eq!(record.header_text("ce_specversion"), Some("1.0"));
    for (at, header) in record.headers.iter().enumerate() {
        assert!(record.headers[..at].iter().all(|before| before.name != header.name), "each header once");
    }
}

/// A record as it is read after it was written.
fn read_again(written: OutRecord) -> InRecord {
    let OutRecord { topic, partition: _, timestamp_ms, key, value, headers } = written;
    InRecord { topic, partition: 3, offset: 7, timestamp_ms, key, value, headers }
}

/// A record that anybody wrote.
fn record(mut choices: Unstructured<'_>) -> Result<()> {
    let timestamp_ms = choices.arbitrary::<Option<i64>>()?;
    let mut headers = Vec::new();
    for _ in 0..choices.int_in_range(0..=8)? {
        let name = match choices.int_in_range(0..=HEADERS.len())? {
            at if at < HEADERS.len() => HeaderName::from_static(HEADERS[at]),
            _ => HeaderName::from_bytes(Bytes::copy_from_slice(choices.arbitrary::<&[u8]>()?)),
        };
        let value = choices.arbitrary::<Option<&[u8]>>()?.map(Bytes::copy_from_slice);
        headers.push(Header { name, value });
    }
    let value = Some(Bytes::copy_from_slice(choices.take_rest()));
    let record =
        InRecord { topic: Arc::from("t"), partition: 3, offset: 7, timestamp_ms, key: None, value, headers };
    let attributes = Attributes::of(&record);
    assert_eq!(event::id_of(&record), attributes.id);
    assert_eq!(
        (event::source_of(&record), event::kind_of(&record)),
        (&*attributes.source, &*attributes.kind)
    );
    assert_eq!(record.header_text("ce_id").unwrap_or("t/3/7"), attributes.id);
    let now = DateTime::from_timestamp(honest::NOW_SECONDS, 0).expect("a time of ours");
    let time = event::event_time_of(&record, now);
    assert!(attributes.time.is_none_or(|said| said == time));
    comes_back(Event {
        attributes,
        key: None,
        content_type: String::from("application/json"),
        traceparent: record.header_text("traceparent").map(str::to_owned),
        payload: record.value.unwrap_or_default(),
    });
    Ok(())
}
