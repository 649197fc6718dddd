//! One webhook request: read within its limits, verify, normalise, put into Kafka, answer.

use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use chrono::Utc;
use http_body_util::BodyExt as _;
use hyper::body::Incoming as Body;
use tokio::time::{Instant, timeout_at};

use crate::connectors::request::{Refusal, Unverified};
use crate::connectors::source::Source;
use crate::event::Event;
use crate::ingest::limits::{BodyBudget, BodyShare, Gate};
use crate::kafka::producer::{Delivered, ProduceError, Producer};

/// How much of an unwanted body is read and thrown away, so that its sender gets to read the answer.
const DISCARD_BYTES_MAX: usize = 4 * 1024 * 1024;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(1);
/// When to come again after an answer that means "not now".
const BUSY_RETRY: Duration = Duration::from_secs(1);
const AWAY_RETRY: Duration = Duration::from_secs(5);

/// A source with its limits at work.
pub struct Entrance {
    /// The source.
    pub source: Source,
    /// Its limits.
    pub gate: Gate,
}

/// An event in Kafka.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Landed {
    /// `ce_id`.
    pub id: String,
    /// `ce_type`.
    pub kind: String,
    /// Where it stands.
    pub delivered: Delivered,
}

/// Why a request was not taken. Says what is answered.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Rejection {
    /// No connector of that name has a source.
    #[error("there is no such connector")]
    UnknownConnector,
    /// Not POST.
    #[error("only POST is taken here")]
    WrongMethod,
    /// The body is compressed.
    #[error("the body's content encoding is not taken here, send it as it is")]
    Encoded,
    /// The body is longer than the source takes.
    #[error("the body is too large")]
    TooLarge,
    /// The body did not come in time.
    #[error("the body did not arrive in time")]
    SlowBody,
    /// The body broke off.
    #[error("the body is incomplete")]
    BrokenBody,
    /// Signature, age or content.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Over the source's rate, or too many at one time.
    #[error("too many requests")]
    TooMany {
        /// When to come again.
        after: Duration,
    },
    /// Memory for bodies is used up.
    #[error("the endpoint is busy")]
    Overloaded,
    /// Kafka did not acknowledge all records before the deadline.
    #[error("the event could not be stored in time")]
    Late,
    /// Kafka did not take a record.
    #[error("the event could not be stored")]
    Store(#[source] ProduceError),
}

impl Rejection {
    /// HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnknownConnector => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge | Self::Store(ProduceError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::BrokenBody => StatusCode::BAD_REQUEST,
            Self::Refused(refusal) => match refusal {
                Refusal::MissingHeader(_) | Refusal::BadSignature | Refusal::OutsideWindow => {
                    StatusCode::UNAUTHORIZED
                }
                Refusal::BadHeader(_) | Refusal::BadBody(_) => StatusCode::BAD_REQUEST,
                Refusal::UnsupportedType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            },
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded | Self::Late | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Stable short name, for answers and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownConnector => "unknown_connector",
            Self::WrongMethod => "method_not_allowed",
            Self::Encoded => "unsupported_encoding",
            Self::TooLarge | Self::Store(ProduceError::TooLarge { .. }) => "too_large",
            Self::SlowBody => "body_timeout",
            Self::BrokenBody => "incomplete_body",
            Self::Refused(refusal) => refusal.code(),
            Self::TooMany { .. } => "too_many_requests",
            Self::Overloaded => "overloaded",
            Self::Late | Self::Store(_) => "not_stored",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooMany { after } => Some(*after),
            Self::Overloaded | Self::Store(ProduceError::Busy) => Some(BUSY_RETRY),
            Self::Late => Some(AWAY_RETRY),
            Self::Store(ProduceError::TooLarge { .. }) => None,
            Self::Store(_) => Some(AWAY_RETRY),
            Self::UnknownConnector
            | Self::WrongMethod
            | Self::Encoded
            | Self::TooLarge
            | Self::SlowBody
            | Self::BrokenBody
            | Self::Refused(_) => None,
        }
    }

    /// The answer. `wants_basic` asks for a password where the scheme is Basic.
    pub fn answer(&self, wants_basic: bool) -> Response {
        let status = self.status();
        let body = serde_json::json!({"error": {"code": self.code(), "message": self.to_string()}});
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after() {
            // Whole seconds, rounded up: a sender that comes too early is sent away again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        if status == StatusCode::UNAUTHORIZED && wants_basic {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"webhooks\""));
        }
        response
    }
}

/// The answer when all events of a request are in Kafka.
pub fn accepted(events: usize) -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    let body = match events {
        1 => Bytes::from_static(b"{\"accepted\":1}"),
        events => Bytes::from(format!("{{\"accepted\":{events}}}")),
    };
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// A request whose head was read.
pub struct Incoming {
    /// Its head.
    pub parts: Parts,
    /// Its body, not read yet.
    pub body: Body,
    /// When the head was read.
    pub started: Instant,
    /// When the body has to be there, if the source's deadline is not sooner.
    pub body_by: Instant,
}

/// Takes one request from its head to events in Kafka.
///
/// # Errors
/// [`Rejection`]. Some events of a batch may be in Kafka all the same; the sender repeats the whole batch.
pub async fn take(
    entrance: &Entrance,
    budget: &BodyBudget,
    producer: &Producer,
    request: Incoming,
) -> Result<Vec<Landed>, Rejection> {
    let Entrance { source, gate } = entrance;
    let Incoming { parts, body, started, body_by } = request;
    let limits = source.limits();
    if let Err(rejection) = look_at_head(&parts, limits.body_bytes_max) {
        if !parts.headers.contains_key(header::EXPECT) {
            discard(body).await;
        }
        return Err(rejection);
    }
    let Some(_place) = gate.enter() else {
        discard(body).await;
        return Err(Rejection::TooMany { after: BUSY_RETRY });
    };
    let deadline = started + limits.deadline;
    let mut share = budget.share();
    let bytes = timeout_at(deadline.min(body_by), read(body, limits.body_bytes_max, &mut share))
        .await
        .map_err(|_| Rejection::SlowBody)??;
    let events = judge(source, gate, &parts, &bytes)?;
    timeout_at(deadline, store(source, producer, events)).await.map_err(|_| Rejection::Late)?
}

/// What can be refused before the body is read.
fn look_at_head(parts: &Parts, body_bytes_max: usize) -> Result<(), Rejection> {
    if parts.method != Method::POST {
        return Err(Rejection::WrongMethod);
    }
    let encoding = parts.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Rejection::Encoded);
    }
    let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if announced
        .and_then(|length| length.parse().ok())
        .is_some_and(|length: u64| length > body_bytes_max as u64)
    {
        return Err(Rejection::TooLarge);
    }
    Ok(())
}

/// Reads a body to its end.
async fn read(mut body: Body, bytes_max: usize, share: &mut BodyShare) -> Result<Bytes, Rejection> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Rejection::BrokenBody)?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > bytes_max {
            discard(body).await;
            return Err(Rejection::TooLarge);
        }
        if !share.grow(data.len()) {
            return Err(Rejection::Overloaded);
        }
        match (first.is_empty(), rest.is_empty()) {
            (true, true) => first = data,
            (_, true) => {
                rest.extend_from_slice(&first);
                rest.extend_from_slice(&data);
                first = Bytes::new();
            }
            (_, false) => rest.extend_from_slice(&data),
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// Reads on for a while without keeping anything: a connection that is closed with bytes unread is reset, and the
/// sender may lose the answer.
async fn discard(mut body: Body) {
    let mut left = DISCARD_BYTES_MAX;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, read).await;
}

/// Verifies and normalises. The rate is counted between the two: nobody without the secret can use it up.
fn judge(source: &Source, gate: &Gate, parts: &Parts, body: &Bytes) -> Result<Vec<Event>, Rejection> {
    let headers = pairs(&parts.headers);
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let request = Unverified { method: parts.method.as_str(), target, headers: &headers, body };
    let verified = source.verify(request, Utc::now())?;
    gate.count().map_err(|after| Rejection::TooMany { after })?;
    Ok(verified.normalise()?)
}

fn pairs(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

/// Hands over all events in their order, then waits for all acknowledgements.
async fn store(source: &Source, producer: &Producer, events: Vec<Event>) -> Result<Vec<Landed>, Rejection> {
    let mut waiting = Vec::with_capacity(events.len());
    for event in events {
        let (id, kind) = (event.attributes.id.clone(), event.attributes.kind.clone());
        let record = event.into_record(source.topic().clone());
        let receipt = producer.enqueue(&record).map_err(Rejection::Store)?;
        waiting.push((id, kind, receipt));
    }
    let mut landed = Vec::with_capacity(waiting.len());
    for (id, kind, receipt) in waiting {
        let delivered = receipt.delivered().await.map_err(Rejection::Store)?;
        landed.push(Landed { id, kind, delivered });
    }
    Ok(landed)
}
