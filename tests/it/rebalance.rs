//! Partitions that move while work goes on.

use std::time::Duration;

use crate::copying::{Instance, Scenario};
use crate::support::{events, servers};

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_rebalances_loses_and_doubles_nothing() {
    let scenario = Scenario::new("storm", 12).await;
    let steady = Instance::start(scenario.exactly_once(0), scenario.copy());
    let input = scenario.input.clone();
    let feed = tokio::task::spawn_blocking(move || {
        for round in 0..12 {
            events::produce(&servers::kafka(), &input, &events::generate(100 + round, 2_500, 500));
            std::thread::sleep(Duration::from_millis(400));
        }
    });
    for round in 0..8u64 {
        let guest = Instance::start(scenario.exactly_once(1), scenario.copy());
        tokio::time::sleep(Duration::from_millis(700 + 150 * (round % 4))).await;
        if round % 2 == 0 {
            guest.drain().await;
        } else {
            guest.drop_at_once().await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    feed.await.expect("all events are written");
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    steady.drain().await;
    assert_eq!(tokio::task::block_in_place(|| scenario.assert_exactly_once()), 30_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_work_is_finished_or_begun_anew_when_partitions_move() {
    let scenario = Scenario::new("moving", 6).await;
    events::produce(&servers::kafka(), &scenario.input, &events::generate(200, 3_000, 200));
    let slow = |ordinal| {
        let mut settings = scenario.exactly_once(ordinal);
        settings.is_cpu_only = false;
        settings.running_max = 16;
        settings.revoke_drain = Duration::from_millis(300);
        // Some work outlasts the drain.
        let process = scenario.copy_slowly(|record| match record.offset % 50 {
            0 => Duration::from_millis(900),
            _ => Duration::from_millis(10),
        });
        Instance::start(settings, process)
    };
    let first = slow(0);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let second = slow(1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let third = slow(2);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    second.drain().await;
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    first.drain().await;
    third.drain().await;
    assert_eq!(tokio::task::block_in_place(|| scenario.assert_exactly_once()), 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_pause_and_resume() {
    let scenario = Scenario::new("limits", 3).await;
    events::produce(&servers::kafka(), &scenario.input, &events::generate(300, 6_000, 1_000));
    let mut settings = scenario.exactly_once(0);
    settings.is_cpu_only = false;
    settings.limits.partition_bytes_max = 100_000;
    settings.limits.group_bytes_max = 200_000;
    // Seconds of work within these limits: the status tells of a pause only if it lasts.
    let mut instance = Instance::start(settings, scenario.copy_slowly(|_| Duration::from_millis(50)));
    let paused = instance.running.status.wait_for(|status| {
        let bytes_and_more = status.partitions.iter().map(|partition| partition.in_flight).sum::<usize>();
        assert!(bytes_and_more < 4_000, "the limits hold");
        status.partitions.iter().any(|partition| partition.is_paused)
    });
    tokio::time::timeout(LIMIT, paused).await.expect("in time").expect("it runs");
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    instance.drain().await;
    assert_eq!(tokio::task::block_in_place(|| scenario.assert_exactly_once()), 6_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_outlive_its_assignment() {
    let scenario = Scenario::new("paused", 4).await;
    events::produce(&servers::kafka(), &scenario.input, &events::generate(400, 4_000, 500));
    let slow = |ordinal| {
        let mut settings = scenario.exactly_once(ordinal);
        settings.is_cpu_only = false;
        settings.running_max = 64;
        settings.revoke_drain = Duration::from_millis(200);
        settings.limits.partition_records_max = 50;
        Instance::start(settings, scenario.copy_slowly(|_| Duration::from_millis(40)))
    };
    let mut first = slow(0);
    let all_paused = first.running.status.wait_for(|status| {
        status.partitions.len() == 4 && status.partitions.iter().all(|partition| partition.is_paused)
    });
    tokio::time::timeout(LIMIT, all_paused).await.expect("in time").expect("it runs");
    // Two partitions go while they are paused, and come back.
    let mut second = slow(1);
    let has_some = second.running.status.wait_for(|status| !status.partitions.is_empty());
    tokio::time::timeout(LIMIT, has_some).await.expect("in time").expect("it runs");
    second.drain().await;
    let has_all = first.running.status.wait_for(|status| status.partitions.len() == 4);
    tokio::time::timeout(LIMIT, has_all).await.expect("in time").expect("it runs");
    tokio::task::block_in_place(|| scenario.wait_until_caught_up(LIMIT));
    first.drain().await;
    assert_eq!(tokio::task::block_in_place(|| scenario.assert_exactly_once()), 4_000);
}
