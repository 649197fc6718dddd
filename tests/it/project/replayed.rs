//! An event may end twice: as a dead letter, and later, when that was replayed.

use chrono::Duration;
use millrace::ledger::{ExecutionResult, Outcome};

use crate::project::fixture::{Fixture, result};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_later_run_of_an_event_is_how_it_ended() {
    let fixture = Fixture::new("project-replayed").await;
    let running = fixture.start();
    let letter = result(2);
    assert_eq!(letter.outcome, Outcome::DeadLettered);
    let replayed = ExecutionResult {
        outcome: Outcome::Succeeded,
        stage: None,
        error_class: None,
        error: None,
        attempts: 3,
        started_at: letter.started_at + Duration::hours(1),
        ..letter.clone()
    };
    let ended = async || -> Vec<(String, Option<String>, i32)> {
        sqlx::query_as("select outcome, error, attempts from executions")
            .fetch_all(&fixture.pool)
            .await
            .expect("the table can be read")
    };
    let wanted = [(String::from("succeeded"), None, 3)];

    // In batches of their own, then in one; and the letter read once more behind both.
    fixture.write_results(std::slice::from_ref(&letter), true).await;
    fixture.caught_up(&running).await;
    assert_eq!(ended().await[0].0, "dead_lettered");
    fixture.write_results(std::slice::from_ref(&replayed), true).await;
    fixture.caught_up(&running).await;
    assert_eq!(ended().await, wanted);
    fixture.write_results(&[letter.clone(), replayed.clone(), letter.clone()], true).await;
    fixture.caught_up(&running).await;
    assert_eq!(ended().await, wanted);
    running.stop().await;
}
