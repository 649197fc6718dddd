//! A parameterised query whose rows become JSON objects, for stages that read or write Postgres.

use std::time::Duration;

use serde_json::{Map, Value};
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArguments, PgPool, PgRow, PgTypeInfo, PgTypeKind};
use sqlx::{Arguments, Column as _, Row as _, TypeInfo as _, ValueRef as _};

use crate::postgres::fault::SqlFault;

/// Most rows that one query may give.
pub const ROWS_MAX: usize = 1_000;
/// How long one query may take, waiting for a connection included.
const QUERY_MAX: Duration = Duration::from_secs(30);

/// Runs `sql` with `params` for `$1`, `$2`, ... and gives its rows, each as an object of its columns.
///
/// Parameters are sent as text and cast by Postgres to what the statement wants there; null, booleans, numbers and
/// text as themselves, lists and objects as JSON. In rows, `numeric` and `bigint` beyond 2^53 keep their digits:
/// `numeric` is text, `bigint` a whole number; types without a JSON counterpart are text as `psql` prints them.
///
/// # Errors
/// [`SqlFault`] with its class; more than [`ROWS_MAX`] rows are a permanent fault.
pub async fn query(pool: &PgPool, sql: &str, params: &[Value]) -> Result<Vec<Map<String, Value>>, SqlFault> {
    let run = run(pool, sql, params);
    match tokio::time::timeout(QUERY_MAX, run).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(SqlFault::of(sqlx::Error::PoolTimedOut)),
    }
}
