//! Far more records at work than there are partitions: keys stay in order, and what is done stays done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millrace::engine::completed::Completed;
use millrace::engine::settings::{Process, Processing};
use millrace::position::NextOffset;
use rdkafka::topic_partition_list::Offset;
use tokio::sync::watch;

use crate::copying::{Instance, Scenario, copied};
use crate::support::calls::Calls;
use crate::support::destination::Destination;
use crate::support::{events, servers};

const LIMIT: Duration = Duration::from_secs(120);
const AT_WORK: usize = 10_000;

/// Copies after `is_open` says so, and then after a wait of its own; counts what is at work.
fn copy_behind_a_gate(output: &str, at_work: Arc<AtomicUsize>, is_open: watch::Receiver<bool>) -> Process {
    let output: Arc<str> = Arc::from(output);
    Arc::new(move |record, _way, _now| {
        let (output, at_work, mut is_open) = (Arc::clone(&output), Arc::clone(&at_work), is_open.clone());
        Processing::Pending(Box::pin(async move {
            at_work.fetch_add(1, Ordering::SeqCst);
            is_open.wait_for(|is_open| *is_open).await.expect("the test lives");
            // Later records are often faster than earlier ones.
            tokio::time::sleep(Duration::from_millis((record.offset * 7919 % 23).unsigned_abs())).await;
            at_work.fetch_sub(1, Ordering::SeqCst);
            vec![copied(record, &output)]
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_at_work_from_six_partitions_keep_the_order_of_keys() {
    let scenario = Scenario::new("wide", 6).await;
    events::produce(&servers::kafka(), &scenario.input, &events::generate(500, 24_000, 30_000));
    let mut settings = scenario.exactly_once(0);
    settings.is_cpu_only = false;
    settings.running_max = AT_WORK;
    let (at_work, gate) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(false));
    let process = copy_behind_a_gate(&scenario.output, Arc::clone(&at_work), gate.subscribe());
    let instance = Instance::start(settings, process);
    let deadline = tokio::time::Instant::now() + LIMIT;
    while at_work.load(Ordering::SeqCst) < AT_WORK {
        let now = at_work.load(Ordering::SeqCst);
        assert!(tokio::time::Instant::now() < deadline, "{now} at work");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(at_work.load(Ordering::SeqCst), AT_WORK, "no more than allowed");
    gate.send_replace(true);
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    instance.drain().await;
    assert_eq!(tokio::task::block_in_place(|| scenario.assert_exactly_once()), 24_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_behind_a_slow_record_is_not_done_again_after_a_kill() {
    let destination = Destination::start().await;
    let calls = tokio::task::block_in_place(|| {
        Calls::new("behind", &destination.url, 1, "delivery: at_least_once\nconcurrency: 500")
    });
    let count = servers::amount(4_000, 1_000);
    let ids: Vec<String> = (0..count)
        .map(|number| if number == 3 { String::from("slow") } else { format!("id-{number}") })
        .collect();
    tokio::task::block_in_place(|| calls.send(&ids));
    let mut first = calls.worker("first", &["--session-timeout", "6s"]);
    destination.until_ids(ids.len(), LIMIT).await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    let told = loop {
        let (offset, text) = tokio::task::block_in_place(|| calls.committed()).remove(0);
        let told = Completed::decode(NextOffset(3), &text).unwrap_or_default();
        if told.end() == Some(count) && told.contains(4) {
            assert_eq!(offset, Offset::Offset(3), "the slow record holds the offset");
            break text;
        }
        assert!(tokio::time::Instant::now() < deadline, "{offset:?} {told:?}\n{}", first.log_text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(told.len() < 40, "a run costs a few bytes: {told}");
    first.kill();
    destination.open();
    let mut second = calls.worker("second", &["--session-timeout", "6s"]);
    let deadline = tokio::time::Instant::now() + LIMIT;
    while tokio::task::block_in_place(|| calls.committed())[0].0 != Offset::Offset(count) {
        assert!(tokio::time::Instant::now() < deadline, "{}", second.log_text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again: Vec<_> = destination.calls().into_iter().filter(|(_, times)| *times != 1).collect();
    assert_eq!(again, [(String::from("slow"), 2)], "only what was not done is called again");
    assert!(second.terminate(Duration::from_secs(30)), "{}", second.log_text());
}
