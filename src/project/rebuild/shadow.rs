//! Rows of a rebuild and how far it has read, always changed together.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Postgres, Row as _};

use crate::ledger::KpiFact;
use crate::plan::kpis::KpiSpec;
use crate::position::NextOffset;
use crate::project::definitions::Definition;
use crate::project::kpi_rows::{self, KpiTable};
use crate::project::rebuild::read::Batch;
use crate::project::rebuild::{Parts, Progress, RebuildError};
use crate::project::window::{Folded, Folder};
use crate::record::InRecord;
use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;

/// Whoever rebuilds holds this lock, for as long as its connection lives.
const LOCK: i64 = 0x6d69_6c6c_7265_6275;

/// Keeps others from rebuilding at the same time; ends with the connection.
///
/// # Errors
/// [`RebuildError::Busy`].
pub async fn hold(pool: &PgPool) -> Result<PoolConnection<Postgres>, RebuildError> {
    let mut connection = pool.acquire().await?;
    connection.close_on_drop();
    let is_ours: bool =
        sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut *connection).await?;
    if is_ours { Ok(connection) } else { Err(RebuildError::Busy) }
}

/// Lets others rebuild. Said in so many words: that a connection was closed is noticed a little later, and whoever tries
/// again at once would be refused.
pub async fn release(mut connection: PoolConnection<Postgres>) {
    let unlock = sqlx::query("select pg_advisory_unlock($1)").bind(LOCK).execute(&mut *connection).await;
    if let Err(error) = unlock {
        // The connection ends in any case, and the lock with it.
        tracing::debug!(%error, "the lock of the rebuild ends with its connection");
    }
}

/// How far one partition has been read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct At {
    oldest: NextOffset,
    next: NextOffset,
    time_max: Option<DateTime<Utc>>,
}

/// A rebuild's rows and positions.
#[derive(Debug)]
pub struct Shadow {
    pool: PgPool,
    run: i64,
    at: BTreeMap<i32, At>,
    /// Whether it goes on where an earlier one ended.
    pub is_resumed: bool,
}

/// What a batch came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Read {
    /// Facts folded.
    pub facts: u64,
    /// Records that are no facts.
    pub unreadable: u64,
}

impl Shadow {
    /// Goes on with the rebuild of `kpis` that was begun, or begins: an unfinished one of others, or by other
    /// definitions, is forgotten. `ranges` is what Kafka keeps of each partition.
    ///
    /// # Errors
    /// [`RebuildError::Sql`].
    pub async fn begin(pool: &PgPool, kpis: &[KpiSpec], ranges: &Parts) -> Result<Self, RebuildError> {
        let definitions: BTreeMap<&str, Definition> =
            kpis.iter().map(|spec| (&*spec.name, Definition::of(spec))).collect();
        let wanted =
            serde_json::to_string(&definitions).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let mut tx = pool.begin().await?;
        sqlx::query("lock table kpi_rebuild in exclusive mode").execute(&mut *tx).await?;
        let found: Option<(i64, String)> =
            sqlx::query_as("select run, definitions from kpi_rebuild").fetch_optional(&mut *tx).await?;
        let run = found.as_ref().map_or(0, |(run, _)| *run) + 1;
        let at = match found {
            Some((_, definitions)) if definitions == wanted => positions(&mut tx).await?,
            _ => {
                clear(&mut tx).await?;
                BTreeMap::new()
            }
        };
        // What was deleted meanwhile cannot be gone on with.
        let is_kept =
            |(number, at): (&i32, &At)| ranges.get(number).is_some_and(|(oldest, _)| *oldest <= at.next);
        let is_resumed = !at.is_empty() && at.iter().all(is_kept);
        let at = if is_resumed {
            at
        } else {
            clear(&mut tx).await?;
            let fresh = |(number, (oldest, _)): (&i32, &(NextOffset, NextOffset))| {
                (*number, At { oldest: *oldest, next: *oldest, time_max: None })
            };
            ranges.iter().map(fresh).collect()
        };
        sqlx::query(
            "insert into kpi_rebuild (run, definitions) values ($1, $2)
             on conflict (only_one) do update set run = excluded.run",
        )
        .bind(run)
        .bind(wanted)
        .execute(&mut *tx)
        .await?;
        put_positions(&mut tx, run, &at).await?;
        tx.commit().await?;
        Ok(Self { pool: pool.clone(), run, at, is_resumed })
    }

    /// Offsets of facts that Kafka did not keep any more when this began.
    pub fn deleted(&self) -> i64 {
        self.at.values().map(|at| at.oldest.0).sum()
    }

    /// What is to be read until every partition stands where the projector does.
    ///
    /// # Errors
    /// [`RebuildError::WentBack`].
    pub fn left(&self, live: &BTreeMap<i32, NextOffset>) -> Result<Parts, RebuildError> {
        let mut parts = Parts::new();
        for (number, At { oldest, next, .. }) in &self.at {
            // A partition that the projector has never taken over has no rows.
            let Some(to) = live.get(number) else { continue };
            if to < next && next > oldest {
                return Err(RebuildError::WentBack { partition: *number, read: *next, live: *to });
            }
            parts.insert(*number, (*next, (*to).max(*next)));
        }
        Ok(parts)
    }

    /// How far this is.
    pub fn progress(&self, live: &BTreeMap<i32, NextOffset>) -> Progress {
        let mut progress = Progress { done: 0, total: 0 };
        for (number, At { oldest, next, .. }) in &self.at {
            let to = live.get(number).copied().unwrap_or(*next).max(*next);
            progress.done += (next.0 - oldest.0).unsigned_abs();
            progress.total += (to.0 - oldest.0).unsigned_abs();
        }
        progress
    }

    /// Folds and stores a batch in a transaction of its own.
    ///
    /// # Errors
    /// Of the registry and of Postgres; [`RebuildError::Replaced`].
    pub async fn fold(
        &mut self,
        kpis: &[KpiSpec],
        codec: &Codec,
        batch: Batch,
    ) -> Result<Read, RebuildError> {
        let mut tx = self.pool.begin().await?;
        let mut at = self.at.clone();
        let read = self.fold_within(&mut tx, &mut at, (kpis, codec), batch).await?;
        tx.commit().await?;
        self.at = at;
        Ok(read)
    }

    /// Folds and stores a batch within a transaction; `at` is where the partitions stand then.
    async fn fold_within(
        &self,
        connection: &mut PgConnection,
        at: &mut BTreeMap<i32, At>,
        (kpis, codec): (&[KpiSpec], &Codec),
        batch: Batch,
    ) -> Result<Read, RebuildError> {
        let mut read = Read::default();
        let records = match batch {
            Batch::Reached(parts) => {
                for (number, (_, to)) in parts {
                    if let Some(at) = at.get_mut(&number) {
                        at.next = at.next.max(to);
                    }
                }
                Vec::new()
            }
            Batch::Records(records) => records,
        };
        let mut by_partition: BTreeMap<i32, Vec<InRecord>> = BTreeMap::new();
        for record in records {
            by_partition.entry(record.partition).or_default().push(record);
        }
        for (number, records) in by_partition {
            let Some(at) = at.get_mut(&number) else { continue };
            let mut folder = Folder::new(kpis, at.time_max);
            let now = Utc::now();
            for (offset, fact) in decode(codec, &records, &mut read).await? {
                folder.fold(offset, &fact, now);
            }
            let Folded { rows, refused: _, time_max } = folder.finish();
            at.time_max = time_max;
            at.next = records.last().map_or(at.next, |last| at.next.max(NextOffset::after(last.offset)));
            if !rows.is_empty() {
                kpi_rows::add(connection, KpiTable::Rebuild, number, &rows).await?;
            }
        }
        self.move_to(connection, at).await?;
        Ok(read)
    }

    /// Folds and stores batches within the transaction of the swap.
    ///
    /// # Errors
    /// As [`Shadow::fold`]; what was read stays as it was.
    pub async fn fold_last(
        &self,
        connection: &mut PgConnection,
        kpis: &[KpiSpec],
        codec: &Codec,
        batches: Vec<Batch>,
    ) -> Result<Read, RebuildError> {
        let mut at = self.at.clone();
        let mut all = Read::default();
        for batch in batches {
            let read = self.fold_within(connection, &mut at, (kpis, codec), batch).await?;
            all.facts += read.facts;
            all.unreadable += read.unreadable;
        }
        Ok(all)
    }

    async fn move_to(
        &self,
        connection: &mut PgConnection,
        at: &BTreeMap<i32, At>,
    ) -> Result<(), RebuildError> {
        let moved = sqlx::query(
            "update kpi_rebuild_positions p set next_offset = r.next_offset, time_max = r.time_max
             from unnest($1::int[], $2::bigint[], $3::timestamptz[]) as r(partition, next_offset, time_max)
             where p.partition = r.partition and p.run = $4",
        )
        .bind(at.keys().copied().collect::<Vec<_>>())
        .bind(at.values().map(|at| at.next.0).collect::<Vec<_>>())
        .bind(at.values().map(|at| at.time_max).collect::<Vec<_>>())
        .bind(self.run)
        .execute(connection)
        .await?;
        if moved.rows_affected() == at.len() as u64 { Ok(()) } else { Err(RebuildError::Replaced) }
    }
}

/// Facts with their offsets. The registry is asked for schemas that are not known yet; what it does not know either is
/// unreadable, as it is for the projector.
async fn decode(
    codec: &Codec,
    records: &[InRecord],
    read: &mut Read,
) -> Result<Vec<(i64, KpiFact)>, RebuildError> {
    let mut asked = HashSet::new();
    let mut facts = Vec::with_capacity(records.len());
    for record in records {
        let Some(value) = &record.value else {
            read.unreadable += 1;
            continue;
        };
        let mut decoded = codec.read_fact(value);
        if let Err(SchemaError::UnknownSchema { id }) = decoded
            && asked.insert(id)
        {
            if let Err(error @ SchemaError::Unavailable { .. }) = codec.learn(id).await {
                return Err(error.into());
            }
            decoded = codec.read_fact(value);
        }
        match decoded {
            Ok(fact) => facts.push((record.offset, fact)),
            Err(_) => read.unreadable += 1,
        }
    }
    read.facts += facts.len() as u64;
    Ok(facts)
}

async fn positions(connection: &mut PgConnection) -> Result<BTreeMap<i32, At>, sqlx::Error> {
    let rows = sqlx::query("select partition, oldest, next_offset, time_max from kpi_rebuild_positions")
        .fetch_all(connection)
        .await?;
    let at = |row: &sqlx::postgres::PgRow| {
        let (oldest, next) = (NextOffset(row.try_get(1)?), NextOffset(row.try_get(2)?));
        Ok((row.try_get(0)?, At { oldest, next, time_max: row.try_get(3)? }))
    };
    rows.iter().map(at).collect()
}

async fn put_positions(
    connection: &mut PgConnection,
    run: i64,
    at: &BTreeMap<i32, At>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into kpi_rebuild_positions (partition, run, oldest, next_offset)
         select partition, $1, oldest, next_offset
         from unnest($2::int[], $3::bigint[], $4::bigint[]) as r(partition, oldest, next_offset)
         on conflict (partition) do update set run = excluded.run",
    )
    .bind(run)
    .bind(at.keys().copied().collect::<Vec<_>>())
    .bind(at.values().map(|at| at.oldest.0).collect::<Vec<_>>())
    .bind(at.values().map(|at| at.next.0).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

/// Forgets a rebuild.
///
/// # Errors
/// When Postgres fails.
pub async fn clear(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for table in ["kpi_rebuild", "kpi_rebuild_positions", "kpi_rebuild_part"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("delete from {table}"))).execute(&mut *connection).await?;
    }
    Ok(())
}
