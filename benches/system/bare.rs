//! The yardstick of the webhook endpoint: the least that can be done for a signed request with the same libraries. It
//! checks the signature, reads id, type and customer, writes the record with five headers and answers when it is
//! acknowledged; it has no limits, no time-outs and no metrics.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use rdkafka::ClientContext;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use ring::hmac;
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::http;
use crate::job::Job;
use crate::raw::Outcome;

/// Hands delivery reports to those who wait.
struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<bool>>;

    fn delivery(&self, report: &DeliveryResult<'_>, answer: Self::DeliveryOpaque) {
        // The request may have been given up.
        let _ = answer.send(report.is_ok());
    }
}

struct Shared {
    producer: ThreadedProducer<Reports>,
    topic: String,
    key: hmac::Key,
}

#[derive(Deserialize)]
struct Event<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    object: Object<'a>,
}

#[derive(Deserialize)]
struct Object<'a> {
    customer: &'a str,
}

/// Serves on `job.port` until it is killed.
pub fn serve(job: &Job) -> Outcome<()> {
    let producer = job.producer("bare").create_with_context(Reports).map_err(|e| e.to_string())?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, http::SECRET.as_bytes());
    let shared = Arc::new(Shared { producer, topic: job.output.clone(), key });
    let router = Router::new().route("/hooks/{connector}", post(hook)).with_state(shared);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let listener =
            tokio::net::TcpListener::bind(("127.0.0.1", job.port)).await.map_err(|e| e.to_string())?;
        axum::serve(listener, router).await.map_err(|e| e.to_string())
    })
}

async fn hook(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Some(receipt) = take(&shared, &headers, &body) else { return StatusCode::BAD_REQUEST };
    match receipt.await {
        Ok(true) => StatusCode::OK,
        Ok(false) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn take(shared: &Shared, headers: &HeaderMap, body: &Bytes) -> Option<oneshot::Receiver<bool>> {
    let (time, signature) = headers.get("stripe-signature")?.to_str().ok()?.split_once(',')?;
    let signature = hex::decode(signature.strip_prefix("v1=")?).ok()?;
    let signed = [time.strip_prefix("t=")?.as_bytes(), b".", body].concat();
    hmac::verify(&shared.key, &signed, &signature).ok()?;
    let event: Event<'_> = serde_json::from_slice(body).ok()?;
    let header = |key, value| Header { key, value: Some(value) };
    let headers = OwnedHeaders::new_with_capacity(5)
        .insert(header("ce_specversion", "1.0"))
        .insert(header("ce_id", event.id))
        .insert(header("ce_source", "stripe"))
        .insert(header("ce_type", event.kind))
        .insert(header("content-type", "application/json"));
    let (sender, receipt) = oneshot::channel();
    let record = BaseRecord::with_opaque_to(&shared.topic, Box::new(sender))
        .headers(headers)
        .key(event.data.object.customer.as_bytes())
        .payload(&body[..]);
    shared.producer.send(record).ok().map(|()| receipt)
}
