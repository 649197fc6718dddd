//! Keys seen by `dedupe` stages, in table `dedupe_keys`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgPool;

use crate::postgres::fault::SqlFault;

/// A claim in so many also removes keys whose time is over.
const SWEEP_EVERY: u64 = 512;
/// How many keys one sweep removes at most; more than [`SWEEP_EVERY`], so that the table shrinks back.
const SWEEP_ROWS_MAX: i64 = 2_048;

/// The first to bring a key owns it until its time is over. The owner alone is told so, however often it asks.
const CLAIM: &str = "\
    insert into dedupe_keys as keys (scope, key_hash, owner, expires_at) \
    values ($1, $2, $3, now() + make_interval(secs => $4)) \
    on conflict (scope, key_hash) do update set \
        owner = case when keys.expires_at <= now() then excluded.owner else keys.owner end, \
        expires_at = case when keys.expires_at <= now() then excluded.expires_at else keys.expires_at end \
    returning owner = $3";

const SWEEP: &str = "\
    delete from dedupe_keys where ctid = any(array( \
        select ctid from dedupe_keys where expires_at <= now() limit $1 for update skip locked))";

/// The table.
#[derive(Debug)]
pub struct DedupeTable {
    pool: PgPool,
    claims: AtomicU64,
}

impl DedupeTable {
    /// Over a database that has been migrated.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, claims: AtomicU64::new(0) }
    }

    /// Claims a key for `owner` for so long. True when it is the owner's, now or from before.
    ///
    /// # Errors
    /// [`SqlFault`]: nothing is known then.
    pub async fn claim(
        &self,
        scope: &str,
        key_hash: &[u8],
        owner: &str,
        ttl: Duration,
    ) -> Result<bool, SqlFault> {
        let is_mine: bool = sqlx::query_scalar(CLAIM)
            .bind(scope)
            .bind(key_hash)
            .bind(owner)
            .bind(ttl.as_secs_f64())
            .fetch_one(&self.pool)
            .await
            .map_err(SqlFault::of)?;
        if self.claims.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep().await?;
        }
        Ok(is_mine)
    }

    /// Removes keys whose time is over, a bounded number; how many it removed.
    ///
    /// # Errors
    /// [`SqlFault`].
    pub async fn sweep(&self) -> Result<u64, SqlFault> {
        let done = sqlx::query(SWEEP).bind(SWEEP_ROWS_MAX).execute(&self.pool).await;
        Ok(done.map_err(SqlFault::of)?.rows_affected())
    }
}
