//! From a proved request to events: ids, types, times, keys, and the sender's own bytes.

use bytes::Bytes;

use crate::connectors::request::{Refusal, Unverified};
use crate::connectors::source::tests::{Request, SVIX_AT, build, hubspot_v1, source};
use crate::connectors::source::{Extract, Extractors, Verified};
use crate::event::Event;

#[test]
fn a_hubspot_batch_becomes_one_event_each_with_its_own_bytes() {
    let all = source("verify: {scheme: hubspot, versions: [v1], secrets: [{env: hs-secret}]}");
    let first = r#"{"eventId":9007199254740993, "portalId":62515,"occurredAt":1564113600123,"subscriptionType":"contact.propertyChange","objectId":18446744073709551617,"propertyValue":"é\u0000"}"#;
    let second =
        "{\"portalId\":\"7\",\"subscriptionType\":\"contact.associationChange\",\n \"fromObjectId\":5}";
    let body = format!(" [ {first} ,\n\t{second}]\n");
    let events = hubspot_v1(&body).judge(&all).unwrap();
    let [one, two] = &events[..] else { panic!("{} events", events.len()) };
    assert_eq!((one.payload.as_ref(), two.payload.as_ref()), (first.as_bytes(), second.as_bytes()));
    assert_eq!(one.key.as_deref(), Some(&b"62515:18446744073709551617"[..]));
    assert_eq!(two.key.as_deref(), Some(&b"7:5"[..]));
    assert_eq!(one.attributes.kind, "contact.propertyChange");
    assert_eq!(
        events[0].attributes.id,
        "62515:contact.propertyChange:18446744073709551617:9007199254740993:1564113600123"
    );
    assert_eq!(events[0].attributes.time.unwrap().timestamp_millis(), 1_564_113_600_123);
    assert_eq!(events[1].attributes.id.len(), 36, "an id made up");
    let single = hubspot_v1(" {\"portalId\":1,\"objectId\":2}\n").judge(&all).unwrap();
    assert_eq!(single[0].payload, " {\"portalId\":1,\"objectId\":2}\n");
    for bad in ["[]", "[1]", "[{}", "[{}]x", "null", "7", "\"a\"", "", "{\"portalId\":1}{}", "[[{}]]"] {
        assert!(matches!(hubspot_v1(bad).judge(&all), Err(Refusal::BadBody(_))), "{bad}");
    }
}

/// The only event of a body whose sender need not prove anything to `scheme`'s normaliser.
fn only_event(scheme: &str, headers: &[(&'static str, &str)], body: &[u8]) -> Result<Event, Refusal> {
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let body = Bytes::copy_from_slice(body);
    let request = Unverified { method: "POST", target: "/", headers: &headers, body: &body };
    let source = source(&format!("verify: {{scheme: {scheme}, secrets: [{{env: c2VjcmV0}}]}}"));
    let mut events = Verified { source: &source, request }.normalise()?;
    assert_eq!(events.len(), 1);
    Ok(events.remove(0))
}

#[test]
fn stripe_events_are_keyed_by_customer() {
    let body = br#"{"id":"evt_1","object":"event","created":1700000000,"type":"charge.succeeded","data":{"object":{"id":"ch_1","customer":"cus_1"}}}"#;
    let event = only_event("stripe", &[("content-type", "application/json; charset=utf-8")], body).unwrap();
    assert_eq!(event.attributes.id, "evt_1");
    assert_eq!(event.attributes.source, "acme");
    assert_eq!(event.attributes.kind, "charge.succeeded");
    assert_eq!(event.attributes.subject.as_deref(), Some("ch_1"));
    assert_eq!(event.attributes.time.unwrap().timestamp(), 1_700_000_000);
    assert_eq!(event.key.as_deref(), Some(&b"cus_1"[..]));
    assert_eq!(event.payload, &body[..]);
    let key = |object: &str| {
        let body = format!(r#"{{"id":"evt_1","type":"t","data":{{"object":{object}}}}}"#);
        only_event("stripe", &[], body.as_bytes()).unwrap().key.unwrap()
    };
    assert_eq!(key(r#"{"id":"pi_1","customer":null}"#), "pi_1");
    assert_eq!(key(r#"{"id":"pi_1","customer":{"id":"cus_2","name":"x"}}"#), "cus_2");
    assert_eq!(key(r#"{"object":"balance"}"#), "evt_1");
    let thin = br#"{"object":"v2.core.event","id":"evt_2","type":"v1.billing.meter","created":"2024-09-17T06:20:52.246Z","related_object":{"id":"mtr_1","type":"x","url":"/v1"}}"#;
    let thin = only_event("stripe", &[], thin).unwrap();
    assert_eq!((thin.key.as_deref(), thin.attributes.time.is_some()), (Some(&b"mtr_1"[..]), true));
}

#[test]
fn bodies_that_are_no_events_are_refused_without_quoting_them() {
    for bad in
        [&b""[..], b"[]", b"{}", b"{\"id\":\"hunter2\"}", b"{\"id\":{\"hunter2\":1},\"type\":\"t\"}", b"\xff"]
    {
        let Err(refusal) = only_event("stripe", &[], bad) else { panic!("{bad:?}") };
        assert!(matches!(refusal, Refusal::BadBody(_)));
        assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(only_event("github", &form, b"payload=%7B%7D"), Err(Refusal::UnsupportedType));
    let long = format!(r#"{{"id":"{}","type":"t"}}"#, "x".repeat(1025));
    assert!(matches!(only_event("stripe", &[], long.as_bytes()), Err(Refusal::BadBody(_))));
}

#[test]
fn github_and_standard_webhooks_take_ids_from_headers() {
    let headers = [("x-github-delivery", "72d3162e-cc78"), ("x-github-event", "push")];
    let event = only_event("github", &headers, br#"{"repository":{"full_name":"o/r"},"x":1}"#).unwrap();
    assert_eq!((event.attributes.id.as_str(), event.attributes.kind.as_str()), ("72d3162e-cc78", "push"));
    assert_eq!(event.key.as_deref(), Some(&b"o/r"[..]));
    let organisation = only_event("github", &headers, br#"{"organization":{"login":"o"}}"#).unwrap();
    assert_eq!(organisation.key.as_deref(), Some(&b"o"[..]));
    assert!(only_event("github", &headers[..1], b"{}").is_err());
    let headers = [
        ("webhook-id", "msg_1"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,x"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let body = br#"{"type":"user.created","timestamp":"2022-11-03T20:26:10.344522Z","data":{}}"#;
    let event = only_event("standard-webhooks", &headers, body).unwrap();
    assert_eq!((event.attributes.id.as_str(), event.attributes.kind.as_str()), ("msg_1", "user.created"));
    assert_eq!(event.attributes.time.unwrap().timestamp(), 1_667_507_170);
    assert_eq!(event.traceparent.as_deref(), Some(headers[3].1));
    assert_eq!(event.key.as_deref(), Some(&b"msg_1"[..]), "repeats meet in one partition");
    let trace = [("traceparent", headers[3].1), ("traceparent", "00-0-0-01")];
    for broken in [&trace[..], &trace[1..]] {
        let headers = [&headers[..3], broken].concat();
        assert_eq!(only_event("standard-webhooks", &headers, body).unwrap().traceparent, None);
    }
    let bare = only_event("standard-webhooks", &headers, b"{}").unwrap();
    assert_eq!((bare.attributes.kind.as_str(), bare.attributes.time.unwrap().timestamp()), ("acme", SVIX_AT));
}

#[test]
fn expressions_read_generic_bodies() {
    let read = |name: &'static str| -> Option<Extract> {
        Some(Box::new(move |body| body.get(name)?.as_str().map(str::to_owned)))
    };
    let extract = Extractors { id: read("uuid"), kind: read("kind"), time: read("at"), key: read("contact") };
    let source = build("verify: {scheme: none}", extract, None).unwrap();
    let judge = |body: &str| Request::new(0, &[], body.as_bytes()).judge(&source);
    let event = judge(r#"{"uuid":"u1","kind":"crm.lead","at":"1564113600123","contact":"c1"}"#).unwrap();
    assert_eq!(event[0].attributes.id, "u1");
    assert_eq!(event[0].attributes.time.unwrap().timestamp_millis(), 1_564_113_600_123);
    assert_eq!(event[0].key.as_deref(), Some(&b"c1"[..]));
    assert_eq!(event[0].content_type, "application/json");
    let keyless = judge(r#"{"uuid":"u1","kind":"k","at":"2022-11-03T20:26:10Z"}"#).unwrap();
    assert_eq!(keyless[0].key.as_deref(), Some(&b"u1"[..]));
    for bad in [r#"{"kind":"k","at":"1"}"#, r#"{"uuid":"u","kind":"k","at":"soon"}"#, "{", "<xml/>"] {
        assert!(matches!(judge(bad), Err(Refusal::BadBody(_))), "{bad}");
    }
    let plain = build("verify: {scheme: none}", Extractors::default(), None).unwrap();
    let event = Request::new(0, &[], b"\xff\x00").judge(&plain).unwrap();
    assert_eq!((event[0].payload.as_ref(), event[0].key.as_deref()), (&b"\xff\x00"[..], None));
    assert_eq!(event[0].content_type, "application/octet-stream");
}

#[test]
fn a_time_that_no_header_can_say_is_left_out() {
    for created in ["99999999999999", "-99999999999", "\"9999-12-31T23:59:59-23:59\""] {
        let body = format!(r#"{{"id":"evt_1","type":"a","created":{created}}}"#);
        let event = only_event("stripe", &[], body.as_bytes()).unwrap();
        assert_eq!(event.attributes.time, None, "{created}");
    }
}
