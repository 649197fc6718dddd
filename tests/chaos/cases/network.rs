//! Single requests and answers that are late, lost or doubled.

use std::time::{Duration, Instant};

use millrace::failpoint::Rule;

use super::{CASE, Case, Mutation};
use crate::ground::Ground;
use crate::observe;
use crate::project::Workload;
use crate::proxy::kafka::{Plan, Trick};
use crate::proxy::wire;

const PATIENCE: Duration = Duration::from_secs(45);
/// A new worker's first request comes within this time, or it has nothing to do.
const FIRST_COMES: Duration = Duration::from_secs(15);
/// A held request is forwarded some seconds after its sender gave up on it.
const LATE_MAX: Duration = Duration::from_secs(30);

fn played(ground: &Ground<'_>) -> usize {
    ground.cluster.proxies.iter().map(|proxy| proxy.played(&ground.clients())).sum()
}

fn late(ground: &Ground<'_>) -> usize {
    ground.cluster.proxies.iter().map(|proxy| proxy.late(&ground.clients())).sum()
}

fn play(ground: &Ground<'_>, plan: &Plan) {
    ground.cluster.proxies.iter().for_each(|proxy| proxy.play(plan.clone()));
}

/// Sends events while `is_waiting`, so that there is something to commit; whether it ended in time.
fn keep_busy(
    ground: &mut Ground<'_>,
    limit: Duration,
    is_waiting: impl Fn(&Ground<'_>) -> bool,
) -> anyhow::Result<bool> {
    let begun = Instant::now();
    while is_waiting(ground) {
        if begun.elapsed() > limit {
            return Ok(false);
        }
        ground.generator.send(200)?;
        ground.wait(Duration::from_millis(100));
    }
    Ok(true)
}

pub const LATE_END_TXN: Case = Case {
    number: 12,
    name: "late-end-txn",
    what: "the end of a transaction is held, its sender gives up and asks again, and the held one comes into a later transaction",
    short: &[Workload::Copy],
    workers: 1,
    // The sender gives up after 10 s, and its transaction has 5 s left to be ended on another connection.
    session: "20s",
    play: |ground| {
        let rounds = ground.rounds(6);
        let late_before = late(ground);
        for _ in 0..rounds {
            let (before, late_then) = (played(ground), late(ground));
            let plan = Plan {
                api_key: wire::END_TXN,
                client: ground.clients(),
                times: 1,
                trick: Trick::HoldUntilLaterTransaction,
            };
            play(ground, &plan);
            // Room between a transaction's records and its offsets, for the late request to fall into.
            let trick = Trick::Delay(Duration::from_millis(100));
            play(ground, &Plan { api_key: wire::ADD_OFFSETS, times: 10_000, trick, ..plan });
            ground.backlog(rounds)?;
            let is_held = keep_busy(ground, LATE_MAX, |ground| played(ground) == before)?;
            anyhow::ensure!(is_held, "no transaction ended");
            // With a new producer each time, none of its id may come: the broker refuses the late one all the same.
            keep_busy(ground, LATE_MAX, |ground| late(ground) == late_then)?;
        }
        let count = late(ground) - late_before;
        anyhow::ensure!(count > 0, "no held request came into a later transaction");
        ground.notes.push(format!("{count} requests came into later transactions"));
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::RecycleProducer], on: Workload::Copy }],
    ..CASE
};

pub const LOST_ANSWERS: Case = Case {
    number: 13,
    name: "lost-answers",
    what: "requests that commit arrive and their answers are lost; others arrive twice",
    play: |ground| {
        let rounds = ground.rounds(8);
        for round in 0..rounds {
            let (api_key, trick) = match round % 4 {
                0 => (wire::END_TXN, Trick::DropResponse),
                1 => (wire::TXN_OFFSET_COMMIT, Trick::DropResponse),
                2 => (wire::PRODUCE, Trick::Duplicate),
                _ => (wire::END_TXN, Trick::Duplicate),
            };
            let before = played(ground);
            ground.backlog(rounds)?;
            play(ground, &Plan { api_key, client: ground.clients(), times: 1, trick });
            let is_played = keep_busy(ground, LATE_MAX, |ground| played(ground) == before)?;
            anyhow::ensure!(is_played, "no request of this kind came");
            ground.wait(Duration::from_secs(4));
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::CommitOutcomeIsRead], on: Workload::Copy }],
    ..CASE
};

pub const COORDINATOR_CUT: Case = Case {
    number: 11,
    name: "coordinator-cut",
    what: "a worker cannot reach the coordinator of its transactions, then not that of its group; others can",
    nodes: 3,
    play: |ground| {
        // A call that never comes back ends the process, which is started again.
        ground.terms.exits_max = 4;
        let rounds = ground.rounds(4);
        for round in 0..rounds {
            let api_key = if round % 2 == 0 { wire::END_TXN } else { wire::HEARTBEAT };
            ground.backlog(rounds)?;
            let worker = ground.client("worker-0");
            let cut: Vec<_> =
                ground.cluster.proxies.iter().filter(|proxy| proxy.has_seen(&worker, api_key)).collect();
            anyhow::ensure!(!cut.is_empty(), "no coordinator was seen");
            cut.iter().for_each(|proxy| proxy.cut_off(&worker));
            ground.wait(Duration::from_secs(20));
            ground.heal_proxies();
            ground.wait(Duration::from_secs(3));
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::OffsetsInTransaction], on: Workload::Copy }],
    ..CASE
};

pub const STALLED_TRANSACTION: Case = Case {
    number: 14,
    name: "stalled-transaction",
    what: "a worker is cut off from Kafka in the middle of a transaction, longer than that may take",
    play: |ground| {
        ground.terms.exits_max = 2;
        let rounds = ground.rounds(3);
        for _ in 0..rounds {
            // The end of its transaction never arrives, so one is open for certain.
            play(
                ground,
                &Plan {
                    api_key: wire::END_TXN,
                    client: ground.client("worker-0"),
                    times: 1,
                    trick: Trick::DropRequest,
                },
            );
            let before = played(ground);
            ground.backlog(rounds)?;
            let is_open = keep_busy(ground, LATE_MAX, |ground| played(ground) == before)?;
            anyhow::ensure!(is_open, "the worker began no transaction");
            let worker = ground.client("worker-0");
            ground.cluster.proxies.iter().for_each(|proxy| proxy.cut_off(&worker));
            let output = ground.names.output();
            let ends = observe::ends(&ground.cluster.kafka, &output)?;
            let kafka = ground.cluster.kafka.clone();
            ground.until("readers get past the stalled transaction", PATIENCE, |_| {
                observe::ends(&kafka, &output).is_ok_and(|now| {
                    ends.iter()
                        .all(|(partition, (_, end))| now.get(partition).is_some_and(|now| now.0 >= *end))
                })
            })?;
            ground.heal_proxies();
            ground.wait(Duration::from_secs(3));
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::ShortTransactions], on: Workload::Copy }],
    ..CASE
};

pub const SLOW_RESULTS: Case = Case {
    number: 21,
    name: "slow-results",
    what: "every write takes long, some longer than a transaction may",
    play: |ground| {
        let rounds = ground.rounds(4);
        for _ in 0..rounds {
            let slow = Plan {
                api_key: wire::PRODUCE,
                client: ground.clients(),
                times: 30,
                trick: Trick::Delay(Duration::from_millis(300)),
            };
            let stuck = Plan { times: 2, trick: Trick::Delay(Duration::from_secs(7)), ..slow.clone() };
            play(ground, &slow);
            play(ground, &stuck);
            ground.backlog(rounds)?;
            ground.wait(Duration::from_secs(20));
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::RereadAfterAbort], on: Workload::Copy }],
    ..CASE
};

fn dismiss_workers(ground: &mut Ground) -> anyhow::Result<()> {
    for name in ground.fleet.names("worker") {
        let is_clean = ground.fleet.get(&name).terminate();
        ground.demand(is_clean, || format!("{name} did not end by itself"))?;
        ground.fleet.remove(&name);
    }
    Ok(())
}

pub const REFUSED_FIRST: Case = Case {
    number: 26,
    name: "refused-first",
    what: "the leader refuses the first records of a new producer when the next are on their way, and takes those",
    // A request for each record: several to a partition in a transaction.
    shape: |shape| shape.properties.push_str("batch.num.messages=1\n"),
    play: |ground| {
        let rounds = ground.rounds(6).max(3);
        for round in 0..rounds {
            dismiss_workers(ground)?;
            ground.generator.send(ground.events / rounds)?;
            ground.generator.settle()?;
            let plan = Plan {
                api_key: wire::PRODUCE,
                client: ground.clients(),
                times: 1_000,
                trick: Trick::RefuseFirst,
            };
            let before = played(ground);
            play(ground, &plan);
            // The broker knows nothing of a new worker's producers.
            for number in 0..2 {
                ground.add_worker(&format!("worker-{round}-{number}"))?;
            }
            // A partition whose first request waited may have got no other.
            let until = Instant::now() + FIRST_COMES;
            while Instant::now() < until && played(ground) == before {
                ground.wait(Duration::from_millis(100));
            }
            ground.wait(Duration::from_secs(2));
            ground.heal_proxies();
            ground.wait(Duration::from_secs(3));
        }
        // A request for each record would take half an hour.
        dismiss_workers(ground)?;
        ground.fleet.forget_properties();
        ground.add_worker("worker-last-0")?;
        ground.add_worker("worker-last-1")?;
        let count = played(ground);
        anyhow::ensure!(count > 0, "no producer had two requests to a new partition on their way");
        ground.notes.push(format!("{count} requests were refused"));
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::AcknowledgedHasOffset], on: Workload::Copy }],
    ..CASE
};
