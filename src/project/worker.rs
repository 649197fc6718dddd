//! The role: owns the lanes, follows the group's rebalances, and hands partitions from owner to owner.
//!
//! Positions live in Postgres beside the rows. Taking a partition over raises its epoch there before the first fetch,
//! so that whatever an earlier owner still writes fails. Offsets in Kafka's group are written for tools that show
//! lag; nobody reads them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::kafka::consumer::ConsumerError;
use crate::kafka::producer::StartError;
use crate::kafka::reader::{self, Begin, Command, Event, Offered, Reader};
use crate::kafka::settings::ConsumerSettings;
use crate::kafka::tail;
use crate::plan::kpis::KpiSpec;
use crate::position::{NextOffset, Partition};
use crate::postgres::fault::SqlFault;
use crate::project::definitions::Active;
use crate::project::fold::Target;
use crate::project::lane::{Ended, PartitionLane, show};
use crate::project::publish;
use crate::project::retention::Retention;
use crate::project::settings::{ProjectSettings, ProjectSpecs, ProjectStatus};
use crate::project::store::{Position, Store};
use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;
use crate::telemetry::{self, logs, names};

/// How often lag is shown and positions are written to the group.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How often positions are held against Postgres, so that a database that was put back is noticed though nothing comes
/// in.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long that may take; a rebalance waits meanwhile.
const CHECK_MAX: Duration = Duration::from_secs(2);

/// Why the role ended.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// A schema cannot be had.
    #[error("topic {topic}: its schema cannot be had")]
    Schema {
        /// Topic.
        topic: String,
        /// Why.
        source: SchemaError,
    },
    /// The consumer ended.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    /// No producer for the KPI topic.
    #[error(transparent)]
    Producer(#[from] StartError),
    /// Records were deleted before they were folded, or the topic was made anew.
    #[error(
        "{partition}: the position is {}, and Kafka has offsets {} to {}: {}. To go on without them, set next_offset of \
         this partition in table projector_positions to {}",
        .position.0, .oldest.0, .end.0, missing(*.position, *.oldest, *.end),
        if position.0 < oldest.0 { oldest.0 } else { end.0 }
    )]
    Gone {
        /// Partition.
        partition: Partition,
        /// Position in Postgres.
        position: NextOffset,
        /// Oldest record in Kafka.
        oldest: NextOffset,
        /// End in Kafka.
        end: NextOffset,
    },
}

/// What a position that Kafka does not have means.
fn missing(position: NextOffset, oldest: NextOffset, end: NextOffset) -> String {
    if position < oldest {
        let (first, last, count) = (position.0, oldest.0 - 1, oldest.0 - position.0);
        format!(
            "offsets {first} to {last} ({count}) were deleted before they were folded and are lost to the tables"
        )
    } else {
        let count = position.0 - end.0;
        format!("it has {count} fewer than were folded; the topic was made anew, or Kafka was put back")
    }
}

/// Runs the projector until `shutdown`. Postgres, the registry and Kafka may be away in between: it waits and goes on.
/// The tables and views must exist ([`crate::project::apply::run`]).
///
/// # Errors
/// [`ProjectError`]: what waiting does not mend.
pub async fn run(
    settings: ProjectSettings,
    specs: ProjectSpecs,
    services: Services,
    status: ProjectStatus,
    shutdown: CancellationToken,
) -> Result<(), ProjectError> {
    let Services { codec, pool } = services;
    let targets = targets(&settings, &specs, &codec).await?;
    let facts = settings.namespace.kpi_facts_topic();
    let group = settings.namespace.name("project");
    let mut consumer =
        ConsumerSettings::new(settings.connection.clone(), &*group, targets.keys().cloned().collect());
    consumer.session_timeout = settings.session_timeout;
    consumer.fetching.prefetch_bytes = 16 << 20;
    let publisher = publish::Publisher::start(&settings, pool.clone())?;
    let (events, inbox) = mpsc::channel(16);
    let reader = Reader::start(&consumer, settings.lane_bytes_max, events)?;
    let (ended, ends) = mpsc::channel(1024);
    let store = Store { pool, group: group.to_string() };
    let retention = Retention::of(&settings, &specs.kpis, &store.pool);
    let deleting = retention.map(|retention| tokio::spawn(retention.run(shutdown.child_token())));
    let stop_publisher = CancellationToken::new();
    let publishing = tokio::spawn(publisher.run(stop_publisher.clone()));
    let ProjectSpecs { kpis, tables: _ } = specs;
    let mut worker = Worker {
        settings,
        targets,
        facts,
        kpis,
        active: Active::default(),
        codec,
        store,
        status,
        reader,
        lanes: HashMap::new(),
        ended,
        shutdown,
    };
    let result = worker.run(inbox, ends).await;
    let lanes = std::mem::take(&mut worker.lanes);
    stop_lanes(lanes.into_values()).await;
    if let Some(deleting) = deleting {
        deleting.abort();
    }
    stop_publisher.cancel();
    let _panicked = publishing.await;
    let Worker { reader, .. } = worker;
    let _panicked = tokio::task::spawn_blocking(move || reader.stop()).await;
    result
}

/// What the projector works with.
#[derive(Clone, Debug)]
pub struct Services {
    /// How values are read.
    pub codec: Arc<Codec>,
    /// Connections to Postgres; a dozen serve all partitions.
    pub pool: PgPool,
}

/// What each topic's records become.
async fn targets(
    settings: &ProjectSettings,
    specs: &ProjectSpecs,
    codec: &Codec,
) -> Result<HashMap<String, Arc<Target>>, ProjectError> {
    let ProjectSpecs { kpis, tables } = specs;
    let namespace = &settings.namespace;
    let mut targets = HashMap::new();
    targets.insert(namespace.executions_topic().to_string(), Arc::new(Target::Executions));
    targets.insert(namespace.kpi_facts_topic().to_string(), Arc::new(Target::Facts(kpis.clone())));
    for spec in tables {
        let schema = codec
            .declare(&spec.topic, &spec.schema)
            .await
            .map_err(|source| ProjectError::Schema { topic: spec.topic.to_string(), source })?;
        targets.insert(spec.topic.to_string(), Arc::new(Target::Table(spec.clone(), schema)));
    }
    Ok(targets)
}

struct RunningLane {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Worker {
    settings: ProjectSettings,
    targets: HashMap<String, Arc<Target>>,
    /// The topic of KPI facts.
    facts: Arc<str>,
    /// KPIs as the files have them; what is folded by stands in the database.
    kpis: Vec<KpiSpec>,
    /// What is folded by.
    active: Active,
    codec: Arc<Codec>,
    store: Store,
    status: ProjectStatus,
    reader: Reader,
    lanes: HashMap<Partition, RunningLane>,
    /// Lanes report here that they do not own their partition any more.
    ended: mpsc::Sender<(Partition, Ended)>,
    shutdown: CancellationToken,
}

impl Worker {
    async fn run(
        &mut self,
        mut inbox: mpsc::Receiver<Event>,
        mut ended: mpsc::Receiver<(Partition, Ended)>,
    ) -> Result<(), ProjectError> {
        let mut report = tokio::time::interval(REPORT_EVERY);
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                event = inbox.recv() => match event {
                    None => return Ok(()),
                    Some(Event::Failed(error)) => return Err(self.failed(error).await),
                    Some(Event::Revoked(partitions, answer)) => {
                        self.revoke(&partitions).await;
                        let _reader_ended = answer.send(());
                    }
                    Some(Event::Assigned(offered, answer)) => {
                        let Some(begins) = self.assign(offered).await? else { return Ok(()) };
                        let _reader_ended = answer.send(begins);
                    }
                },
                Some((partition, why)) = ended.recv() => self.take_back(partition, why).await?,
                _ = report.tick() => self.report(),
                _ = check.tick() => self.check().await,
            }
        }
    }

    /// Takes partitions over, waiting while Postgres is away; `None` when the role ends meanwhile.
    async fn assign(&mut self, offered: Vec<Offered>) -> Result<Option<Vec<Begin>>, ProjectError> {
        let mut taken = Vec::with_capacity(offered.len());
        for Offered { partition, oldest, end } in offered {
            let Some(position) = self.take_over(&partition, oldest).await else { return Ok(None) };
            if position.next < oldest || position.next > end {
                return Err(ProjectError::Gone { partition, position: position.next, oldest, end });
            }
            taken.push((partition, position));
        }
        if !self.define(taken.iter().map(|(partition, _)| partition)).await {
            return Ok(None);
        }
        let begins: Vec<Begin> =
            taken.into_iter().filter_map(|(partition, position)| self.begin(partition, position)).collect();
        tracing::info!(partitions = begins.len(), "the projector owns more partitions");
        Ok(Some(begins))
    }

    /// Takes a partition over; `None` when the role ends before Postgres answers.
    async fn take_over(&self, partition: &Partition, oldest: NextOffset) -> Option<Position> {
        self.patiently(|| self.store.take_over(partition, oldest)).await
    }

    /// Reads what KPIs are folded by, when one of `partitions` holds facts. After they were taken over: definitions that
    /// change later are noticed by the positions. False when the role ends before Postgres answers.
    async fn define(&mut self, mut partitions: impl Iterator<Item = &Partition>) -> bool {
        if !partitions.any(|partition| partition.topic == self.facts) {
            return true;
        }
        let Some(active) = self.patiently(|| self.store.active(&self.kpis)).await else { return false };
        if active != self.active {
            for note in &active.notes {
                tracing::warn!("{note}");
            }
            self.targets.insert(self.facts.to_string(), Arc::new(Target::Facts(active.kpis.clone())));
            self.active = active;
        }
        true
    }

    /// Asks Postgres until it answers; `None` when the role ends before.
    async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, SqlFault>>,
    {
        let mut pause = Duration::from_millis(100);
        loop {
            match ask().await {
                Ok(answer) => return Some(answer),
                Err(fault) => {
                    tracing::warn!(error = logs::chain(&fault), "the projector waits for Postgres")
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.0))) => {}
            }
            pause = (pause * 2).min(self.settings.retry_max);
        }
    }

    /// Starts a partition's lane. `None` for a topic that is not ours, which the subscription cannot give.
    fn begin(&mut self, partition: Partition, position: Position) -> Option<Begin> {
        let target = Arc::clone(self.targets.get(&*partition.topic)?);
        let (sender, lane) = reader::lane();
        let stop = CancellationToken::new();
        let work = PartitionLane {
            partition: partition.clone(),
            target,
            codec: Arc::clone(&self.codec),
            store: self.store.clone(),
            position,
            connection: self.settings.connection.clone(),
            batch_records_max: self.settings.batch_records_max,
            retry_max: self.settings.retry_max,
            status: self.status.clone(),
            stop: stop.clone(),
        };
        show(&self.status, &partition, position.next);
        let (ended, own) = (self.ended.clone(), partition.clone());
        let wait = self.settings.fenced_wait;
        let token = stop.clone();
        let task = tokio::spawn(async move {
            let why = work.run(lane).await;
            if why == Ended::Fenced {
                tracing::warn!(partition = %own, "another projector owns this partition now");
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
            if why != Ended::Stopped && !token.is_cancelled() {
                let _role_ended = ended.send((own, why)).await;
            }
        });
        self.lanes.insert(partition.clone(), RunningLane { stop, task });
        Some(Begin { partition, next: position.next, lane: sender })
    }

    /// The group still gives us a partition that was taken from us, or whose position was put back: begin again. What
    /// Kafka does not keep any more ends the role; a database that was put back to before the partition was first
    /// folded begins with the oldest record that is kept, as it did then.
    async fn take_back(&mut self, partition: Partition, why: Ended) -> Result<(), ProjectError> {
        if self.lanes.remove(&partition).is_none() {
            return Ok(());
        }
        let Some((oldest, end)) = self.kept(&partition, why).await else {
            self.ask_again(partition, why);
            return Ok(());
        };
        let Some(position) = self.take_over(&partition, oldest).await else { return Ok(()) };
        if position.next < oldest || position.next > end {
            return Err(ProjectError::Gone { partition, position: position.next, oldest, end });
        }
        if !self.define([&partition].into_iter()).await {
            return Ok(());
        }
        tracing::warn!(%partition, next = position.next.0, ?why, "the projector begins this partition again");
        if let Some(begin) = self.begin(partition, position) {
            self.reader.tell(Command::Restart(begin));
        }
        Ok(())
    }

    /// What Kafka keeps of a partition that begins again; `None` when it does not answer. Not asked when only KPIs were
    /// defined anew: the position is where it was.
    async fn kept(&self, partition: &Partition, why: Ended) -> Option<(NextOffset, NextOffset)> {
        if why == Ended::Redefined {
            return Some((NextOffset(0), NextOffset(i64::MAX)));
        }
        let (connection, asked) = (self.settings.connection.clone(), partition.clone());
        let range = tokio::task::spawn_blocking(move || tail::range(&connection, &asked)).await;
        match range {
            Ok(Ok(range)) => Some(range),
            Ok(Err(error)) => {
                tracing::warn!(%partition, error = logs::chain(&error), "beginning again waits for Kafka");
                None
            }
            Err(_panicked) => None,
        }
    }

    /// Looks whether the database was put back while nothing came in: positions only ever grow.
    async fn check(&mut self) {
        let shown = self.status.partitions();
        let asked = tokio::time::timeout(CHECK_MAX, self.store.positions()).await;
        let Ok(Ok(found)) = asked else { return };
        let is_back = |partition: &Partition, shown: NextOffset| {
            found.get(partition).is_none_or(|position| position.next < shown)
        };
        for (partition, status) in shown {
            if !is_back(&partition, status.next) {
                continue;
            }
            let Some(lane) = self.lanes.get(&partition) else { continue };
            tracing::warn!(%partition, "the position was put back");
            lane.stop.cancel();
            // Not waited for here: `take_back` runs when the lane has ended.
            let (ended, stopped) = (self.ended.clone(), partition.clone());
            if let Some(lane) = self.lanes.remove(&partition) {
                let stop = CancellationToken::new();
                let token = stop.clone();
                let task = tokio::spawn(async move {
                    let _panicked = lane.task.await;
                    if !token.is_cancelled() {
                        let _role_ended = ended.send((stopped, Ended::Moved)).await;
                    }
                });
                self.lanes.insert(partition, RunningLane { stop, task });
            }
        }
    }

    /// Says which records are missing, when the reader found that some are.
    async fn failed(&self, error: ConsumerError) -> ProjectError {
        if !matches!(error, ConsumerError::OffsetOutOfRange { .. }) {
            return error.into();
        }
        let (connection, shown) = (self.settings.connection.clone(), self.status.partitions());
        let find = move || {
            shown.into_iter().find_map(|(partition, status)| {
                let (oldest, end) = tail::range(&connection, &partition).ok()?;
                let position = status.next;
                let is_gone = position < oldest || position > end;
                is_gone.then_some(ProjectError::Gone { partition, position, oldest, end })
            })
        };
        tokio::task::spawn_blocking(find).await.ok().flatten().unwrap_or(error.into())
    }

    fn ask_again(&mut self, partition: Partition, why: Ended) {
        let stop = CancellationToken::new();
        let (ended, own, token) = (self.ended.clone(), partition.clone(), stop.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = tokio::time::sleep(REPORT_EVERY) => { let _role_ended = ended.send((own, why)).await; }
            }
        });
        self.lanes.insert(partition, RunningLane { stop, task });
    }

    /// Ends the lanes of partitions that are given away; a transaction in flight ends first.
    async fn revoke(&mut self, partitions: &[Partition]) {
        let lanes: Vec<RunningLane> =
            partitions.iter().filter_map(|partition| self.lanes.remove(partition)).collect();
        stop_lanes(lanes.into_iter()).await;
        self.status.change(|shown| shown.retain(|partition, _| !partitions.contains(partition)));
    }

    fn report(&self) {
        let ends = self.reader.ends.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.status.change(|shown| {
            for (partition, status) in shown.iter_mut() {
                status.end = ends.get(partition).copied().or(status.end);
            }
        });
        let shown = self.status.partitions();
        for (partition, status) in &shown {
            let number = partition.number.to_string();
            telemetry::gauge(names::PROJECTOR_LAG, &[&partition.topic, &number], status.lag() as f64);
        }
        let positions = shown.into_iter().map(|(partition, status)| (partition, status.next)).collect();
        self.reader.tell(Command::Commit(positions));
    }
}

async fn stop_lanes(lanes: impl Iterator<Item = RunningLane>) {
    let lanes: Vec<RunningLane> = lanes.inspect(|lane| lane.stop.cancel()).collect();
    for lane in lanes {
        let _panicked = lane.task.await;
    }
}
