use serde_json::json;

use crate::fault::FaultClass;
use crate::stages::bench::Bench;
use crate::stages::context::Next;
use crate::stages::http::sendable;

const CALLS: &str =
    "{note: {method: POST, path: '/c/{id}/notes', query: [tag, limit]}, list: {method: GET, path: /c}}";

#[tokio::test]
async fn the_answer_stands_in_the_metadata() {
    let bench = Bench::new(CALLS, "[{connector: crm, call: note, respond: [{json: {id: 7}}]}]");
    let stage = bench
        .compile(
            "http",
            "{connector: crm, call: note, path_params: {id: .id}, query: {tag: .tags, limit: .none}, body: '{\"text\": .text}'}",
        )
        .expect("compiles");
    let (next, seen) = bench
        .apply(&stage, (77, r#"{"id": "a/1", "text": "paid", "tags": ["x", "y"]}"#), "'%stages.tell'")
        .await
        .expect("done");
    assert_eq!(next, Next::Continue);
    assert_eq!(seen, json!({ "status": 200, "headers": {}, "body": {"id": 7} }));
    let sent = bench.script().requests();
    assert_eq!(sent[0].line, "POST https://crm.test/c/a%2F1/notes?tag=x&tag=y");
    assert_eq!(sent[0].body, Some(json!({ "text": "paid" })));
    assert_eq!(bench.script().problems(), Vec::<String>::new());
}

#[tokio::test]
async fn a_null_where_text_is_needed_is_permanent_and_nothing_is_sent() {
    let bench = Bench::new(CALLS, "[]");
    for stage in [
        "{connector: crm, call: note, path_params: {id: .id}}",
        "{connector: crm, call: note, path_params: {id: '\"1\"'}, idempotency_key: .key}",
    ] {
        let stage = bench.compile("http", stage).expect("compiles");
        let fault = bench.apply(&stage, (77, "{}"), ".").await.expect_err("null");
        assert_eq!(fault.class, FaultClass::Permanent);
    }
    assert_eq!(bench.script().requests(), []);
}

#[test]
fn mistakes_are_found_before_anything_runs() {
    let bench = Bench::new(CALLS, "[]");
    let lints = |text: &str| bench.compile("http", text).expect_err("lints");
    let suggests = |word: &str| format!("did you mean `{word}`?");
    assert_eq!(lints("{connector: cmr, call: note}"), [("unknown-connector", suggests("crm"))]);
    assert_eq!(lints("{connector: crm, call: notes}"), [("unknown-call", suggests("note"))]);
    assert_eq!(
        lints("{connector: crm, call: note}"),
        [("missing-key", String::from("add path_params: {id: ...}"))]
    );
    assert_eq!(
        lints("{connector: crm, call: note, path_params: {id: .id}, query: {tags: .t}}"),
        [("unknown-parameter", suggests("tag"))]
    );
    assert_eq!(lints("{connector: crm, call: list, body: .}")[0].0, "body-on-read");
    assert_eq!(lints("{connector: crm, call: list, headers: {Authorization: .t}}")[0].0, "literal-secret");
    assert_eq!(lints("{connector: crm, call: list, headers: {Host: .t}}")[0].0, "bad-header");
    assert_eq!(lints("{connector: crm, call: list, boddy: .}")[0].0, "unknown-key");
}

#[test]
fn keys_that_no_header_carries_are_hashed() {
    assert_eq!(sendable(String::from("a/b/1")), "a/b/1");
    for key in ["x".repeat(256), String::from("é"), String::from("a b")] {
        assert_eq!(sendable(key).len(), 64);
    }
}

#[tokio::test]
async fn a_rate_limit_lets_pass_at_its_rate_by_key() {
    let bench = Bench::new(CALLS, "[]");
    let stage = bench.compile("rate_limit", "{rate: 10/s, burst: 2, key: .customer}").expect("compiles");
    assert!(stage.waits() && !stage.answers());
    for offset in 0..12 {
        bench.apply(&stage, (offset, r#"{"customer": "a"}"#), ".").await.expect("passes");
        if offset == 1 {
            assert!(bench.services.clock.elapsed().is_zero());
        }
    }
    let waited = bench.services.clock.elapsed();
    assert_eq!(waited.as_millis(), 1_000);
    bench.apply(&stage, (12, r#"{"customer": "b"}"#), ".").await.expect("passes");
    assert_eq!(bench.services.clock.elapsed(), waited, "another key has its own bucket");
    assert_eq!(bench.compile("rate_limit", "{rate: 10}").expect_err("lints")[0].0, "bad-unit");
}
