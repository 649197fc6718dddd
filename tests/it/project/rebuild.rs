//! KPIs folded anew beside a running projector.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace::config::kpi::{Aggregate, Window};
use millrace::plan::kpis::KpiSpec;
use millrace::project::rebuild::compare::Keep;
use millrace::project::rebuild::{Rebuild, RebuildError};
use rust_decimal::Decimal;
use sqlx::PgPool;

use crate::project::fixture::{Fixture, Oracle, fact};
use crate::support::{readback, servers};

async fn count(pool: &PgPool, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(pool).await.expect("Postgres answers")
}

async fn run(pool: &PgPool, statement: &'static str) {
    sqlx::query(statement).execute(pool).await.expect("Postgres answers");
}

async fn assert_nothing_is_left(pool: &PgPool) {
    for statement in [
        "select count(*) from kpi_rebuild",
        "select count(*) from kpi_rebuild_positions",
        "select count(*) from kpi_rebuild_part",
    ] {
        assert_eq!(count(pool, statement).await, 0, "{statement}");
    }
}

/// Wrong rows are mended while facts go on coming in; nobody ever reads a state in between, and the projector goes on
/// where the rebuild ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kpi_is_mended_while_facts_come_in() {
    let fixture = Fixture::new("rebuild-live").await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    for round in 0..6_i64 {
        fixture.write(&mut oracle, round * 1_000..(round + 1) * 1_000, round % 3 != 2).await;
    }
    fixture.caught_up(&running).await;
    run(&fixture.pool, "update kpi_part set sum = sum + 1, events = events + 1 where window_size = '1h'")
        .await;
    run(&fixture.pool, "delete from kpi_part where window_size = '1d' and dimensions like '%EUR%'").await;
    run(
        &fixture.pool,
        "insert into kpi_part select kpi, window_size, window_start - interval '1 year', dimensions, partition,
                window_end - interval '1 year', events, sum, min, max, late_events, revision
         from kpi_part where window_size = '1m' limit 7",
    )
    .await;
    let least =
        count(&fixture.pool, "select sum(events)::bigint from kpi_values where window_size = '1d'").await;

    let pool = fixture.pool.clone();
    let watching = tokio::spawn(async move {
        // The old values, or the new ones, and never fewer.
        let mut seen = 0;
        loop {
            let events =
                count(&pool, "select sum(events)::bigint from kpi_values where window_size = '1d'").await;
            assert!(events >= least, "{events} events are seen, {least} were there");
            seen += 1;
            if seen > 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let rebuild = fixture.rebuild(fixture.kpis.clone());
    let rebuilding = tokio::spawn(async move { rebuild.run(|_| {}).await });
    for round in 10..16_i64 {
        fixture.write(&mut oracle, round * 1_000..(round + 1) * 1_000, true).await;
    }
    let report = rebuilding.await.expect("no panic").expect("it is rebuilt");
    assert!(report.swapped && !report.resumed);
    let mended = &report.kpis[0];
    // Rows that were missing may have come again with the facts that came in.
    assert!(mended.rows_changed > 0 && mended.rows_gone > 0, "{mended:?}");
    fixture.write(&mut oracle, 20_000..21_000, true).await;
    fixture.caught_up(&running).await;
    watching.await.expect("old values stay readable");
    oracle.check(&fixture.pool).await;
    assert_nothing_is_left(&fixture.pool).await;

    let again = fixture.rebuild(fixture.kpis.clone()).run(|_| {}).await.expect("it is rebuilt");
    let same = &again.kpis[0];
    assert_eq!((same.rows_changed, same.rows_gone, same.rows_new, same.windows_short), (0, 0, 0, 0));
    running.stop().await;
    oracle.check(&fixture.pool).await;
    check_published(&fixture).await;
}

/// The KPI topic ends with what the tables hold; rows that a rebuild took away end in a null.
pub async fn check_published(fixture: &Fixture) {
    let mut last: BTreeMap<Vec<u8>, Option<serde_json::Value>> = BTreeMap::new();
    for record in readback::read_all(&fixture.kafka, &fixture.namespace.kpis_topic()) {
        let value = record.value.map(|value| serde_json::from_slice(&value).expect("JSON"));
        last.insert(record.key.expect("a key"), value);
    }
    let mut published: Vec<(String, i64, String)> = last
        .into_values()
        .flatten()
        .map(|value| {
            let text = |name: &str| value[name].as_str().expect("text").to_owned();
            (text("window"), value["events"].as_i64().expect("a number"), text("value"))
        })
        .collect();
    let mut stored: Vec<(String, i64, String)> =
        sqlx::query_as("select window_size, events, trim_scale(value)::text from kpi_values")
            .fetch_all(&fixture.pool)
            .await
            .expect("the view can be read");
    published.sort();
    stored.sort();
    assert_eq!(published, stored);
}

fn by_nothing(fixture: &Fixture) -> KpiSpec {
    KpiSpec {
        dimensions: Vec::new(),
        windows: vec![Window::Hour, Window::Day],
        aggregate: Aggregate::Avg,
        ..fixture.kpis[0].clone()
    }
}

/// Another definition takes the old one's place together with its rows and views. A projector that has been running all
/// the time, with the old files, folds by the new one from the next fact on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_definition_reaches_a_running_projector() {
    let mut fixture = Fixture::new("rebuild-changed").await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    fixture.write(&mut oracle, 0..3_000, true).await;
    fixture.caught_up(&running).await;
    run(&fixture.pool, "grant select on kpi_revenue_1h to public").await;
    let changed = by_nothing(&fixture);
    let refused =
        millrace::project::apply::run(&fixture.pool, std::slice::from_ref(&changed), &fixture.tables).await;
    let refused = refused.expect_err("rows would mean something else").to_string();
    assert!(refused.contains("`millrace kpi rebuild revenue`"), "{refused}");

    let dry = Rebuild { is_dry_run: true, ..fixture.rebuild(vec![changed.clone()]) };
    let report = dry.run(|_| {}).await.expect("it is built");
    assert!(!report.swapped);
    assert_eq!(report.kpis[0].definition.len(), 3, "{:?}", report.kpis[0].definition);
    assert_nothing_is_left(&fixture.pool).await;
    oracle.check(&fixture.pool).await;

    let report = fixture.rebuild(vec![changed.clone()]).run(|_| {}).await.expect("it is rebuilt");
    assert!(report.swapped);
    fixture.write(&mut oracle, 3_000..5_000, true).await;
    fixture.caught_up(&running).await;
    running.stop().await;
    let rows: Vec<(i64, Decimal)> =
        sqlx::query_as("select events, value from kpi_revenue_1h order by window_start")
            .fetch_all(&fixture.pool)
            .await
            .expect("the new view has no currency");
    let events: i64 = rows.iter().map(|(events, _)| events).sum();
    let sum: Decimal = rows.iter().map(|(events, mean)| Decimal::from(*events) * *mean).sum();
    assert_eq!((events, sum.round_dp(6)), oracle.total());
    assert_eq!(
        count(&fixture.pool, "select count(distinct dimensions) from kpi_part").await,
        1,
        "no row of the old dimensions is written after the swap"
    );
    assert_eq!(count(&fixture.pool, "select count(*) from kpi_part where window_size = '1m'").await, 0);
    let granted = "select count(*) from information_schema.role_table_grants
                   where table_name = 'kpi_revenue_1h' and grantee = 'PUBLIC'";
    assert_eq!(count(&fixture.pool, granted).await, 1, "rights on the view stay");
    check_published(&fixture).await;

    // With the new files nothing is to be done any more.
    fixture.kpis = vec![changed];
    let applied = millrace::project::apply::run(&fixture.pool, &fixture.kpis, &fixture.tables).await;
    assert_eq!(applied.expect("the database follows"), Vec::<String>::new());
}

/// A rebuild that is cut off goes on where it stood, and is the same as one that was not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_is_cut_off_goes_on() {
    let fixture = Fixture::new("rebuild-cut").await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    let facts = servers::amount(20_000, 8_000);
    for round in 0..3_i64 {
        fixture.write(&mut oracle, round * facts..(round + 1) * facts, true).await;
    }
    fixture.caught_up(&running).await;
    run(&fixture.pool, "update kpi_part set sum = sum + 1").await;
    let rebuild = fixture.rebuild(fixture.kpis.clone());
    let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
    let cut = tokio::spawn(async move {
        rebuild
            .run(|progress| {
                let _unheard = told.send(progress);
            })
            .await
    });
    let some = loop {
        let progress = telling.recv().await.expect("it tells how far it is");
        if progress.done > 0 {
            break progress;
        }
    };
    cut.abort();
    assert!(cut.await.expect_err("it was cut off").is_cancelled());
    assert!(some.done < some.total, "it was cut off in the middle: {some:?}");
    let stored = count(&fixture.pool, "select count(*) from kpi_rebuild_part").await;
    assert!(stored > 0, "what was read is kept");
    let wrong = count(&fixture.pool, "select sum(events)::bigint from kpi_revenue_1d").await;
    assert_eq!(wrong, oracle.total().0, "the old rows are there");

    let report = retried(&fixture.rebuild(fixture.kpis.clone())).await.expect("it is rebuilt");
    assert!(report.resumed && report.swapped);
    assert!(
        i64::try_from(report.facts).is_ok_and(|read| read < 3 * facts),
        "it did not begin again: {} facts",
        report.facts
    );
    running.stop().await;
    oracle.check(&fixture.pool).await;
    assert_nothing_is_left(&fixture.pool).await;
}

/// Its connection's lock goes some moments after it.
async fn retried(rebuild: &Rebuild) -> Result<millrace::project::rebuild::Report, RebuildError> {
    for _ in 0..50 {
        match rebuild.run(|_| {}).await {
            Err(RebuildError::Busy) => tokio::time::sleep(Duration::from_millis(100)).await,
            other => return other,
        }
    }
    Err(RebuildError::Busy)
}

/// Two at once would build the same rows: the second is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rebuild_runs_at_a_time() {
    let fixture = Fixture::new("rebuild-two").await;
    let mut holder = fixture.pool.acquire().await.expect("Postgres answers");
    sqlx::query("select pg_advisory_lock($1)")
        .bind(0x6d69_6c6c_7265_6275_i64)
        .execute(&mut *holder)
        .await
        .expect("Postgres answers");
    let refused = fixture.rebuild(fixture.kpis.clone()).run(|_| {}).await;
    assert!(matches!(refused, Err(RebuildError::Busy)), "{refused:?}");
}

/// A rebuild that has ended, well or not, does not keep the next one out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rebuild_after_the_other_is_not_refused() {
    let fixture = Fixture::new("rebuild-again").await;
    let running = fixture.start();
    fixture.write_facts(&[fact(0, 100, "EUR", chrono::Utc::now())], true).await;
    fixture.caught_up(&running).await;
    for _ in 0..20 {
        fixture.rebuild(fixture.kpis.clone()).run(|_| {}).await.expect("the one before has ended");
    }
    running.stop().await;
}

/// Kafka does not keep all facts any more: nothing shrinks unless somebody says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_whose_facts_are_deleted_are_not_lost_by_accident() {
    let fixture = Fixture::new("rebuild-loss").await;
    let running = fixture.start();
    let at = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().expect("a time");
    let (old, new) = (at("2026-10-01T10:00:00Z"), at("2026-10-20T10:00:00Z"));
    let facts = |time, count: i64| (0..count).map(|n| fact(n, 100, "EUR", time)).collect::<Vec<_>>();
    fixture.write_facts(&facts(old, 10), true).await;
    fixture.write_facts(&facts(new, 5), true).await;
    fixture.caught_up(&running).await;
    // The rows of the later window are wrong, those of the earlier one cannot be checked any more.
    run(&fixture.pool, "update kpi_part set sum = 77 where window_start > '2026-10-15'").await;
    fixture.delete_records(&fixture.namespace.kpi_facts_topic(), 10).await;
    let hours = || async {
        let rows: Vec<(i64, Decimal)> =
            sqlx::query_as("select events, value from kpi_revenue_1h order by window_start")
                .fetch_all(&fixture.pool)
                .await
                .expect("the view can be read");
        rows
    };
    let before = hours().await;

    let refused = fixture.rebuild(fixture.kpis.clone()).run(|_| {}).await.expect_err("a loss");
    let RebuildError::Loss(report) = refused else { panic!("{refused}") };
    assert_eq!(report.deleted, 10);
    assert_eq!(report.kpis[0].windows_short, 3, "a minute, an hour and a day");
    assert_eq!(hours().await, before);

    let keeping = Rebuild { keep: Keep::Older, ..fixture.rebuild(fixture.kpis.clone()) };
    let report = keeping.run(|_| {}).await.expect("it is rebuilt");
    assert_eq!(report.kpis[0].windows_kept, 3);
    assert_eq!(hours().await, [(10, Decimal::from(10)), (5, Decimal::from(5))]);

    let losing = Rebuild { keep: Keep::Nothing, ..fixture.rebuild(fixture.kpis.clone()) };
    losing.run(|_| {}).await.expect("it is rebuilt");
    assert_eq!(hours().await, [(5, Decimal::from(5))]);
    running.stop().await;
}
