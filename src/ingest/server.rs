//! The HTTP endpoint: `POST /hooks/<connector>`.
//!
//! Connections are counted, aged and cut here; what a request is worth is decided in `accept`. HTTP/1.1 only: webhook
//! senders speak it, and one request at a time on a connection is the easiest thing to bound. TLS ends before
//! Millrace, at a proxy that keeps path, query and body as they are.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connectors::source::Source;
use crate::ingest::accept::{self, Entrance, Landed, Rejection};
use crate::ingest::limits::{BodyBudget, Gate, IngestSettings};
use crate::kafka::producer::{Delivered, Producer};
use crate::telemetry::{self, Counter, Histogram, names};

/// After an error of `accept` (too many open files, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Label of requests that name no connector of ours; their own words would be labels without end.
const UNKNOWN: &str = "unknown";
/// What stands before a connector's name in the address.
const HOOKS: &str = "/hooks/";

/// What the endpoint is made of.
pub struct Endpoint {
    /// Limits of the endpoint.
    pub settings: IngestSettings,
    /// Sources by the name that stands in the address.
    pub sources: Vec<(String, Source)>,
    /// Where the events go.
    pub producer: Producer,
    /// Told of every answered request that named a connector; what does not fit is dropped.
    pub events: Option<mpsc::Sender<Answered>>,
}

/// An answered request, one for each event of it; a refused one has no event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// Connector.
    pub connector: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// Why it was refused, in one word; empty when it was not.
    pub reason: &'static str,
    /// The event in Kafka.
    pub event: Option<Accepted>,
}

/// An event in Kafka.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// `ce_id`.
    pub id: String,
    /// `ce_type`.
    pub kind: String,
    /// Topic.
    pub topic: Arc<str>,
    /// Where in the topic.
    pub delivered: Delivered,
}

/// Why the endpoint did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Two sources have one name.
    #[error("two sources are called `{0}`")]
    DuplicateSource(String),
    /// At the end there were records that Kafka had not acknowledged. Their senders were told so.
    #[error("{0} records were not acknowledged by Kafka when the endpoint stopped; their senders know")]
    Unflushed(usize),
}

/// A source, and what is counted of it, looked up once.
struct Door {
    name: String,
    entrance: Entrance,
    events: Counter,
    accepted: Counter,
    duration: Histogram,
}

impl Door {
    fn new(name: String, source: Source) -> Self {
        let gate = Gate::new(source.limits());
        Self {
            events: telemetry::counter(names::INGEST_EVENTS, &[&name]),
            accepted: telemetry::counter(names::INGEST_REQUESTS, &[&name, StatusCode::OK.as_str()]),
            duration: telemetry::histogram(names::INGEST_DURATION, &[&name]),
            entrance: Entrance { source, gate },
            name,
        }
    }
}

struct Shared {
    doors: HashMap<String, Door>,
    budget: BodyBudget,
    producer: Producer,
    events: Option<mpsc::Sender<Answered>>,
    body_read_timeout: Duration,
}

/// Serves until `shutdown`, then finishes what runs, within [`IngestSettings::drain_max`].
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    endpoint: Endpoint,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let Endpoint { settings, sources, producer, events } = endpoint;
    let mut doors = HashMap::new();
    for (name, source) in sources {
        if doors.insert(name.clone(), Door::new(name.clone(), source)).is_some() {
            return Err(ServeError::DuplicateSource(name));
        }
    }
    let budget = BodyBudget::new(settings.body_bytes_in_flight_max);
    let body_read_timeout = settings.body_read_timeout;
    let shared = Arc::new(Shared { doors, budget, producer: producer.clone(), events, body_read_timeout });
    let settings = Arc::new(settings);
    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let open = Arc::new(AtomicU32::new(0));
    accept_connections(&settings, listener, &shutdown, |stream, permit| {
        let connection = connection(stream, Arc::clone(&shared), Arc::clone(&settings), shutdown.clone());
        let (cut, open) = (cut.clone(), Arc::clone(&open));
        connections.spawn(async move {
            let _permit = permit;
            telemetry::gauge(
                names::INGEST_CONNECTIONS,
                &[],
                (open.fetch_add(1, Ordering::Relaxed) + 1).into(),
            );
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
            telemetry::gauge(
                names::INGEST_CONNECTIONS,
                &[],
                (open.fetch_sub(1, Ordering::Relaxed) - 1).into(),
            );
        });
    })
    .await;
    connections.close();
    let end = Instant::now() + settings.drain_max;
    if tokio::time::timeout_at(end, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests still ran at the end and were cut");
        cut.cancel();
        connections.wait().await;
    }
    let patience = end.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    if producer.flush(patience).await { Ok(()) } else { Err(ServeError::Unflushed(producer.in_flight())) }
}

/// Hands each new connection to `handle` with a permit that counts it, until `shutdown`.
async fn accept_connections(
    settings: &IngestSettings,
    listener: TcpListener,
    shutdown: &CancellationToken,
    mut handle: impl FnMut(TcpStream, tokio::sync::OwnedSemaphorePermit),
) {
    let slots = Arc::new(Semaphore::new(settings.connections_max));
    loop {
        let permit = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            permit = Arc::clone(&slots).acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, _)) => handle(stream, permit),
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, until it closes, is too old, or the role stops.
async fn connection(
    stream: TcpStream,
    shared: Arc<Shared>,
    settings: Arc<IngestSettings>,
    shutdown: CancellationToken,
) {
    // Answers are small; without this they may wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let requests = AtomicU32::new(0);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let is_last = requests.fetch_add(1, Ordering::Relaxed) + 1 >= settings.requests_per_connection_max;
        let shared = &shared;
        async move {
            let mut response = answer(shared, request).await;
            if is_last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(settings.header_read_timeout)
        .max_buf_size(settings.header_bytes_max.max(8 * 1024))
        .max_headers(settings.headers_max);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let end = tokio::select! {
        end = connection.as_mut() => end,
        () = shutdown.cancelled() => finish(connection.as_mut()).await,
        () = tokio::time::sleep(settings.connection_age_max) => {
            // A peer that does not even read its answers is cut after the longest a request may take.
            tokio::time::timeout(Duration::from_secs(120), finish(connection.as_mut())).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = end {
        tracing::debug!(error = telemetry::logs::chain(&error), "connection");
    }
}

type Connection<'a, S> = std::pin::Pin<&'a mut http1::Connection<TokioIo<TcpStream>, S>>;

/// Lets the running request end and takes no further one.
async fn finish<S>(mut connection: Connection<'_, S>) -> Result<(), hyper::Error>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body, Error = Infallible>,
{
    connection.as_mut().graceful_shutdown();
    connection.await
}

fn nowhere() -> Response {
    observe(UNKNOWN, StatusCode::NOT_FOUND, Duration::ZERO);
    Rejection::UnknownConnector.answer(false)
}

async fn answer(shared: &Shared, request: hyper::Request<Incoming>) -> Response {
    let started = Instant::now();
    let name = request.uri().path().strip_prefix(HOOKS);
    let Some(door) = name.and_then(|name| shared.doors.get(name)) else { return nowhere() };
    let Shared { doors: _, budget, producer, events, body_read_timeout } = shared;
    let (parts, body) = request.into_parts();
    let request = accept::Incoming { parts, body, started, body_by: started + *body_read_timeout };
    match accept::take(&door.entrance, budget, producer, request).await {
        Ok(landed) => {
            let count = landed.len();
            tracing::debug!(connector = door.name, events = count, "accepted");
            door.events.add(count as u64);
            door.accepted.add(1);
            door.duration.record(started.elapsed());
            if let Some(events) = events {
                tell(events, stored(&door.name, &door.entrance.source, landed));
            }
            accept::accepted(count)
        }
        Err(rejection) => {
            log(&door.name, &rejection);
            let response = rejection.answer(door.entrance.source.wants_basic());
            let status = response.status();
            observe(&door.name, status, started.elapsed());
            if let Some(events) = events {
                let connector = door.name.clone();
                let reason = rejection.code();
                tell(events, vec![Answered { connector, status: status.as_u16(), reason, event: None }]);
            }
            response
        }
    }
}

/// A slow reader loses lines, never an event.
fn tell(events: &mpsc::Sender<Answered>, all: Vec<Answered>) {
    for answered in all {
        let _ = events.try_send(answered);
    }
}

fn stored(connector: &str, source: &Source, landed: Vec<Landed>) -> Vec<Answered> {
    let answered = |Landed { id, kind, delivered }| Answered {
        connector: connector.to_owned(),
        status: StatusCode::OK.as_u16(),
        reason: "",
        event: Some(Accepted { id, kind, topic: Arc::clone(source.topic()), delivered }),
    };
    landed.into_iter().map(answered).collect()
}

/// What senders do wrong is information; what is wrong here is a warning.
fn log(connector: &str, rejection: &Rejection) {
    let (status, code) = (rejection.status().as_u16(), rejection.code());
    let reason = telemetry::logs::chain(rejection);
    if status >= 500 {
        tracing::warn!(connector, status, code, reason, "not accepted");
    } else {
        tracing::info!(connector, status, code, reason, "not accepted");
    }
}

fn observe(connector: &str, status: StatusCode, duration: Duration) {
    telemetry::count(names::INGEST_REQUESTS, &[connector, status.as_str()], 1);
    telemetry::duration(names::INGEST_DURATION, &[connector], duration);
}
