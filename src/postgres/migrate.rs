//! Brings a database to the state that this version wants.

use sqlx::PgPool;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Runs the migrations that have not been run; safe to call from several processes at once.
///
/// # Errors
/// When the database cannot be reached, or was made by a newer version.
pub async fn run(pool: &PgPool) -> Result<(), sqlx::migrate::MigrateError> {
    MIGRATIONS.run(pool).await
}

/// Migrations that have not been run yet, by description.
///
/// # Errors
/// When the database cannot be reached.
pub async fn pending(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    let exists: bool =
        sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(pool).await?;
    let done: Vec<i64> = if exists {
        sqlx::query_scalar("select version from _sqlx_migrations where success").fetch_all(pool).await?
    } else {
        Vec::new()
    };
    let missing = MIGRATIONS.iter().filter(|migration| !done.contains(&migration.version));
    Ok(missing.map(|migration| migration.description.to_string()).collect())
}
