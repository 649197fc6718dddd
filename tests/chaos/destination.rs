//! A destination of calls: slow, sometimes broken, and it remembers every call.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use tokio::runtime::Runtime;

use crate::support::dice::Dice;

/// How it answers.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Longest time of an answer, in milliseconds; each takes some part of it.
    pub latency_ms_max: u64,
    /// Of so many first calls one is answered with 500; none with 0.
    pub broken_one_in: u64,
    /// Status of every answer, where it is not 200; with `Retry-After` in seconds.
    pub status: Option<(u16, Option<u64>)>,
    /// Calls for this key always fail with 500.
    pub failing_key: Option<String>,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Milliseconds since the destination was made.
    pub at_ms: u64,
    /// Idempotency key.
    pub idempotency_key: String,
    /// Key and number of the event.
    pub event: (String, u64),
    /// Status of the answer.
    pub status: u16,
}

struct Shared {
    made_at: Instant,
    seed: u64,
    manners: Mutex<Manners>,
    calls: Mutex<Vec<Call>>,
    attempts: Mutex<HashMap<String, u32>>,
}

/// The destination; it ends with its runtime.
#[derive(Clone)]
pub struct Destination {
    shared: Arc<Shared>,
    /// Where it listens.
    pub port: u16,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Destination {
    /// Listens on a free port.
    pub fn start(runtime: &Runtime, seed: u64, manners: Manners) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            made_at: Instant::now(),
            seed,
            manners: Mutex::new(manners),
            calls: Mutex::default(),
            attempts: Mutex::default(),
        });
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let port = listener.local_addr()?.port();
        let app = Router::new().route("/put", post(put)).with_state(Arc::clone(&shared));
        runtime.spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("the destination ended: {error}");
            }
        });
        Ok(Self { shared, port })
    }

    /// Changes how it answers.
    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut locked(&self.shared.manners));
    }

    /// All calls in the order they came.
    pub fn calls(&self) -> Vec<Call> {
        locked(&self.shared.calls).clone()
    }

    /// Calls that succeeded and came again with the same key.
    pub fn repeated(&self) -> usize {
        let mut done: HashMap<String, usize> = HashMap::new();
        for call in locked(&self.shared.calls).iter().filter(|call| call.status == 200) {
            *done.entry(call.idempotency_key.clone()).or_default() += 1;
        }
        done.values().map(|times| times - 1).sum()
    }
}

fn elapsed_ms(shared: &Shared) -> u64 {
    u64::try_from(shared.made_at.elapsed().as_millis()).unwrap_or(u64::MAX)
}

async fn put(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> Response {
    let at_ms = elapsed_ms(&shared);
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let event: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    let event =
        (event["key"].as_str().unwrap_or_default().to_owned(), event["seq"].as_u64().unwrap_or(u64::MAX));
    let attempt = {
        let mut attempts = locked(&shared.attempts);
        let attempt = attempts.entry(key.to_owned()).or_default();
        *attempt += 1;
        *attempt
    };
    let manners = locked(&shared.manners).clone();
    let mut dice = Dice::new(
        shared.seed
            ^ key.bytes().fold(7, |sum, byte| u64::wrapping_add(u64::wrapping_mul(sum, 31), u64::from(byte))),
    );
    let wait = dice.roll(manners.latency_ms_max + 1);
    let is_unlucky = manners.broken_one_in > 0 && dice.roll(manners.broken_one_in) == 0 && attempt == 1;
    let is_doomed = manners.failing_key.is_some_and(|doomed| doomed == event.0);
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let (status, retry_after) = match manners.status {
        Some(answer) => answer,
        None if is_unlucky || is_doomed => (500, None),
        None => (200, None),
    };
    locked(&shared.calls).push(Call { at_ms, idempotency_key: key.to_owned(), event, status });
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
    match retry_after {
        Some(seconds) => (status, [("retry-after", seconds.to_string())]).into_response(),
        None => status.into_response(),
    }
}
