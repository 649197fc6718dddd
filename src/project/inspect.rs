//! What the command line asks the projector's database: what is missing, and the ledger's counts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::Row as _;
use sqlx::postgres::{PgPool, PgRow};

use crate::config::kpi::Window;
use crate::plan::kpis::KpiSpec;
use crate::project::apply::ApplyError;
use crate::project::ddl;
use crate::project::definitions::{self, Definition};

/// Views that the KPIs need and the database does not have. A KPI that has changed since its rows were folded is
/// refused, as [`crate::project::apply::run`] would.
///
/// # Errors
/// [`ApplyError`].
pub async fn missing_views(pool: &PgPool, kpis: &[KpiSpec]) -> Result<Vec<String>, ApplyError> {
    let known =
        if missing_tables(pool).await?.is_empty() { definitions(pool).await? } else { BTreeMap::new() };
    let mut missing = Vec::new();
    for spec in kpis {
        ddl::kpi(spec, known.get(&*spec.name))?;
        // A view without the definition that it reads shows nothing, and is made again.
        let is_defined = known.contains_key(&*spec.name);
        for window in &spec.windows {
            let view = spec.view(*window);
            if !is_defined || !relation_exists(pool, &view).await? {
                missing.push(view);
            }
        }
    }
    Ok(missing)
}

/// KPIs whose definition `millrace apply` would change, with what.
///
/// # Errors
/// [`ApplyError`].
pub async fn changed_definitions(
    pool: &PgPool,
    kpis: &[KpiSpec],
) -> Result<Vec<(String, String)>, ApplyError> {
    if !missing_tables(pool).await?.is_empty() {
        return Ok(Vec::new());
    }
    let known = definitions(pool).await?;
    let mut changed = Vec::new();
    for spec in kpis {
        let Some(existing) = known.get(&*spec.name) else { continue };
        if let Some(wanted) = ddl::kpi(spec, Some(existing))? {
            let differences = existing.differences(&wanted);
            let said: Vec<String> = differences
                .iter()
                .map(|difference| {
                    format!("{}: {} -> {}", difference.what, difference.existing, difference.wanted)
                })
                .collect();
            let detail = if said.is_empty() {
                String::from("windows and lateness are noted")
            } else {
                said.join(", ")
            };
            changed.push((spec.name.to_string(), detail));
        }
    }
    Ok(changed)
}

/// Tables of KPIs that the database does not have yet.
///
/// # Errors
/// When Postgres fails.
pub async fn missing_tables(pool: &PgPool) -> Result<Vec<&'static str>, sqlx::Error> {
    let mut missing = Vec::new();
    for table in ["kpi_definitions", "kpi_part", "kpi_rebuild"] {
        if !relation_exists(pool, table).await? {
            missing.push(table);
        }
    }
    Ok(missing)
}

/// Definitions of all KPIs that the database knows.
///
/// # Errors
/// When Postgres fails, or has no KPIs yet.
pub async fn definitions(pool: &PgPool) -> Result<BTreeMap<String, Definition>, sqlx::Error> {
    definitions::load(&mut *pool.acquire().await?).await
}

/// Rows of one window of a KPI.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KpiRows {
    /// Windows and dimensions.
    pub rows: i64,
    /// Facts in them.
    pub events: i64,
    /// Begin of the first window.
    pub first: DateTime<Utc>,
    /// Begin of the last window.
    pub last: DateTime<Utc>,
}

/// Rows of every KPI, by length of window.
///
/// # Errors
/// When Postgres fails, or has no KPIs yet.
pub async fn kpi_rows(pool: &PgPool) -> Result<BTreeMap<String, BTreeMap<String, KpiRows>>, sqlx::Error> {
    let rows = sqlx::query(
        "select kpi, window_size, count(distinct (window_start, dimensions)), sum(events)::bigint, min(window_start),
                max(window_start)
         from kpi_part group by 1, 2",
    )
    .fetch_all(pool)
    .await?;
    let mut all: BTreeMap<String, BTreeMap<String, KpiRows>> = BTreeMap::new();
    for row in rows {
        let found = KpiRows {
            rows: row.try_get(2)?,
            events: row.try_get(3)?,
            first: row.try_get(4)?,
            last: row.try_get(5)?,
        };
        all.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, found);
    }
    Ok(all)
}

/// A value of a KPI.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct KpiValue {
    /// Length of the window.
    pub window: String,
    /// Its begin.
    pub window_start: DateTime<Utc>,
    /// Dimensions.
    pub dimensions: serde_json::Value,
    /// Value, exactly.
    pub value: String,
    /// Facts in it.
    pub events: i64,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// The latest `last` values of a KPI's window.
///
/// # Errors
/// When Postgres fails, or has no KPIs yet.
pub async fn kpi_values(
    pool: &PgPool,
    kpi: &str,
    window: Window,
    last: i64,
) -> Result<Vec<KpiValue>, sqlx::Error> {
    let rows = sqlx::query(
        "select window_size, window_start, dimensions, trim_scale(round(value, 9))::text, events, updated_at
         from kpi_values where kpi = $1 and window_size = $2
         order by window_start desc, dimensions limit $3",
    )
    .bind(kpi)
    .bind(window.name())
    .bind(last)
    .fetch_all(pool)
    .await?;
    let value = |row: &PgRow| {
        Ok(KpiValue {
            window: row.try_get(0)?,
            window_start: row.try_get(1)?,
            dimensions: row.try_get(2)?,
            value: row.try_get(3)?,
            events: row.try_get(4)?,
            updated_at: row.try_get(5)?,
        })
    };
    rows.iter().map(value).collect()
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
