use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::connectors::answer::Answer;
use crate::connectors::http::loopback::{Server, answer, server};
use crate::connectors::http::{CallInputs, Target};
use crate::connectors::target::TargetConfig;
use crate::fault::{Fault, FaultClass};
use crate::secrets::Secrets;
use crate::yaml::lint::{Lints, SourceFile};
use crate::yaml::node::parse;

fn target(server: &Server, more: &str) -> Target {
    let text = format!("base_url: http://{}/api\n{more}", server.address);
    let file = Arc::new(SourceFile { path: PathBuf::from("connectors/crm.yaml"), text });
    let mut lints = Lints::default();
    let node = parse(&file, &mut lints).expect("YAML");
    let config = TargetConfig::decode(&node, &mut lints);
    assert!(lints.0.is_empty(), "{:?}", lints.0);
    Target::new("crm".into(), Arc::new(config.expect("a target")), &Secrets::default())
        .expect("secrets are there")
}

/// A secret in a file, as a reference.
fn secret(folder: &tempfile::TempDir, value: &str) -> String {
    let path = folder.path().join(uuid::Uuid::new_v4().to_string());
    std::fs::write(&path, value).expect("the folder can be written");
    format!("{{file: {}}}", path.display())
}

fn inputs() -> CallInputs {
    CallInputs {
        path_params: BTreeMap::from([(String::from("id"), String::from("a/b"))]),
        query: vec![(String::from("expand[]"), String::from("x y"))],
        headers: vec![(String::from("x-extra"), String::from("1"))],
        body: Some(serde_json::json!({ "text": "paid" })),
        idempotency_key: String::from("leads/events.crm/3/77/tell"),
    }
}

const CALLS: &str = "limits: {timeout: 300ms, response: 1KiB}
retry: {statuses: [409]}
calls:
  note: {method: POST, path: '/notes/{id}', query: ['expand[]'], headers: {X-Call: note}}
  read: {method: GET, path: /notes}
  form: {method: POST, path: /form, format: form}
";

async fn call_once(text: String, call: &str) -> Result<Answer, Fault> {
    let server = server(vec![text]).await;
    target(&server, CALLS).call(call, &inputs()).await
}

#[tokio::test]
async fn a_call_carries_everything_and_its_answer_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = answer("201 Created", "X-Request-Id: r1\r\nSet-Cookie: no\r\n", r#"{"id": 7}"#);
    let server = server(vec![text]).await;
    let target = target(&server, &format!("auth: {{bearer: {}}}\n{CALLS}", secret(&folder, "tok_1")));
    let answer = target.call("note", &inputs()).await.expect("done");
    assert_eq!(
        answer.into_json(),
        serde_json::json!({ "status": 201, "headers": {"x-request-id": "r1"}, "body": {"id": 7} })
    );
    let request = server.requests().remove(0).to_lowercase();
    assert!(request.starts_with("post /api/notes/a%2fb?expand%5b%5d=x+y http/1.1\r\n"), "{request}");
    for line in [
        "authorization: bearer tok_1",
        "idempotency-key: leads/events.crm/3/77/tell",
        "content-type: application/json",
        "x-call: note",
        "x-extra: 1",
    ] {
        assert!(request.contains(&format!("\r\n{line}\r\n")), "{line} in {request}");
    }
    assert!(request.ends_with(r#"{"text":"paid"}"#), "{request}");
}

#[tokio::test]
async fn answers_become_faults_that_name_the_call() {
    let fault = call_once(answer("400 Bad Request", "", r#"{"message": "no `emial`"}"#), "note").await;
    let fault = fault.expect_err("refused");
    assert_eq!((fault.class, fault.http_status), (FaultClass::Permanent, Some(400)));
    assert_eq!(fault.message, r#"crm.note: status 400: {"message": "no `emial`"}"#);
    let fault = call_once(answer("409 Conflict", "", ""), "note").await.expect_err("refused");
    assert_eq!(fault.class, FaultClass::Transient);
    let fault = call_once(answer("429 Slow", "Retry-After: 3\r\n", ""), "note").await.expect_err("refused");
    assert_eq!(fault.class, FaultClass::Throttled { after: Some(Duration::from_secs(3)) });
}

#[tokio::test]
async fn silence_and_broken_connections_are_transient() {
    for text in ["hang", "", "garbage\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"cut\": "] {
        let fault = call_once(text.to_owned(), "note").await.expect_err("no answer");
        assert_eq!((fault.class, fault.http_status), (FaultClass::Transient, None), "{text:?}: {fault}");
        assert!(!fault.message.contains("127.0.0.1"), "{fault}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_read_to_its_end() {
    let long = "x".repeat(2000);
    let fault = call_once(answer("200 OK", "", &long), "note").await.expect_err("too long");
    assert_eq!(fault.class, FaultClass::Permanent);
    let fault = call_once(answer("502 Bad Gateway", "", &long), "note").await.expect_err("refused");
    assert_eq!(fault.class, FaultClass::Transient);
}

#[tokio::test]
async fn redirects_are_followed_to_the_same_host_and_for_reads_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let auth = format!("auth: {{header: {{name: X-Key, value: {}}}}}\n{CALLS}", secret(&folder, "k_12345"));
    let moved = |to: &str| answer("302 Found", &format!("Location: {to}\r\n"), "");

    let here = server(vec![moved("/api/other"), answer("200 OK", "", "{}")]).await;
    let mut read = inputs();
    read.body = None;
    assert!(target(&here, &auth).call("read", &read).await.is_ok());
    let requests = here.requests();
    assert!(requests[1].starts_with("GET /api/other "), "{}", requests[1]);
    assert!(!requests[0].to_lowercase().contains("idempotency-key"));

    let elsewhere = server(vec![answer("200 OK", "", "{}")]).await;
    let away = server(vec![moved(&format!("http://{}/steal", elsewhere.address))]).await;
    let fault = target(&away, &auth).call("read", &read).await.expect_err("not followed");
    assert_eq!((fault.class, fault.http_status), (FaultClass::Permanent, Some(302)));
    assert_eq!(elsewhere.requests(), Vec::<String>::new());

    let here = server(vec![moved("/api/other")]).await;
    let fault = target(&here, &auth).call("note", &inputs()).await.expect_err("not followed");
    assert_eq!(fault.http_status, Some(302));
}

#[tokio::test]
async fn credentials_never_come_back_in_a_message() {
    let folder = tempfile::tempdir().expect("a folder");
    for (auth, value) in [
        (format!("bearer: {}", secret(&folder, "tok/ü 1")), "tok/ü 1"),
        (format!("query: {{name: key, value: {}}}", secret(&folder, "s3cr et+")), "s3cr et+"),
        (format!("basic: {{username: u, password: {}}}", secret(&folder, "passw0rd")), "dTpwYXNzdzByZA=="),
    ] {
        let text = answer("400 Bad Request", "", &format!("you sent {value}, s3cr+et%2B and that is wrong"));
        let server = server(vec![text]).await;
        let target = target(&server, &format!("auth: {{{auth}}}\n{CALLS}"));
        let fault = target.call("note", &inputs()).await.expect_err("refused");
        assert!(fault.message.contains("you sent ***") && !fault.message.contains(value), "{fault}");
        assert!(!auth.starts_with("query") || !fault.message.contains("s3cr+et%2B"), "{fault}");
        assert!(!format!("{target:?}").contains(value));
    }
}

#[tokio::test]
async fn forms_are_encoded_and_wrong_inputs_are_not_sent() {
    let server = server(vec![answer("200 OK", "", "ok")]).await;
    let target = target(&server, CALLS);
    let mut inputs = inputs();
    inputs.body = Some(serde_json::json!({ "metadata": {"order": 7} }));
    let answer = target.call("form", &inputs).await.expect("done");
    assert_eq!(answer.body, "ok");
    let request = server.requests().remove(0);
    assert!(request.ends_with("metadata%5Border%5D=7"), "{request}");
    assert!(request.contains("application/x-www-form-urlencoded"), "{request}");

    inputs.body = Some(serde_json::json!([1]));
    assert_eq!(target.call("form", &inputs).await.expect_err("no object").class, FaultClass::Permanent);
    inputs.headers = vec![(String::from("x-a"), String::from("a\r\nb: c"))];
    assert_eq!(target.call("note", &inputs).await.expect_err("a line break").class, FaultClass::Permanent);
    inputs.headers.clear();
    inputs.body = Some("x".repeat(2 << 20).into());
    assert_eq!(target.call("note", &inputs).await.expect_err("too large").class, FaultClass::Permanent);
    inputs.path_params.clear();
    assert_eq!(target.call("note", &inputs).await.expect_err("no id").class, FaultClass::Permanent);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_token_is_fetched_once_and_again_after_a_401() {
    let folder = tempfile::tempdir().expect("a folder");
    let token =
        |token: &str| answer("200 OK", "", &format!(r#"{{"access_token": "{token}", "expires_in": 3600}}"#));
    let tokens = server(vec![token("one"), token("two")]).await;
    let api = server(vec![
        answer("200 OK", "", "{}"),
        answer("200 OK", "", "{}"),
        answer("401 Unauthorized", "", "{}"),
        answer("200 OK", "", "{}"),
    ])
    .await;
    let target = target(
        &api,
        &format!(
            "auth: {{oauth2: {{token_url: 'http://{}/token', client_id: {}, client_secret: {}, scope: notes}}}}\n{CALLS}",
            tokens.address,
            secret(&folder, "client"),
            secret(&folder, "hush-hush"),
        ),
    );
    for _ in 0..3 {
        target.call("note", &inputs()).await.expect("done");
    }
    let used: Vec<bool> =
        api.requests().iter().map(|request| request.to_lowercase().contains("bearer two")).collect();
    assert_eq!(used, [false, false, false, true]);
    let asked = tokens.requests();
    assert_eq!(asked.len(), 2);
    assert!(asked[0].ends_with("grant_type=client_credentials&scope=notes"), "{}", asked[0]);
}

#[test]
fn a_missing_secret_is_named_at_start() {
    let text = "base_url: https://a.test\nauth: {bearer: {env: MILLRACE_TEST_NEVER_SET}}\ncalls: {}\n";
    let file = Arc::new(SourceFile { path: PathBuf::from("connectors/a.yaml"), text: text.to_owned() });
    let mut lints = Lints::default();
    let node = parse(&file, &mut lints).expect("YAML");
    let config = TargetConfig::decode(&node, &mut lints).expect("a target");
    let error = Target::new("crm".into(), Arc::new(config), &Secrets::default()).expect_err("no secret");
    assert_eq!(error.to_string(), "connector crm: credentials are missing");
    let source = std::error::Error::source(&error).expect("a source").to_string();
    assert_eq!(source, "environment variable MILLRACE_TEST_NEVER_SET is not set");
}
