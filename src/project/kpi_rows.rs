//! Rows of KPIs and the facts they refuse, within a transaction of the caller's.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::position::Partition;
use crate::postgres::fault::SqlFault;
use crate::project::window::{Folded, KpiRow, Refused};

/// Adds a batch of `partition` to the tables.
///
/// # Errors
/// [`SqlFault`].
pub async fn put(
    connection: &mut PgConnection,
    partition: &Partition,
    folded: &Folded,
) -> Result<(), SqlFault> {
    let Folded { rows, refused, time_max: _ } = folded;
    if !rows.is_empty() {
        add(connection, KpiTable::Live, partition.number, rows).await?;
    }
    if !refused.is_empty() {
        put_refused(connection, partition, refused).await?;
    }
    Ok(())
}

/// Which rows are added to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KpiTable {
    /// Those that everybody reads; what changes is marked to be published.
    Live,
    /// Those of a rebuild.
    Rebuild,
}

/// Rows as Postgres takes them.
const ROWS: &str = "select * from unnest($2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::timestamptz[], \
     $7::bigint[], $8::text[], $9::text[], $10::text[], $11::bigint[]) \
     as r(kpi, window_size, window_start, dimensions, window_end, events, sum, min, max, late)";

impl KpiTable {
    fn statement(self) -> String {
        let (table, marks) = match self {
            Self::Live => (
                "kpi_part",
                "insert into kpi_unpublished (kpi, window_size, window_start, dimensions, partition)
                 select kpi, window_size, window_start, dimensions, $1 from rows order by 1, 2, 3, 4
                 on conflict (kpi, window_size, window_start, dimensions, partition) do update
                 set change = default",
            ),
            Self::Rebuild => ("kpi_rebuild_part", "select 1"),
        };
        format!(
            "with rows as ({ROWS}), folded as (
                 insert into {table} as p (kpi, window_size, window_start, dimensions, partition, window_end, events,
                                           sum, min, max, late_events, revision)
                 select kpi, window_size, window_start, dimensions, $1, window_end, events,
                        sum::numeric, min::numeric, max::numeric, late, (late > 0)::int
                 from rows order by 1, 2, 3, 4
                 on conflict (kpi, window_size, window_start, dimensions, partition) do update
                 set events = p.events + excluded.events,
                     sum = p.sum + excluded.sum,
                     min = least(p.min, excluded.min),
                     max = greatest(p.max, excluded.max),
                     late_events = p.late_events + excluded.late_events,
                     revision = p.revision + excluded.revision,
                     updated_at = now()
             ) {marks}"
        )
    }
}

/// Adds `rows` of one partition.
///
/// # Errors
/// [`SqlFault`].
pub async fn add(
    connection: &mut PgConnection,
    to: KpiTable,
    partition: i32,
    rows: &[KpiRow],
) -> Result<(), SqlFault> {
    let column = |text: fn(&KpiRow) -> String| rows.iter().map(text).collect::<Vec<_>>();
    sqlx::query(AssertSqlSafe(to.statement()))
        .bind(partition)
        .bind(column(|row| row.kpi.to_string()))
        .bind(column(|row| row.window.name().to_owned()))
        .bind(rows.iter().map(|row| row.bounds.start).collect::<Vec<_>>())
        .bind(column(|row| row.dimensions.clone()))
        .bind(rows.iter().map(|row| row.bounds.end).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.events).collect::<Vec<_>>())
        .bind(column(|row| row.sum.to_string()))
        .bind(column(|row| row.min.to_string()))
        .bind(column(|row| row.max.to_string()))
        .bind(rows.iter().map(|row| row.late_events).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(drop)
        .map_err(SqlFault::of)
}

async fn put_refused(
    connection: &mut PgConnection,
    partition: &Partition,
    refused: &[Refused],
) -> Result<(), SqlFault> {
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    let column = |text: &dyn Fn(&Refused) -> String| refused.iter().map(text).collect::<Vec<_>>();
    sqlx::query(
        "insert into kpi_rejected (kpi, topic, partition, \"offset\", reason, fact, value, time, dimensions)
         select kpi, $1, $2, at, reason, fact, value, time, dimensions
         from unnest($3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
             as r(kpi, at, reason, fact, value, time, dimensions)
         on conflict do nothing",
    )
    .bind(&*partition.topic)
    .bind(partition.number)
    .bind(column(&|refused| refused.kpi.to_string()))
    .bind(refused.iter().map(|refused| refused.offset).collect::<Vec<_>>())
    .bind(column(&|refused| refused.refusal.name().to_owned()))
    .bind(column(&|refused| clean(&refused.fact.fact)))
    .bind(column(&|refused| refused.fact.value.to_string()))
    .bind(column(&|refused| refused.fact.time.to_rfc3339()))
    .bind(column(&|refused| clean(&serde_json::json!(refused.fact.dimensions).to_string())))
    .execute(connection)
    .await
    .map(drop)
    .map_err(SqlFault::of)
}
