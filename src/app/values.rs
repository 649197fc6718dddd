//! Values of records for people: Avro through the registry or the project's own schemas, JSON and text as they are,
//! anything else in base64. Registers nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::plan::Plan;
use crate::plan::topics::Role;
use crate::record::InRecord;
use crate::schema::framing::{self, EMBEDDED_ID};
use crate::schema::ledger::{EXECUTION_SCHEMA, KPI_FACT_SCHEMA};
use crate::schema::registry::Registry;
use crate::schema::value::{SharedSchema, ValueSchema};
use crate::stages::context::ValueFormat;

/// A value as it can be shown.
#[derive(Clone, PartialEq, Debug)]
pub enum Shown {
    /// No value: a tombstone.
    Nothing,
    /// JSON, or Avro read as JSON.
    Json(Value),
    /// Text that is no JSON.
    Text(String),
    /// Anything else, in base64.
    Base64(String),
}

impl Shown {
    /// Bytes that are no Avro.
    pub fn of(bytes: Option<&[u8]>) -> Self {
        let Some(bytes) = bytes else { return Self::Nothing };
        if let Ok(value) = serde_json::from_slice(bytes) {
            return Self::Json(value);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Self::Text(text.to_owned()),
            _ => Self::Base64(BASE64_STANDARD.encode(bytes)),
        }
    }

    /// For a field of a program's output: JSON as it is, text as text, bytes as `{"base64": ...}`.
    pub fn json(&self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Json(value) => value.clone(),
            Self::Text(text) => Value::String(text.clone()),
            Self::Base64(text) => serde_json::json!({ "base64": text }),
        }
    }

    /// On one line.
    pub fn line(&self) -> String {
        match self {
            Self::Nothing => "(null)".to_owned(),
            Self::Json(value) => value.to_string(),
            Self::Text(text) => text.escape_debug().to_string(),
            Self::Base64(text) => format!("base64:{text}"),
        }
    }
}

/// Reads values.
pub struct Values {
    registry: Option<Registry>,
    declared: BTreeMap<String, SharedSchema>,
    learned: HashMap<u32, Option<SharedSchema>>,
}

impl Values {
    /// Reads values of the topics of `plan`, and of any topic whose schema the registry at `url` has.
    ///
    /// # Errors
    /// When no client of the registry can be made.
    pub fn new(plan: Option<&Plan>, url: Option<&str>) -> anyhow::Result<Self> {
        let schema = |text: &str| ValueSchema::parse(text).ok().map(Arc::new);
        let declared = plan.iter().flat_map(|plan| &plan.topics).filter_map(|topic| {
            let schema = match (&topic.value, topic.role) {
                (ValueFormat::Avro { schema: text }, _) => schema(text),
                (_, Role::Executions) => schema(EXECUTION_SCHEMA),
                (_, Role::KpiFacts) => schema(KPI_FACT_SCHEMA),
                _ => None,
            };
            Some((topic.name.to_string(), schema?))
        });
        let registry = url.map(Registry::new).transpose()?;
        Ok(Self { registry, declared: declared.collect(), learned: HashMap::new() })
    }

    /// The value of `record`. What cannot be read as Avro is shown as it is.
    pub async fn of(&mut self, record: &InRecord) -> Shown {
        let value = record.value.as_deref();
        if let Some(bytes) = value
            && let Ok((id, datum)) = framing::split(bytes)
            && let Some(schema) = self.schema(&record.topic, id).await
            && let Ok(value) = schema.read(datum)
        {
            return Shown::Json(value);
        }
        Shown::of(value)
    }

    async fn schema(&mut self, topic: &str, id: u32) -> Option<SharedSchema> {
        let declared = self.declared.get(topic);
        let Some(registry) = self.registry.as_ref().filter(|_| id != EMBEDDED_ID) else {
            return declared.cloned();
        };
        if let Some(known) = self.learned.get(&id) {
            return known.clone();
        }
        let schema = match registry.schema(id).await {
            Ok(text) => ValueSchema::parse(&text).ok().map(Arc::new),
            Err(error) => {
                tracing::warn!(%error, id, "a schema cannot be had; values are shown as they are");
                None
            }
        };
        self.learned.insert(id, schema.clone());
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_then_text_then_bytes() {
        assert_eq!(Shown::of(Some(b"{\"a\":1}")).line(), "{\"a\":1}");
        assert_eq!(Shown::of(Some(b"two\nlines")).line(), "two\\nlines");
        assert_eq!(Shown::of(Some(&[0xff, 0x00])).line(), "base64:/wA=");
        assert_eq!(Shown::of(None).json(), Value::Null);
    }
}
