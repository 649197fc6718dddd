//! The projector against real servers: what is in the topics stands in the tables once, whatever happens in between.

mod fixture;
mod outage;
mod owners;
mod queries;
mod rebuild;
mod rejects;
mod replayed;
mod retention;

use millrace::project::apply;
use sqlx::Row as _;

use crate::project::fixture::{Fixture, Oracle, fact, payment_json, result};
use crate::support::readback;

/// Facts and results, written in transactions with aborted ones between, are in the tables as an oracle counts them;
/// the KPI topic ends with the same values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_and_results_become_tables_equal_to_an_oracle() {
    let fixture = Fixture::new("project-oracle").await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    for round in 0..20_i64 {
        let base = round * 500;
        fixture.write(&mut oracle, base..base + 500, round % 4 != 3).await;
    }
    fixture.caught_up(&running).await;
    oracle.check(&fixture.pool).await;
    running.stop().await;

    let rows = sqlx::query(
        "select dimensions::text, value::text, window_start from kpi_values where window_size = '1h'",
    )
    .fetch_all(&fixture.pool)
    .await
    .expect("the view can be read");
    let records: Vec<serde_json::Value> = readback::read_all(&fixture.kafka, &fixture.namespace.kpis_topic())
        .iter()
        .filter_map(|record| serde_json::from_slice(record.value.as_ref()?).ok())
        .collect();
    assert!(!rows.is_empty());
    for row in rows {
        let dimensions: String = row.get(0);
        let start: chrono::DateTime<chrono::Utc> = row.get(2);
        let dimensions: serde_json::Value = serde_json::from_str(&dimensions).expect("JSON");
        let last = records
            .iter()
            .rfind(|value| {
                value["window"] == "1h"
                    && value["dimensions"] == dimensions
                    && value["window_start"].as_str().and_then(|time| time.parse().ok()) == Some(start)
            })
            .expect("every row is published");
        let (published, stored): (rust_decimal::Decimal, rust_decimal::Decimal) = (
            last["value"].as_str().expect("text").parse().expect("a number"),
            row.get::<String, _>(1).parse().expect("a number"),
        );
        assert_eq!(published, stored);
    }
    let left: i64 = sqlx::query_scalar("select count(*) from kpi_unpublished")
        .fetch_one(&fixture.pool)
        .await
        .expect("the table can be read");
    assert_eq!(left, 0, "every change is published");
}

/// A restart goes on where the first run ended, and a topic's table keeps the newest row of each key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_keeps_the_newest_row_of_each_key() {
    let fixture = Fixture::new("project-table").await;
    let running = fixture.start();
    let at = |second: i64| chrono::DateTime::from_timestamp(1_790_000_000 + second, 0).expect("in range");
    fixture.write_payment("pay_1", payment_json("pay_1", 100), at(10)).await;
    fixture.write_payment("pay_1", payment_json("pay_1", 200), at(30)).await;
    fixture.write_payment("pay_1", payment_json("pay_1", 150), at(20)).await;
    fixture.caught_up(&running).await;
    running.stop().await;
    let running = fixture.start();
    fixture.write_payment("pay_2", payment_json("pay_2", 7), at(1)).await;
    fixture.caught_up(&running).await;
    running.stop().await;
    let rows = sqlx::query("select payment_id, amount, note, _time from payments order by 1")
        .fetch_all(&fixture.pool)
        .await
        .expect("the table can be read");
    let rows: Vec<(String, i64, Option<String>, chrono::DateTime<chrono::Utc>)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let note = Some(String::from("tab\tand \\ and\nline and \u{fffd}"));
    assert_eq!(
        rows,
        [(String::from("pay_1"), 200, note.clone(), at(30)), (String::from("pay_2"), 7, note, at(1))]
    );
    assert_eq!(
        apply::run(&fixture.pool, &fixture.kpis, &fixture.tables).await.expect("applies again"),
        Vec::<String>::new(),
        "a second apply changes nothing"
    );
}

/// Days of the KPI's zone: the view shows 23 hours on the day the clocks go forward.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_shows_the_days_of_its_zone() {
    let fixture = Fixture::new("project-zone").await;
    let running = fixture.start();
    let time = "2026-03-29T21:59:59Z".parse().expect("a time");
    fixture.write_facts(&[fact(0, 4200, "EUR", time)], true).await;
    fixture.write_results(&[result(0)], true).await;
    fixture.caught_up(&running).await;
    running.stop().await;
    let row =
        sqlx::query("select window_start, window_end, currency, value::text, events from kpi_revenue_1d")
            .fetch_one(&fixture.pool)
            .await
            .expect("one day");
    let (start, end): (chrono::DateTime<chrono::Utc>, chrono::DateTime<chrono::Utc>) =
        (row.get(0), row.get(1));
    assert_eq!(start.to_rfc3339(), "2026-03-28T23:00:00+00:00");
    assert_eq!(end - start, chrono::Duration::hours(23));
    assert_eq!(
        (row.get::<String, _>(2), row.get::<String, _>(3), row.get::<i64, _>(4)),
        (String::from("EUR"), String::from("42"), 1)
    );
}
