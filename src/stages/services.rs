//! What stages use of the world outside the event.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;
use crate::schema::value::SharedSchema;
use crate::stages::clock::Clock;

/// What stages use of the world outside the event; one per process, or one per case of `millrace test`.
#[derive(Debug)]
pub struct Services {
    /// How time passes.
    pub clock: Clock,
    /// Reads values written with other schemas than ours.
    pub codec: Arc<Codec>,
    /// Schemas of the topics that declare Avro, by topic; made with [`Codec::declare`] at the start.
    pub schemas: BTreeMap<String, SharedSchema>,
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
