//! The servers a process works with, and what is made of their addresses.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::app::reach;
use crate::kafka::settings::Connection;
use crate::ledger::Namespace;
use crate::plan::Plan;
use crate::schema::codec::Codec;
use crate::schema::value::SharedSchema;
use crate::secrets::{Secret, Secrets};
use crate::stages::context::ValueFormat;

/// Addresses and names of one process.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Kafka.
    pub kafka: Connection,
    /// Schema registry; without one the embedded schemas are used.
    pub registry: Option<String>,
    /// Postgres.
    pub postgres: Option<Secret>,
    /// How long a silent member of a group keeps its partitions.
    pub session_timeout: Duration,
    /// Name of this instance, stable over restarts.
    pub instance: String,
    /// Where secrets come from.
    pub secrets: Secrets,
    /// Whether its workers keep their places in their groups over a restart.
    pub is_static: bool,
    /// Memory for records, over all groups of the process.
    pub memory_budget_bytes: usize,
}

impl Servers {
    /// A codec, with ids of the registry where there is one.
    ///
    /// # Errors
    /// When the registry does not answer or refuses a schema.
    pub async fn codec(&self, namespace: &Namespace) -> anyhow::Result<Arc<Codec>> {
        let codec = match &self.registry {
            Some(url) => Codec::with_registry(url, namespace)
                .await
                .with_context(|| format!("the schema registry at {url} cannot be used"))?,
            None => Codec::embedded(),
        };
        Ok(Arc::new(codec))
    }

    /// Address of Postgres.
    ///
    /// # Errors
    /// When none is named.
    pub fn postgres_url(&self) -> anyhow::Result<&str> {
        let url = self
            .postgres
            .as_ref()
            .context("no Postgres is named; give --postgres URL or MILLRACE_POSTGRES")?;
        reach::address(url)
    }
}

/// Makes the schemas of all topics with Avro values known to the codec.
///
/// # Errors
/// When a schema is refused, or the registry does not answer.
pub async fn declare_schemas(plan: &Plan, codec: &Codec) -> anyhow::Result<BTreeMap<String, SharedSchema>> {
    let mut schemas = BTreeMap::new();
    for topic in &plan.topics {
        if let ValueFormat::Avro { schema } = &topic.value {
            let shared = codec
                .declare(&topic.name, schema)
                .await
                .with_context(|| format!("the schema of topic {} cannot be used", topic.name))?;
            schemas.insert(topic.name.to_string(), shared);
        }
    }
    Ok(schemas)
}

/// Reads librdkafka settings from a file of `key=value` lines; `#` begins a comment.
///
/// # Errors
/// When the file cannot be read or a line is none of these.
pub fn kafka_properties(path: &Path) -> anyhow::Result<BTreeMap<String, Secret>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut properties = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .with_context(|| format!("{}:{}: expected key=value", path.display(), number + 1))?;
        properties.insert(key.trim().to_owned(), Secret::new(value.trim()));
    }
    Ok(properties)
}
