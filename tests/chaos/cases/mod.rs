//! The cases: what each does to whom, and the rule that makes it fail when it is switched off.

mod destination;
mod network;
mod servers;
mod topics;
mod workers;

use millrace::failpoint::Rule;

use crate::ground::Ground;
use crate::project::{Shape, Workload};

/// One case.
pub struct Case {
    /// Its number.
    pub number: u8,
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Workloads it is played on.
    pub workloads: &'static [Workload],
    /// Nodes of Kafka: 1 or 3.
    pub nodes: usize,
    /// Workers at the begin.
    pub workers: usize,
    /// Session time-out of the roles; a transaction may take three quarters of it, one request half of it.
    pub session: &'static str,
    /// Workloads that the short set, which CI plays, has it on.
    pub short: &'static [Workload],
    /// Servers that it kills or freezes: no case that needs them is played beside it.
    pub hurts: Hurts,
    /// What it wants otherwise of its project.
    pub shape: fn(&mut Shape),
    /// Why it cannot be played on this machine.
    pub obstacle: fn() -> Option<String>,
    /// Does it. Healing, waiting and checking follow by themselves.
    pub play: fn(&mut Ground<'_>) -> anyhow::Result<()>,
    /// Rules without which it must fail.
    pub mutations: &'static [Mutation],
}

/// Servers that a case hurts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hurts {
    /// None.
    Nothing,
    /// Postgres.
    Postgres,
    /// Kafka.
    Kafka,
}

/// Rules to switch off, and the workload that shows it.
pub struct Mutation {
    /// Rules.
    pub off: &'static [Rule],
    /// Workload.
    pub on: Workload,
}

/// What most cases have in common.
const CASE: Case = Case {
    number: 0,
    name: "",
    what: "",
    workloads: &[Workload::Copy],
    nodes: 1,
    workers: 2,
    session: "6s",
    short: &[],
    hurts: Hurts::Nothing,
    shape: |_| {},
    obstacle: || None,
    play: |_| Ok(()),
    mutations: &[],
};

/// All of them, by number.
pub const ALL: &[Case] = &[
    workers::BASELINE,
    workers::KILL,
    workers::KILL_AT_PLACES,
    workers::KILL_AT_LEAST_ONCE,
    workers::ZOMBIE,
    workers::SAME_IDENTITY,
    workers::STORM,
    destination::SLOW_STAGE,
    servers::BROKER_KILL,
    servers::BROKER_ROLLING,
    servers::BROKERS_FROZEN,
    network::COORDINATOR_CUT,
    network::LATE_END_TXN,
    network::LOST_ANSWERS,
    network::STALLED_TRANSACTION,
    servers::POSTGRES_KILL,
    servers::COMMIT_CUT,
    servers::TWO_OWNERS,
    destination::OUTAGE,
    destination::FAILING_KEY,
    topics::POISON,
    network::SLOW_RESULTS,
    workers::ROLLING_RESTART,
    topics::ABORTED_INPUT,
    topics::DELETED,
    topics::REBUILD,
    network::REFUSED_FIRST,
    destination::STALLED,
];
