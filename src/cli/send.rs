//! `millrace send`: publishes one event to a topic.

use std::io::Read as _;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use chrono::Utc;
use serde::Serialize;

use crate::app::servers::Servers;
use crate::cli::args::records::SendArgs;
use crate::cli::args::{Common, Output};
use crate::cli::{Exit, ends, output, roles, topics};
use crate::event::{Attributes, Event};
use crate::kafka::producer::{ProduceError, Producer};
use crate::kafka::settings::ProducerSettings;
use crate::plan::Plan;
use crate::stages::context::ValueFormat;

#[derive(Serialize)]
struct Sent<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    id: String,
}

/// Runs `send`.
///
/// # Errors
/// When Kafka cannot be reached, has no such topic, or does not take the record.
pub fn run(common: &Common, arguments: &SendArgs) -> anyhow::Result<Exit> {
    let bytes = value(arguments)?;
    let connection = topics::existing(common, &arguments.topic)?;
    let id = arguments.id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let plan = topics::plan_if_any(common);
    let servers = roles::servers(common, "send", roles::SESSION_TIMEOUT)?;
    let sent = roles::block_on(async {
        let is_json = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok();
        let (payload, content_type) = match encoded(plan.as_ref(), &servers, &arguments.topic, &bytes).await?
        {
            Some(avro) => (avro, "application/avro"),
            None if is_json => (bytes, "application/json"),
            None => (bytes, "application/octet-stream"),
        };
        let event = Event {
            attributes: Attributes {
                id: id.clone(),
                source: arguments.source.clone(),
                kind: arguments.kind.clone().unwrap_or_default(),
                subject: None,
                time: Some(Utc::now()),
                tenant: None,
            },
            key: arguments.key.clone().map(Bytes::from),
            content_type: content_type.to_owned(),
            traceparent: None,
            payload,
        };
        let producer = Producer::start(ProducerSettings::new(connection))?;
        let topic: Arc<str> = Arc::from(arguments.topic.as_str());
        producer.send(event.into_record(topic)).await.map_err(explained)
    })?;
    let sent = Sent { topic: &arguments.topic, partition: sent.partition, offset: sent.offset, id };
    match common.output {
        Output::Json => output::json(&sent)?,
        Output::Text => {
            let Sent { topic, partition, offset, id } = sent;
            output::print(&format!("{topic}/{partition}/{offset}   id {id}\n"))?;
        }
    }
    Ok(Exit::Done)
}

fn explained(error: ProduceError) -> anyhow::Error {
    match error {
        ProduceError::TooLarge { .. } => {
            anyhow::Error::new(error).context("at most 1 MiB of key, value and headers")
        }
        other => other.into(),
    }
}

/// The value that was typed, in a file, or on standard input.
fn value(arguments: &SendArgs) -> anyhow::Result<Bytes> {
    if let Some(text) = &arguments.json {
        serde_json::from_str::<serde_json::Value>(text)
            .map_err(|error| ends(Exit::Usage, format!("--json is no JSON: {error}")))?;
        return Ok(Bytes::from(text.clone()));
    }
    let Some(path) = &arguments.file else {
        return Err(ends(
            Exit::Usage,
            "there is no value; give --json TEXT or --file FILE (`-` is standard input)",
        ));
    };
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("standard input cannot be read")?;
        return Ok(Bytes::from(bytes));
    }
    let bytes = std::fs::read(path);
    Ok(Bytes::from(bytes.map_err(|error| ends(Exit::Usage, format!("{}: {error}", path.display())))?))
}

/// The value in Avro, for a topic that declares a schema.
async fn encoded(
    plan: Option<&Plan>,
    servers: &Servers,
    topic: &str,
    bytes: &[u8],
) -> anyhow::Result<Option<Bytes>> {
    let Some(plan) = plan else { return Ok(None) };
    let Some(ValueFormat::Avro { schema }) = plan.topic(topic).map(|topic| &topic.value) else {
        return Ok(None);
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| {
        ends(
            Exit::Usage,
            format!("topic {topic} holds Avro; give the value as JSON, which this is not: {error}"),
        )
    })?;
    let schema = servers.codec(&plan.namespace).await?.declare(topic, schema).await?;
    Ok(Some(
        schema
            .encode(&value)
            .with_context(|| format!("the value does not fit the schema of topic {topic}"))?,
    ))
}
