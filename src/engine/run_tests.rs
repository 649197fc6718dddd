use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::config::step;
use crate::connectors::scripted::Script;
use crate::engine::comeback::Past;
use crate::engine::verdict::Verdict;
use crate::engine::{run, straight};
use crate::expr::types::Types;
use crate::fault::FaultClass;
use crate::ledger::Outcome;
use crate::plan::compile_flow;
use crate::plan::flow::{ErrorPolicy, Then};
use crate::plan::pipeline::{Ordering, Pipeline};
use crate::record::{Header, InRecord, last_header};
use crate::schema::value::ValueSchema;
use crate::stages::context::{CompileCx, Declared, ValueFormat};
use crate::stages::scripted_rows::RowScript;
use crate::stages::services::Services;
use crate::yaml::lint::{Lints, SourceFile};
use crate::yaml::node;

const ORDER: &str = r#"{"type": "record", "name": "order", "fields": [
    {"name": "id", "type": "string"}, {"name": "total", "type": ["null", "long"], "default": null}]}"#;

fn declared() -> Declared {
    let avro = ValueFormat::Avro { schema: ORDER.into() };
    let topics = [("out", ValueFormat::Json), ("raw", ValueFormat::Bytes), ("orders", avro)];
    Declared {
        root: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        topics: topics.into_iter().map(|(name, format)| (name.to_owned(), format)).collect(),
        ..Declared::default()
    }
}

fn services() -> Services {
    let order = Arc::new(ValueSchema::parse(ORDER).unwrap());
    let schemas = BTreeMap::from([(String::from("orders"), order)]);
    Services::offline(schemas, Script::default(), RowScript::default())
}

/// Compiles the text of `stages:`.
fn compiled(steps: &str) -> (Pipeline, Lints) {
    let file = Arc::new(SourceFile { path: PathBuf::from("pipelines/p.yaml"), text: steps.to_owned() });
    let mut lints = Lints::default();
    let root = node::parse(&file, &mut lints).expect("YAML");
    let written = step::decode_steps(&root, &mut lints).unwrap_or_default();
    let declared = declared();
    let name: Arc<str> = "p".into();
    let mut cx = CompileCx {
        types: Types::default(),
        declared: &declared,
        pipeline: Arc::clone(&name),
        step: Arc::clone(&name),
    };
    let steps = compile_flow::compile_steps(&written, &mut cx, &mut lints);
    let pipeline = Pipeline {
        name,
        topics: vec!["in".into()],
        types: Vec::new(),
        ordering: Ordering::Key,
        concurrency: crate::plan::pipeline::CONCURRENCY,
        is_cpu_only: !compile_flow::waits(&steps),
        results: crate::ledger::Results::All,
        projection: crate::plan::flow::projection(&steps),
        steps,
        on_error: ErrorPolicy::default(),
        companions: Vec::new(),
        stop_above: None,
        dead_letter_topic: "p.dlq".into(),
        config_hash: "0".into(),
    };
    (pipeline, lints)
}

fn pipeline(steps: &str) -> Pipeline {
    let (pipeline, lints) = compiled(steps);
    assert!(!lints.has_errors(), "{lints:?}");
    pipeline
}

fn record(value: Option<&str>) -> InRecord {
    InRecord {
        topic: "in".into(),
        partition: 1,
        offset: 7,
        timestamp_ms: Some(1_700_000_000_000),
        key: Some(Bytes::from_static(b"k")),
        value: value.map(|text| Bytes::from(text.to_owned())),
        headers: vec![Header::of("ce_id", "evt_1"), Header::of("traceparent", "00-1")],
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_764_000_000, 0).unwrap()
}

/// Runs a record; a pipeline that only computes must be done at the first poll.
fn ran(pipeline: &Pipeline, record: &InRecord) -> Verdict {
    let services = services();
    let past = Past::default();
    let verdict = pin!(run::process(pipeline, record, &past, &services, now()));
    let verdict = match verdict.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => panic!("waits"),
    };
    if let Some(short) = straight::process(pipeline, record, &services, now()) {
        assert_eq!(format!("{short:?}"), format!("{verdict:?}"), "the short way");
    }
    verdict
}

fn values(verdict: &Verdict) -> Vec<&str> {
    let value = |record: &'_ crate::record::OutRecord| record.value.clone();
    assert!(verdict.records.iter().all(|record| value(record).is_some()));
    verdict
        .records
        .iter()
        .map(|record| std::str::from_utf8(record.value.as_deref().unwrap()).unwrap())
        .collect()
}

#[track_caller]
fn refused(steps: &str, code: &str, line: usize, says: &str) {
    let (_, lints) = compiled(steps);
    let found = lints.0.iter().find(|lint| lint.code == code).unwrap_or_else(|| panic!("{lints:?}"));
    assert_eq!(found.span.line_column().0, line, "{lints:?}");
    let whole = format!("{} | {}", found.message, found.help);
    assert!(whole.contains(says), "{whole}");
}

#[test]
fn an_untouched_event_goes_out_byte_for_byte() {
    let text = r#"{ "z": 1.10, "a": 12345678901234567890123, "z": 2 }"#;
    let verdict = ran(&pipeline("- emit: {topic: out}"), &record(Some(text)));
    assert_eq!(verdict.outcome, Outcome::Succeeded);
    assert_eq!(values(&verdict), [text]);
    let out = &verdict.records[0];
    assert_eq!(out.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(last_header(&out.headers, "ce_id").unwrap(), "evt_1");
    assert_eq!(last_header(&out.headers, "millrace.source"), None, "the outbox says it, once");
    assert_eq!(last_header(&out.headers, "traceparent"), None);
    // Nobody looks inside, so nobody minds.
    let verdict =
        ran(&pipeline("- filter: '%key == \"k\"'\n- emit: {topic: raw}"), &record(Some("{no json")));
    assert_eq!(values(&verdict), ["{no json"]);
}

#[test]
fn a_filter_ends_the_run_and_is_counted() {
    let pipeline = pipeline("- id: live\n  filter: .live == true\n- emit: {topic: out}");
    let verdict = ran(&pipeline, &record(Some("{\"live\": false}")));
    assert_eq!((verdict.outcome, verdict.stage.as_deref()), (Outcome::Filtered, Some("live")));
    assert!(verdict.records.is_empty());
}

#[test]
fn a_failure_is_a_dead_letter_that_releases_nothing() {
    let steps = "- emit: {topic: out}\n- kpi: {fact: f, value: '1'}\n- map: .n = int!(.n)\n";
    let verdict = ran(&pipeline(steps), &record(Some("{\"n\": \"x\"}")));
    assert_eq!((verdict.outcome, verdict.stage.as_deref()), (Outcome::DeadLettered, Some("map-1")));
    assert_eq!(verdict.fault.unwrap().class, FaultClass::Bug);
    assert!(verdict.records.is_empty() && verdict.facts.is_empty());
    let verdict = ran(&pipeline(steps), &record(Some("no JSON")));
    assert_eq!(verdict.fault.unwrap().class, FaultClass::Poison);
}

#[test]
fn an_ignored_failure_is_as_if_the_step_were_not_there() {
    let steps = "- map: |\n    .a = 1\n    .n = int!(.n)\n  on_error: ignore\n- emit: {topic: out}\n";
    let verdict = ran(&pipeline(steps), &record(Some("{\"n\": \"x\"}")));
    assert_eq!(verdict.outcome, Outcome::Succeeded);
    assert_eq!(values(&verdict), ["{\"n\": \"x\"}"]);
    let steps = "- route:\n    - when: 'true'\n      stages:\n        - map: .a = 1\n        - emit: {topic: out}\n        \
        - map: .n = int!(.n)\n  on_error: ignore\n- emit: {topic: out}\n";
    let verdict = ran(&pipeline(steps), &record(Some("{\"n\": \"x\"}")));
    assert_eq!(values(&verdict), ["{\"n\": \"x\"}"]);
}

#[test]
fn a_route_takes_the_first_branch_or_each() {
    let branches = "    - {when: '.n == 1', stages: [{emit: {topic: out, value: '\"one\"'}}]}\n    \
        - {when: 'is_integer(.n)', stages: [{emit: {topic: out, value: '\"integer\"'}}]}\n    \
        - otherwise: [{emit: {topic: out, value: '\"other\"'}}]\n";
    let first = pipeline(&format!("- route:\n{branches}"));
    let each = pipeline(&format!("- route:\n   all:\n{branches}"));
    for (n, by_first, by_each) in [
        ("1", &["\"one\""][..], &["\"one\"", "\"integer\""][..]),
        ("2", &["\"integer\""], &["\"integer\""]),
        ("null", &["\"other\""], &["\"other\""]),
    ] {
        let record = record(Some(&format!("{{\"n\": {n}}}")));
        assert_eq!(values(&ran(&first, &record)), by_first);
        assert_eq!(values(&ran(&each, &record)), by_each);
    }
}

#[test]
fn for_each_keeps_the_order_of_the_list() {
    let steps = "- id: parts\n  for_each:\n    in: .items\n    concurrency: 3\n    stages:\n      - filter: . != 2\n      \
        - map: . = {\"n\":int!(.)}\n      - emit: {topic: out}\n- map: . = %stages.parts\n- emit: {topic: out}\n";
    let pipeline = pipeline(steps);
    let verdict = ran(&pipeline, &record(Some("{\"items\": [1, 2, 3, 4]}")));
    assert_eq!(verdict.outcome, Outcome::Succeeded, "{:?}", verdict.fault);
    let each = ["{\"n\":1}", "{\"n\":3}", "{\"n\":4}"];
    assert_eq!(values(&verdict), [each[0], each[1], each[2], "[{\"n\":1},{\"n\":3},{\"n\":4}]"]);
    let verdict = ran(&pipeline, &record(Some("{\"items\": [1, \"x\"]}")));
    assert_eq!((verdict.outcome, verdict.stage.as_deref()), (Outcome::DeadLettered, Some("map-1")));
    assert_eq!(values(&ran(&pipeline, &record(Some("{}")))), ["[]"]);
    let many = format!("{{\"items\": {:?}}}", vec![1; 1_001]);
    let verdict = ran(&pipeline, &record(Some(&many)));
    assert_eq!(
        (verdict.stage.as_deref(), verdict.fault.unwrap().class),
        (Some("parts"), FaultClass::Permanent)
    );
}

#[test]
fn null_is_a_tombstone() {
    let verdict = ran(&pipeline("- emit: {topic: out}\n- emit: {topic: orders}"), &record(None));
    assert_eq!(verdict.outcome, Outcome::Succeeded, "{:?}", verdict.fault);
    assert!(verdict.records.iter().all(|record| record.value.is_none()));
    let verdict = ran(&pipeline("- map: . = null\n- emit: {topic: out, key: 'null'}"), &record(Some("{}")));
    assert_eq!((verdict.records[0].value.as_ref(), verdict.records[0].key.as_ref()), (None, None));
}

#[test]
fn avro_topics_hold_what_their_schema_says() {
    let services = services();
    let read = |verdict: &Verdict| {
        let framed = verdict.records[0].value.as_ref().unwrap();
        services.codec.read_value(&services.schemas["orders"], framed).unwrap()
    };
    let to_orders = pipeline("- emit: {topic: orders}");
    let verdict = ran(&to_orders, &record(Some("{\"id\": \"a\", \"total\": 5}")));
    assert_eq!(read(&verdict), serde_json::json!({"id": "a", "total": 5}));
    // And back: a record of that topic is decoded for a pipeline that reads it.
    let mut order = record(None);
    order.topic = "orders".into();
    order.value = verdict.records[0].value.clone();
    let verdict = ran(&pipeline("- filter: .total == 5\n- emit: {topic: out}"), &order);
    assert_eq!(values(&verdict), ["{\"id\":\"a\",\"total\":5}"]);
    order.value = Some(Bytes::from_static(b"{}"));
    assert_eq!(ran(&to_orders, &order).fault.unwrap().class, FaultClass::Poison);
    let verdict = ran(&to_orders, &record(Some("{\"id\": 1}")));
    let fault = verdict.fault.unwrap();
    assert_eq!(fault.class, FaultClass::Permanent);
    assert!(fault.message.contains("`id`"), "{}", fault.message);
}

#[test]
fn a_violation_names_the_path_and_not_the_value() {
    let steps = "- id: shape\n  validate: {schema: schemas/manychat-contact.json}\n";
    let verdict = ran(&pipeline(steps), &record(Some("{\"id\": {\"secret\": 1}}")));
    let fault = verdict.fault.unwrap();
    assert_eq!((verdict.stage.as_deref(), fault.class), (Some("shape"), FaultClass::Permanent));
    assert!(
        fault.message.starts_with("the value violates schemas/manychat-contact.json: /"),
        "{}",
        fault.message
    );
    assert!(!fault.message.contains("secret"), "{}", fault.message);
}

#[test]
fn facts_carry_where_they_came_from() {
    let steps = "- kpi: {fact: sale, value: .amount, time: .at, dimensions: {country: .country, who: .who}}";
    let event = "{\"amount\": \"19.99\", \"at\": \"2026-01-01T00:00:00Z\", \"country\": \"ES\"}";
    let verdict = ran(&pipeline(steps), &record(Some(event)));
    let fact = &verdict.facts[0];
    assert_eq!(
        (fact.value.to_string(), fact.time.to_rfc3339()),
        ("19.99".into(), "2026-01-01T00:00:00+00:00".into())
    );
    let dimensions: Vec<_> = fact.dimensions.iter().map(|(name, text)| (&**name, &**text)).collect();
    assert_eq!(dimensions, [("country", "ES"), ("who", "")]);
    assert_eq!((&*fact.pipeline, &*fact.topic, fact.partition, fact.offset), ("p", "in", 1, 7));
    let verdict = ran(&pipeline(steps), &record(Some("{\"amount\": [1]}")));
    assert_eq!(verdict.fault.unwrap().message, "fact sale: its value is a list");
}

#[test]
fn steps_that_cannot_be_are_refused_with_a_place() {
    refused("- fliter: .a == 1", "unknown-stage", 1, "did you mean `filter`?");
    refused("- delay: 5m", "not-available", 1, "stage `delay` is not available yet");
    refused("- filter: .a == 1\n  map: .a = 1", "unknown-key", 2, "second stage");
    refused("- filter: .a == 1\n  on_eror: ignore", "unknown-key", 2, "did you mean `on_error`?");
    refused("- id: a\n  filter: .a == 1\n- id: a\n  filter: .a == 1", "duplicate-id", 3, "line 1");
    refused("- id: A b\n  filter: .a == 1", "bad-id", 1, "lower-case");
    refused("- emit: {topic: ord}", "undeclared-topic", 1, "`orders` is declared in topics/orders.yaml");
    refused("- emit: {topic: out}\n  on_error: {tiers: [1m]}", "misplaced-key", 2, "retry tiers");
    refused("- emit: {topic: out}\n  on_error: {retry: {attempts: 0}}", "out-of-range", 2, "1 to 50");
    refused("- emit: {topic: out}\n  on_error: {retry: {backoff: 2}}", "bad-unit", 2, "has a unit");
    refused("- validate: {schema: ../a.json}", "bad-schema", 1, "project");
    refused("- validate: {schema: schemas/none.json}", "missing-file", 1, "cannot be read");
    refused("- kpi: {fact: a, value: 'true'}", "not-a-number", 1, "boolean");
    refused("- for_each: {in: '1', stages: [{emit: {topic: out}}]}", "not-a-list", 1, "integer");
    let twice = "- route:\n    - {when: 'true', stages: [{emit: {topic: out}}]}\n    - otherwise: [{emit: {topic: out}}]";
    refused(twice, "unreachable-branch", 3, "line 2");
    refused("- route: []", "empty", 1, "no branch");
    refused("[]", "empty", 1, "no stages");
}

#[test]
fn what_is_left_out_of_a_policy_is_the_default() {
    let steps = "- emit: {topic: out}\n  on_error: {retry: {attempts: 5, backoff: 20s}}\n- emit: {topic: out}\n  on_error: ignore\n";
    let pipeline = pipeline(steps);
    let own = pipeline.steps[0].on_error.as_ref().unwrap();
    assert_eq!(
        (own.retry.attempts.get(), own.retry.backoff, own.retry.max),
        (5, Duration::from_secs(20), Duration::from_secs(20))
    );
    assert_eq!(own.then, Then::DeadLetter);
    let ignored = pipeline.steps[1].on_error.as_ref().unwrap();
    assert_eq!((ignored.retry.attempts.get(), ignored.then), (1, Then::Ignore));
}

#[test]
fn a_run_can_be_sent_to_another_thread() {
    fn is_send<T: Send>(_: &T) {}
    let (pipeline, record, services) = (pipeline("- emit: {topic: out}"), record(None), services());
    let past = Past::default();
    let verdict = run::process(&pipeline, &record, &past, &services, now());
    is_send(&verdict);
    assert!(size_of_val(&verdict) < 4_096, "{} bytes", size_of_val(&verdict));
}

#[path = "verdict_history_tests.rs"]
mod history;

#[path = "straight_tests.rs"]
mod short;
