//! What stages use of the world outside the event.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;

use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;
use crate::schema::value::SharedSchema;
use crate::connectors::answer::Answer;
use crate::connectors::http::CallInputs;
use crate::connectors::scripted::Script;
use crate::fault::Fault;
use crate::stages::clock::Clock;
use crate::stages::destinations::Destinations;
use crate::stages::limits::Limits;

/// What stages use of the world outside the event; one per process, or one per case of `millrace test`.
#[derive(Debug)]
pub struct Services {
    /// How time passes.
    pub clock: Clock,
    /// Reads values written with other schemas than ours.
    pub codec: Arc<Codec>,
    /// Schemas of the topics that declare Avro, by topic; made with [`Codec::declare`] at the start.
    pub schemas: BTreeMap<String, SharedSchema>,
    /// Calls to destinations.
    pub http: HttpService,
    /// Buckets of the rate limits.
    pub limits: Limits,
}

/// Calls to destinations.
#[derive(Debug)]
pub enum HttpService {
    /// For real.
    Live(Destinations),
    /// Answers that a test gives.
    Scripted(Script),
}

impl HttpService {
    /// Calls `call` of `connector`.
    ///
    /// # Errors
    /// The [`Fault`] of the call; it names connector and call.
    pub async fn call(
        &self,
        connector: &str,
        call: &str,
        inputs: &CallInputs,
        clock: &Clock,
    ) -> Result<Answer, Fault> {
        match self {
            Self::Live(destinations) => destinations.call(connector, call, inputs, clock).await,
            Self::Scripted(script) => script.call(connector, call, inputs, Utc::now()),
        }
    }
}

impl Services {
    /// A value in the Avro schema of `topic`, framed.
    ///
    /// # Errors
    /// [`SchemaError`] when the value does not fit, naming the path; or when the topic's schema was not declared at
    /// the start.
    pub fn encode_avro(&self, topic: &str, value: &serde_json::Value) -> Result<Bytes, SchemaError> {
        match self.schemas.get(topic) {
            Some(schema) => schema.encode(value),
            None => Err(SchemaError::NotASchema { message: format!("topic {topic} has no schema") }),
        }
    }
}
