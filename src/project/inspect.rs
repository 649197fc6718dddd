//! What the command line asks the projector's database: what is missing, and the ledger's counts.

use std::collections::BTreeMap;

use sqlx::Row as _;
use sqlx::postgres::PgPool;

use crate::plan::kpis::KpiSpec;
use crate::project::apply::ApplyError;
use crate::project::ddl::{self, Definition};

/// Views that the KPIs need and the database does not have. A KPI that has changed since its rows were folded is
/// refused, as [`crate::project::apply::run`] would.
///
/// # Errors
/// [`ApplyError`].
pub async fn missing_views(pool: &PgPool, kpis: &[KpiSpec]) -> Result<Vec<String>, ApplyError> {
    let known = relation_exists(pool, "kpi_definitions").await?;
    let mut missing = Vec::new();
    for spec in kpis {
        // A view without the definition that it reads shows nothing, and is made again.
        let mut is_defined = false;
        if known {
            let row = sqlx::query(
                "select fact, aggregate, dimensions, time_zone from kpi_definitions where kpi = $1",
            )
            .bind(&*spec.name)
            .fetch_optional(pool)
            .await?;
            if let Some(row) = row {
                let definition = Definition {
                    fact: row.try_get(0)?,
                    aggregate: row.try_get(1)?,
                    dimensions: row.try_get(2)?,
                    time_zone: row.try_get(3)?,
                };
                ddl::kpi(spec, Some(&definition))?;
                is_defined = true;
            }
        }
        for window in &spec.windows {
            let view = spec.view(*window);
            if !is_defined || !relation_exists(pool, &view).await? {
                missing.push(view);
            }
        }
    }
    Ok(missing)
}

async fn relation_exists(pool: &PgPool, name: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is not null").bind(ddl::quoted(name)).fetch_one(pool).await
}

/// How many records ended how, by pipeline and outcome ([`crate::ledger::Outcome::name`]).
///
/// # Errors
/// When Postgres fails, or has no ledger yet.
pub async fn outcomes(pool: &PgPool) -> Result<BTreeMap<(String, String), i64>, sqlx::Error> {
    let rows = sqlx::query("select pipeline, outcome, count(*) from executions group by 1, 2")
        .fetch_all(pool)
        .await?;
    rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))).collect()
}

/// A stretch of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// One past the last offset.
    pub to: i64,
}

/// How many records within `stretches` have a result of `pipeline`.
///
/// # Errors
/// When Postgres fails, or has no ledger yet.
pub async fn results_within(
    pool: &PgPool,
    pipeline: &str,
    stretches: &[Stretch],
) -> Result<i64, sqlx::Error> {
    let topics: Vec<&str> = stretches.iter().map(|stretch| stretch.topic.as_str()).collect();
    let partitions: Vec<i32> = stretches.iter().map(|stretch| stretch.partition).collect();
    let from: Vec<i64> = stretches.iter().map(|stretch| stretch.from).collect();
    let to: Vec<i64> = stretches.iter().map(|stretch| stretch.to).collect();
    sqlx::query_scalar(
        r#"select count(*) from executions e
           join unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) as s (topic, partition, low, high)
             on e.topic = s.topic and e.partition = s.partition and e."offset" >= s.low and e."offset" < s.high
           where e.pipeline = $1"#,
    )
    .bind(pipeline)
    .bind(topics)
    .bind(partitions)
    .bind(from)
    .bind(to)
    .fetch_one(pool)
    .await
}
