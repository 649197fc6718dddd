//! Memory is bounded: whatever stands still behind a worker, its process stays within the budget and a fixed allowance.

use std::time::Duration;

use rdkafka::mocking::{MockCluster, MockCoordinator};

use crate::support::calls::Calls;
use crate::support::destination::Destination;
use crate::support::dice::Dice;
use crate::support::millrace::Running;
use crate::support::{mock, servers};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;
const BUDGET: usize = 32 * MIB;
/// What a process needs beside its budget, without its code. With the code of a release build, 20 MiB of it in use, this
/// makes 64 MiB; a debug build has three times as much code, which is left out here.
const ALLOWANCE: usize = 44 * MIB;
const WORDS: &[&str] = &["--memory-budget", "32MiB", "--session-timeout", "10s"];

/// The most memory that a process had, as the kernel counted it, without pages of files.
fn most_memory(worker: &Running) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).expect("it runs");
    let of = |name: &str| -> usize {
        let line = status.lines().find(|line| line.starts_with(name)).expect("Linux tells it");
        let kib: usize = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        kib * 1024
    };
    of("VmHWM:") - of("RssFile:")
}

fn assert_bounded(worker: &Running) {
    let bytes = most_memory(worker);
    eprintln!("{} MiB at most", bytes / MIB);
    assert!(bytes < BUDGET + ALLOWANCE, "{} MiB\n{}", bytes / MIB, worker.log_text());
}

/// How many records of 4 kB: more than a worker could hold.
fn records() -> usize {
    servers::amount(30_000, 18_000)
}

/// Text that is compressed more than 10:1: a piece of 400 characters, ten times.
fn padding(dice: &mut Dice) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |_| char::from(LETTERS[usize::try_from(dice.roll(64)).expect("small")]);
    (0..400).map(letter).collect::<String>().repeat(10)
}

/// 120 MB of records, or 72.
fn send_backlog(calls: &Calls) {
    let mut dice = Dice::new(3);
    let ids: Vec<String> = (0..records()).map(|number| format!("slow-{number}")).collect();
    calls.send_padded(&ids, || padding(&mut dice));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_never_answers_costs_no_more_than_the_budget() {
    let destination = Destination::start().await;
    let calls = tokio::task::block_in_place(|| {
        let calls = Calls::new("dead", &destination.url, 6, "");
        send_backlog(&calls);
        calls
    });
    let mut worker = calls.worker("a", WORDS);
    destination.until_ids(256, LIMIT).await;
    // Long enough to fetch everything, were it not for the limits.
    tokio::time::sleep(servers::amount(Duration::from_secs(15), Duration::from_secs(8))).await;
    worker.assert_alive();
    assert_eq!(destination.most_open(), 256, "as many as the pipeline has at work");
    assert_bounded(&worker);
}

/// On librdkafka's own mock cluster: there the leader of one topic can go away alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_takes_nothing_costs_no_more_than_the_budget() {
    let cluster = MockCluster::new(2).expect("a mock cluster");
    let calls = Calls::emitting(&cluster.bootstrap_servers(), "stalled", 6);
    let name = &calls.name;
    for topic in ["in", "out", "executions", "dlq", "replay"] {
        let topic = format!("{name}.{topic}");
        cluster.create_topic(&topic, 6, 1).expect("a topic");
        for partition in 0..6 {
            let leader = if topic.ends_with(".out") { 2 } else { 1 };
            cluster.partition_leader(&topic, partition, Some(leader)).expect("a leader");
        }
    }
    cluster.coordinator(MockCoordinator::Group(calls.group.clone()), 1).expect("a coordinator");
    for turn in 0..2 {
        let id = format!("{}.a.{turn}", calls.group);
        cluster.coordinator(MockCoordinator::Transaction(id), 1).expect("a coordinator");
    }
    tokio::task::block_in_place(|| send_backlog(&calls));
    mock::take_down(&cluster, 2);
    let mut worker = calls.worker("a", WORDS);
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !worker.log_text().contains("transaction aborted") {
        assert!(tokio::time::Instant::now() < deadline, "{}", worker.log_text());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Long enough to fetch everything, were it not for the limits.
    tokio::time::sleep(servers::amount(Duration::from_secs(15), Duration::from_secs(8))).await;
    worker.assert_alive();
    assert_bounded(&worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_is_compressed_ten_to_one_costs_no_more_than_the_budget() {
    let calls = tokio::task::block_in_place(|| {
        let calls = Calls::emitting(&servers::kafka(), "dense", 6);
        calls.millrace.run_ok(&["apply", "--yes"]);
        send_backlog(&calls);
        calls
    });
    let worker = calls.worker("a", WORDS);
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let done: i64 = tokio::task::block_in_place(|| calls.committed())
            .iter()
            .map(|(offset, _)| offset.to_raw().unwrap_or(0).max(0))
            .sum();
        if done >= i64::try_from(records()).expect("small") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{done} done\n{}", worker.log_text());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_bounded(&worker);
}
