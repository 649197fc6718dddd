//! Builds the role `worker`: one per consumer group.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::admin::server::Health;
use crate::app::servers::Servers;
use crate::app::supervise::Role;
use crate::engine::alarm::{Alarm, Alert};
use crate::engine::answers::Answers;
use crate::engine::budget::{self, Budget, Parts};
use crate::engine::comeback::{Comeback, Past};
use crate::engine::halt::Halt;
use crate::engine::outbox::{Became, Outbox, Sizes};
use crate::engine::park::{Line, Way};
use crate::engine::sender::SenderSettings;
use crate::engine::settings::{Process, Processing, Stop, WorkerSettings};
use crate::engine::verdict::Verdict;
use crate::engine::watchdog::{self, Attempts, Patience};
use crate::engine::{replayed, run, straight, worker};
use crate::failpoint::{Rule, keeps};
use crate::fault::{Fault, FaultClass};
use crate::kafka::settings::{ConsumerSettings, Fetching, ProducerSettings, TransactionSettings};
use crate::ledger::{Namespace, Outcome};
use crate::plan::Plan;
use crate::plan::pipeline::{Delivery, Group, Ordering, Pipeline};
use crate::record::{InRecord, OutRecord};
use crate::stages::services::Services;
use crate::telemetry::{self, Counter, Histogram, names};

/// A poll thread that has not come round, and a call to Kafka that has not come back, for so long are stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Beside the time-outs of its call, a stage may wait so long: for its turn, a connection, a statement. Margin included.
const STAGE_WAITS: Duration = Duration::from_secs(150);

/// What the workers of one process share.
pub struct Shared<'a> {
    servers: &'a Servers,
    namespace: &'a Namespace,
    services: Arc<Services>,
    parts: Parts,
    budget: Arc<Budget>,
    patience: Patience,
}

impl<'a> Shared<'a> {
    /// Divides the process' memory among `groups` groups.
    pub fn new(plan: &'a Plan, servers: &'a Servers, services: Arc<Services>, groups: usize) -> Self {
        let parts = budget::divide(servers.memory_budget_bytes, groups);
        telemetry::gauge(names::MEMORY_BUDGET, &[], parts.work_bytes as f64);
        let Parts { prefetch_bytes, fetch_bytes, partition_fetch_bytes, queue_bytes, work_bytes } = parts;
        let budget_bytes = servers.memory_budget_bytes;
        tracing::info!(
            budget_bytes,
            groups,
            work_bytes,
            prefetch_bytes,
            fetch_bytes,
            partition_fetch_bytes,
            queue_bytes,
            "memory is divided"
        );
        Self {
            servers,
            namespace: &plan.namespace,
            services,
            parts,
            budget: Budget::new(work_bytes),
            patience: Patience { round: STUCK_AFTER, call: STUCK_AFTER, attempt: longest_attempt(plan) },
        }
    }
}

/// So long one attempt of a stage may take: its call, once more with new credentials, and what it waits for before.
fn longest_attempt(plan: &Plan) -> Duration {
    let timeouts = plan.targets.values().flat_map(|target| {
        let calls = target.calls.values().filter_map(|call| call.timeout);
        calls.chain([target.limits.timeout])
    });
    timeouts.max().unwrap_or_default() * 2 + STAGE_WAITS
}

/// The worker of one group.
///
/// # Errors
/// When the system gives no thread.
pub fn role(group: &Arc<Group>, shared: &Shared<'_>) -> anyhow::Result<Role> {
    let Shared { servers, namespace, services, parts, budget, patience } = shared;
    let mut producer = ProducerSettings::new(servers.kafka.clone());
    producer.queue_bytes = parts.queue_bytes;
    let sizes = Sizes {
        record_bytes_max: producer.message_bytes_max,
        dead_letter_bytes_max: producer.dead_letter_bytes_max,
    };
    let outbox = Outbox::new(Arc::clone(&services.codec), namespace, sizes);
    let mut settings = settings(group, servers, producer);
    settings.budget = Arc::clone(budget);
    hold_to(parts, &mut settings);
    let (beacon, attempts, patience) = (settings.beacon.clone(), Attempts::default(), *patience);
    let halt = settings.halt.clone();
    let process = process(group, Arc::clone(services), outbox, (attempts.clone(), halt));
    let drain = CancellationToken::new();
    let stop = Stop { drain: drain.clone(), now: CancellationToken::new() };
    let running = worker::spawn(settings, process, tokio::runtime::Handle::current(), stop)
        .with_context(|| format!("the worker of group {} cannot start", group.id))?;
    let status = running.status.clone();
    let name = format!("worker {}", group.id);
    let role = name.clone();
    Ok(Role {
        name,
        stop: drain,
        ended: Box::pin(async move { running.ended().await.context("the worker cannot go on") }),
        health: Arc::new(move || {
            let status = status.borrow();
            let (call, attempt) = (beacon.current(), attempts.oldest());
            let stuck = watchdog::judge(Instant::now(), &patience, status.polled_at, call, attempt);
            let live = stuck.is_empty();
            let detail = match (live, &status.stopped, &status.trouble) {
                (false, _, _) => stuck.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                (true, Some(reason), _) => reason.to_string(),
                (true, None, Some(trouble)) => trouble.clone(),
                (true, None, None) => {
                    let held_kib = status.held_bytes >> 10;
                    format!(
                        "{} partitions, lag {}, {held_kib} KiB held",
                        status.partitions.len(),
                        status.lag()
                    )
                }
            };
            let ready = live && status.is_joined && status.stopped.is_none();
            Health { role: role.clone(), live, ready, detail }
        }),
    })
}

fn settings(group: &Group, servers: &Servers, producer: ProducerSettings) -> WorkerSettings {
    let topics = group.topics.iter().map(ToString::to_string).collect();
    let mut consumer = ConsumerSettings::new(servers.kafka.clone(), &*group.id, topics);
    consumer.session_timeout = servers.session_timeout;
    consumer.instance = servers.is_static.then(|| servers.instance.clone());
    let sender = match group.delivery {
        Delivery::ExactlyOnce => {
            let id = format!("{}.{}", group.id, servers.instance);
            let mut settings = TransactionSettings::new(producer, id);
            // Shorter than the session, so that the broker has ended a lost worker's transaction when its partitions go
            // to another.
            settings.timeout = if keeps(Rule::ShortTransactions) {
                settings.timeout.min(servers.session_timeout * 3 / 4)
            } else {
                Duration::from_secs(600)
            };
            SenderSettings::Transactions(settings)
        }
        Delivery::AtLeastOnce => SenderSettings::Plain(producer),
    };
    let mut settings = WorkerSettings::new(consumer, sender);
    settings.lines = lines(group);
    // Where records wait for earlier ones, each is begun when those before it are done.
    let has_tiers = settings.lines.iter().any(|line| !line.companions.tiers.is_empty());
    settings.is_cpu_only = !has_tiers && group.pipelines.iter().all(|pipeline| pipeline.is_cpu_only);
    settings.ordering = strictest(&group.pipelines);
    let concurrency = group.pipelines.iter().map(|pipeline| pipeline.concurrency.get()).max();
    settings.running_max = concurrency.unwrap_or(settings.running_max);
    // Room for all of them in one partition, and for as many done behind a slow one.
    let limits = &mut settings.limits;
    limits.partition_records_max = limits.partition_records_max.max(2 * settings.running_max);
    limits.is_text_bounded = !settings.is_cpu_only && matches!(settings.sender, SenderSettings::Plain(_));
    settings
}

/// The group's part of the process' memory.
fn hold_to(parts: &Parts, settings: &mut WorkerSettings) {
    let Parts { prefetch_bytes, fetch_bytes, partition_fetch_bytes, queue_bytes: _, work_bytes } = *parts;
    settings.consumer.fetching =
        Fetching { prefetch_bytes, answer_bytes: fetch_bytes, partition_bytes: partition_fetch_bytes };
    let limits = &mut settings.limits;
    limits.group_bytes_max = work_bytes;
    limits.partition_bytes_max = limits.partition_bytes_max.min(work_bytes / 2);
}

/// By which ways records come back to the pipelines of a group.
fn lines(group: &Group) -> Vec<Line> {
    let of = |(number, pipeline): (usize, &Arc<Pipeline>)| {
        let keeps_order = pipeline.ordering == Ordering::Key;
        let line = move |companions| Line { pipeline: number, companions, keeps_order };
        pipeline.companions.iter().cloned().map(line).collect::<Vec<_>>()
    };
    group.pipelines.iter().enumerate().flat_map(of).collect()
}

/// One group has one order of work: the strictest that one of its pipelines asks for.
fn strictest(pipelines: &[Arc<Pipeline>]) -> Ordering {
    let has = |ordering| pipelines.iter().any(|pipeline| pipeline.ordering == ordering);
    if has(Ordering::Partition) {
        Ordering::Partition
    } else if has(Ordering::Key) {
        Ordering::Key
    } else {
        Ordering::None
    }
}

/// A pipeline with its counters looked up.
struct Counted {
    pipeline: Arc<Pipeline>,
    succeeded: Counter,
    filtered: Counter,
    dead_lettered: Counter,
    durations: Histogram,
    /// Verdicts come from several threads.
    alarm: Option<Mutex<Alarm>>,
}

/// What is counted of a verdict, which itself goes into the outbox.
struct Seen {
    attempts: u32,
    duration: Duration,
    failure: Option<Failure>,
}

struct Failure {
    class: &'static str,
    stage: Option<Arc<str>>,
    message: Cow<'static, str>,
}

/// Without a fault a record can only become a dead letter by an output that is too large.
const TOO_LARGE: Failure =
    Failure { class: "permanent", stage: None, message: Cow::Borrowed("an output is too large") };

impl Seen {
    fn of(verdict: &Verdict) -> Self {
        let failure = verdict.fault.as_ref().map(|fault| Failure {
            class: fault.class.name(),
            stage: verdict.stage.clone(),
            message: Cow::Owned(fault.message.clone()),
        });
        Self { attempts: verdict.attempts, duration: verdict.duration, failure }
    }
}

impl Counted {
    fn new(pipeline: &Arc<Pipeline>) -> Self {
        let outcome =
            |outcome: Outcome| telemetry::counter(names::EXECUTIONS, &[&pipeline.name, outcome.name()]);
        Self {
            pipeline: Arc::clone(pipeline),
            succeeded: outcome(Outcome::Succeeded),
            filtered: outcome(Outcome::Filtered),
            dead_lettered: outcome(Outcome::DeadLettered),
            durations: telemetry::histogram(names::EXECUTION_DURATION, &[&pipeline.name]),
            alarm: pipeline.stop_above.map(|limit| Mutex::new(Alarm::new(limit))),
        }
    }

    /// Holds a verdict against the pipeline's limit for dead letters.
    fn watch(&self, seen: &Seen, became: Became, services: &Services) -> Option<Alert> {
        let mut alarm = self.alarm.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let now = services.clock.elapsed();
        match became {
            Became::Parked | Became::Ended(Outcome::Filtered) => None,
            Became::Ended(Outcome::Succeeded) => {
                alarm.passed(now);
                None
            }
            Became::Ended(Outcome::DeadLettered) => {
                let Failure { class, stage, message } = seen.failure.as_ref().unwrap_or(&TOO_LARGE);
                alarm.dead(now, class, stage.as_ref(), message)
            }
        }
    }

    /// Counts a verdict as it is released. A repeated record is counted again; the ledger's topic is what counts once.
    fn count(&self, seen: &Seen, became: Became) {
        match became {
            Became::Parked => telemetry::count(names::PARKED, &[&self.pipeline.name, "failed"], 1),
            Became::Ended(Outcome::Succeeded) => self.succeeded.add(1),
            Became::Ended(Outcome::Filtered) => self.filtered.add(1),
            Became::Ended(Outcome::DeadLettered) => {
                self.dead_lettered.add(1);
                let class = seen.failure.as_ref().unwrap_or(&TOO_LARGE).class;
                telemetry::count(names::DEAD_LETTERS, &[&self.pipeline.name, class], 1);
            }
        }
        if seen.attempts > 1 {
            telemetry::count(names::RETRIES, &[&self.pipeline.name], u64::from(seen.attempts - 1));
        }
        self.durations.record(seen.duration);
    }
}

/// A group at work.
struct GroupRun {
    pipelines: Vec<Counted>,
    services: Arc<Services>,
    outbox: Outbox,
    unmatched: Counter,
    halt: Halt,
}

impl GroupRun {
    /// Takes a record the way it is to go.
    async fn run(&self, record: &InRecord, way: &Way, now: DateTime<Utc>) -> Vec<OutRecord> {
        match way {
            Way::Input(behind) => self.input(record, behind, now).await,
            Way::Back { pipeline, behind } => match self.pipelines.get(*pipeline) {
                Some(counted) => counted.back(self, record, *behind, now).await,
                None => Vec::new(),
            },
        }
    }

    /// Takes a record through every pipeline of the group that wants it; but for those in `behind`, it follows earlier
    /// ones of its key into a retry tier.
    async fn input(
        &self,
        record: &InRecord,
        behind: &[(usize, usize)],
        now: DateTime<Utc>,
    ) -> Vec<OutRecord> {
        let mut all = Vec::new();
        let mut is_wanted = false;
        let kind = record.header_text("ce_type").unwrap_or_default();
        let past = Past::default();
        for (number, counted) in self.pipelines.iter().enumerate() {
            if !counted.pipeline.takes(&record.topic, kind) {
                continue;
            }
            is_wanted = true;
            match behind.iter().find(|(pipeline, _)| *pipeline == number) {
                Some((_, tier)) => add(&mut all, counted.following(self, record, &past, *tier, now)),
                None => add(&mut all, counted.through(self, record, &past, now).await),
            }
        }
        if !is_wanted {
            self.unmatched.add(1);
        }
        all
    }

    /// Stops the group: a pipeline cannot stop alone, as its offsets are those of the others of its group, too.
    fn stop(&self, pipeline: &Pipeline, alert: &Alert) {
        let name = &*pipeline.name;
        let reason = format!("pipeline `{name}` is stopped: {alert}");
        if self.halt.stop(&reason) {
            telemetry::gauge(names::PIPELINE_STOPPED, &[name], 1.0);
            tracing::error!(
                "{reason}. Nothing of it is lost: what is not committed is read again after the next start. \
                 `millrace dlq list --pipeline {name} --summary` tells more; mend {place} or what it calls, then \
                 start the worker again. `on_error: {{stop_above: ...}}` sets the limit",
                place = format_args!("pipelines/{name}.yaml"),
            );
        }
    }
}

/// Appends; mostly there is nothing before, and the list is kept as it is.
fn add(all: &mut Vec<OutRecord>, more: Vec<OutRecord>) {
    if all.is_empty() {
        *all = more;
    } else {
        all.extend(more);
    }
}

impl Counted {
    async fn through(
        &self,
        group: &GroupRun,
        record: &InRecord,
        past: &Past,
        now: DateTime<Utc>,
    ) -> Vec<OutRecord> {
        if let Some(verdict) = straight::process(&self.pipeline, record, &group.services, now) {
            return self.written(group, record, past, verdict);
        }
        // Pinned before it is wrapped: what is moved is a pointer.
        let run = std::pin::pin!(run::process(&self.pipeline, record, past, &group.services, now));
        let run = AssertUnwindSafe(run).catch_unwind();
        let verdict = run.await.unwrap_or_else(|_| {
            // A panic is a bug of ours; the record that met it becomes a dead letter and those behind it go on.
            let fault = Fault::new(FaultClass::Bug, "a stage panicked; the log says where");
            failed(fault, now)
        });
        self.written(group, record, past, verdict)
    }

    /// A record that comes back.
    async fn back(
        &self,
        group: &GroupRun,
        record: &InRecord,
        behind: Option<usize>,
        now: DateTime<Utc>,
    ) -> Vec<OutRecord> {
        match (Comeback::read(record.clone()), behind) {
            (Ok(Comeback { record, past }), None) => self.through(group, &record, &past, now).await,
            (Ok(Comeback { record, past }), Some(tier)) => self.following(group, &record, &past, tier, now),
            (Err(malformed), _) => {
                let message = format!("not a record that comes back: {malformed}");
                let verdict = failed(Fault::new(FaultClass::Poison, message), now);
                self.written(group, record, &Past::default(), verdict)
            }
        }
    }

    /// A record that waits behind an earlier one of its key.
    fn following(
        &self,
        group: &GroupRun,
        record: &InRecord,
        past: &Past,
        tier: usize,
        now: DateTime<Utc>,
    ) -> Vec<OutRecord> {
        match group.outbox.following(&self.pipeline, record, past, tier) {
            Some(record) => {
                telemetry::count(names::PARKED, &[&self.pipeline.name, "behind"], 1);
                vec![record]
            }
            None => {
                let message = "too large to wait behind an earlier record of its key";
                let verdict = failed(Fault::new(FaultClass::Permanent, message), now);
                self.written(group, record, past, verdict)
            }
        }
    }

    fn written(&self, group: &GroupRun, record: &InRecord, past: &Past, verdict: Verdict) -> Vec<OutRecord> {
        let seen = Seen::of(&verdict);
        let (became, records) = group.outbox.records(&self.pipeline, record, past, verdict);
        self.count(&seen, became);
        let is_replayed = !past.replay.is_empty() || replayed::is_replayed(&record.headers);
        if !is_replayed && let Some(alert) = self.watch(&seen, became, &group.services) {
            group.stop(&self.pipeline, &alert);
        }
        records
    }
}

fn process(
    group: &Arc<Group>,
    services: Arc<Services>,
    outbox: Outbox,
    (attempts, halt): (Attempts, Halt),
) -> Process {
    let is_cpu_only = group.pipelines.iter().all(|pipeline| pipeline.is_cpu_only);
    for pipeline in &group.pipelines {
        telemetry::gauge(names::PIPELINE_STOPPED, &[&pipeline.name], 0.0);
    }
    let group = Arc::new(GroupRun {
        pipelines: group.pipelines.iter().map(Counted::new).collect(),
        services,
        outbox,
        unmatched: telemetry::counter(names::RECORDS_UNMATCHED, &[&group.id]),
        halt,
    });
    Arc::new(move |record: InRecord, way: Way, now: DateTime<Utc>| {
        if is_cpu_only {
            // Done at the first poll, so the future can stay on the stack. Were it not, nothing has happened yet that
            // cannot happen again below.
            let work = std::pin::pin!(group.run(&record, &way, now));
            if let Some(records) = work.now_or_never() {
                return Processing::Done(records);
            }
        }
        let group = Arc::clone(&group);
        let work = async move { group.run(&record, &way, now).await };
        let mut work = Box::pin(watchdog::watched(attempts.clone(), work));
        // An event that nobody wants, or that is filtered before the first wait, is done at the first poll.
        match work.as_mut().now_or_never() {
            Some(records) => Processing::Done(records),
            None => Processing::Pending(work),
        }
    })
}

/// The verdict on a record that did not get through, or not even to, its first stage.
fn failed(fault: Fault, now: DateTime<Utc>) -> Verdict {
    Verdict {
        outcome: Outcome::DeadLettered,
        parked: None,
        stage: None,
        fault: Some(fault),
        attempts: 1,
        answers: Answers::default(),
        started_at: now,
        duration: Duration::ZERO,
        records: Vec::new(),
        facts: Vec::new(),
    }
}
