//! A parameterised query whose rows become JSON objects, for stages that read or write Postgres.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde_json::{Map, Value};
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, Either, Executor as _, Row as _, SqlSafeStr as _,
    Statement as _, TypeInfo as _, ValueRef as _,
};

use crate::postgres::fault::SqlFault;

/// Most rows that one query may give.
pub const ROWS_MAX: usize = 1_000;
/// How long one query may take, waiting for a connection included.
const QUERY_MAX: Duration = Duration::from_secs(30);

/// Runs `sql` with `params` for `$1`, `$2`, ... and gives its rows, each as an object of its columns.
///
/// A parameter becomes what the statement wants in its place: text becomes a timestamp, a number numeric, anything
/// JSON. In rows `numeric`, times, dates and UUIDs are text, `bytea` is base64. Parameters and columns of other types
/// are refused with the advice to cast them.
///
/// # Errors
/// [`SqlFault`] with its class; more than [`ROWS_MAX`] rows are a permanent fault.
pub async fn query(pool: &PgPool, sql: &str, params: &[Value]) -> Result<Vec<Map<String, Value>>, SqlFault> {
    let answer = async {
        let mut connection = pool.acquire().await.map_err(SqlFault::of)?;
        run(&mut connection, sql, params).await
    };
    match tokio::time::timeout(QUERY_MAX, answer).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(SqlFault::of(sqlx::Error::PoolTimedOut)),
    }
}

async fn run(
    connection: &mut PgConnection,
    sql: &str,
    params: &[Value],
) -> Result<Vec<Map<String, Value>>, SqlFault> {
    // The text comes from a project file; values only ever come in as parameters.
    let statement = AssertSqlSafe(sql).into_sql_str();
    let prepared = connection.prepare(statement.clone()).await.map_err(SqlFault::of)?;
    let types = match prepared.parameters() {
        Some(Either::Left(types)) => types,
        Some(Either::Right(_)) | None => &[],
    };
    if types.len() != params.len() {
        let message =
            format!("the statement has {} parameters, {} values were given", types.len(), params.len());
        return Err(SqlFault::refused(message));
    }
    let mut arguments = PgArguments::default();
    for (at, (wanted, value)) in types.iter().zip(params).enumerate() {
        bind(&mut arguments, wanted.name(), value)
            .map_err(|reason| SqlFault::refused(format!("parameter ${}: {reason}", at + 1)))?;
    }
    let rows = sqlx::query_with(statement, arguments).fetch_all(connection).await.map_err(SqlFault::of)?;
    if rows.len() > ROWS_MAX {
        return Err(SqlFault::refused(format!("{} rows; at most {ROWS_MAX}: add a limit", rows.len())));
    }
    rows.iter().map(object).collect()
}

/// Adds `value` as the Postgres type `wanted`, or says why it cannot be one.
fn bind(arguments: &mut PgArguments, wanted: &str, value: &Value) -> Result<(), String> {
    let wrong = || format!("{} is no {}", shown(value), wanted.to_ascii_lowercase());
    let text = value.as_str();
    let added = match wanted {
        "BOOL" => arguments.add(nullable(value, Value::as_bool).ok_or_else(wrong)?),
        "INT2" => arguments
            .add(nullable(value, |v| whole(v).and_then(|n| i16::try_from(n).ok())).ok_or_else(wrong)?),
        "INT4" => arguments
            .add(nullable(value, |v| whole(v).and_then(|n| i32::try_from(n).ok())).ok_or_else(wrong)?),
        "INT8" => arguments.add(nullable(value, whole).ok_or_else(wrong)?),
        "FLOAT4" => arguments.add(nullable(value, |v| v.as_f64().map(|n| n as f32)).ok_or_else(wrong)?),
        "FLOAT8" => arguments.add(nullable(value, Value::as_f64).ok_or_else(wrong)?),
        "NUMERIC" => arguments.add(nullable(value, decimal).ok_or_else(wrong)?),
        "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN" | "citext" => {
            arguments.add(nullable(value, |v| Some(plain(v))).ok_or_else(wrong)?)
        }
        "JSON" | "JSONB" => arguments.add(if value.is_null() { None } else { Some(value.clone()) }),
        "TIMESTAMPTZ" => {
            let read =
                |_: &Value| DateTime::parse_from_rfc3339(text?).ok().map(|time| time.with_timezone(&Utc));
            arguments.add(nullable(value, read).ok_or_else(wrong)?)
        }
        "TIMESTAMP" => {
            arguments.add(nullable(value, |_| text?.parse::<NaiveDateTime>().ok()).ok_or_else(wrong)?)
        }
        "DATE" => arguments.add(nullable(value, |_| text?.parse::<NaiveDate>().ok()).ok_or_else(wrong)?),
        "TIME" => arguments.add(nullable(value, |_| text?.parse::<NaiveTime>().ok()).ok_or_else(wrong)?),
        "UUID" => arguments.add(nullable(value, |_| text?.parse::<uuid::Uuid>().ok()).ok_or_else(wrong)?),
        "BYTEA" => arguments.add(nullable(value, |_| BASE64.decode(text?).ok()).ok_or_else(wrong)?),
        "TEXT[]" | "VARCHAR[]" => {
            arguments.add(nullable(value, |v| list(v, |item| Some(plain(item)))).ok_or_else(wrong)?)
        }
        "INT8[]" => arguments.add(nullable(value, |v| list(v, whole)).ok_or_else(wrong)?),
        "INT4[]" => {
            let read = |v: &Value| list(v, |item| whole(item).and_then(|n| i32::try_from(n).ok()));
            arguments.add(nullable(value, read).ok_or_else(wrong)?)
        }
        other => {
            let other = other.to_ascii_lowercase();
            return Err(format!(
                "type {other} is not known here; cast it in the statement: $n::text::{other}"
            ));
        }
    };
    added.map_err(|error| error.to_string())
}

/// Null is null in every type.
#[allow(clippy::option_option, reason = "wrong, null and present are three things")]
fn nullable<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Option<T>> {
    if value.is_null() { Some(None) } else { read(value).map(Some) }
}

/// A value in a message: its kind, never the value, which may be a person's.
fn shown(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn decimal(value: &Value) -> Option<Decimal> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    Decimal::from_str_exact(&text).or_else(|_| Decimal::from_scientific(&text)).ok()
}

/// Text as it is, everything else as JSON. Postgres cannot store NUL in text.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace('\0', "\u{fffd}"),
        other => other.to_string(),
    }
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<Option<T>>> {
    value.as_array()?.iter().map(|item| nullable(item, &read)).collect()
}

fn object(row: &PgRow) -> Result<Map<String, Value>, SqlFault> {
    let mut object = Map::with_capacity(row.len());
    for (at, column) in row.columns().iter().enumerate() {
        object.insert(column.name().to_owned(), cell(row, at, column.name())?);
    }
    Ok(object)
}

fn cell(row: &PgRow, at: usize, name: &str) -> Result<Value, SqlFault> {
    let raw = row.try_get_raw(at).map_err(SqlFault::of)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let kind = raw.type_info().name().to_owned();
    let value = match kind.as_str() {
        "BOOL" => row.try_get::<bool, _>(at).map(Value::from),
        "INT2" => row.try_get::<i16, _>(at).map(Value::from),
        "INT4" => row.try_get::<i32, _>(at).map(Value::from),
        "INT8" => row.try_get::<i64, _>(at).map(Value::from),
        "FLOAT4" => row.try_get::<f32, _>(at).map(|number| Value::from(f64::from(number))),
        "FLOAT8" => row.try_get::<f64, _>(at).map(Value::from),
        "NUMERIC" => row.try_get::<Decimal, _>(at).map(|number| Value::from(number.to_string())),
        "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN" | "citext" => {
            row.try_get::<String, _>(at).map(Value::from)
        }
        "JSON" | "JSONB" => row.try_get::<Value, _>(at),
        "TIMESTAMPTZ" => row
            .try_get::<DateTime<Utc>, _>(at)
            .map(|time| Value::from(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))),
        "TIMESTAMP" => {
            row.try_get::<NaiveDateTime, _>(at).map(|time| Value::from(time.format("%FT%T%.f").to_string()))
        }
        "DATE" => row.try_get::<NaiveDate, _>(at).map(|date| Value::from(date.to_string())),
        "TIME" => row.try_get::<NaiveTime, _>(at).map(|time| Value::from(time.to_string())),
        "UUID" => row.try_get::<uuid::Uuid, _>(at).map(|id| Value::from(id.to_string())),
        "BYTEA" => row.try_get::<Vec<u8>, _>(at).map(|bytes| Value::from(BASE64.encode(bytes))),
        "TEXT[]" | "VARCHAR[]" => row.try_get::<Vec<Option<String>>, _>(at).map(Value::from_iter),
        "INT8[]" => row.try_get::<Vec<Option<i64>>, _>(at).map(Value::from_iter),
        "INT4[]" => row.try_get::<Vec<Option<i32>>, _>(at).map(Value::from_iter),
        "VOID" => Ok(Value::Null),
        other => {
            let message = format!("column {name} has type {}; cast it to text", other.to_ascii_lowercase());
            return Err(SqlFault::refused(message));
        }
    };
    value.map_err(SqlFault::of)
}
