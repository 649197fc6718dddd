//! An HTTP destination inside the test: it counts what it is asked, and answers when it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::post;
use tokio::sync::watch;

/// Calls by the id in their path.
#[derive(Clone)]
pub struct Destination {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    calls: Arc<Mutex<Calls>>,
    /// Whether calls for `slow` ids are answered.
    is_open: watch::Sender<bool>,
}

#[derive(Default)]
struct Calls {
    by_id: BTreeMap<String, usize>,
    open: usize,
    most_open: usize,
}

impl Destination {
    /// Listens. Calls whose id begins with `slow` are held until [`Self::open`].
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let destination = Self { url, calls: Arc::default(), is_open: watch::Sender::new(false) };
        let router = Router::new().route("/take/{id}", post(take)).with_state(destination.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        destination
    }

    /// From now on every call is answered.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// How often each id was asked for.
    pub fn calls(&self) -> BTreeMap<String, usize> {
        self.calls.lock().expect("no panic").by_id.clone()
    }

    /// Most calls open at the same time.
    pub fn most_open(&self) -> usize {
        self.calls.lock().expect("no panic").most_open
    }

    /// Waits until `count` different ids were asked for.
    pub async fn until_ids(&self, count: usize, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.calls().len() < count {
            assert!(Instant::now() < deadline, "{} of {count} ids were asked for", self.calls().len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn take(State(destination): State<Destination>, Path(id): Path<String>) -> &'static str {
    {
        let mut calls = destination.calls.lock().expect("no panic");
        *calls.by_id.entry(id.clone()).or_default() += 1;
        calls.open += 1;
        calls.most_open = calls.most_open.max(calls.open);
    }
    let _open = Open(&destination);
    if id.starts_with("slow") {
        let mut is_open = destination.is_open.subscribe();
        let _ = is_open.wait_for(|is_open| *is_open).await;
    }
    "{}"
}

struct Open<'a>(&'a Destination);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.calls.lock().expect("no panic").open -= 1;
    }
}
