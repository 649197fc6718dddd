//! Old rows against new ones.
//!
//! Both are folded of the same facts up to the same positions, so a KPI whose definition has not changed differs only
//! where its rows were wrong, or where Kafka does not keep the facts any more.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::plan::kpis::KpiSpec;
use crate::project::definitions::{Definition, Difference};

/// Rows that differ, at most so many.
const EXAMPLES_MAX: i64 = 20;

/// What happens to windows that had more events than can be read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Keep {
    /// Nothing is changed, when facts have been deleted.
    #[default]
    Refuse,
    /// They stay as they are, by the old definition.
    Older,
    /// They become what can be read.
    Nothing,
}

/// What is done with the new rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// They take the old ones' place.
    Swap,
    /// They do, where they are not short of events.
    SwapKeepingOlder,
    /// Nothing.
    Refuse,
}

/// Decides. Windows that are short of events are a loss only when facts have been deleted; else the old rows counted
/// something that is no fact.
pub fn decide(deleted_offsets: i64, windows_short: i64, keep: Keep) -> Verdict {
    match (windows_short > 0 && deleted_offsets > 0, keep) {
        (false, _) | (true, Keep::Nothing) => Verdict::Swap,
        (true, Keep::Older) => Verdict::SwapKeepingOlder,
        (true, Keep::Refuse) => Verdict::Refuse,
    }
}

/// A value before and after.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Changed {
    /// Length of the window.
    pub window: String,
    /// Its begin.
    pub window_start: DateTime<Utc>,
    /// Dimensions as JSON text; empty when the dimensions themselves have changed and all of a window is compared.
    pub dimensions: String,
    /// Events before; `None` when there was no such row.
    pub events_before: Option<i64>,
    /// Events after.
    pub events_after: Option<i64>,
    /// Sum before.
    pub sum_before: Option<String>,
    /// Sum after.
    pub sum_after: Option<String>,
}

/// Old and new rows of one KPI, over all partitions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Comparison {
    /// The KPI.
    pub kpi: String,
    /// What its definition says differently; empty when it is the same, or the KPI is new.
    pub definition: Vec<Difference>,
    /// Events in the old rows.
    pub events_before: i64,
    /// Events in the new rows.
    pub events_after: i64,
    /// Rows (windows and dimensions) that are the same.
    pub rows_same: i64,
    /// Rows whose values differ.
    pub rows_changed: i64,
    /// Rows that only the old ones have.
    pub rows_gone: i64,
    /// Rows that only the new ones have.
    pub rows_new: i64,
    /// Windows that had more events than could be read again.
    pub windows_short: i64,
    /// Of these, those whose old rows stay.
    pub windows_kept: i64,
    /// Some of the rows that differ, the latest first.
    pub examples: Vec<Changed>,
}

/// Rows by window, with dimensions unless these have changed.
const BOTH: &str = "\
    with old as (
        select window_size, window_start, case when $2 then dimensions else '' end as dimensions,
               sum(events)::bigint as events, sum(sum) as sum, min(min) as min, max(max) as max
        from kpi_part where kpi = $1 group by 1, 2, 3
    ), new as (
        select window_size, window_start, case when $2 then dimensions else '' end as dimensions,
               sum(events)::bigint as events, sum(sum) as sum, min(min) as min, max(max) as max
        from kpi_rebuild_part where kpi = $1 group by 1, 2, 3
    ), both_of as (
        select window_size, window_start, dimensions, old.events as events_before, new.events as events_after,
               trim_scale(old.sum)::text as sum_before, trim_scale(new.sum)::text as sum_after,
               (old.events, old.sum, old.min, old.max) is not distinct from
               (new.events, new.sum, new.min, new.max) as is_same
        from old full join new using (window_size, window_start, dimensions)
    )";

/// Windows of a length that the new definition has, whose old rows have more events than the new ones.
const SHORT: &str = "\
    with short as (
        select window_size, window_start
        from (select window_size, window_start, sum(events) as events from kpi_part
              where kpi = $1 and window_size = any($2) group by 1, 2) old
        left join (select window_size, window_start, sum(events) as events from kpi_rebuild_part
                   where kpi = $1 group by 1, 2) new using (window_size, window_start)
        where old.events > coalesce(new.events, 0)
    )";

/// Holds the old rows of `spec` against the new ones. `existing` is the definition of the old ones.
///
/// # Errors
/// When Postgres fails.
pub async fn compare(
    connection: &mut PgConnection,
    spec: &KpiSpec,
    existing: Option<&Definition>,
) -> Result<Comparison, sqlx::Error> {
    let wanted = Definition::of(spec);
    let by_dimensions = existing.is_none_or(|existing| existing.dimensions == wanted.dimensions);
    let counted = format!(
        "{BOTH} select count(*) filter (where is_same),
                       count(*) filter (where not is_same and events_before is not null and events_after is not null),
                       count(*) filter (where events_after is null),
                       count(*) filter (where events_before is null),
                       coalesce((select max(events) from
                           (select sum(events)::bigint as events from old group by window_size) o), 0),
                       coalesce((select max(events) from
                           (select sum(events)::bigint as events from new group by window_size) n), 0)
         from both_of"
    );
    let row = sqlx::query(AssertSqlSafe(counted))
        .bind(&*spec.name)
        .bind(by_dimensions)
        .fetch_one(&mut *connection)
        .await?;
    let examples = format!(
        "{BOTH} select window_size, window_start, dimensions, events_before, events_after, sum_before, sum_after
         from both_of where not is_same order by window_start desc, window_size, dimensions limit {EXAMPLES_MAX}"
    );
    let examples = sqlx::query(AssertSqlSafe(examples))
        .bind(&*spec.name)
        .bind(by_dimensions)
        .fetch_all(&mut *connection)
        .await?;
    let short = format!("{SHORT} select count(*) from short");
    let windows_short: i64 = sqlx::query_scalar(AssertSqlSafe(short))
        .bind(&*spec.name)
        .bind(sizes(spec))
        .fetch_one(connection)
        .await?;
    Ok(Comparison {
        kpi: spec.name.to_string(),
        definition: existing.map_or_else(Vec::new, |existing| existing.differences(&wanted)),
        events_before: row.try_get(4)?,
        events_after: row.try_get(5)?,
        rows_same: row.try_get(0)?,
        rows_changed: row.try_get(1)?,
        rows_gone: row.try_get(2)?,
        rows_new: row.try_get(3)?,
        windows_short,
        windows_kept: 0,
        examples: examples.iter().map(changed).collect::<Result<_, sqlx::Error>>()?,
    })
}

fn changed(row: &PgRow) -> Result<Changed, sqlx::Error> {
    Ok(Changed {
        window: row.try_get(0)?,
        window_start: row.try_get(1)?,
        dimensions: row.try_get(2)?,
        events_before: row.try_get(3)?,
        events_after: row.try_get(4)?,
        sum_before: row.try_get(5)?,
        sum_after: row.try_get(6)?,
    })
}

/// Puts the old rows of windows that are short of events in the place of the new ones.
///
/// # Errors
/// When Postgres fails.
pub async fn keep_older(connection: &mut PgConnection, spec: &KpiSpec) -> Result<(), sqlx::Error> {
    let delete = "delete from kpi_rebuild_part p using short
                  where p.kpi = $1 and p.window_size = short.window_size and p.window_start = short.window_start";
    // The same windows are short after the delete.
    let insert =
        "insert into kpi_rebuild_part select p.* from kpi_part p join short using (window_size, window_start)
                  where p.kpi = $1";
    for statement in [delete, insert] {
        sqlx::query(AssertSqlSafe(format!("{SHORT} {statement}")))
            .bind(&*spec.name)
            .bind(sizes(spec))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn sizes(spec: &KpiSpec) -> Vec<String> {
    spec.windows.iter().map(|window| window.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deleted_facts_are_a_loss() {
        for (deleted, short, keep, wanted) in [
            (0, 0, Keep::Refuse, Verdict::Swap),
            (0, 7, Keep::Refuse, Verdict::Swap),
            (9, 0, Keep::Refuse, Verdict::Swap),
            (9, 7, Keep::Refuse, Verdict::Refuse),
            (9, 7, Keep::Older, Verdict::SwapKeepingOlder),
            (9, 7, Keep::Nothing, Verdict::Swap),
            (0, 7, Keep::Older, Verdict::Swap),
        ] {
            assert_eq!(decide(deleted, short, keep), wanted, "{deleted} {short} {keep:?}");
        }
    }
}
