//! Rolling restarts with static membership: the others keep what they have, and an instance is there once.

use std::time::Duration;

use crate::support::calls::Calls;
use crate::support::destination::Destination;
use crate::support::millrace::Running;

const LIMIT: Duration = Duration::from_secs(90);
const STATIC: &[&str] = &["--static-membership", "--session-timeout", "30s"];

fn ids(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("id-{number}")).collect()
}

/// How often partitions came or went.
fn rebalances(worker: &Running) -> usize {
    worker.log_text().lines().filter(|line| line.contains("assigned") || line.contains("revoked")).count()
}

async fn until_logged(worker: &Running, text: &str) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !worker.log_text().contains(text) {
        assert!(tokio::time::Instant::now() < deadline, "no `{text}` in\n{}", worker.log_text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_within_the_session_moves_no_partition_and_loses_nothing() {
    let destination = Destination::start().await;
    let calls = tokio::task::block_in_place(|| Calls::new("static", &destination.url, 6, ""));
    let mut first = calls.worker("a", STATIC);
    until_logged(&first, "assigned").await;
    let mut second = calls.worker("b", STATIC);
    until_logged(&second, "assigned").await;
    tokio::task::block_in_place(|| calls.send(&ids(0, 300)));
    destination.until_ids(300, LIMIT).await;
    // The last assignments of the first two joins.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let before = rebalances(&second);
    assert!(first.terminate(Duration::from_secs(30)), "{}", first.log_text());
    tokio::task::block_in_place(|| calls.send(&ids(300, 600)));
    let mut again = calls.worker("a", STATIC);
    destination.until_ids(600, LIMIT).await;
    assert!(rebalances(&again) > 0, "it has its partitions again");
    assert_eq!(rebalances(&second), before, "the other keeps what it has\n{}", second.log_text());
    assert!(again.terminate(Duration::from_secs(30)), "{}", again.log_text());
    assert!(second.terminate(Duration::from_secs(30)), "{}", second.log_text());
    let logs = [&first, &again, &second].map(Running::log_text).join("\n---\n");
    // Where a transaction was given up, because Kafka was too slow, its calls are made once more, with the same keys.
    let aborted = logs.matches("transaction aborted").count();
    let calls = destination.calls();
    let repeated: Vec<_> = calls.iter().filter(|(_, times)| **times > 1 + aborted).collect();
    assert!(repeated.is_empty(), "called again: {repeated:?}, {aborted} transactions aborted\n{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_of_one_instance_makes_the_first_stop_and_say_so() {
    let destination = Destination::start().await;
    let calls =
        tokio::task::block_in_place(|| Calls::new("twin", &destination.url, 2, "delivery: at_least_once"));
    let mut first = calls.worker("a", STATIC);
    until_logged(&first, "assigned").await;
    // Its log would go to the same file.
    let twin = calls
        .millrace
        .start("twin", &[&["worker", "--instance", "a", "--metrics", "127.0.0.1:0"], STATIC].concat());
    let deadline = tokio::time::Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = first.ended() {
            break status;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", first.log_text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(status.code(), Some(1));
    let log = first.log_text();
    assert!(log.contains("another process uses the instance id `a`"), "{log}");
    tokio::task::block_in_place(|| calls.send(&ids(0, 50)));
    destination.until_ids(50, LIMIT).await;
    let mut twin = twin;
    assert!(twin.terminate(Duration::from_secs(30)), "{}", twin.log_text());
}
