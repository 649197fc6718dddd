//! Brings the tables and views of a project into the database, all of them or none.

use std::collections::BTreeMap;

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Row as _};

use crate::plan::kpis::KpiSpec;
use crate::plan::tables::TableSpec;
use crate::project::ddl::{self, DdlError, Existing};
use crate::project::definitions;

/// Whoever changes tables holds this lock, so that two that start at once do not both create them.
pub(super) const LOCK: i64 = 0x6d69_6c6c_7261_6365;

/// Why the database does not follow the files.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It cannot become what the files say.
    #[error(transparent)]
    Refused(#[from] DdlError),
    /// Postgres failed; nothing was changed.
    #[error("cannot change tables and views")]
    Sql(#[from] sqlx::Error),
}

/// Creates and changes what `tables` and `kpis` need, in one transaction, and gives the statements that changed a
/// table. The migrations must have been run. Running it again changes nothing.
///
/// # Errors
/// [`ApplyError`]; the database is as it was then.
pub async fn run(pool: &PgPool, kpis: &[KpiSpec], tables: &[TableSpec]) -> Result<Vec<String>, ApplyError> {
    let mut tx = pool.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    check_views(kpis)?;
    define(&mut tx, kpis).await?;
    let changes = table_changes(&mut tx, tables).await?;
    for statement in &changes {
        sqlx::query(AssertSqlSafe(statement.as_str())).execute(&mut *tx).await?;
    }
    for spec in kpis {
        for window in &spec.windows {
            sqlx::query(AssertSqlSafe(ddl::view(spec, *window))).execute(&mut *tx).await?;
        }
    }
    tx.commit().await?;
    Ok(changes)
}

/// The statements that [`run`] would change tables with.
///
/// # Errors
/// As [`run`].
pub async fn preview(pool: &PgPool, tables: &[TableSpec]) -> Result<Vec<String>, ApplyError> {
    table_changes(&mut *pool.acquire().await?, tables).await
}

async fn table_changes(
    connection: &mut PgConnection,
    tables: &[TableSpec],
) -> Result<Vec<String>, ApplyError> {
    let mut changes = Vec::new();
    for (at, spec) in tables.iter().enumerate() {
        if tables[..at].iter().any(|earlier| earlier.name == spec.name) {
            return Err(DdlError::Twice { name: spec.name.to_string(), what: "tables" }.into());
        }
        let existing = existing(connection, &spec.name).await?;
        changes.extend(ddl::table(spec, existing.as_ref())?);
    }
    Ok(changes)
}

fn check_views(kpis: &[KpiSpec]) -> Result<(), DdlError> {
    let mut seen = std::collections::BTreeSet::new();
    for spec in kpis {
        for window in &spec.windows {
            let name = spec.view(*window);
            if !seen.insert(name.clone()) {
                return Err(DdlError::Twice { name, what: "views" });
            }
        }
    }
    Ok(())
}

/// The table called `name`, if there is one.
async fn existing(connection: &mut PgConnection, name: &str) -> Result<Option<Existing>, sqlx::Error> {
    let rows = sqlx::query(
        "select attname::text, format_type(atttypid, atttypmod), not attnotnull,
                coalesce(array_position(i.indkey::int[], attnum::int), -1)
         from pg_attribute
         left join pg_index i on i.indrelid = attrelid and i.indisprimary
         where attrelid = to_regclass($1) and attnum > 0 and not attisdropped
         order by 4",
    )
    .bind(ddl::quoted(name))
    .fetch_all(connection)
    .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut columns = BTreeMap::new();
    let mut primary_key = Vec::new();
    for row in rows {
        let column: String = row.try_get(0)?;
        let place: i32 = row.try_get(3)?;
        if place >= 0 {
            primary_key.push(column.clone());
        }
        columns.insert(column, (row.try_get(1)?, row.try_get(2)?));
    }
    Ok(Some(Existing { columns, primary_key }))
}

/// Writes definitions that are new or differ. Before any table is changed: a projector that holds a table waits here
/// for nothing, and so cannot wait in a circle with us.
async fn define(connection: &mut PgConnection, kpis: &[KpiSpec]) -> Result<(), ApplyError> {
    let known = definitions::load(connection).await?;
    let mut changed = Vec::new();
    for spec in kpis {
        changed.extend(ddl::kpi(spec, known.get(&*spec.name))?.map(|definition| (&spec.name, definition)));
    }
    if changed.iter().any(|(name, _)| known.contains_key(&***name)) {
        definitions::announce(connection).await?;
    }
    for (name, definition) in &changed {
        definitions::put(connection, name, definition).await?;
    }
    Ok(())
}
