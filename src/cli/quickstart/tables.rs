//! KPI tables that the quickstart shows, read back with SQL.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Map, Value};

use crate::cli::args::Output;
use crate::cli::output;
use crate::postgres::pool::Pool;
use crate::postgres::rows;

/// Pause between two looks at Postgres.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// KPI tables that the quickstart shows: title, statement, columns.
const TABLES: [(&str, &str, &[&str]); 2] = [
    (
        "kpi_revenue_1h",
        "select to_char(window_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as window_start, currency, \
         to_char(value / 100, 'FM999999990.00') as value, events from kpi_revenue_1h order by 1, 2",
        &["window_start", "currency", "value", "events"],
    ),
    (
        "kpi_leads_1d (today)",
        "select priority, source, to_char(value, 'FM999999990') as leads from kpi_leads_1d \
         where window_start <= now() and window_end > now() order by 1, 2",
        &["priority", "source", "leads"],
    ),
];

/// Facts that are in the KPI tables: payments and leads.
///
/// # Errors
/// When Postgres does not answer.
pub async fn facts(pool: &Pool) -> anyhow::Result<i64> {
    let statement = "select (select coalesce(sum(events), 0) from kpi_revenue_1h)::bigint \
                     + (select coalesce(sum(events), 0) from kpi_leads_1d)::bigint as facts";
    let answer = rows::query(pool, statement, &[]).await.context("the KPI tables cannot be read")?;
    answer.first().and_then(|row| row.get("facts")).and_then(Value::as_i64).context("a count")
}

/// Waits until `wanted` facts are in the KPI tables; whether they came in time.
///
/// # Errors
/// When Postgres does not answer.
pub async fn until_facts(pool: &Pool, wanted: i64, patience: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        if facts(pool).await? >= wanted {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Prints the KPI tables.
///
/// # Errors
/// When Postgres does not answer or the output is closed.
pub async fn print(pool: &Pool, output: Output) -> anyhow::Result<()> {
    for (title, statement, columns) in TABLES {
        let rows = rows::query(pool, statement, &[]).await.context("the KPI tables cannot be read")?;
        if output == Output::Json {
            output::json_line(&serde_json::json!({"what": "table", "title": title, "rows": rows}))?;
            continue;
        }
        let cells: Vec<Vec<String>> =
            rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
        output::print(&format!("\n{title}\n{}", output::table(columns, &cells)))?;
    }
    Ok(())
}

fn cell(row: &Map<String, Value>, column: &str) -> String {
    match row.get(column) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::from("-"),
        Some(other) => other.to_string(),
    }
}
