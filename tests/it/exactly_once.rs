//! Nothing lost, nothing doubled, keys in order: over instances that come, go and vanish.

use std::time::Duration;

use crate::copying::{Instance, Scenario};
use crate::support::{events, servers};

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn copies_everything_once_while_instances_come_and_go() {
    let scenario = Scenario::new("copy", 12).await;
    let count = servers::amount(100_000, 20_000);
    let all = events::generate(1, count, 10_000);
    let (begin, rest) = all.split_at(all.len() / 2);
    events::produce(&servers::kafka(), &scenario.input, begin);
    // Alone, or the second may do everything before the first has its partitions.
    let mut first = Instance::start(scenario.exactly_once(0), scenario.copy());
    first.committed(1).await;
    let second = Instance::start(scenario.exactly_once(1), scenario.copy());
    events::produce(&servers::kafka(), &scenario.input, rest);
    first.drop_at_once().await;
    let third = Instance::start(scenario.exactly_once(0), scenario.copy());
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    second.drain().await;
    third.drain().await;
    assert_eq!(tokio::task::block_in_place(|| scenario.assert_exactly_once()), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_where_it_stopped() {
    let scenario = Scenario::new("restart", 4).await;
    for round in 0..4 {
        events::produce(&servers::kafka(), &scenario.input, &events::generate(10 + round, 2_000, 100));
        let mut instance = Instance::start(scenario.exactly_once(0), scenario.copy());
        instance.committed(1).await;
        if round % 2 == 0 {
            instance.drain().await;
        } else {
            instance.drop_at_once().await;
        }
    }
    let last = Instance::start(scenario.exactly_once(0), scenario.copy());
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    last.drain().await;
    assert_eq!(tokio::task::block_in_place(|| scenario.assert_exactly_once()), 8_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_work_keeps_the_order_of_keys() {
    let scenario = Scenario::new("slow", 3).await;
    events::produce(&servers::kafka(), &scenario.input, &events::generate(20, 5_000, 300));
    let mut settings = scenario.exactly_once(0);
    settings.is_cpu_only = false;
    // Later records are often faster than earlier ones.
    let slowly = scenario.copy_slowly(|record| Duration::from_millis((record.offset * 7919 % 20) as u64));
    let instance = Instance::start(settings, slowly);
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    instance.drain().await;
    assert_eq!(tokio::task::block_in_place(|| scenario.assert_exactly_once()), 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_loses_nothing() {
    let scenario = Scenario::new("alo", 6).await;
    events::produce(&servers::kafka(), &scenario.input, &events::generate(30, 30_000, 1_000));
    let mut first = Instance::start(scenario.at_least_once(), scenario.copy());
    first.committed(1).await;
    first.drop_at_once().await;
    let second = Instance::start(scenario.at_least_once(), scenario.copy());
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    second.drain().await;
    let doubled = tokio::task::block_in_place(|| scenario.assert_at_least_once());
    assert!(doubled <= 20_000, "{doubled} doubled: more than one batch");
}

/// Shorter than the worker waits for an answer to a commit before it takes it for lost.
const SOON: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_commits_as_it_goes() {
    let scenario = Scenario::new("alo-soon", 2).await;
    let instance = Instance::start(scenario.at_least_once(), scenario.copy());
    for round in 0..3 {
        events::produce(&servers::kafka(), &scenario.input, &events::generate(60 + round, 500, 50));
        // The first round waits for the group, too.
        let limit = if round == 0 { LIMIT } else { SOON };
        tokio::task::block_in_place(|| scenario.wait_until_caught_up(limit));
    }
    instance.drain().await;
    let doubled = tokio::task::block_in_place(|| scenario.assert_at_least_once());
    assert_eq!(doubled, 0, "nobody stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_of_the_same_identity_makes_the_first_stop() {
    let scenario = Scenario::new("fenced", 2).await;
    let first = Instance::start(scenario.exactly_once(0), scenario.copy());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let second = Instance::start(scenario.exactly_once(0), scenario.copy());
    tokio::time::sleep(Duration::from_secs(2)).await;
    events::produce(&servers::kafka(), &scenario.input, &events::generate(40, 500, 50));
    let ended = tokio::time::timeout(Duration::from_secs(30), first.running.ended()).await.expect("in time");
    assert!(ended.expect_err("it was fenced").is_fenced());
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    second.drain().await;
    assert_eq!(tokio::task::block_in_place(|| scenario.assert_exactly_once()), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_output_topic_is_waited_for() {
    let scenario = Scenario::new("late", 3).await;
    let late = Scenario { output: format!("{}.late", scenario.output), ..scenario };
    events::produce(&servers::kafka(), &late.input, &events::generate(50, 1_500, 100));
    let mut instance = Instance::start(late.exactly_once(0), late.copy());
    let troubled = instance.running.status.wait_for(|status| {
        assert_eq!(status.counts.committed, 0);
        status.counts.aborted >= 3
            && status.trouble.as_ref().is_some_and(|trouble| trouble.contains("cannot send"))
    });
    tokio::time::timeout(LIMIT, troubled).await.expect("in time").expect("it runs on");
    servers::create_topics(&[(&late.output, 3)]).await;
    tokio::task::block_in_place(|| late.wait_until_caught_up(LIMIT));
    let well = instance.running.status.wait_for(|status| status.trouble.is_none());
    tokio::time::timeout(LIMIT, well).await.expect("in time").expect("it runs");
    instance.drain().await;
    assert_eq!(tokio::task::block_in_place(|| late.assert_exactly_once()), 1_500);
}
