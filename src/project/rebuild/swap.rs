//! The one transaction in which new rows take the place of old ones.
//!
//! It holds the projector's positions: no lane writes from its begin to its end, which is why little may be left to
//! read. Rows that did not change are not touched.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::failpoint::{Rule, keeps};
use crate::plan::kpis::KpiSpec;
use crate::position::NextOffset;
use crate::project::definitions::{self, Definition};
use crate::project::rebuild::compare::{self, Verdict};
use crate::project::rebuild::read::{Batch, Facts};
use crate::project::rebuild::shadow::{self, Read, Shadow};
use crate::project::rebuild::{LEFT_MAX, Parts, Rebuild, RebuildError, Report, left};
use crate::project::{apply, ddl, publish};

/// How long the projector may be held up by reading what is left.
const READ_MAX: Duration = Duration::from_secs(5);

/// How a swap ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swapped {
    /// The new rows are in place.
    Done,
    /// They would be.
    DryRun,
    /// Facts are missing; nothing was changed.
    Loss,
    /// The projector has gone on too far meanwhile; nothing was changed.
    Behind,
}

/// Swaps, or says why not.
///
/// # Errors
/// [`RebuildError`]; nothing was changed then, except after [`RebuildError::Sql`] of the commit itself.
pub async fn swap(
    rebuild: &Rebuild,
    group: &str,
    topic: &Arc<str>,
    shadow: &mut Shadow,
    report: &mut Report,
) -> Result<Swapped, RebuildError> {
    let mut tx = rebuild.pool.begin().await?;
    // Comparing and moving millions of rows may take longer than a stage's statement may.
    sqlx::query("set local statement_timeout = '10min'").execute(&mut *tx).await?;
    for lock in [apply::LOCK, publish::LOCK] {
        sqlx::query("select pg_advisory_xact_lock($1)").bind(lock).execute(&mut *tx).await?;
    }
    if keeps(Rule::SwapHoldsProjector) {
        definitions::announce(&mut tx).await?;
    }
    let live: Vec<(i32, i64)> = sqlx::query_as(
        "select partition, next_offset from projector_positions where grp = $1 and topic = $2",
    )
    .bind(group)
    .bind(&**topic)
    .fetch_all(&mut *tx)
    .await?;
    let live = live.into_iter().map(|(partition, next)| (partition, NextOffset(next))).collect();
    let parts = shadow.left(&live)?;
    if left(&parts) > 2 * LEFT_MAX {
        return Ok(Swapped::Behind);
    }
    let Ok(batches) = tokio::time::timeout(READ_MAX, rest(rebuild, topic, parts)).await else {
        return Ok(Swapped::Behind);
    };
    let Read { facts, unreadable } =
        shadow.fold_last(&mut tx, &rebuild.kpis, &rebuild.codec, batches?).await?;
    let known = definitions::load(&mut tx).await?;
    let deleted = report.deleted;
    let mut verdicts = Vec::new();
    for spec in &rebuild.kpis {
        let existing = known.get(&*spec.name);
        let mut comparison = compare::compare(&mut tx, spec, existing).await?;
        let verdict = compare::decide(deleted, comparison.windows_short, rebuild.keep);
        if verdict == Verdict::SwapKeepingOlder {
            let kept = comparison.windows_short;
            compare::keep_older(&mut tx, spec).await?;
            comparison = compare::compare(&mut tx, spec, existing).await?;
            (comparison.windows_short, comparison.windows_kept) = (kept, kept);
        }
        verdicts.push(verdict);
        report.kpis.push(comparison);
    }
    report.facts += facts;
    report.unreadable += unreadable;
    if rebuild.is_dry_run {
        return Ok(Swapped::DryRun);
    }
    if verdicts.contains(&Verdict::Refuse) {
        return Ok(Swapped::Loss);
    }
    for spec in &rebuild.kpis {
        replace(&mut tx, &spec.name).await?;
        redefine(&mut tx, spec, known.get(&*spec.name)).await?;
    }
    shadow::clear(&mut tx).await?;
    tx.commit().await?;
    report.swapped = true;
    Ok(Swapped::Done)
}

/// What is left, all at once.
async fn rest(rebuild: &Rebuild, topic: &str, parts: Parts) -> Result<Vec<Batch>, RebuildError> {
    let mut batches = Vec::new();
    if left(&parts) > 0 {
        let mut facts = Facts::open(&rebuild.connection, topic, parts)?;
        while let Some(batch) = facts.next().await? {
            batches.push(batch);
        }
    }
    Ok(batches)
}

/// Puts new rows in the place of old ones, marks what changes to be published, and leaves what does not as it is.
async fn replace(connection: &mut PgConnection, kpi: &str) -> Result<(), sqlx::Error> {
    let marks = "\
        insert into kpi_unpublished (kpi, window_size, window_start, dimensions, partition)
        select $1, window_size, window_start, dimensions, partition
        from (select * from kpi_part where kpi = $1) old
        full join (select * from kpi_rebuild_part where kpi = $1) new
             using (window_size, window_start, dimensions, partition)
        where (old.events, old.sum, old.min, old.max, old.late_events, old.window_end) is distinct from
              (new.events, new.sum, new.min, new.max, new.late_events, new.window_end)
        on conflict (kpi, window_size, window_start, dimensions, partition) do update set change = default";
    let delete = "\
        delete from kpi_part p where kpi = $1 and not exists (
            select from kpi_rebuild_part n
            where n.kpi = $1 and n.window_size = p.window_size and n.window_start = p.window_start
              and n.dimensions = p.dimensions and n.partition = p.partition)";
    // The revision only ever grows, so that readers of the KPI topic see that a value was corrected.
    let upsert = "\
        insert into kpi_part as p (kpi, window_size, window_start, dimensions, partition, window_end, events, sum, min,
                                   max, late_events, revision, updated_at)
        select kpi, window_size, window_start, dimensions, partition, window_end, events, sum, min, max, late_events,
               revision, now()
        from kpi_rebuild_part where kpi = $1
        on conflict (kpi, window_size, window_start, dimensions, partition) do update
        set window_end = excluded.window_end, events = excluded.events, sum = excluded.sum, min = excluded.min,
            max = excluded.max, late_events = excluded.late_events, revision = p.revision + 1,
            updated_at = excluded.updated_at
        where (p.events, p.sum, p.min, p.max, p.late_events, p.window_end) is distinct from
              (excluded.events, excluded.sum, excluded.min, excluded.max, excluded.late_events, excluded.window_end)";
    for statement in [marks, delete, upsert] {
        sqlx::query(statement).bind(kpi).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Writes the definition, and makes the views follow: those of other dimensions anew, with the rights that were granted
/// on them; those of windows that it has no more not at all.
async fn redefine(
    connection: &mut PgConnection,
    spec: &KpiSpec,
    existing: Option<&Definition>,
) -> Result<(), RebuildError> {
    definitions::put(connection, &spec.name, &Definition::of(spec)).await?;
    let has_other_columns =
        existing.is_some_and(|existing| existing.dimensions != Definition::of(spec).dimensions);
    let before = existing.and_then(|existing| existing.spec(spec));
    for window in before.iter().flat_map(|before| &before.windows) {
        if !spec.windows.contains(window) {
            drop_view(connection, &spec.view(*window)).await?;
        }
    }
    for window in &spec.windows {
        let view = spec.view(*window);
        let mut grants = Vec::new();
        if has_other_columns {
            grants = granted(connection, &view).await?;
            drop_view(connection, &view).await?;
        }
        for statement in std::iter::once(ddl::view(spec, *window)).chain(grants) {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

async fn drop_view(connection: &mut PgConnection, view: &str) -> Result<(), RebuildError> {
    let statement = format!("drop view if exists {}", ddl::quoted(view));
    let dropped = sqlx::query(AssertSqlSafe(statement)).execute(connection).await;
    dropped.map(drop).map_err(|source| RebuildError::View { view: view.to_owned(), source })
}

/// Statements that grant again what others may do with `view`.
async fn granted(connection: &mut PgConnection, view: &str) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(
        "select privilege_type, coalesce(r.rolname, ''), a.is_grantable
         from pg_class c cross join aclexplode(c.relacl) a left join pg_roles r on r.oid = a.grantee
         where c.oid = to_regclass($1) and a.grantee <> c.relowner",
    )
    .bind(ddl::quoted(view))
    .fetch_all(connection)
    .await?;
    let mut statements = Vec::new();
    for row in rows {
        let (privilege, role, is_grantable): (String, String, bool) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let role = if role.is_empty() { String::from("public") } else { ddl::quoted(&role) };
        let option = if is_grantable { " with grant option" } else { "" };
        statements.push(format!("grant {privilege} on {} to {role}{option}", ddl::quoted(view)));
    }
    Ok(statements)
}
