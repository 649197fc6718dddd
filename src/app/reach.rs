//! Servers that do not answer, and finding that out without waiting long.

use std::time::Duration;

use anyhow::Context as _;

use crate::kafka::admin::{Admin, AdminError, Cluster};
use crate::kafka::settings::Connection;
use crate::postgres::reach::{self, ReachError};
use crate::secrets::Secret;

/// How long a server may take to answer the first question.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A server that could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("{server} at {address} cannot be reached: {reason}; {help}")]
pub struct Unreachable {
    /// `Kafka`, `Postgres`, `the schema registry`.
    pub server: &'static str,
    /// Where it was looked for, without user and password.
    pub address: String,
    /// What happened.
    pub reason: String,
    /// What to do.
    pub help: String,
}

/// Kafka's brokers and topics.
///
/// # Errors
/// [`Unreachable`] when no broker answers within [`PATIENCE`].
pub async fn kafka(connection: &Connection) -> anyhow::Result<Cluster> {
    let admin = Admin::new(connection).context("Kafka's client cannot be made")?;
    let reason = match tokio::time::timeout(PATIENCE, admin.cluster()).await {
        Ok(Ok(cluster)) => return Ok(cluster),
        Ok(Err(error)) if !error.is_unreachable() => return Err(error.into()),
        Ok(Err(AdminError::Ask { source, .. })) => source.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no broker answers within {} s", PATIENCE.as_secs()),
    };
    let help = "look at --kafka or MILLRACE_KAFKA, and whether the broker runs; for TLS and SASL give --kafka-config";
    let address = connection.brokers.clone();
    Err(Unreachable { server: "Kafka", address, reason, help: help.to_owned() }.into())
}

/// Version of Postgres, and how far its clock is ahead of ours, in seconds.
///
/// # Errors
/// [`Unreachable`] when it refuses us or does not answer within [`PATIENCE`].
pub async fn postgres(url: &Secret) -> anyhow::Result<(String, f64)> {
    let url = address(url)?;
    let error = match reach::version(url, PATIENCE).await {
        Ok(answer) => return Ok(answer),
        Err(error @ ReachError::Address) => return Err(error.into()),
        Err(error) => error,
    };
    let help = "look at --postgres or MILLRACE_POSTGRES, and whether the server runs";
    let address = reach::place(url).unwrap_or_default();
    Err(Unreachable { server: "Postgres", address, reason: error.to_string(), help: help.to_owned() }.into())
}

/// The address of Postgres as text.
///
/// # Errors
/// When it is not UTF-8.
pub fn address(url: &Secret) -> anyhow::Result<&str> {
    std::str::from_utf8(url.expose()).context("the address of Postgres is not UTF-8")
}

/// What it means that the registry at `url` does not answer.
pub fn registry(url: &str, reason: String) -> Unreachable {
    let help = "look at --registry or MILLRACE_REGISTRY, and whether the registry runs";
    Unreachable { server: "the schema registry", address: url.to_owned(), reason, help: help.to_owned() }
}
