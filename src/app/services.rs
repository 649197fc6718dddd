//! Builds what stages use of the outside world.

use std::sync::Arc;

use anyhow::Context as _;

use crate::app::servers::{Servers, declare_schemas};
use crate::plan::Plan;
use crate::postgres::dedupe::DedupeTable;
use crate::postgres::pool;
use crate::schema::codec::Codec;
use crate::stages::budget::Budgets;
use crate::stages::clock::Clock;
use crate::stages::destinations::Destinations;
use crate::stages::limits::Limits;
use crate::stages::services::{DedupeStore, HttpService, Services, SqlService};

/// Connections for `sql` and `dedupe` stages.
const CONNECTIONS_MAX: u32 = 8;

/// Services of a running worker.
///
/// # Errors
/// When the registry does not answer, or a schema or a secret is refused.
pub async fn live(plan: &Plan, servers: &Servers, codec: Arc<Codec>) -> anyhow::Result<Services> {
    let schemas = declare_schemas(plan, &codec).await?;
    let destinations = Destinations::new(&plan.targets, &servers.secrets)
        .context("a connector's `target:` cannot be used")?;
    let (sql, dedupe) = match &servers.postgres {
        Some(_) => {
            let pool = pool::lazy(servers.postgres_url()?, "worker", CONNECTIONS_MAX)
                .context("the address of Postgres cannot be read")?;
            (SqlService::Live(pool.clone()), DedupeStore::Live(DedupeTable::new(pool)))
        }
        None => (SqlService::Absent, DedupeStore::Absent),
    };
    if matches!(sql, SqlService::Absent)
        && let Some(pipeline) = plan.pipelines.iter().find(|pipeline| pipeline.needs_postgres())
    {
        anyhow::bail!(
            "pipeline {} has a stage that needs Postgres; give --postgres URL or MILLRACE_POSTGRES",
            pipeline.name
        );
    }
    let http = HttpService::Live(destinations);
    Ok(Services {
        clock: Clock::wall(),
        codec,
        schemas,
        http,
        sql,
        dedupe,
        limits: Limits::default(),
        budgets: Budgets::default(),
    })
}
