//! What the roles use: values of the ledger's topics and of declared topics, in bytes and back.
//!
//! Ids are resolved when the codec is made, so that encoding is a plain function call: the engine encodes on its poll
//! thread. Reading meets ids of other writers; those are fetched by [`Codec::learn`] and kept.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use serde_json::Value;

use crate::ledger::{ExecutionResult, KpiFact, Namespace};
use crate::schema::error::SchemaError;
use crate::schema::registry::Registry;
use crate::schema::value::{SharedSchema, ValueSchema};
use crate::schema::{framing, ledger};

/// Schemas of other writers that are kept. Each is fetched once; a registry has a handful per topic.
const LEARNED_MAX: usize = 10_000;

/// Encoder and decoder of values on Kafka topics.
#[derive(Debug)]
pub struct Codec {
    registry: Option<Registry>,
    execution: SharedSchema,
    fact: SharedSchema,
    learned: RwLock<HashMap<u32, SharedSchema>>,
}

impl Codec {
    /// With the registry at `url`: registers the ledger's schemas under `<topic>-value`.
    ///
    /// # Errors
    /// [`SchemaError::Refused`] or [`SchemaError::Unavailable`].
    pub async fn with_registry(url: &str, namespace: &Namespace) -> Result<Self, SchemaError> {
        let registry = Registry::new(url)?;
        let execution =
            registered(&registry, &namespace.executions_topic(), ledger::EXECUTION_SCHEMA).await?;
        let fact = registered(&registry, &namespace.kpi_facts_topic(), ledger::KPI_FACT_SCHEMA).await?;
        Ok(Self { registry: Some(registry), execution, fact, learned: RwLock::default() })
    }

    /// Without a registry: embedded schemas, framed with [`framing::EMBEDDED_ID`].
    pub fn embedded() -> Self {
        let parse = |text| {
            Arc::new(ValueSchema::parse(text).expect("the embedded schemas are Avro; a test reads them"))
        };
        Self {
            registry: None,
            execution: parse(ledger::EXECUTION_SCHEMA),
            fact: parse(ledger::KPI_FACT_SCHEMA),
            learned: RwLock::default(),
        }
    }

    /// The schema that `topic` declares for its values, registered when there is a registry.
    ///
    /// # Errors
    /// [`SchemaError::NotASchema`], [`SchemaError::Refused`] or [`SchemaError::Unavailable`].
    pub async fn declare(&self, topic: &str, schema: &str) -> Result<SharedSchema, SchemaError> {
        match &self.registry {
            Some(registry) => registered(registry, topic, schema).await,
            None => ValueSchema::parse(schema).map(Arc::new),
        }
    }

    /// An execution result, framed.
    pub fn execution<Text: AsRef<str>>(&self, result: &ExecutionResult<Text>) -> Bytes {
        let mut out = Vec::with_capacity(320);
        self.put_execution(&mut out, result);
        Bytes::from(out)
    }

    /// Appends an execution result, framed.
    pub fn put_execution<Text: AsRef<str>>(&self, out: &mut Vec<u8>, result: &ExecutionResult<Text>) {
        out.extend_from_slice(&framing::header(self.execution.id()));
        ledger::put_execution(out, result);
    }

    /// Reads a framed execution result.
    ///
    /// # Errors
    /// [`SchemaError::Corrupt`], or [`SchemaError::UnknownSchema`] until [`Codec::learn`] was called for that id.
    pub fn read_execution(&self, framed: &[u8]) -> Result<ExecutionResult, SchemaError> {
        let (id, datum) = framing::split(framed)?;
        match self.writer(id, &self.execution)? {
            None => ledger::execution(datum),
            Some(writer) => ledger::execution(&self.execution.resolve(&writer, datum)?),
        }
    }

    /// A KPI fact, framed. A value with more than 9 decimals is rounded half to even.
    pub fn fact(&self, fact: &KpiFact) -> Bytes {
        let mut out = Vec::with_capacity(160);
        out.extend_from_slice(&framing::header(self.fact.id()));
        ledger::put_fact(&mut out, fact);
        Bytes::from(out)
    }

    /// Reads a framed KPI fact.
    ///
    /// # Errors
    /// As [`Codec::read_execution`].
    pub fn read_fact(&self, framed: &[u8]) -> Result<KpiFact, SchemaError> {
        let (id, datum) = framing::split(framed)?;
        match self.writer(id, &self.fact)? {
            None => ledger::fact(datum),
            Some(writer) => ledger::fact(&self.fact.resolve(&writer, datum)?),
        }
    }

    /// Reads a framed value of a topic that declares `schema`, as JSON.
    ///
    /// # Errors
    /// As [`Codec::read_execution`].
    pub fn read_value(&self, schema: &SharedSchema, framed: &[u8]) -> Result<Value, SchemaError> {
        let (id, datum) = framing::split(framed)?;
        match self.writer(id, schema)? {
            None => schema.read(datum),
            Some(writer) => schema.read(&schema.resolve(&writer, datum)?),
        }
    }

    /// Fetches schema `id` from the registry, so that records that name it can be read.
    ///
    /// # Errors
    /// [`SchemaError::UnknownSchema`] when there is no such schema, or no registry to ask; such a record is poison.
    /// [`SchemaError::Unavailable`] when the registry does not answer: the record is not at fault, ask again.
    pub async fn learn(&self, id: u32) -> Result<(), SchemaError> {
        let Some(registry) = &self.registry else {
            return Err(SchemaError::UnknownSchema { id });
        };
        let text = registry.schema(id).await?;
        let schema = Arc::new(ValueSchema::parse(&text)?.with_id(id));
        let mut learned = self.learned.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if learned.len() >= LEARNED_MAX {
            learned.clear();
        }
        learned.insert(id, schema);
        Ok(())
    }

    /// The writer's schema when it is not `own`.
    fn writer(&self, id: u32, own: &SharedSchema) -> Result<Option<SharedSchema>, SchemaError> {
        if id == own.id() || id == framing::EMBEDDED_ID {
            return Ok(None);
        }
        let learned = self.learned.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        learned.get(&id).cloned().map(Some).ok_or(SchemaError::UnknownSchema { id })
    }
}

async fn registered(registry: &Registry, topic: &str, text: &str) -> Result<SharedSchema, SchemaError> {
    let schema = ValueSchema::parse(text)?;
    let id = registry.register(&format!("{topic}-value"), text).await?;
    Ok(Arc::new(schema.with_id(id)))
}
