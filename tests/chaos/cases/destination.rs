//! Destinations that are slow, down, or refuse one key.

use std::time::Duration;

use millrace::failpoint::Rule;

use super::{CASE, Case, Mutation};
use crate::ground::Ground;
use crate::invariants::Doubles;
use crate::project::Workload;

const PATIENCE: Duration = Duration::from_secs(120);
/// Calls a second that the target's limits allow each of two workers, and what one may save up.
const RATE: usize = 300;

pub const SLOW_STAGE: Case = Case {
    number: 8,
    name: "slow-stage",
    what: "partitions move while calls take up to 10 s",
    workloads: &[Workload::Http],
    play: |ground| {
        let rounds = ground.rounds(4);
        ground.terms.doubles = Doubles::UpTo(4_000 * usize::try_from(rounds)?);
        for round in 0..rounds {
            // Some calls of each backlog are slow; the rest is worked off as usual.
            ground.destination.behave(|manners| manners.latency_ms_max = 10_000);
            ground.generator.send(300)?;
            ground.wait(Duration::from_secs(1));
            ground.destination.behave(|manners| manners.latency_ms_max = 200);
            ground.backlog(rounds)?;
            let name = format!("worker-x{round}");
            ground.add_worker(&name)?;
            ground.wait(Duration::from_secs(8));
            let is_clean = ground.fleet.get(&name).terminate();
            ground.demand(is_clean, || format!("{name} did not end by itself"))?;
            ground.fleet.remove(&name);
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::RevokeCommitsFinished], on: Workload::Http }],
    ..CASE
};

pub const OUTAGE: Case = Case {
    number: 18,
    name: "destination-down",
    what: "the destination answers 503 to everything for a while, then 429 with Retry-After, then it is well",
    workloads: &[Workload::Http],
    shape: |shape| {
        shape.target = format!(
            "  limits: {{rate: {RATE}/s, concurrency: 256, timeout: 30s}}\n  breaker: {{failures: 5, cooldown: 1s}}\n"
        );
    },
    play: |ground| {
        // Two workers, and each may save up a second's worth.
        ground.terms.calls_per_second_max = Some(RATE * 2 * 2);
        let (down, busy) = if ground.events > 10_000 { (60, 30) } else { (12, 6) };
        let rounds = 3;
        ground.backlog(rounds)?;
        ground.destination.behave(|manners| manners.status = Some((503, None)));
        ground.wait(Duration::from_secs(down));
        ground.backlog(rounds)?;
        ground.destination.behave(|manners| manners.status = Some((429, Some(5))));
        ground.wait(Duration::from_secs(busy));
        ground.destination.behave(|manners| manners.status = None);
        ground.backlog(rounds)?;
        let calls = ground.destination.calls();
        let refused = calls.iter().filter(|call| call.status != 200).count();
        ground.notes.push(format!("{refused} of {} calls were refused", calls.len()));
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::ThrottledIsNoAttempt], on: Workload::Http }],
    ..CASE
};

/// Calls of other keys between the first and the last of the key that fails.
fn calls_meanwhile(ground: &Ground<'_>, failing: &str) -> (usize, usize) {
    let calls = ground.destination.calls();
    let of_it = |call: &&crate::destination::Call| call.event.0 == failing;
    let times: Vec<u64> = calls.iter().filter(of_it).map(|call| call.at_ms).collect();
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else { return (0, 0) };
    let others = calls.iter().filter(|call| !of_it(call) && (first..=last).contains(&&call.at_ms)).count();
    (times.len(), others)
}

pub const FAILING_KEY: Case = Case {
    number: 19,
    name: "failing-key",
    what: "the calls of one key always fail; other keys go on, and its events become dead letters",
    workloads: &[Workload::Keys],
    play: |ground| {
        const KEY: &str = "key-that-fails";
        ground.terms.failing_key = Some(KEY.to_owned());
        ground.destination.behave(|manners| manners.failing_key = Some(KEY.to_owned()));
        let rounds = 3;
        for round in 0..rounds {
            for seq in round * 5..(round + 1) * 5 {
                let value = format!(
                    r#"{{"key":"{KEY}","seq":{seq},"amount":1,"at":1795132800,"shop":"shop-0","kind":"good"}}"#
                );
                ground.generator.send_one(KEY, Some(value.as_bytes()))?;
            }
            ground.backlog(rounds)?;
        }
        ground.generator.settle()?;
        let topic = ground.names.dead_letters();
        ground.until("its events are dead letters", PATIENCE, |ground| {
            let seen = ground.follower.seen();
            seen.iter().filter(|((name, _), _)| *name == topic).map(|(_, list)| list.len()).sum::<usize>()
                >= 15
        })?;
        let (failed, others) = calls_meanwhile(ground, KEY);
        ground.demand(others > failed, || {
            format!("{others} calls of other keys beside {failed} that failed")
        })?;
        ground.notes.push(format!("{others} calls of other keys while {failed} failed"));
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::DeadLetters], on: Workload::Keys }],
    ..CASE
};

/// What a worker may have in flight, and its size where nothing is in flight: the rest is of a debug build.
const BUDGET_MIB: u64 = 32;
const IDLE_MIB: u64 = 128;
/// Events that are far more than that.
const LARGE: (u64, usize) = (3_000, 100_000);

pub const STALLED: Case = Case {
    number: 27,
    name: "stalled-destination",
    what: "calls take up to 20 s while ten times the events come in that fit into memory, compressed to a tenth",
    workloads: &[Workload::Keys],
    workers: 1,
    shape: |shape| {
        shape.environment.push(("MILLRACE_MEMORY_BUDGET".to_owned(), format!("{BUDGET_MIB}MiB")));
    },
    play: |ground| {
        ground.terms.rss_mib_max = BUDGET_MIB + IDLE_MIB;
        let idle = ground.fleet.rss_kib_max / 1024;
        ground.destination.behave(|manners| manners.latency_ms_max = 20_000);
        ground.generator.enlarge(LARGE.1);
        ground.generator.send(LARGE.0)?;
        ground.generator.settle()?;
        // Without a limit all of them would be read by then.
        ground.wait(Duration::from_secs(30));
        ground.destination.behave(|manners| manners.latency_ms_max = 20);
        ground.notes.push(format!("from {idle} to {} MiB", ground.fleet.rss_kib_max / 1024));
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::Limits], on: Workload::Keys }],
    ..CASE
};
