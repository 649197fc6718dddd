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
use tokio_util::sync::CancellationToken;

use crate::kafka::consumer::ConsumerError;
use crate::kafka::producer::StartError;
use crate::kafka::reader::{self, Begin, Command, Event, Offered, Reader};
use crate::kafka::settings::ConsumerSettings;
use crate::position::{NextOffset, Partition};
use crate::project::fold::Target;
use crate::project::lane::{Ended, PartitionLane, show};
use crate::project::publish;
use crate::project::settings::{ProjectSettings, ProjectSpecs, ProjectStatus};
use crate::project::store::{Position, Store};
use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;
use crate::telemetry::{self, logs, names};

/// How often lag is shown and positions are written to the group.
const REPORT_EVERY: Duration = Duration::from_secs(1);

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
        "{partition}: the position is {position:?}, and Kafka has the records from {oldest:?} to {end:?}; what lies \
         between is lost to the tables. To go on without it, set projector_positions.next_offset"
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
    let group = settings.namespace.name("project");
    let mut consumer =
        ConsumerSettings::new(settings.connection.clone(), &*group, targets.keys().cloned().collect());
    consumer.session_timeout = settings.session_timeout;
    consumer.prefetch_bytes = 16 << 20;
    let publisher = publish::Publisher::start(&settings, pool.clone())?;
    let (events, inbox) = mpsc::channel(16);
    let reader = Reader::start(&consumer, settings.lane_bytes_max, events)?;
    let (ended, ends) = mpsc::channel(1024);
    let store = Store { pool, group: group.to_string() };
    let stop_publisher = CancellationToken::new();
    let publishing = tokio::spawn(publisher.run(stop_publisher.clone()));
    let mut worker =
        Worker { settings, targets, codec, store, status, reader, lanes: HashMap::new(), ended, shutdown };
    let result = worker.run(inbox, ends).await;
    let lanes = std::mem::take(&mut worker.lanes);
    stop_lanes(lanes.into_values()).await;
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
        let shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                event = inbox.recv() => match event {
                    None => return Ok(()),
                    Some(Event::Failed(error)) => return Err(error.into()),
                    Some(Event::Revoked(partitions, answer)) => {
                        self.revoke(&partitions).await;
                        let _reader_ended = answer.send(());
                    }
                    Some(Event::Assigned(offered, answer)) => {
                        let Some(begins) = self.assign(offered).await? else { return Ok(()) };
                        let _reader_ended = answer.send(begins);
                    }
                },
                Some((partition, why)) = ended.recv() => self.take_back(partition, why).await,
                _ = report.tick() => self.report(),
            }
        }
    }

    /// Takes partitions over, waiting while Postgres is away; `None` when the role ends meanwhile.
    async fn assign(&mut self, offered: Vec<Offered>) -> Result<Option<Vec<Begin>>, ProjectError> {
        let mut begins = Vec::with_capacity(offered.len());
        for Offered { partition, oldest, end } in offered {
            let Some(position) = self.take_over(&partition, oldest).await else { return Ok(None) };
            if position.next < oldest || position.next > end {
                return Err(ProjectError::Gone { partition, position: position.next, oldest, end });
            }
            if let Some(begin) = self.begin(partition, position) {
                begins.push(begin);
            }
        }
        tracing::info!(partitions = begins.len(), "the projector owns more partitions");
        Ok(Some(begins))
    }

    async fn take_over(&self, partition: &Partition, oldest: NextOffset) -> Option<Position> {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.store.take_over(partition, oldest).await {
                Ok(position) => return Some(position),
                Err(fault) => {
                    tracing::warn!(%partition, error = logs::chain(&fault), "the projector waits for Postgres")
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

    /// The group still gives us a partition that was taken from us, or whose position was put back: begin again.
    async fn take_back(&mut self, partition: Partition, why: Ended) {
        if self.lanes.remove(&partition).is_none() {
            return;
        }
        let Ok(Some(found)) = self.store.position(&partition).await.map_err(|fault| {
            tracing::warn!(%partition, error = logs::chain(&fault), "cannot read the position");
        }) else {
            return self.ask_again(partition, why);
        };
        let Some(position) = self.take_over(&partition, found.next).await else { return };
        tracing::warn!(%partition, next = position.next.0, ?why, "the projector begins this partition again");
        if let Some(begin) = self.begin(partition, position) {
            self.reader.tell(Command::Restart(begin));
        }
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
