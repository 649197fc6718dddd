//! Connections.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// Connections, for those that hand them on.
pub type Pool = PgPool;

/// How long to wait for a free or new connection.
const ACQUIRE_MAX: Duration = Duration::from_secs(10);
/// How long one statement may run before Postgres stops it.
const STATEMENT_MAX: Duration = Duration::from_secs(30);
/// How long a transaction may wait for its next statement before Postgres ends its connection. A process that was stopped
/// in the middle of one, or cut off, would else hold its locks, and nobody could take its partitions over: shorter than
/// a statement may wait for a lock.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// A pool of at most `connections_max` connections to `url`. Connects when first used, so that a role can start
/// while Postgres is down. `purpose` is shown in `pg_stat_activity`.
///
/// # Errors
/// When `url` is no Postgres address. The error does not repeat the address: it may hold a password.
pub fn lazy(url: &str, purpose: &str, connections_max: u32) -> Result<Pool, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    let options = options.application_name(&format!("millrace {purpose}")).options([
        ("statement_timeout", STATEMENT_MAX.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", IDLE_MAX.as_millis().to_string()),
        // Notices about tables that exist already say nothing to an operator.
        ("client_min_messages", String::from("warning")),
        ("timezone", String::from("UTC")),
    ]);
    Ok(PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_MAX)
        .connect_lazy_with(options))
}
