//! Servers that die and come back.

use std::time::{Duration, Instant};

use millrace::failpoint::Rule;

use super::{CASE, Case, Hurts, Mutation};
use crate::cluster::Server;
use crate::ground::Ground;
use crate::project::Workload;
use crate::proxy::plain::Wire;

const PATIENCE: Duration = Duration::from_secs(90);

/// A transactional call that has not come back after two minutes ends the process, which an orchestrator starts again:
/// on a slow machine a broker takes as long to start, and some calls never come back.
fn exits_max(ground: &Ground<'_>, rounds: u64) -> usize {
    usize::try_from(rounds).unwrap_or(usize::MAX).saturating_mul(ground.fleet.names("worker").len())
}

pub const BROKER_KILL: Case = Case {
    number: 9,
    name: "broker-kill",
    what: "kill -9 of the only Kafka node in the middle of work, and its restart",
    hurts: Hurts::Kafka,
    play: |ground| {
        let rounds = ground.rounds(6);
        ground.terms.exits_max = exits_max(ground, rounds);
        for _ in 0..rounds {
            ground.backlog(rounds)?;
            ground.cluster.kill(Server::Kafka(0))?;
            let pause = ground.between_ms(0, 8_000);
            ground.wait(pause);
            ground.cluster.restart()?;
            let pause = ground.between_ms(1_000, 4_000);
            ground.wait(pause);
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::OffsetsInTransaction], on: Workload::Copy }],
    ..CASE
};

pub const BROKER_ROLLING: Case = Case {
    number: 9,
    name: "broker-kill-rolling",
    what: "kill -9 of each of three Kafka nodes in turn, and its restart",
    nodes: 3,
    hurts: Hurts::Kafka,
    play: |ground| {
        let rounds = ground.rounds(6).max(3);
        ground.terms.exits_max = exits_max(ground, rounds);
        for round in 0..rounds {
            let node = usize::try_from(round)? % ground.cluster.nodes();
            ground.backlog(rounds)?;
            ground.cluster.kill(Server::Kafka(node))?;
            let pause = ground.between_ms(1_000, 8_000);
            ground.wait(pause);
            ground.cluster.restart()?;
            let pause = ground.between_ms(5_000, 8_000);
            ground.wait(pause);
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::OffsetsInTransaction], on: Workload::Copy }],
    ..CASE
};

pub const BROKERS_FROZEN: Case = Case {
    number: 10,
    name: "brokers-frozen",
    what: "SIGSTOP of two of three Kafka nodes for 45 s, then 20 s to go on",
    nodes: 3,
    hurts: Hurts::Kafka,
    play: |ground| {
        let rounds = ground.rounds(3);
        ground.terms.exits_max = exits_max(ground, rounds);
        for round in 0..rounds {
            ground.backlog(rounds)?;
            let awake = usize::try_from(round)? % ground.cluster.nodes();
            let frozen: Vec<usize> = (0..ground.cluster.nodes()).filter(|node| *node != awake).collect();
            for node in &frozen {
                ground.cluster.signal(Server::Kafka(*node), libc::SIGSTOP)?;
            }
            ground.wait(Duration::from_secs(45));
            for node in &frozen {
                ground.cluster.signal(Server::Kafka(*node), libc::SIGCONT)?;
            }
            ground.wait(Duration::from_secs(20));
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::OffsetsInTransaction], on: Workload::Copy }],
    ..CASE
};

pub const POSTGRES_KILL: Case = Case {
    number: 15,
    name: "postgres-kill",
    what: "kill -9 of Postgres, 20 s without it; the workers go on",
    workloads: &[Workload::Kpi],
    short: &[Workload::Kpi],
    hurts: Hurts::Postgres,
    play: |ground| {
        let rounds = ground.rounds(4);
        for _ in 0..rounds {
            ground.backlog(rounds)?;
            // A crash of one child takes them all, as the kernel's memory killer does it.
            ground.cluster.kill(Server::Postgres)?;
            let before: i64 = ground.offsets.last().values().sum();
            ground.generator.send(100)?;
            ground.until("the workers go on without Postgres", PATIENCE, |ground| {
                ground.offsets.last().values().sum::<i64>() > before
            })?;
            ground.wait(Duration::from_secs(if ground.events > 10_000 { 20 } else { 6 }));
            ground.cluster.restart()?;
            ground.wait(Duration::from_secs(5));
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::WritesUntilDone, Rule::PositionCas], on: Workload::Kpi }],
    ..CASE
};

pub const COMMIT_CUT: Case = Case {
    number: 16,
    name: "commit-cut",
    what: "the connection to Postgres ends while it commits: before it got the word, or after it has done so",
    workloads: &[Workload::Kpi],
    play: |ground| {
        let rounds = ground.rounds(6);
        for round in 0..rounds {
            let before = ground.postgres.tripped();
            ground.postgres.lay(Wire { bytes: b"COMMIT", times: 3, is_done: round % 2 == 0 });
            ground.backlog(rounds)?;
            ground.until("a commit met the wire", PATIENCE, |ground| ground.postgres.tripped() > before)?;
            ground.wait(Duration::from_secs(2));
        }
        ground.notes.push(format!("{} commits were cut", ground.postgres.tripped()));
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::PositionCas], on: Workload::Kpi }],
    ..CASE
};

pub const TWO_OWNERS: Case = Case {
    number: 17,
    name: "two-owners",
    what: "somebody else takes over every partition of the projector in the middle of its work",
    workloads: &[Workload::Kpi],
    play: |ground| {
        let rounds = ground.rounds(2);
        let facts = ground.names.facts();
        for _ in 0..rounds {
            ground.backlog(rounds)?;
            let ours = ground.database()?.take_over(ground.runtime, &facts)?;
            ground.demand(!ours.is_empty(), || "the projector has no positions".to_owned())?;
            let until = Instant::now() + Duration::from_secs(8);
            while Instant::now() < until {
                ground.generator.send(20)?;
                ground.wait(Duration::from_millis(100));
                let now = ground.database()?.owners(ground.runtime)?;
                for (partition, (epoch, next)) in &ours {
                    let moved = now.get(partition).filter(|found| found.0 == *epoch && found.1 != *next);
                    ground.demand(moved.is_none(), || {
                        format!("I7: {partition:?} was written by its old owner: {next} to {moved:?}")
                    })?;
                }
            }
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::EpochCas], on: Workload::Kpi }],
    ..CASE
};
