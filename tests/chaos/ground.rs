//! The ground that a case is played on: topics, roles, events and watchers of its own, on servers that it may hurt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::Runtime;

use crate::cases::{Case, Hurts};
use crate::check::{self, Figures, Terms};
use crate::cluster::Cluster;
use crate::database::Database;
use crate::destination::{Destination, Manners};
use crate::events::{Generator, Maker};
use crate::fleet::Fleet;
use crate::invariants::{Doubles, Owners, Violation};
use crate::observe::{Follower, OffsetWatch};
use crate::project::{self, Names, Shape, Workload};
use crate::proxy::plain::PlainProxy;
use crate::proxy::wire;
use crate::support::dice::Dice;
use crate::support::millrace::{Addresses, Millrace};
use crate::support::readback;

/// How long everything may take to be worked off after the last fault: far more than it takes, for slow machines.
const HEAL_PATIENCE: Duration = Duration::from_secs(180);
/// So much longer for each event where calls are made: W4's busiest key has a fifth of all events, whose calls, of 10 ms on
/// average, wait for each other. Beside three other cases on two cores they take 26 ms.
const HEAL_PATIENCE_OF_A_CALL: Duration = Duration::from_millis(12);
/// Results that a worker of at-least-once may have written without having committed: what it had in flight.
pub const IN_FLIGHT_MAX: usize = 2_000;
/// How long a strike waits for somebody to write.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// Resident memory that a role of a debug build may take.
const RSS_MIB_MAX: u64 = 512;

/// What is asked of every case.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Drives workload and faults.
    pub seed: u64,
    /// Events of each workload.
    pub events: u64,
    /// The build of `millrace`, where it is not the usual one.
    pub program: Option<PathBuf>,
    /// Variables of the roles' environment: rules switched off.
    pub environment: Vec<(String, String)>,
}

/// How a case went on one workload.
#[derive(Clone, Debug)]
pub struct Played {
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// What came out.
    pub figures: Figures,
    /// From the first event to the end of the check.
    pub took: Duration,
    /// Time from a strike to the next commit: the longest.
    pub recovery_max: Option<Duration>,
    /// From the end of the faults until everything was worked off.
    pub heal: Duration,
    /// What the case has to tell.
    pub notes: Vec<String>,
}

/// What a case asked for and did not get: not a fault of the harness.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unmet(String);

/// Everything of one case on one workload.
pub struct Ground<'c> {
    /// Servers.
    pub cluster: &'c Cluster,
    /// For calls that wait.
    pub runtime: &'c Runtime,
    /// Names of its topics.
    pub names: Names,
    /// What the workers do.
    pub workload: Workload,
    /// Its roles.
    pub fleet: Fleet,
    /// How further roles are started.
    pub millrace: Millrace,
    /// Its events.
    pub generator: Generator,
    /// Chance.
    pub dice: Dice,
    /// Where calls go.
    pub destination: Destination,
    /// The way to Postgres.
    pub postgres: PlainProxy,
    /// Reads during the faults.
    pub follower: Follower,
    /// Notes committed offsets.
    pub offsets: OffsetWatch,
    /// Notes of epochs and positions, oldest first.
    pub owners: Vec<Owners>,
    /// What the case counts on.
    pub terms: Terms,
    /// Events to send, in all.
    pub events: u64,
    /// What the case has to tell.
    pub notes: Vec<String>,
    database: Option<Database>,
    strikes: Vec<Instant>,
    busy: Option<String>,
    hurts: Hurts,
    owners_at: Instant,
    folder: PathBuf,
}

/// Plays a case on one workload.
pub fn play(
    case: &Case,
    workload: Workload,
    servers: (&Cluster, &Runtime),
    demand: &Demand,
    folder: &Path,
) -> anyhow::Result<Played> {
    let begun = Instant::now();
    let mut ground = Ground::prepare(case, workload, servers, demand, folder)?;
    let mut violations = Vec::new();
    match (case.play)(&mut ground) {
        Err(error) if error.is::<Unmet>() => {
            violations.push(Violation { invariant: "I8", text: error.to_string() });
        }
        result => result?,
    }
    let healing = Instant::now();
    violations.extend(ground.heal()?);
    let heal = healing.elapsed();
    let (found, figures) = check::run(&ground)?;
    violations.extend(found);
    violations.extend(ground.end());
    ground.cluster.delete_topics(ground.runtime, &ground.names.word)?;
    let recoveries = ground.strikes.iter().filter_map(|strike| ground.offsets.recovery_after(*strike));
    let recovery_max = recoveries.max();
    Ok(Played { violations, figures, took: begun.elapsed(), recovery_max, heal, notes: ground.notes.clone() })
}

impl<'c> Ground<'c> {
    fn prepare(
        case: &Case,
        workload: Workload,
        (cluster, runtime): (&'c Cluster, &'c Runtime),
        demand: &Demand,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let unique = &uuid::Uuid::new_v4().simple().to_string()[..6];
        let names =
            Names { word: format!("c{:02}-{}-{unique}", case.number, workload.name().to_lowercase()) };
        let latency_ms_max = if workload.is_at_least_once() { 200 } else { 20 };
        let manners = Manners { latency_ms_max, broken_one_in: 20, status: None, failing_key: None };
        let destination = Destination::start(runtime, demand.seed, manners)?;
        let mut shape = Shape::of(workload, destination.port);
        (case.shape)(&mut shape);
        project::write(folder, &names, workload, &shape)?;
        let postgres = PlainProxy::open(cluster.postgres_port)?;
        let database = match workload.has_kpi() {
            true => Some(Database::create(runtime, cluster.postgres_port, &names.word)?),
            false => None,
        };
        let url = |database: &Database| Cluster::postgres_url(postgres.line().port, &database.name);
        let addresses = Addresses {
            kafka: cluster.kafka_proxied.clone(),
            registry: None,
            postgres: database.as_ref().map(url),
        };
        let mut millrace = Millrace::new(folder, &names.word, &addresses);
        if let Some(program) = &demand.program {
            millrace.program.clone_from(program);
        }
        let applied = millrace.run(&["apply", "--yes"]);
        anyhow::ensure!(applied.status.success(), "apply: {}", String::from_utf8_lossy(&applied.stderr));
        millrace.environment.clone_from(&demand.environment);
        millrace.environment.append(&mut shape.environment);
        let kafka = cluster.kafka.as_str();
        let topics = [names.output(), names.dead_letters(), names.executions()];
        let mut ground = Self {
            runtime,
            workload,
            fleet: Fleet::new(case.session, names.clients(), shape.properties),
            millrace,
            generator: Generator::new(kafka, &names.input(), Maker::new(workload, demand.seed), folder)?,
            dice: Dice::new(demand.seed ^ u64::from(case.number)),
            destination,
            postgres,
            follower: Follower::start(kafka, &topics)?,
            offsets: OffsetWatch::start(kafka, &names.group(), &names.input())?,
            owners: Vec::new(),
            terms: Terms {
                // Workers that come and go at the begin repeat some of their work.
                doubles: if workload.is_at_least_once() {
                    Doubles::UpTo(IN_FLIGHT_MAX)
                } else {
                    Doubles::None
                },
                rss_mib_max: RSS_MIB_MAX,
                exits_max: 0,
                calls_per_second_max: None,
                failing_key: None,
                deleted_below: BTreeMap::new(),
            },
            events: demand.events,
            notes: Vec::new(),
            database,
            strikes: Vec::new(),
            busy: None,
            hurts: case.hurts,
            owners_at: Instant::now(),
            folder: folder.to_owned(),
            cluster,
            names,
        };
        ground.start_roles(case.workers)?;
        Ok(ground)
    }

    fn start_roles(&mut self, workers: usize) -> anyhow::Result<()> {
        for number in 0..workers {
            self.add_worker(&format!("worker-{number}"))?;
        }
        if self.workload.has_kpi() {
            for number in 0..2 {
                self.fleet.add(&format!("project-{number}"), &self.millrace, &["project"])?;
            }
        }
        // The first events show that the group is there.
        self.generator.send(u64::from(project::PARTITIONS.unsigned_abs()) * 4)?;
        self.generator.settle()?;
        self.until("the group works", HEAL_PATIENCE, |ground| ground.follower.count() > 0)
    }

    /// Starts another worker.
    pub fn add_worker(&mut self, name: &str) -> anyhow::Result<()> {
        self.fleet.add(name, &self.millrace, &["worker", "--instance", name])
    }

    /// Its database.
    pub fn database(&self) -> anyhow::Result<&Database> {
        self.database.as_ref().context("this workload has no database")
    }

    // ------------------------------------------------------------------------------------------------- time and chance

    /// How the `client.id` of every role ends.
    pub fn clients(&self) -> String {
        self.names.clients()
    }

    /// The `client.id` of a role.
    pub fn client(&self, name: &str) -> String {
        format!("{name}{}", self.clients())
    }

    /// Ends the tricks that are played on this case's roles on their way to Kafka.
    pub fn heal_proxies(&self) {
        self.cluster.proxies.iter().for_each(|proxy| proxy.heal(&self.clients()));
    }

    /// A number of milliseconds between these.
    pub fn between_ms(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.dice.roll(high - low + 1))
    }

    /// Lets everything go on for so long.
    pub fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            self.tend();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Waits for something that must come.
    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut is_there: impl FnMut(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while !is_there(self) {
            self.demand(Instant::now() < deadline, || format!("waited {limit:?} in vain until {what}"))?;
            self.wait(Duration::from_millis(100));
        }
        Ok(())
    }

    /// What must be so, or Millrace is at fault.
    pub fn demand(&self, is_so: bool, else_say: impl FnOnce() -> String) -> anyhow::Result<()> {
        if is_so { Ok(()) } else { Err(Unmet(else_say()).into()) }
    }

    fn tend(&mut self) {
        self.fleet.tend();
        if self.owners_at <= Instant::now() {
            self.owners_at = Instant::now() + Duration::from_millis(500);
            // Postgres may be down just now.
            if let Some(Ok(owners)) = self.database.as_ref().map(|database| database.owners(self.runtime)) {
                self.owners.push(owners);
            }
        }
    }

    /// How often to strike: `full` times for a large number of events, at least twice.
    pub fn rounds(&self, full: u64) -> u64 {
        (self.events / 1_500).clamp(2, full)
    }

    /// Freezes the workers while events come in, lets them go on, and returns 3 to 600 ms later: they are busy then.
    pub fn backlog(&mut self, rounds: u64) -> anyhow::Result<()> {
        let before = self.thaw_with_backlog(rounds, wire::PRODUCE)?;
        if self.dice.roll(2) == 0 {
            // Chance alone meets few transactions.
            self.pause_until_somebody_asks(wire::PRODUCE, &before);
            let pause = self.between_ms(0, 12);
            std::thread::sleep(pause);
        } else {
            // A small backlog is worked off sooner.
            let count = self.events / rounds;
            let latest = if self.workload.has_calls() { 600 } else { (40 + count / 10).min(600) };
            let pause = self.between_ms(3, latest);
            std::thread::sleep(pause);
        }
        self.strikes.push(Instant::now());
        Ok(())
    }

    /// Likewise, and returns when a worker has just committed a part of it, at least once.
    pub fn backlog_until_commit(&mut self, rounds: u64) -> anyhow::Result<()> {
        let before = self.thaw_with_backlog(rounds, wire::OFFSET_COMMIT)?;
        self.pause_until_somebody_asks(wire::OFFSET_COMMIT, &before);
        let pause = self.between_ms(20, 60);
        std::thread::sleep(pause);
        self.strikes.push(Instant::now());
        Ok(())
    }

    /// How often each role had asked for this when the workers went on.
    fn thaw_with_backlog(&mut self, rounds: u64, api_key: i16) -> anyhow::Result<BTreeMap<String, u32>> {
        self.fleet.freeze("worker");
        let freeze = self.between_ms(2_000, 4_000);
        let until = Instant::now() + freeze;
        self.generator.send(self.events / rounds)?;
        self.generator.settle()?;
        self.wait(until.saturating_duration_since(Instant::now()));
        let before = self.asked(api_key);
        self.fleet.thaw();
        self.busy = None;
        Ok(before)
    }

    /// How often each role has asked Kafka for this.
    fn asked(&self, api_key: i16) -> BTreeMap<String, u32> {
        let (mut asked, clients) = (BTreeMap::new(), self.clients());
        for (client, times) in self.cluster.proxies.iter().flat_map(|proxy| proxy.seen(api_key)) {
            if let Some(name) = client.strip_suffix(&clients) {
                *asked.entry(name.to_owned()).or_default() += times;
            }
        }
        asked
    }

    /// Until a worker has begun to write, or to commit, what it has done.
    fn pause_until_somebody_asks(&mut self, api_key: i16, before: &BTreeMap<String, u32>) {
        let until = Instant::now() + WRITE_PATIENCE;
        while Instant::now() < until && self.busy.is_none() {
            let asked = self.asked(api_key);
            let begun = |(name, times): &(&String, &u32)| {
                name.starts_with("worker") && before.get(*name).copied().unwrap_or(0) < **times
            };
            self.busy = asked.iter().find(begun).map(|(name, _)| name.clone());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The worker that is known to be busy, else one by chance.
    pub fn some_worker(&mut self) -> String {
        let names = self.fleet.names("worker");
        if let Some(busy) = self.busy.take().filter(|busy| names.contains(busy)) {
            return busy;
        }
        let at = self.dice.roll(names.len() as u64);
        names[usize::try_from(at).expect("small")].clone()
    }

    // ---------------------------------------------------------------------------------------------------------- the end

    /// Ends all faults and waits until everything is worked off.
    fn heal(&mut self) -> anyhow::Result<Option<Violation>> {
        self.heal_proxies();
        if self.hurts != Hurts::Nothing {
            self.cluster.heal()?;
        }
        self.postgres.heal();
        self.fleet.heal();
        self.generator.settle()?;
        let deadline = Instant::now() + self.heal_patience();
        let input = check::nexts(&readback::read_all(&self.cluster.kafka, &self.names.input()));
        while let Some(left) = first_behind(&input, &self.offsets.last()) {
            if Instant::now() >= deadline {
                return Ok(Some(self.stalled(&format!("the workers have not done {left}"))));
            }
            self.wait(Duration::from_millis(200));
        }
        // What is written now is all there will be.
        let topics = [self.names.output(), self.names.dead_letters(), self.names.executions()];
        let wanted: usize =
            topics.iter().map(|topic| readback::read_all(&self.cluster.kafka, topic).len()).sum();
        while self.follower.count() < wanted && Instant::now() < deadline {
            self.wait(Duration::from_millis(100));
        }
        if !self.workload.has_kpi() {
            return Ok(None);
        }
        for topic in [self.names.executions(), self.names.facts()] {
            let wanted = self.ends(&topic);
            while let Some(left) = first_behind(&wanted, &self.positions(&topic)?) {
                if Instant::now() >= deadline {
                    return Ok(Some(self.stalled(&format!("the projector has not done {left} of {topic}"))));
                }
                self.wait(Duration::from_millis(200));
            }
        }
        Ok(None)
    }

    /// One past the last committed record of each partition.
    fn ends(&self, topic: &str) -> BTreeMap<i32, i64> {
        check::nexts(&readback::read_all(&self.cluster.kafka, topic))
    }

    /// Waits until all events that there are now are done, and their facts in Postgres.
    pub fn until_worked_off(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.generator.settle()?;
        let wanted = self.ends(&self.names.input());
        self.until("all events are done", limit, |ground| {
            first_behind(&wanted, &ground.offsets.last()).is_none()
        })?;
        if !self.workload.has_kpi() {
            return Ok(());
        }
        let facts = self.names.facts();
        let wanted = self.ends(&facts);
        self.until("all facts are in Postgres", limit, |ground| {
            ground.positions(&facts).is_ok_and(|positions| first_behind(&wanted, &positions).is_none())
        })
    }

    /// The projector's positions in a topic.
    fn positions(&self, topic: &str) -> anyhow::Result<BTreeMap<i32, i64>> {
        let owners = self.database()?.owners(self.runtime)?;
        let ours = owners.into_iter().filter(|((name, _), _)| name == topic);
        Ok(ours.map(|((_, partition), (_, next))| (partition, next)).collect())
    }

    fn heal_patience(&self) -> Duration {
        let calls = if self.workload.has_calls() { self.events } else { 0 };
        HEAL_PATIENCE + HEAL_PATIENCE_OF_A_CALL * u32::try_from(calls).unwrap_or(u32::MAX)
    }

    fn stalled(&self, what: &str) -> Violation {
        let patience = self.heal_patience();
        let text = format!("{patience:?} after the faults {what}; logs in {}", self.folder.display());
        Violation { invariant: "I8", text }
    }

    /// Ends the roles; what did not end well.
    fn end(&mut self) -> Vec<Violation> {
        let unclean = self.fleet.end();
        unclean.into_iter().map(|text| Violation { invariant: "I8", text }).collect()
    }
}

/// The first partition that is not where it must be.
fn first_behind(wanted: &BTreeMap<i32, i64>, have: &BTreeMap<i32, i64>) -> Option<String> {
    let is_behind = |(partition, next): &(&i32, &i64)| have.get(partition).copied().unwrap_or(0) < **next;
    let (partition, next) = wanted.iter().find(is_behind)?;
    Some(format!("partition {partition}, which is at {:?} of {next}", have.get(partition)))
}
