//! The projector's consumer: a thread that polls, and a bounded lane per partition to whoever folds it.
//!
//! Positions are not Kafka's here: on assignment the reader asks where to begin ([`Event::Assigned`]) and polls on
//! while it waits, so that a database that is down does not cost the membership. A partition whose lane is full is
//! paused; a revoked one is given away when its last transaction has ended ([`Event::Revoked`]).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::mpsc as tokio_mpsc;
use tokio::sync::oneshot;

use crate::kafka::consumer::{CommitMode, ConsumerError, From, GroupConsumer, Intent};
use crate::kafka::settings::ConsumerSettings;
use crate::position::{NextOffset, Partition};
use crate::record::InRecord;

/// Most records of one poll.
const POLL_RECORDS_MAX: usize = 5_000;
/// Longest wait in one poll.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// Batches a lane holds at most.
const LANE_BATCHES_MAX: usize = 64;
/// How long a full lane is waited for before its partition is paused: a pause throws away what was fetched.
const FULL_WAIT: Duration = Duration::from_millis(10);
/// How often ends of partitions are noted.
const ENDS_EVERY: Duration = Duration::from_secs(1);

/// Before a broker that did not answer is asked again; polling goes on meanwhile.
const ASK_PAUSE: Duration = Duration::from_millis(250);

/// Bytes of a record beside key, value and headers.
const RECORD_BYTES: usize = 64;

/// Records of one partition, in order.
#[derive(Debug)]
pub struct Batch {
    /// The records; at least one.
    pub records: Vec<InRecord>,
    /// Their share of the lane.
    pub bytes: usize,
}

/// The reading end of a partition's lane.
#[derive(Debug)]
pub struct Lane {
    /// Batches in order; ends when the partition is given away.
    pub batches: tokio_mpsc::Receiver<Batch>,
    queued: Arc<AtomicUsize>,
}

impl Lane {
    /// Says that a batch is folded, so that its bytes are free for others.
    pub fn release(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The writing end.
#[derive(Debug)]
pub struct LaneSender {
    batches: tokio_mpsc::Sender<Batch>,
    queued: Arc<AtomicUsize>,
}

/// A lane.
pub fn lane() -> (LaneSender, Lane) {
    let (sender, batches) = tokio_mpsc::channel(LANE_BATCHES_MAX);
    let queued = Arc::new(AtomicUsize::new(0));
    (LaneSender { batches: sender, queued: Arc::clone(&queued) }, Lane { batches, queued })
}

/// A partition that is offered, with what the broker holds of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offered {
    /// The partition.
    pub partition: Partition,
    /// The oldest record that is kept.
    pub oldest: NextOffset,
    /// One past the newest.
    pub end: NextOffset,
}

/// Where to begin and where to send.
#[derive(Debug)]
pub struct Begin {
    /// The partition.
    pub partition: Partition,
    /// The first record wanted.
    pub next: NextOffset,
    /// Where its records go.
    pub lane: LaneSender,
}

/// What the reader tells.
#[derive(Debug)]
pub enum Event {
    /// The group gives these partitions; the answer says where to begin. No answer: the reader ends.
    Assigned(Vec<Offered>, oneshot::Sender<Vec<Begin>>),
    /// The group takes these partitions; the answer says that nothing is written for them any more.
    Revoked(Vec<Partition>, oneshot::Sender<()>),
    /// The reader has ended.
    Failed(ConsumerError),
}

/// What the reader is told.
#[derive(Debug)]
pub enum Command {
    /// Read a partition again from elsewhere. Ignored when it has been given away.
    Restart(Begin),
    /// Write positions to the group, for tools that show lag; nothing here reads them.
    Commit(Vec<(Partition, NextOffset)>),
    /// Leave the group and end.
    Stop,
}

/// Ends of the partitions that are read, as the last fetch told.
pub type Ends = Arc<Mutex<HashMap<Partition, NextOffset>>>;

/// Handle of the reader's thread.
pub struct Reader {
    commands: mpsc::Sender<Command>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Ends of the partitions that are read.
    pub ends: Ends,
}

impl Reader {
    /// Joins the group and starts the thread. A lane takes at most `lane_bytes_max` bytes, or one batch.
    ///
    /// # Errors
    /// When librdkafka refuses the settings, or no thread can be made.
    pub fn start(
        settings: &ConsumerSettings,
        lane_bytes_max: usize,
        events: tokio_mpsc::Sender<Event>,
    ) -> Result<Self, ConsumerError> {
        let consumer = GroupConsumer::join(settings)?;
        let (commands, inbox) = mpsc::channel();
        let ends = Ends::default();
        let mut poller = Poller {
            consumer,
            events,
            inbox,
            ends: Arc::clone(&ends),
            lane_bytes_max,
            lanes: HashMap::new(),
            intents: VecDeque::new(),
            restarts: Vec::new(),
            pending: None,
            ask_at: Instant::now(),
        };
        let thread = std::thread::spawn(move || {
            if let Err(error) = poller.run() {
                // Nobody listens any more when the role has ended.
                let _unheard = poller.events.blocking_send(Event::Failed(error));
            }
        });
        Ok(Self { commands, thread: Some(thread), ends })
    }

    /// Tells the reader something; it may have ended.
    pub fn tell(&self, command: Command) {
        let _ended = self.commands.send(command);
    }

    /// Leaves the group and waits for the thread. May take seconds.
    pub fn stop(mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// A rebalance that waits for its answer.
enum Pending {
    Assign(oneshot::Receiver<Vec<Begin>>),
    Revoke(Vec<Partition>, oneshot::Receiver<()>),
}

struct Outlet {
    lane: LaneSender,
    held: VecDeque<Batch>,
    is_paused: bool,
}

struct Poller {
    consumer: GroupConsumer,
    events: tokio_mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Command>,
    ends: Ends,
    lane_bytes_max: usize,
    lanes: HashMap<Partition, Outlet>,
    intents: VecDeque<Intent>,
    restarts: Vec<Begin>,
    pending: Option<Pending>,
    /// When the broker may be asked again.
    ask_at: Instant,
}

/// Whether to go on.
enum Next {
    Poll,
    Stop,
}

impl Poller {
    fn run(&mut self) -> Result<(), ConsumerError> {
        let mut records = Vec::new();
        let mut ends_due = Instant::now();
        loop {
            self.consumer.poll(POLL_RECORDS_MAX, POLL_WAIT, &mut records)?;
            self.hand_out(&mut records)?;
            self.intents.extend(self.consumer.take_intents());
            if let Some(error) = self.consumer.take_commit_failure() {
                tracing::debug!(%error, "the projector's lag in the group is out of date");
            }
            if let Next::Stop = self.obey()? {
                return Ok(());
            }
            self.restart();
            if let Next::Stop = self.rebalance()? {
                return Ok(());
            }
            self.resume()?;
            if ends_due <= Instant::now() {
                self.note_ends();
                ends_due = Instant::now() + ENDS_EVERY;
            }
        }
    }

    /// Sorts records into lanes. Records of partitions that are being given away are left: their position is kept
    /// elsewhere, and the next owner reads them.
    fn hand_out(&mut self, records: &mut Vec<InRecord>) -> Result<(), ConsumerError> {
        let mut batches: HashMap<(Arc<str>, i32), Batch> = HashMap::new();
        for record in records.drain(..) {
            let key = (Arc::clone(&record.topic), record.partition);
            let batch = batches.entry(key).or_insert_with(|| Batch { records: Vec::new(), bytes: 0 });
            batch.bytes += record.size_bytes() + RECORD_BYTES;
            batch.records.push(record);
        }
        let mut full = Vec::new();
        for ((topic, number), batch) in batches {
            let partition = Partition { topic, number };
            let Some(outlet) = self.lanes.get_mut(&partition) else { continue };
            outlet.held.push_back(batch);
            if !outlet.flush_patiently(self.lane_bytes_max) && !outlet.is_paused {
                outlet.is_paused = true;
                full.push(partition);
            }
        }
        if full.is_empty() { Ok(()) } else { self.consumer.pause(&full) }
    }

    fn obey(&mut self) -> Result<Next, ConsumerError> {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Restart(begin)) => self.restarts.push(begin),
                Ok(Command::Commit(positions)) => {
                    let ours: Vec<_> = positions
                        .into_iter()
                        .filter(|(partition, _)| self.lanes.contains_key(partition))
                        .map(|(partition, next)| self.consumer.commit_of(partition, next, String::new()))
                        .collect();
                    if !ours.is_empty()
                        && let Err(error) = self.consumer.commit(&ours, CommitMode::Async)
                    {
                        tracing::debug!(error = %error, "the projector's lag in the group is out of date");
                    }
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return Ok(Next::Stop),
                Err(mpsc::TryRecvError::Empty) => return Ok(Next::Poll),
            }
        }
    }

    /// Reads again what was asked for. A broker that does not answer is asked again a little later.
    fn restart(&mut self) {
        if Instant::now() < self.ask_at {
            return;
        }
        for begin in std::mem::take(&mut self.restarts) {
            let Some(outlet) = self.lanes.get_mut(&begin.partition) else { continue };
            match self.consumer.seek(&[(begin.partition.clone(), From::Offset(begin.next))]) {
                Ok(()) => {
                    outlet.held.clear();
                    outlet.lane = begin.lane;
                }
                Err(error) => {
                    tracing::warn!(error = crate::telemetry::logs::chain(&error), "reading again waits");
                    self.ask_at = Instant::now() + ASK_PAUSE;
                    self.restarts.push(begin);
                }
            }
        }
    }

    fn rebalance(&mut self) -> Result<Next, ConsumerError> {
        match self.pending.take() {
            None => self.follow(),
            Some(Pending::Assign(mut answer)) => match answer.try_recv() {
                Ok(begins) => self.assign(begins),
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.pending = Some(Pending::Assign(answer));
                    Ok(Next::Poll)
                }
                Err(oneshot::error::TryRecvError::Closed) => Ok(Next::Stop),
            },
            Some(Pending::Revoke(partitions, mut answer)) => match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.pending = Some(Pending::Revoke(partitions, answer));
                    Ok(Next::Poll)
                }
                Ok(()) | Err(oneshot::error::TryRecvError::Closed) => {
                    self.consumer.unassign(&partitions)?;
                    Ok(Next::Poll)
                }
            },
        }
    }

    /// Begins with the next thing the group wants.
    fn follow(&mut self) -> Result<Next, ConsumerError> {
        let (event, pending) = match self.intents.pop_front() {
            None => return Ok(Next::Poll),
            Some(intent @ Intent::Assign(_)) if Instant::now() < self.ask_at => {
                self.intents.push_front(intent);
                return Ok(Next::Poll);
            }
            Some(Intent::Assign(partitions)) => {
                let offered = match self.offered(&partitions) {
                    Ok(offered) => offered,
                    Err(error) => {
                        // The broker that leads one of them is away; the group has patience.
                        tracing::warn!(error = crate::telemetry::logs::chain(&error), "assignment waits");
                        self.ask_at = Instant::now() + ASK_PAUSE;
                        self.intents.push_front(Intent::Assign(partitions));
                        return Ok(Next::Poll);
                    }
                };
                let (answer, waiting) = oneshot::channel();
                (Event::Assigned(offered, answer), Pending::Assign(waiting))
            }
            Some(Intent::Revoke(partitions) | Intent::Lost(partitions)) => {
                let paused: Vec<Partition> = partitions
                    .iter()
                    .filter_map(|partition| {
                        let outlet = self.lanes.remove(partition)?;
                        outlet.is_paused.then(|| partition.clone())
                    })
                    .collect();
                if !paused.is_empty() {
                    self.consumer.resume(&paused)?;
                }
                let (answer, waiting) = oneshot::channel();
                (Event::Revoked(partitions.clone(), answer), Pending::Revoke(partitions, waiting))
            }
        };
        self.pending = Some(pending);
        match self.events.blocking_send(event) {
            Ok(()) => Ok(Next::Poll),
            Err(_ended) => Ok(Next::Stop),
        }
    }

    fn offered(&self, partitions: &[Partition]) -> Result<Vec<Offered>, ConsumerError> {
        let offer = |partition: &Partition| {
            let (oldest, end) = self.consumer.range_of(partition)?;
            Ok(Offered { partition: partition.clone(), oldest, end })
        };
        partitions.iter().map(offer).collect()
    }

    fn assign(&mut self, begins: Vec<Begin>) -> Result<Next, ConsumerError> {
        let positions: Vec<(Partition, From)> =
            begins.iter().map(|begin| (begin.partition.clone(), From::Offset(begin.next))).collect();
        self.consumer.assign(&positions)?;
        for Begin { partition, next: _, lane } in begins {
            self.lanes.insert(partition, Outlet { lane, held: VecDeque::new(), is_paused: false });
        }
        Ok(Next::Poll)
    }

    fn resume(&mut self) -> Result<(), ConsumerError> {
        let mut free = Vec::new();
        for (partition, outlet) in &mut self.lanes {
            let is_half_empty = outlet.lane.queued.load(Ordering::Relaxed) <= self.lane_bytes_max / 2;
            if outlet.is_paused && is_half_empty && outlet.flush(self.lane_bytes_max) {
                outlet.is_paused = false;
                free.push(partition.clone());
            }
        }
        if free.is_empty() { Ok(()) } else { self.consumer.resume(&free) }
    }

    fn note_ends(&self) {
        let ends = self
            .lanes
            .keys()
            .filter_map(|partition| Some((partition.clone(), self.consumer.end_of(partition)?)));
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = ends.collect();
    }
}

impl Outlet {
    /// Hands over what is held; whether nothing is left. A lane that nobody reads any more takes everything: its
    /// partition is about to be begun again or given away.
    fn flush(&mut self, bytes_max: usize) -> bool {
        while let Some(batch) = self.held.pop_front() {
            let queued = self.lane.queued.load(Ordering::Relaxed);
            if queued > 0 && queued + batch.bytes > bytes_max {
                self.held.push_front(batch);
                return false;
            }
            // Before it is sent: the other side may release it at once.
            let bytes = batch.bytes;
            self.lane.queued.fetch_add(bytes, Ordering::Relaxed);
            let Err(refused) = self.lane.batches.try_send(batch) else { continue };
            self.lane.queued.fetch_sub(bytes, Ordering::Relaxed);
            if let tokio_mpsc::error::TrySendError::Full(batch) = refused {
                self.held.push_front(batch);
                return false;
            }
        }
        true
    }

    fn flush_patiently(&mut self, bytes_max: usize) -> bool {
        let give_up = Instant::now() + FULL_WAIT;
        loop {
            if self.flush(bytes_max) {
                return true;
            }
            if self.is_paused || Instant::now() >= give_up {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
