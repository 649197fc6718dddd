//! Workers that die, sleep, come and go.

use std::time::{Duration, Instant};

use millrace::failpoint::{DIE_AT, FREEZE_AT, Place, Rule};

use super::{CASE, Case, Mutation};
use crate::ground::{Ground, IN_FLIGHT_MAX};
use crate::invariants::Doubles;
use crate::project::Workload;

/// Sessions last 6 s.
const TWO_SESSIONS_MS: (u64, u64) = (12_500, 15_000);
const PATIENCE: Duration = Duration::from_secs(90);

pub const BASELINE: Case = Case {
    number: 1,
    name: "baseline",
    what: "no fault: backlogs come and are worked off",
    workloads: &[Workload::Copy, Workload::Http, Workload::Kpi, Workload::Keys],
    short: &[Workload::Keys],
    play: |ground| {
        for _ in 0..2 {
            ground.backlog(2)?;
        }
        Ok(())
    },
    mutations: &[
        Mutation { off: &[Rule::DeadLetters], on: Workload::Copy },
        Mutation { off: &[Rule::CommitsPrefix], on: Workload::Keys },
        Mutation { off: &[Rule::KeyOrder], on: Workload::Keys },
    ],
    ..CASE
};

pub const KILL: Case = Case {
    number: 2,
    name: "kill-worker",
    what: "kill -9 of a worker in the middle of its work, again and again",
    short: &[Workload::Copy],
    play: |ground| {
        let rounds = ground.rounds(20);
        for _ in 0..rounds {
            ground.backlog(rounds)?;
            kill_one(ground);
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::OffsetsInTransaction], on: Workload::Copy }],
    ..CASE
};

fn kill_one(ground: &mut Ground<'_>) {
    let name = ground.some_worker();
    ground.fleet.get(&name).kill();
    let pause = ground.between_ms(100, 2_000);
    ground.wait(pause);
    ground.fleet.get(&name).start();
}

pub const KILL_AT_PLACES: Case = Case {
    number: 3,
    name: "kill-at-places",
    what: "a worker dies after it has sent, after it has sent offsets, while it commits, after it has committed",
    short: &[Workload::Copy],
    play: |ground| {
        let places = [Place::AfterSend, Place::AfterSendOffsets, Place::InCommit, Place::AfterCommit];
        let rounds = places.len() as u64;
        for place in places {
            let name = ground.some_worker();
            let nth = 1 + ground.dice.roll(4);
            let worker = ground.fleet.get(&name);
            worker.kill();
            worker.set(DIE_AT, Some(&format!("{}:{nth}", place.name())));
            worker.start();
            ground.wait(Duration::from_secs(1));
            let died = ground.fleet.exits.len();
            // It dies when it has work: as often as that takes.
            for _ in 0..10 {
                ground.backlog(rounds * 3)?;
                ground.wait(Duration::from_secs(2));
                if ground.fleet.exits.len() > died {
                    break;
                }
            }
            ground
                .demand(ground.fleet.exits.len() > died, || format!("no worker died at {}", place.name()))?;
            ground.terms.exits_max += ground.fleet.exits.len() - died;
            let worker = ground.fleet.get(&name);
            worker.kill();
            worker.set(DIE_AT, None);
            worker.start();
        }
        ground.terms.exits_max += places.len();
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::OffsetsInTransaction], on: Workload::Copy }],
    ..CASE
};

pub const KILL_AT_LEAST_ONCE: Case = Case {
    number: 4,
    name: "kill-at-least-once",
    what: "kill -9 of a worker whose calls are on their way",
    workloads: &[Workload::Http],
    short: &[Workload::Http],
    play: |ground| {
        let rounds = ground.rounds(10);
        ground.terms.doubles = Doubles::UpTo(IN_FLIGHT_MAX * usize::try_from(rounds)?);
        for round in 0..rounds {
            // Calls are on their way for certain when some are committed first.
            if round % 2 == 0 {
                ground.backlog_until_commit(rounds)?;
            } else {
                ground.backlog(rounds)?;
            }
            kill_one(ground);
        }
        let repeated = ground.destination.repeated();
        ground.notes.push(format!("{repeated} calls repeated with their key"));
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::CommitsPrefix], on: Workload::Http }],
    ..CASE
};

pub const ZOMBIE: Case = Case {
    number: 5,
    name: "zombie",
    what: "a worker falls asleep for two sessions, at any moment and just before a transaction; a projector, too",
    workloads: &[Workload::Copy, Workload::Kpi],
    short: &[Workload::Copy],
    play: |ground| {
        let rounds = ground.rounds(5);
        sleep_at(ground, "worker-0", Place::BeforeTransaction, None)?;
        if ground.workload.has_kpi() {
            // Alone it has all facts for certain.
            ground.fleet.get("project-1").terminate();
            sleep_at(ground, "project-0", Place::BeforeFacts, Some("project-1"))?;
        }
        for _ in 0..rounds {
            ground.backlog(rounds)?;
            let worker = ground.some_worker();
            ground.fleet.get(&worker).freeze();
            if ground.workload.has_kpi() {
                ground.fleet.get("project-0").freeze();
            }
            let pause = ground.between_ms(TWO_SESSIONS_MS.0, TWO_SESSIONS_MS.1);
            ground.wait(pause);
            ground.fleet.thaw();
            let pause = ground.between_ms(500, 3_000);
            ground.wait(pause);
        }
        Ok(())
    },
    mutations: &[
        Mutation { off: &[Rule::MembershipInTransaction], on: Workload::Copy },
        Mutation { off: &[Rule::PositionCas, Rule::EpochCas], on: Workload::Kpi },
    ],
    ..CASE
};

/// The worst moment: what will be written, and in whose name, is decided; when it wakes, others have done the work.
/// `heir` is down, and started then.
fn sleep_at(ground: &mut Ground<'_>, name: &str, place: Place, heir: Option<&str>) -> anyhow::Result<()> {
    let role = ground.fleet.get(name);
    role.terminate();
    role.set(FREEZE_AT, Some(&format!("{}:2", place.name())));
    role.start();
    ground.wait(Duration::from_secs(2));
    let begun = Instant::now();
    while !ground.fleet.get(name).is_asleep() {
        ground.demand(begun.elapsed() < PATIENCE, || format!("{name} did not come to {}", place.name()))?;
        // No backlog by freezing here: its SIGCONT could wake a worker just as it falls asleep.
        ground.generator.send(100)?;
        ground.wait(Duration::from_secs(1));
    }
    if let Some(heir) = heir {
        ground.fleet.get(heir).start();
    }
    let pause = ground.between_ms(TWO_SESSIONS_MS.0, TWO_SESSIONS_MS.1);
    ground.wait(pause);
    ground.until_worked_off(PATIENCE)?;
    let role = ground.fleet.get(name);
    role.set(FREEZE_AT, None);
    role.wake();
    ground.wait(Duration::from_secs(3));
    Ok(())
}

pub const SAME_IDENTITY: Case = Case {
    number: 6,
    name: "same-identity",
    what: "a second worker with the same transactional ids: one of the two must go, and only one",
    short: &[Workload::Copy],
    play: |ground| {
        ground.terms.exits_max = 1;
        ground.backlog(4)?;
        let millrace = ground.millrace.clone();
        ground.fleet.add("worker-twin", &millrace, &["worker", "--instance", "worker-0"])?;
        let begun = Instant::now();
        while ground.fleet.exits.is_empty() && begun.elapsed() < PATIENCE {
            ground.generator.send(50)?;
            ground.wait(Duration::from_millis(200));
        }
        let loser = ground.fleet.exits.first().cloned();
        ground.demand(loser.is_some(), || format!("both went on for {PATIENCE:?}"))?;
        let Some(loser) = loser else { return Ok(()) };
        ground.fleet.remove(&loser.member);
        let said = crate::fleet::tail(&loser.log, 20);
        ground.demand(said.contains("another process uses the transactional id"), || {
            format!("{} did not say why it ended: {said}", loser.member)
        })?;
        ground.notes.push(format!("{} went after {:.1} s", loser.member, begun.elapsed().as_secs_f64()));
        for _ in 0..3 {
            ground.backlog(4)?;
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::FencedIsFinal], on: Workload::Copy }],
    ..CASE
};

pub const STORM: Case = Case {
    number: 7,
    name: "rebalance-storm",
    what: "a third worker comes and goes every 0.5 to 3 s, by SIGTERM and by kill -9",
    workloads: &[Workload::Keys],
    play: |ground| {
        let rounds = ground.rounds(8);
        let mut number = 0;
        for _ in 0..rounds {
            ground.backlog(rounds)?;
            for _ in 0..2 {
                number += 1;
                let name = format!("worker-x{number}");
                ground.add_worker(&name)?;
                let pause = ground.between_ms(500, 3_000);
                ground.wait(pause);
                if ground.dice.roll(2) == 0 {
                    ground.fleet.get(&name).kill();
                } else {
                    let is_clean = ground.fleet.get(&name).terminate();
                    ground.demand(is_clean, || format!("{name} did not end by itself"))?;
                }
                ground.fleet.remove(&name);
                let pause = ground.between_ms(500, 3_000);
                ground.wait(pause);
            }
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::RevokeCommitsFinished], on: Workload::Keys }],
    ..CASE
};

pub const ROLLING_RESTART: Case = Case {
    number: 22,
    name: "rolling-restart",
    what: "SIGTERM of one worker after the other, and its start again, ten times",
    workloads: &[Workload::Copy, Workload::Http, Workload::Kpi],
    play: |ground| {
        let rounds = ground.rounds(10);
        for _ in 0..rounds {
            ground.backlog(rounds)?;
            for name in ground.fleet.names("worker") {
                let is_clean = ground.fleet.get(&name).terminate();
                ground.demand(is_clean, || format!("{name} did not end by itself"))?;
                ground.fleet.get(&name).start();
                let pause = ground.between_ms(200, 1_500);
                ground.wait(pause);
            }
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::RevokeCommitsFinished], on: Workload::Http }],
    ..CASE
};
