//! Old rows go, others stay, while records come in.

use std::time::{Duration, Instant};

use chrono::Utc;
use millrace::ledger::ExecutionResult;
use millrace::project::settings::ProjectSettings;

use crate::project::fixture::{Fixture, fact, result};
use crate::project::rebuild::check_published;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_too_old_are_deleted_and_others_stay() {
    let day = Duration::from_secs(86_400);
    let mut fixture = Fixture::new("project-retention").await;
    fixture.kpis[0].retention = Some(2 * day);
    let settings = ProjectSettings {
        executions_retention: Some(10 * day),
        retention_every: Duration::from_millis(100),
        ..fixture.settings()
    };
    let running = fixture.start_with(settings);
    let now = Utc::now();
    let started = |days: i64| now - chrono::Duration::days(days);
    let results: Vec<ExecutionResult> = (0..6_000)
        .map(|number| ExecutionResult {
            started_at: started(if number < 10 { 9 } else { 11 }),
            ..result(number)
        })
        .collect();
    fixture.write_results(&results, true).await;
    let facts: Vec<_> =
        (0..20).map(|number| fact(number, 100, "EUR", started(if number < 5 { 0 } else { 6 }))).collect();
    fixture.write_facts(&facts, true).await;
    fixture.caught_up(&running).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let found = loop {
        let found: (i64, i64, i64) = sqlx::query_as(
            "select (select count(*) from executions),
                    (select coalesce(sum(events), 0)::bigint from kpi_values where window_size = '1d'),
                    (select count(*) from kpi_unpublished)",
        )
        .fetch_one(&fixture.pool)
        .await
        .expect("Postgres answers");
        if found == (10, 5, 0) || Instant::now() > deadline {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(found, (10, 5, 0));
    running.stop().await;
    check_published(&fixture).await;
}
