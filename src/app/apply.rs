//! Makes topics, schemas and tables as the plan says.

use anyhow::Context as _;

use crate::app::servers::{Servers, declare_schemas};
use crate::kafka::admin::{Admin, Wanted};
use crate::plan::Plan;
use crate::postgres::{migrate, pool};
use crate::project;

/// Creates what is missing. Running it again changes nothing.
///
/// # Errors
/// When a server does not answer or refuses.
pub async fn apply(plan: &Plan, servers: &Servers) -> anyhow::Result<()> {
    let admin = Admin::new(&servers.kafka)?;
    let names: Vec<&str> = plan.topics.iter().map(|topic| &*topic.name).collect();
    let existing = admin.describe(&names).await?;
    let missing: Vec<Wanted> = plan
        .topics
        .iter()
        .filter(|t| !existing.contains_key(&*t.name))
        .map(|topic| Wanted {
            name: topic.name.to_string(),
            partitions: i32::try_from(topic.partitions.get()).unwrap_or(i32::MAX),
            settings: topic.settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        })
        .collect();
    admin.create(&missing, None).await?;
    let codec = servers.codec(&plan.namespace).await?;
    declare_schemas(plan, &codec).await?;
    let pool = pool::lazy(servers.postgres_url()?, "apply", 2)?;
    migrate::run(&pool).await.context("migrations")?;
    project::apply::run(&pool, &plan.kpis, &plan.tables).await?;
    Ok(())
}
