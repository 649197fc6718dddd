//! A project at work on servers that Millrace brings with it: what `quickstart` and `dev` have in common.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::apply::{self, Targets};
use crate::app::embedded::Embedded;
use crate::app::follow::{self, Following};
use crate::app::stack::{Door, Stack};
use crate::app::supervise;
use crate::ingest::server::Answered;
use crate::ledger::ExecutionResult;
use crate::plan::Plan;
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

impl Session {
    /// Brings the servers in line with `plan` and starts every role.
    ///
    /// # Errors
    /// When something is refused, a port is taken, or a role cannot start.
    pub async fn open(
        plan: &Plan,
        embedded: Embedded,
        door: Door,
        metrics: Metrics,
        metrics_at: SocketAddr,
    ) -> anyhow::Result<Self> {
        let servers = embedded.servers.clone();
        let (tell, answered) = mpsc::channel(ANSWERS_MAX);
        let codec = servers.codec(&plan.namespace).await?;
        let mut stack = Stack::new(servers.clone(), Arc::clone(&codec), door, tell);
        let admin = CancellationToken::new();
        let metrics_at = supervise::serve_probe(metrics_at, metrics, stack.probe(), admin.clone()).await?;
        bring_in_line(plan, &embedded).await?;
        // Before the first event, so that none is missed.
        let results = follow::executions(&servers.kafka, plan.namespace.executions_topic(), codec).await?;
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

/// Topics and tables have nothing to do with each other: both at once.
async fn bring_in_line(plan: &Plan, embedded: &Embedded) -> anyhow::Result<()> {
    let Embedded { servers, .. } = embedded;
    let streams = Targets {
        kafka: Some(servers.kafka.clone()),
        registry: servers.registry.clone(),
        ..Targets::default()
    };
    let tables = Targets { postgres: servers.postgres.clone(), ..Targets::default() };
    let (streams, tables) = tokio::join!(apply::bring(plan, &streams), apply::bring(plan, &tables));
    streams.and(tables).map(|_| ())
}
