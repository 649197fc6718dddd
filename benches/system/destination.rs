//! An HTTP destination in this process: it answers after a time of its own choosing and notes who came when.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use tokio::sync::watch;

use crate::measure;
use crate::raw::Outcome;

/// Longest time an answer takes, in microseconds.
const ANSWER_MAX_US: u64 = 5_000;

/// When calls are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    /// After 0 to 5 ms.
    Soon,
    /// The same, counted from when so many were open at one time.
    Together(usize),
    /// Never.
    Never,
}

struct Shared {
    answers: Answers,
    /// Customer and number of each call, in the order of their beginning.
    begun: Mutex<Vec<(u64, u64)>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
    is_open: watch::Sender<bool>,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
    answered: AtomicUsize,
}

/// Listens until it is dropped.
pub struct Destination {
    pub url: String,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

impl Destination {
    pub fn start(answers: Answers) -> Outcome<Destination> {
        let shared = Arc::new(Shared {
            answers,
            begun: Mutex::default(),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            is_open: watch::Sender::new(false),
            first_ns: AtomicU64::new(u64::MAX),
            last_ns: AtomicU64::new(0),
            answered: AtomicUsize::new(0),
        });
        let runtime = crate::http::runtime()?;
        let router =
            Router::new().route("/take/{customer}/{seq}", post(take)).with_state(Arc::clone(&shared));
        let listener = runtime.block_on(listen()).map_err(|e| format!("the destination: {e}"))?;
        let url = format!("http://{}", listener.local_addr().map_err(|e| e.to_string())?);
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Destination { url, shared, _runtime: runtime })
    }

    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::SeqCst)
    }

    pub fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }

    /// From the first call's arrival to the last answer; for [`Answers::Together`] from the moment at which they were
    /// let go.
    pub fn first_to_last(&self) -> Duration {
        let first = self.shared.first_ns.load(Ordering::SeqCst);
        Duration::from_nanos(self.shared.last_ns.load(Ordering::SeqCst).saturating_sub(first))
    }

    /// Customer and number of each call, in the order of their beginning.
    pub fn begun(&self) -> Vec<(u64, u64)> {
        self.shared.begun.lock().map(|begun| begun.clone()).unwrap_or_default()
    }
}

async fn listen() -> std::io::Result<tokio::net::TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))?;
    // Thousands of connections are opened at once.
    socket.listen(4096)
}

async fn take(
    State(shared): State<Arc<Shared>>,
    Path((customer, seq)): Path<(String, u64)>,
) -> Result<&'static str, StatusCode> {
    let customer = customer.trim_start_matches("cus_").parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    shared.begun.lock().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?.push((customer, seq));
    let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most_open.fetch_max(open, Ordering::SeqCst);
    match shared.answers {
        Answers::Soon => {
            shared.first_ns.fetch_min(measure::monotonic_ns(), Ordering::SeqCst);
        }
        Answers::Together(wanted) => {
            if open >= wanted && !shared.is_open.send_replace(true) {
                shared.first_ns.fetch_min(measure::monotonic_ns(), Ordering::SeqCst);
            }
            // The sender lives as long as the runtime.
            let _ = shared.is_open.subscribe().wait_for(|is_open| *is_open).await;
        }
        Answers::Never => std::future::pending().await,
    }
    tokio::time::sleep(Duration::from_micros(seq * 7_919 % (ANSWER_MAX_US + 1))).await;
    shared.open.fetch_sub(1, Ordering::SeqCst);
    shared.answered.fetch_add(1, Ordering::SeqCst);
    shared.last_ns.fetch_max(measure::monotonic_ns(), Ordering::SeqCst);
    Ok("{}")
}
