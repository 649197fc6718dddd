//! Changed KPI values go to the KPI topic, after they are committed: absolute values, keyed by KPI, window and
//! dimensions, so that a repeat does no harm and compaction keeps the last.
//!
//! What is to be written stands in `kpi_unpublished`, put there in the transaction that changed the value, so that no
//! crash loses it. One projector at a time publishes, under an advisory lock: two would overtake each other and leave
//! an older value as the last. A mark is taken away only if it has not been set again meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::value::RawValue;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use tokio_util::sync::CancellationToken;

use crate::kafka::producer::{ProduceError, Producer, StartError};
use crate::kafka::settings::ProducerSettings;
use crate::postgres::fault::SqlFault;
use crate::project::settings::ProjectSettings;
use crate::record::OutRecord;
use crate::telemetry::logs;

/// Whoever publishes holds this lock.
pub(super) const LOCK: i64 = 0x6d69_6c6c_6b70_6973;
/// Most marks handled at once.
const MARKS_MAX: i64 = 5_000;

/// Writes KPI values to their topic.
pub struct Publisher {
    pool: PgPool,
    producer: Producer,
    topic: Arc<str>,
    every: Duration,
}

/// Why a round failed; the next one tries again.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("KPI values cannot be read")]
    Sql(#[source] SqlFault),
    #[error("KPI values cannot be written")]
    Produce(#[from] ProduceError),
}

/// A row's key.
type Key = (String, String, DateTime<Utc>, String);
/// A mark: the row's partition and the change that set it.
type Mark = (i32, i64);

impl Publisher {
    /// Makes the producer.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn start(settings: &ProjectSettings, pool: PgPool) -> Result<Self, StartError> {
        let producer = Producer::start(ProducerSettings::new(settings.connection.clone()))?;
        Ok(Self { pool, producer, topic: settings.namespace.kpis_topic(), every: settings.publish_every })
    }

    /// Publishes until `stop`, and once more then.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(self.every) => false,
            };
            loop {
                match self.round().await {
                    Ok(marks) if marks == MARKS_MAX as usize => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(error = logs::chain(&error), "KPI values wait to be published");
                        break;
                    }
                }
            }
            if is_last {
                return;
            }
        }
    }

    /// Publishes up to [`MARKS_MAX`] marks and gives how many there were; 0 when another projector publishes.
    async fn round(&self) -> Result<usize, PublishError> {
        let sql = |error| PublishError::Sql(SqlFault::of(error));
        let mut tx = self.pool.begin().await.map_err(sql)?;
        let is_ours: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *tx)
            .await
            .map_err(sql)?;
        if !is_ours {
            return Ok(0);
        }
        let marks = marks(&mut tx).await.map_err(sql)?;
        if marks.is_empty() {
            return Ok(0);
        }
        let records = values(&mut tx, &marks, &self.topic).await.map_err(sql)?;
        let mut receipts = Vec::with_capacity(records.len());
        for record in &records {
            receipts.push(self.producer.enqueue(record)?);
        }
        for receipt in receipts {
            receipt.delivered().await?;
        }
        unmark(&mut tx, &marks).await.map_err(sql)?;
        tx.commit().await.map_err(sql)?;
        Ok(marks.values().map(Vec::len).sum())
    }
}

async fn marks(connection: &mut PgConnection) -> Result<BTreeMap<Key, Vec<Mark>>, sqlx::Error> {
    let rows = sqlx::query(
        "select kpi, window_size, window_start, dimensions, partition, change from kpi_unpublished
         order by kpi, window_size, window_start, dimensions limit $1",
    )
    .bind(MARKS_MAX)
    .fetch_all(connection)
    .await?;
    let mut marks: BTreeMap<Key, Vec<Mark>> = BTreeMap::new();
    for row in rows {
        let key = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        marks.entry(key).or_default().push((row.try_get(4)?, row.try_get(5)?));
    }
    Ok(marks)
}

/// The values as they are now, over all partitions. Sums only the rows asked for. A row that a rebuild has taken away
/// is a null value: compaction forgets its key.
async fn values(
    connection: &mut PgConnection,
    marks: &BTreeMap<Key, Vec<Mark>>,
    topic: &Arc<str>,
) -> Result<Vec<OutRecord>, sqlx::Error> {
    let rows = sqlx::query(
        "select asked.kpi, asked.window_size, asked.window_start, asked.dimensions, r.window_end, r.events,
                r.late_events, r.revision, r.updated_at,
                trim_scale(case d.aggregate when 'count' then r.events::numeric when 'sum' then r.sum
                    when 'avg' then r.sum / r.events when 'min' then r.min when 'max' then r.max end)::text
         from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[])
                  as asked(kpi, window_size, window_start, dimensions)
         join kpi_definitions d on d.kpi = asked.kpi
         left join lateral (
             select max(window_end) as window_end, sum(events)::bigint as events, sum(sum) as sum, min(min) as min,
                    max(max) as max, sum(late_events)::bigint as late_events, sum(revision)::bigint as revision,
                    max(updated_at) as updated_at
             from kpi_part p
             where p.kpi = asked.kpi and p.window_size = asked.window_size
               and p.window_start = asked.window_start and p.dimensions = asked.dimensions
         ) r on true",
    )
    .bind(marks.keys().map(|key| key.0.clone()).collect::<Vec<_>>())
    .bind(marks.keys().map(|key| key.1.clone()).collect::<Vec<_>>())
    .bind(marks.keys().map(|key| key.2).collect::<Vec<_>>())
    .bind(marks.keys().map(|key| key.3.clone()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| record(row, topic)).collect()
}

fn record(row: &PgRow, topic: &Arc<str>) -> Result<OutRecord, sqlx::Error> {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let (kpi, window): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let start: DateTime<Utc> = row.try_get(2)?;
    let window_start = time(start);
    let dimensions: String = row.try_get(3)?;
    // Its text is JSON as `serde_json` writes it, and goes on as it is.
    let dimensions: &RawValue = serde_json::from_str(&dimensions).unwrap_or(RawValue::NULL);
    let key = written(&(&kpi, &window, &window_start, dimensions))?;
    let events: Option<i64> = row.try_get(5)?;
    let value = match events {
        None => None,
        Some(events) => Some(written(&Published {
            dimensions,
            events,
            kpi: &kpi,
            late_events: row.try_get(6)?,
            revision: row.try_get(7)?,
            updated_at: time(row.try_get(8)?),
            value: row.try_get(9)?,
            window: &window,
            window_end: time(row.try_get(4)?),
            window_start: &window_start,
        })?),
    };
    Ok(OutRecord {
        topic: Arc::clone(topic),
        partition: None,
        timestamp_ms: None,
        key: Some(key),
        value,
        headers: Vec::new(),
    })
}

/// A KPI's value as its topic has it.
#[derive(serde::Serialize)]
struct Published<'a> {
    dimensions: &'a RawValue,
    events: i64,
    kpi: &'a str,
    late_events: i64,
    revision: i64,
    updated_at: String,
    value: String,
    window: &'a str,
    window_end: String,
    window_start: &'a str,
}

fn written(value: &impl serde::Serialize) -> Result<Bytes, sqlx::Error> {
    let text = serde_json::to_vec(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    Ok(Bytes::from(text))
}

async fn unmark(connection: &mut PgConnection, marks: &BTreeMap<Key, Vec<Mark>>) -> Result<(), sqlx::Error> {
    let flat: Vec<(&Key, &Mark)> =
        marks.iter().flat_map(|(key, marks)| marks.iter().map(move |mark| (key, mark))).collect();
    sqlx::query(
        "delete from kpi_unpublished u
         using unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::int[], $6::bigint[])
             as done(kpi, window_size, window_start, dimensions, partition, change)
         where u.kpi = done.kpi and u.window_size = done.window_size and u.window_start = done.window_start
           and u.dimensions = done.dimensions and u.partition = done.partition and u.change = done.change",
    )
    .bind(flat.iter().map(|(key, _)| key.0.clone()).collect::<Vec<_>>())
    .bind(flat.iter().map(|(key, _)| key.1.clone()).collect::<Vec<_>>())
    .bind(flat.iter().map(|(key, _)| key.2).collect::<Vec<_>>())
    .bind(flat.iter().map(|(key, _)| key.3.clone()).collect::<Vec<_>>())
    .bind(flat.iter().map(|(_, mark)| mark.0).collect::<Vec<_>>())
    .bind(flat.iter().map(|(_, mark)| mark.1).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}
