//! Postgres is killed and comes back, is put back from a backup, or loses its answer to a COMMIT, while the projector
//! works.

use std::time::Duration;

use millrace::project::worker::ProjectError;

use crate::project::fixture::{Fixture, Oracle, fact};
use crate::support::postgres::PrivatePostgres;
use crate::support::postgres_proxy::{Cut, PostgresProxy};
use crate::support::servers;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_is_waited_for() {
    let postgres = tokio::task::spawn_blocking(PrivatePostgres::start).await.expect("it starts");
    let fixture = Fixture::on("project-outage", &postgres.url()).await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    let half = servers::amount(3_000, 1_000);
    for round in 0..3_i64 {
        let base = round * 2 * half;
        fixture.write(&mut oracle, base..base + half, true).await;
        postgres.kill();
        fixture.write(&mut oracle, base + half..base + 2 * half, true).await;
        assert!(!running.task.is_finished(), "the projector waits, it does not end");
        postgres.services("start");
    }
    fixture.caught_up(&running).await;
    running.stop().await;
    oracle.check(&fixture.pool).await;
    fixture.pool.close().await;
}

/// A database that was put back from a backup has earlier rows and an earlier position: what came after the backup is
/// folded again, and sums are what they were. Nothing new has to come in for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_put_back_from_a_backup_is_folded_forward_again() {
    let postgres = tokio::task::spawn_blocking(PrivatePostgres::start).await.expect("it starts");
    let fixture = Fixture::on("project-restore", &postgres.url()).await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    fixture.write(&mut oracle, 0..2_000, true).await;
    fixture.caught_up(&running).await;
    postgres.services("stop");
    postgres.back_up();
    postgres.services("start");
    fixture.write(&mut oracle, 2_000..4_000, true).await;
    fixture.caught_up(&running).await;
    oracle.check(&fixture.pool).await;

    postgres.kill();
    postgres.put_back();
    postgres.services("start");
    let events: i64 = sqlx::query_scalar("select sum(events)::bigint from kpi_revenue_1h")
        .fetch_one(&fixture.pool)
        .await
        .expect("the view can be read");
    assert!(events < 4_000, "the backup is older: {events}");
    fixture.caught_up(&running).await;
    oracle.check(&fixture.pool).await;
    fixture.write(&mut oracle, 4_000..5_000, true).await;
    fixture.caught_up(&running).await;
    oracle.check(&fixture.pool).await;
    running.stop().await;
    fixture.pool.close().await;
}

/// What came after the backup has been deleted from Kafka meanwhile: the projector stops and says what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_put_back_to_before_what_kafka_keeps_stops_the_projector() {
    let fixture = Fixture::new("project-gone").await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    fixture.write(&mut oracle, 0..600, true).await;
    fixture.caught_up(&running).await;
    let facts = fixture.namespace.kpi_facts_topic();
    // A position that goes back is what a database put back looks like; the rows do not matter here.
    let changed =
        sqlx::query("update projector_positions set next_offset = 3 where topic = $1 and next_offset > 50")
            .bind(&*facts)
            .execute(&fixture.pool);
    fixture.delete_records(&facts, 40).await;
    assert!(changed.await.expect("Postgres answers").rows_affected() > 0);
    let ended = tokio::time::timeout(Duration::from_secs(30), running.task).await;
    let error = ended.expect("it stops").expect("no panic").expect_err("records are missing");
    let ProjectError::Gone { partition, position, oldest, .. } = &error else { panic!("{error}") };
    assert_eq!((&*partition.topic, position.0, oldest.0), (&*facts, 3, 40));
    let text = error.to_string();
    assert!(text.contains("offsets 3 to 39 (37) were deleted before they were folded"), "{text}");

    // It does not start again either, nor does it skip anything by itself.
    let again = fixture.start();
    let ended = tokio::time::timeout(Duration::from_secs(30), again.task).await;
    let error = ended.expect("it stops").expect("no panic").expect_err("records are missing");
    assert!(matches!(error, ProjectError::Gone { .. }), "{error}");
}

/// The connection breaks at COMMIT, before or after Postgres has heard of it: the position says which, and every fact is
/// folded once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_is_settled_by_the_position() {
    for cut in [Cut::BeforeCommit, Cut::AfterCommit] {
        let database = servers::database(&servers::unique("project-commit")).await;
        let proxy = PostgresProxy::start(&database.url).await;
        let fixture = Fixture::on("project-commit", &proxy.url(&database.url)).await;
        let mut oracle = Oracle::default();
        proxy.cut_every(cut, 3);
        let running = fixture.start();
        for round in 0..10_i64 {
            let base = round * 400;
            fixture.write(&mut oracle, base..base + 400, true).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        fixture
            .write_facts(&[fact(9_999, 0, "EUR", "2026-10-24T12:00:00Z".parse().expect("a time"))], false)
            .await;
        proxy.cut_every(cut, 0);
        fixture.caught_up(&running).await;
        running.stop().await;
        assert!(proxy.cuts() >= 5, "{} connections were cut", proxy.cuts());
        oracle.check(&database.pool).await;
        fixture.pool.close().await;
    }
}

/// A backup of before anything was folded knows no position: everything that Kafka keeps is folded, as the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_put_back_to_the_begin_is_folded_from_the_oldest_record() {
    let fixture = Fixture::new("project-begin").await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    fixture.write(&mut oracle, 0..1_000, true).await;
    fixture.caught_up(&running).await;
    let mut tx = fixture.pool.begin().await.expect("Postgres answers");
    for table in ["projector_positions", "kpi_part", "executions"] {
        let statement = format!("delete from {table}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *tx).await.expect("Postgres answers");
    }
    tx.commit().await.expect("Postgres answers");
    fixture.caught_up(&running).await;
    oracle.check(&fixture.pool).await;
    running.stop().await;
}
