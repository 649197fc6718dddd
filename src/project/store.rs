//! The one transaction per batch: position, rows, refusals. The position is moved first and by compare-and-set, with
//! the epoch of its owner, so that an owner that has been replaced, or a batch that was written before, changes
//! nothing.

use std::collections::HashMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::config::topic::OnConflict;
use crate::failpoint::{Rule, keeps};
use crate::plan::kpis::KpiSpec;
use crate::plan::tables::TableSpec;
use crate::position::{Epoch, NextOffset, Partition};
use crate::postgres::fault::SqlFault;
use crate::project::copy::{CopyText, EXECUTION_COLUMNS};
use crate::project::definitions::{self, Active};
use crate::project::window::Folded;
use crate::project::{ddl, kpi_rows};
use crate::record::InRecord;

/// SQLSTATE of a primary key that exists.
const UNIQUE_VIOLATION: &str = "23505";
/// Most bytes sent to Postgres in one message.
const CHUNK_BYTES: usize = 1 << 20;

/// Where a partition stands, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The next record to fold.
    pub next: NextOffset,
    /// Of whom.
    pub epoch: Epoch,
    /// The latest event time folded.
    pub time_max: Option<DateTime<Utc>>,
    /// How often the definitions of KPIs had changed when it was taken over: KPI rows are written by these only.
    pub definitions: i64,
}

/// A record that is not folded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reject {
    /// Its offset.
    pub offset: i64,
    /// Why, in one word: a metric's label.
    pub reason: &'static str,
    /// Why, in full.
    pub detail: String,
    /// Key, cut off.
    pub key: Option<Vec<u8>>,
    /// Value, cut off.
    pub value: Option<Vec<u8>>,
    /// Bytes of the whole value.
    pub value_bytes: Option<i64>,
}

/// What a batch comes to.
#[derive(Clone, PartialEq, Debug)]
pub enum Rows<'a> {
    /// Execution results.
    Executions(CopyText),
    /// Rows of a topic's table.
    Table(&'a TableSpec, CopyText),
    /// KPI rows and what the KPIs refused.
    Kpis(Folded),
}

/// One transaction's content.
#[derive(Clone, PartialEq, Debug)]
pub struct Write<'a> {
    /// Position after it.
    pub to: NextOffset,
    /// Rows.
    pub rows: Rows<'a>,
    /// Records that are not folded.
    pub rejects: Vec<Reject>,
    /// The records themselves: those whose key is in the table already are rejected only then.
    pub records: &'a [InRecord],
}

/// Most bytes of a rejected record's key and value that are kept.
const KEPT_BYTES_MAX: usize = 4096;

impl Reject {
    /// `record` with the reason why.
    pub fn of(record: &InRecord, reason: &'static str, detail: impl Into<String>) -> Self {
        let kept = |bytes: &Bytes| bytes[..bytes.len().min(KEPT_BYTES_MAX)].to_vec();
        Self {
            offset: record.offset,
            reason,
            detail: detail.into(),
            key: record.key.as_ref().map(kept),
            value: record.value.as_ref().map(kept),
            value_bytes: record.value.as_ref().map(|value| value.len() as i64),
        }
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Committed.
    Done,
    /// The position is not where its owner left it: another owner, a database put back, or KPIs defined anew. Nothing
    /// was written.
    Moved,
}

/// Access to the projector's tables for one consumer group.
#[derive(Clone, Debug)]
pub struct Store {
    /// Connections.
    pub pool: PgPool,
    /// Consumer group: first part of a position's key.
    pub group: String,
}

impl Store {
    /// Takes a partition over: the epoch is one higher than before, which ends every earlier owner's writes. A
    /// partition never seen begins at `oldest`.
    ///
    /// # Errors
    /// [`SqlFault`].
    pub async fn take_over(&self, partition: &Partition, oldest: NextOffset) -> Result<Position, SqlFault> {
        let insert = "insert into projector_positions (grp, topic, partition, next_offset, epoch)
                      values ($1, $2, $3, $4, 0) on conflict do nothing";
        let update = "update projector_positions set epoch = epoch + 1, updated_at = now()
                      where grp = $1 and topic = $2 and partition = $3 returning next_offset, epoch, time_max, definitions";
        let mut connection = self.pool.acquire().await.map_err(SqlFault::of)?;
        sqlx::query(insert)
            .bind(&self.group)
            .bind(&*partition.topic)
            .bind(partition.number)
            .bind(oldest.0)
            .execute(&mut *connection)
            .await
            .map_err(SqlFault::of)?;
        let row = sqlx::query(update)
            .bind(&self.group)
            .bind(&*partition.topic)
            .bind(partition.number)
            .fetch_one(&mut *connection)
            .await
            .map_err(SqlFault::of)?;
        position(&row).map_err(SqlFault::of)
    }

    /// Where a partition stands now.
    ///
    /// # Errors
    /// [`SqlFault`].
    pub async fn position(&self, partition: &Partition) -> Result<Option<Position>, SqlFault> {
        let row = sqlx::query(
            "select next_offset, epoch, time_max, definitions from projector_positions
             where grp = $1 and topic = $2 and partition = $3",
        )
        .bind(&self.group)
        .bind(&*partition.topic)
        .bind(partition.number)
        .fetch_optional(&self.pool)
        .await
        .map_err(SqlFault::of)?;
        row.map(|row| position(&row)).transpose().map_err(SqlFault::of)
    }

    /// The positions of all partitions of the group.
    ///
    /// # Errors
    /// [`SqlFault`].
    pub async fn positions(&self) -> Result<HashMap<Partition, Position>, SqlFault> {
        let rows = sqlx::query(
            "select next_offset, epoch, time_max, definitions, topic, partition from projector_positions
             where grp = $1",
        )
        .bind(&self.group)
        .fetch_all(&self.pool)
        .await
        .map_err(SqlFault::of)?;
        let read = |row: &PgRow| {
            let topic: String = row.try_get(4)?;
            Ok((Partition::new(topic, row.try_get(5)?), position(row)?))
        };
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(SqlFault::of)
    }

    /// What the KPIs of the files are folded by ([`definitions::active`]).
    ///
    /// # Errors
    /// [`SqlFault`].
    pub async fn active(&self, files: &[KpiSpec]) -> Result<Active, SqlFault> {
        let mut connection = self.pool.acquire().await.map_err(SqlFault::of)?;
        definitions::active(&mut connection, files).await.map_err(SqlFault::of)
    }

    /// Writes a batch that follows `from`. After an error the transaction may or may not have been committed; only
    /// [`Store::position`] tells.
    ///
    /// # Errors
    /// [`SqlFault`].
    pub async fn write(
        &self,
        partition: &Partition,
        from: Position,
        write: &Write<'_>,
    ) -> Result<Outcome, SqlFault> {
        let (time_max, definitions) = match &write.rows {
            Rows::Kpis(folded) => (folded.time_max, Some(from.definitions)),
            Rows::Executions(_) | Rows::Table(..) => (None, None),
        };
        let from = self.unless_switched_off(partition, from).await?;
        let mut tx = self.pool.begin().await.map_err(SqlFault::of)?;
        let moved = sqlx::query(
            "update projector_positions
             set next_offset = $1, time_max = coalesce($2, time_max), updated_at = now()
             where grp = $3 and topic = $4 and partition = $5 and next_offset = $6 and epoch = $7
               and ($8::bigint is null or definitions = $8)",
        )
        .bind(write.to.0)
        .bind(time_max)
        .bind(&self.group)
        .bind(&*partition.topic)
        .bind(partition.number)
        .bind(from.next.0)
        .bind(from.epoch.0.cast_signed())
        .bind(definitions)
        .execute(&mut *tx)
        .await
        .map_err(SqlFault::of)?;
        if moved.rows_affected() == 0 {
            tx.rollback().await.map_err(SqlFault::of)?;
            return Ok(Outcome::Moved);
        }
        let conflicts = match &write.rows {
            Rows::Executions(copy) => put_executions(&mut tx, copy).await.map(|()| Vec::new())?,
            Rows::Table(spec, copy) => put_table(&mut tx, spec, copy).await?,
            Rows::Kpis(folded) => kpi_rows::put(&mut tx, partition, folded).await.map(|()| Vec::new())?,
        };
        let mut rejects = write.rejects.clone();
        let refused = write.records.iter().filter(|record| conflicts.contains(&record.offset));
        rejects.extend(
            refused.map(|record| Reject::of(record, "duplicate_key", "the table has a row of this key")),
        );
        put_rejects(&mut tx, partition, &rejects).await?;
        tx.commit().await.map_err(SqlFault::of)?;
        Ok(Outcome::Done)
    }
}

impl Store {
    /// `from`; where a test switched a comparison off, what is compared with itself then.
    async fn unless_switched_off(
        &self,
        partition: &Partition,
        mut from: Position,
    ) -> Result<Position, SqlFault> {
        if keeps(Rule::PositionCas) && keeps(Rule::EpochCas) {
            return Ok(from);
        }
        let Some(found) = self.position(partition).await? else { return Ok(from) };
        if !keeps(Rule::PositionCas) {
            from.next = found.next;
        }
        if !keeps(Rule::EpochCas) {
            from.epoch = found.epoch;
        }
        Ok(from)
    }
}

fn position(row: &PgRow) -> Result<Position, sqlx::Error> {
    let epoch: i64 = row.try_get(1)?;
    Ok(Position {
        next: NextOffset(row.try_get(0)?),
        epoch: Epoch(epoch.cast_unsigned()),
        time_max: row.try_get(2)?,
        definitions: row.try_get(3)?,
    })
}

async fn execute(connection: &mut PgConnection, statement: impl Into<String>) -> Result<(), SqlFault> {
    let statement: String = statement.into();
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await.map(drop).map_err(SqlFault::of)
}

async fn copy_in(connection: &mut PgConnection, target: &str, copy: &CopyText) -> Result<(), SqlFault> {
    let mut sink =
        connection.copy_in_raw(&format!("copy {target} from stdin")).await.map_err(SqlFault::of)?;
    for chunk in copy.as_bytes().chunks(CHUNK_BYTES) {
        if let Err(error) = sink.send(chunk).await {
            // The connection is unusable unless the copy is ended; its own error says less than this one.
            let _ended = sink.abort("cut off").await;
            return Err(SqlFault::of(error));
        }
    }
    sink.finish().await.map(drop).map_err(SqlFault::of)
}

/// Results are copied straight in. One that is there already makes the copy fail as a whole: then the batch goes the
/// longer way. It comes of a dead letter that was replayed, or of a crash at least once; the later run is how the event
/// ended, in whatever order the two are read.
async fn put_executions(connection: &mut PgConnection, copy: &CopyText) -> Result<(), SqlFault> {
    if copy.is_empty() {
        return Ok(());
    }
    execute(connection, "savepoint rows").await?;
    match copy_in(connection, &format!("executions ({EXECUTION_COLUMNS})"), copy).await {
        Err(fault) if fault.code.as_deref() == Some(UNIQUE_VIOLATION) => {}
        other => return other,
    }
    execute(connection, "rollback to savepoint rows").await?;
    execute(
        connection,
        "create temp table if not exists stage_executions (like executions) on commit delete rows",
    )
    .await?;
    copy_in(connection, &format!("stage_executions ({EXECUTION_COLUMNS})"), copy).await?;
    let key = "pipeline, topic, partition, \"offset\"";
    let is_key = |column: &&str| key.split(", ").any(|part| part == *column);
    let columns = EXECUTION_COLUMNS.split(',').map(str::trim).filter(|column| !is_key(column));
    let sets: Vec<String> = columns.map(|column| format!("{column} = excluded.{column}")).collect();
    let merge = format!(
        "insert into executions as kept ({EXECUTION_COLUMNS})
         select distinct on ({key}) {EXECUTION_COLUMNS} from stage_executions order by {key}, started_at desc
         on conflict ({key}) do update set {} where excluded.started_at > kept.started_at",
        sets.join(", ")
    );
    execute(connection, merge).await
}

/// Merges rows into a topic's table, in the order of its key, so that two partitions never wait for each other in a
/// circle. Gives the offsets of rows whose key was there, for a table that refuses such.
async fn put_table(
    connection: &mut PgConnection,
    spec: &TableSpec,
    copy: &CopyText,
) -> Result<Vec<i64>, SqlFault> {
    if copy.is_empty() {
        return Ok(Vec::new());
    }
    let table = ddl::quoted(&spec.name);
    // A session may have staged rows before a column was added.
    let stage = ddl::quoted(&format!(
        "stage_{}_{}",
        spec.columns.len(),
        spec.name.chars().take(48).collect::<String>()
    ));
    let columns = ddl::list(ddl::column_names(spec));
    let key = ddl::list(spec.primary_key.iter().map(|name| &**name));
    execute(
        connection,
        format!("create temp table if not exists {stage} (like {table}) on commit delete rows"),
    )
    .await?;
    copy_in(connection, &format!("{stage} ({columns})"), copy).await?;
    match spec.on_conflict {
        OnConflict::Newest => {
            let sets: Vec<String> = ddl::column_names(spec)
                .filter(|name| !spec.primary_key.iter().any(|key| **key == **name))
                .map(|name| format!("{0} = excluded.{0}", ddl::quoted(name)))
                .collect();
            let merge = format!(
                "insert into {table} as kept ({columns}) select distinct on ({key}) {columns} from {stage}
                 order by {key}, _time desc, _offset desc, _partition desc
                 on conflict ({key}) do update set {}
                 where (excluded._time, excluded._offset, excluded._partition) > (kept._time, kept._offset, kept._partition)",
                sets.join(", ")
            );
            execute(connection, merge).await.map(|()| Vec::new())
        }
        OnConflict::First => {
            let merge = format!(
                "insert into {table} ({columns}) select distinct on ({key}) {columns} from {stage}
                 order by {key}, _offset on conflict do nothing"
            );
            execute(connection, merge).await.map(|()| Vec::new())
        }
        OnConflict::Error => {
            let merge = format!(
                "with taken as (
                     insert into {table} ({columns}) select distinct on ({key}) {columns} from {stage}
                     order by {key}, _offset on conflict do nothing returning _offset
                 ) select _offset from {stage} except select _offset from taken order by 1"
            );
            let refused = sqlx::query_scalar(AssertSqlSafe(merge)).fetch_all(connection).await;
            refused.map_err(SqlFault::of)
        }
    }
}

async fn put_rejects(
    connection: &mut PgConnection,
    partition: &Partition,
    rejects: &[Reject],
) -> Result<(), SqlFault> {
    if rejects.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into projector_rejects (topic, partition, \"offset\", reason, detail, key, value, value_bytes)
         select $1, $2, at, reason, detail, key, value, value_bytes
         from unnest($3::bigint[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], $8::bigint[])
             as r(at, reason, detail, key, value, value_bytes)
         on conflict do nothing",
    )
    .bind(&*partition.topic)
    .bind(partition.number)
    .bind(rejects.iter().map(|reject| reject.offset).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| reject.reason).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| reject.detail.replace('\0', "\u{fffd}")).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| reject.key.clone()).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| reject.value.clone()).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| reject.value_bytes).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
    .map_err(SqlFault::of)
}
