//! Builds what stages use of the outside world.

use crate::app::servers::{Servers, declare_schemas};
use crate::plan::Plan;
use crate::stages::clock::Clock;
use crate::stages::services::Services;

/// Services of a running worker.
///
/// # Errors
/// When the registry does not answer, or a schema or a secret is refused.
pub async fn live(plan: &Plan, servers: &Servers) -> anyhow::Result<Services> {
    let codec = servers.codec(&plan.namespace).await?;
    let schemas = declare_schemas(plan, &codec).await?;
    Ok(Services { clock: Clock::wall(), codec, schemas })
}
