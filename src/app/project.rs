//! Builds the role `project`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::admin::server::Health;
use crate::app::servers::Servers;
use crate::app::supervise::Role;
use crate::plan::Plan;
use crate::postgres::pool;
use crate::project::settings::{ProjectSettings, ProjectSpecs, ProjectStatus};
use crate::project::worker::{self, Services};
use crate::schema::codec::Codec;

/// Connections to Postgres; they serve all partitions.
const CONNECTIONS_MAX: u32 = 12;

/// The projector of the whole plan, which keeps execution results for ever.
///
/// # Errors
/// When Postgres is not named.
pub fn role(plan: &Plan, servers: &Servers, codec: Arc<Codec>) -> anyhow::Result<Role> {
    role_keeping(plan, servers, codec, None)
}

/// The projector of the whole plan. Execution results are kept in Postgres for so long; `None` is for ever.
///
/// # Errors
/// When Postgres is not named.
pub fn role_keeping(
    plan: &Plan,
    servers: &Servers,
    codec: Arc<Codec>,
    executions_retention: Option<Duration>,
) -> anyhow::Result<Role> {
    let pool = pool::lazy(servers.postgres_url()?, "project", CONNECTIONS_MAX).context(
        "the address of Postgres cannot be read; it looks like postgres://user:password@host:port/database",
    )?;
    let mut settings = ProjectSettings::new(servers.kafka.clone(), plan.namespace.clone());
    settings.session_timeout = servers.session_timeout;
    settings.executions_retention = executions_retention;
    let specs = ProjectSpecs { kpis: plan.kpis.clone(), tables: plan.tables.clone() };
    let status = ProjectStatus::default();
    let stop = CancellationToken::new();
    let running = worker::run(settings, specs, Services { codec, pool }, status.clone(), stop.clone());
    Ok(Role {
        name: String::from("project"),
        stop,
        ended: Box::pin(async move { running.await.context("the projector cannot go on") }),
        health: Arc::new(move || health(&status)),
    })
}

/// Ready means that partitions are assigned: with fewer partitions than projectors, some are never ready, and
/// nothing waits for them.
fn health(status: &ProjectStatus) -> Health {
    let partitions = status.partitions();
    let lag: i64 = partitions.values().map(crate::project::settings::PartitionStatus::lag).sum();
    Health {
        role: String::from("project"),
        live: true,
        ready: !partitions.is_empty(),
        detail: format!("{} partitions, lag {lag}", partitions.len()),
    }
}
