//! Calls to the outside carry a key that names the work: a worker that dies between a call and its commit leaves another
//! to repeat the call under the same key.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use tokio::sync::watch;

use crate::support::millrace::{Addresses, Millrace};
use crate::support::{readback, servers};

const LIMIT: Duration = Duration::from_secs(60);
/// The connector's own name for the header.
const HEADER: &str = "x-request-key";

/// A destination that notes the keys of its calls and answers none before it is opened.
#[derive(Clone)]
struct Destination {
    keys: Arc<Mutex<Vec<String>>>,
    is_open: watch::Sender<bool>,
}

impl Destination {
    async fn start() -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let destination = Self { keys: Arc::default(), is_open: watch::Sender::new(false) };
        let router = Router::new().route("/notes", post(note)).with_state(destination.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (destination, url)
    }

    /// Keys in the order of the calls.
    fn keys(&self) -> Vec<String> {
        self.keys.lock().expect("no panic").clone()
    }
}

async fn note(State(destination): State<Destination>, headers: HeaderMap) -> &'static str {
    let key = headers.get(HEADER).expect("every call that changes something has a key");
    let key = key.to_str().expect("text").to_owned();
    destination.keys.lock().expect("no panic").push(key);
    let mut is_open = destination.is_open.subscribe();
    let _ = is_open.wait_for(|is_open| *is_open).await;
    "{}"
}

fn write_project(folder: &Path, name: &str, url: &str) {
    let file = |path: &str, text: String| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a path in the folder")).expect("the folder is ours");
        std::fs::write(path, text).expect("the folder is ours");
    };
    file(
        "connectors/crm.yaml",
        format!(
            "target:\n  base_url: {url}\n  idempotency_header: {HEADER}\n  calls:\n    note: {{method: POST, path: /notes}}\n"
        ),
    );
    for topic in ["events", "noted"] {
        file(&format!("topics/{name}.{topic}.yaml"), String::from("partitions: 1\nvalue: {format: json}\n"));
    }
    file(
        &format!("pipelines/{name}.yaml"),
        format!(
            "input: {{topics: [{name}.events]}}\nstages:\n  - id: all\n    for_each:\n      in: .items\n      stages:\n        - id: tell\n          http: {{connector: crm, call: note, body: '{{\"item\": .}}'}}\n  - id: noted\n    emit: {{topic: {name}.noted, key: '%key'}}\n"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_repeated_has_the_same_key() {
    let name = servers::unique("keys");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (destination, url) = Destination::start().await;
    write_project(folder.path(), &name, &url);
    let addresses = Addresses { kafka: servers::kafka(), registry: servers::registry(), postgres: None };
    let millrace = Millrace::new(folder.path(), &name, &addresses);
    millrace.run_ok(&["apply", "--yes"]);
    let (events, noted) = (format!("{name}.events"), format!("{name}.noted"));
    millrace.run_ok(&["send", &events, "--key", "a", "--json", r#"{"items": ["x", "y"]}"#]);
    let arguments = ["worker", "--instance", "a", "--metrics", "127.0.0.1:0", "--session-timeout", "6s"];
    let mut first = millrace.start("worker-1", &arguments);
    until(|| !destination.keys().is_empty(), || first.log_text());
    first.kill();
    let before: BTreeSet<String> = destination.keys().into_iter().collect();
    let second = millrace.start("worker-2", &arguments);
    until(|| destination.keys().len() > before.len(), || second.log_text());
    destination.is_open.send_replace(true);
    let kafka = servers::kafka();
    until(|| readback::read_all(&kafka, &noted).len() == 1, || second.log_text());

    let keys = destination.keys();
    let names: BTreeSet<String> = keys.iter().cloned().collect();
    let wanted = [0, 1].map(|element| format!("{name}/{events}/0/0/tell/{element}"));
    assert_eq!(names, BTreeSet::from(wanted), "one key for each element, whoever calls");
    for key in before {
        let times = keys.iter().filter(|known| **known == key).count();
        assert!(times >= 2, "{key} was called {times} times: before the kill and after it");
    }
}

fn until(done: impl Fn() -> bool, log: impl Fn() -> String) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}\n{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
}
