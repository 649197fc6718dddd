//! A project at work on servers that Millrace brings with it: what `quickstart` and `dev` have in common.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::apply::{self, Targets};
use crate::app::embedded::Embedded;
use crate::app::follow::{self, Following};
use crate::app::servers::Servers;
use crate::app::stack::{Door, Stack};
use crate::app::supervise;
use crate::ingest::server::Answered;
use crate::ledger::ExecutionResult;
use crate::plan::Plan;
use crate::schema::codec::Codec;
use crate::telemetry::Metrics;

/// Answers of the endpoint that wait to be shown; more are not shown.
const ANSWERS_MAX: usize = 1000;

/// Roles at work, and what they tell.
pub struct Session {
    /// The roles.
    pub stack: Stack,
    /// What the endpoint answers.
    pub answered: mpsc::Receiver<Answered>,
    /// How events end.
    pub results: Following<ExecutionResult>,
    /// Where metrics and health are served.
    pub metrics_at: SocketAddr,
    admin: CancellationToken,
    /// The servers. Declared last: they end after everything that uses them.
    pub embedded: Embedded,
}

/// Topics and schemas in line with a plan, and what is followed of them: all that needs no Postgres.
pub struct Streams {
    codec: Arc<Codec>,
    results: Following<ExecutionResult>,
}

impl Streams {
    /// Brings Kafka and the registry in line, and follows the execution results before there are any.
    ///
    /// # Errors
    /// When something is refused, or a server does not answer.
    pub async fn open(plan: &Plan, servers: &Servers) -> anyhow::Result<Self> {
        let targets = Targets { postgres: None, ..Targets::of(servers) };
        apply::bring(plan, &targets).await?;
        let codec = servers.codec(&plan.namespace).await?;
        let topic = plan.namespace.executions_topic();
        let results = follow::executions(&servers.kafka, topic, Arc::clone(&codec)).await?;
        Ok(Self { codec, results })
    }
}

/// Addresses that are served.
pub struct Addresses {
    /// Where webhooks come in.
    pub door: Door,
    /// Where metrics and health are.
    pub metrics: SocketAddr,
}

impl Session {
    /// Brings the database in line with `plan` and starts every role.
    ///
    /// # Errors
    /// When something is refused, a port is taken, or a role cannot start.
    pub async fn open(
        plan: &Plan,
        embedded: Embedded,
        streams: Streams,
        addresses: Addresses,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let Streams { codec, results } = streams;
        let servers = embedded.servers.clone();
        let tables = Targets { postgres: servers.postgres.clone(), ..Targets::default() };
        apply::bring(plan, &tables).await?;
        let (tell, answered) = mpsc::channel(ANSWERS_MAX);
        let mut stack = Stack::new(servers, codec, addresses.door, tell);
        let admin = CancellationToken::new();
        let metrics_at =
            supervise::serve_probe(addresses.metrics, metrics, stack.probe(), admin.clone()).await?;
        stack.start(plan).await?;
        Ok(Self { stack, answered, results, metrics_at, admin, embedded })
    }

    /// Ends the roles in order, then the servers.
    ///
    /// # Errors
    /// When a role does not end well.
    pub async fn close(self) -> anyhow::Result<()> {
        let Self { mut stack, answered, results, metrics_at: _, admin, embedded } = self;
        let ended = stack.stop().await;
        admin.cancel();
        drop((stack, answered, results));
        drop(embedded);
        ended
    }
}
