//! Builds the role `ingest`.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin::server::Health;
use crate::app::servers::Servers;
use crate::app::supervise::Role;
use crate::connectors::source::Source;
use crate::connectors::verify::Surroundings;
use crate::ingest::limits::IngestSettings;
use crate::ingest::server::{self, Answered, Endpoint};
use crate::kafka::producer::Producer;
use crate::kafka::settings::ProducerSettings;
use crate::plan::Plan;
use crate::plan::sources::PlannedSource;
use crate::secrets::SecretRef;

/// The endpoint on `listener`, with every connector that has a source. `public_base_url` is where senders reach it,
/// unless a connector says its own.
///
/// # Errors
/// When a secret has no value, or Kafka's client cannot be made.
pub fn role(
    plan: &Plan,
    servers: &Servers,
    listener: TcpListener,
    public_base_url: Option<&str>,
    events: Option<mpsc::Sender<Answered>>,
) -> anyhow::Result<Role> {
    let sources = sources(plan, servers, public_base_url)?;
    anyhow::ensure!(!sources.is_empty(), "no connector has a `source:`; there is nothing to take in");
    let producer = Producer::start(ProducerSettings::new(servers.kafka.clone()))
        .context("Kafka's producer cannot be made")?;
    let stop = CancellationToken::new();
    let endpoint = Endpoint { settings: IngestSettings::default(), sources, producer, events };
    let address = listener.local_addr()?;
    let serving = server::serve(endpoint, listener, stop.clone());
    Ok(Role {
        name: String::from("ingest"),
        stop,
        ended: Box::pin(async move { serving.await.context("the webhook endpoint failed") }),
        health: Arc::new(move || Health {
            role: String::from("ingest"),
            live: true,
            ready: true,
            detail: format!("listening on {address}"),
        }),
    })
}

/// Every connector's source with its secrets.
///
/// # Errors
/// When a secret has no value or cannot be used, or a connector needs to know its public address.
pub fn sources(
    plan: &Plan,
    servers: &Servers,
    public_base_url: Option<&str>,
) -> anyhow::Result<Vec<(String, Source)>> {
    let secrets = |reference: &SecretRef| servers.secrets.resolve(reference);
    let surroundings = Surroundings { secrets: &secrets, public_base_url };
    let source = |(name, spec): (&String, &PlannedSource)| {
        let source = Source::build(name, &spec.config, spec.extractors(), &surroundings);
        Ok((name.clone(), source.with_context(|| format!("connectors/{name}.yaml"))?))
    };
    plan.sources.iter().map(source).collect()
}
