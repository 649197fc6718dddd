//! Forgets what was made of topics that are gone: a development broker keeps them in memory, and a database that
//! outlives it would go on from positions that no longer mean anything.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use crate::plan::tables::TableSpec;
use crate::project::ddl::quoted;

/// Everything that Millrace makes of topics. A test holds it against the migrations.
const DERIVED: [&str; 11] = [
    "projector_positions",
    "projector_rejects",
    "executions",
    "kpi_definitions",
    "kpi_part",
    "kpi_unpublished",
    "kpi_rejected",
    "kpi_rebuild",
    "kpi_rebuild_positions",
    "kpi_rebuild_part",
    "dedupe_keys",
];

/// How many partitions the database follows for consumer group `group`; 0 for one that Millrace has never used.
///
/// # Errors
/// When Postgres fails.
pub async fn positions(pool: &PgPool, group: &str) -> Result<i64, sqlx::Error> {
    if !is_there(pool, "projector_positions").await? {
        return Ok(0);
    }
    sqlx::query_scalar("select count(*) from projector_positions where grp = $1")
        .bind(group)
        .fetch_one(pool)
        .await
}

/// Empties everything that is made of topics, the tables of `tables` among them. What others made stays.
///
/// # Errors
/// When Postgres fails; nothing is emptied then.
pub async fn run(pool: &PgPool, tables: &[TableSpec]) -> Result<(), sqlx::Error> {
    let names = DERIVED.into_iter().chain(tables.iter().map(|table| &*table.name));
    let mut existing = Vec::new();
    for name in names {
        if is_there(pool, name).await? {
            existing.push(quoted(name));
        }
    }
    if existing.is_empty() {
        return Ok(());
    }
    let statement = format!("truncate {}", existing.join(", "));
    sqlx::query(AssertSqlSafe(statement)).execute(pool).await.map(|_| ())
}

async fn is_there(pool: &PgPool, name: &str) -> Result<bool, sqlx::Error> {
    let found = "select exists (select from pg_class where oid = to_regclass($1) and relkind in ('r', 'p'))";
    sqlx::query_scalar(found).bind(quoted(name)).fetch_one(pool).await
}

#[cfg(test)]
mod tests {
    use super::DERIVED;

    #[test]
    fn every_table_of_the_migrations_is_known() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut made = Vec::new();
        for entry in std::fs::read_dir(folder).expect("the migrations are there") {
            let text = std::fs::read_to_string(entry.expect("it is there").path()).expect("it is text");
            // Partitions are emptied with their table.
            for line in text.lines().filter(|line| !line.contains(" partition of ")) {
                if let Some(rest) = line.strip_prefix("create table ") {
                    made.push(rest.split([' ', '(']).next().unwrap_or_default().to_owned());
                }
            }
        }
        made.sort_unstable();
        // A later migration may have made a table anew.
        made.dedup();
        let mut known = DERIVED.to_vec();
        known.sort_unstable();
        assert_eq!(made, known);
    }
}
