//! The thread that sends: one order at a time, while the poll thread goes on reading and working.
//!
//! Transactional calls block, for as long as a broker is away. On the poll thread they would keep it from serving the
//! group. So the poll thread hands over what is ready whenever this thread is idle; under load what is ready grows
//! meanwhile, and with it the transaction. Only this thread touches the transaction, only the poll thread the consumer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::failpoint::{Rule, keeps};
use crate::kafka::beacon::Beacon;
use crate::kafka::queue::Waker;
use crate::kafka::settings::{ProducerSettings, TransactionSettings};
use crate::kafka::txn::{Batch, PlainSender, Transactor, TxnError};
use crate::record::OutRecord;

/// How often an idle sender serves its producers.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// Pauses between attempts to reach the coordinator.
const RECOVER_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How records leave.
#[derive(Clone, Debug)]
pub enum SenderSettings {
    /// In transactions, with the offsets.
    Transactions(TransactionSettings),
    /// Acknowledged, the offsets committed afterwards.
    Plain(ProducerSettings),
}

impl SenderSettings {
    /// Within this time a record is acknowledged or has failed.
    pub(super) fn delivery_timeout(&self) -> Duration {
        match self {
            Self::Transactions(settings) => settings.delivery_timeout(),
            Self::Plain(settings) => settings.delivery_timeout,
        }
    }
}

/// One thing to send.
pub enum Order {
    /// One transaction.
    Transaction(Batch),
    /// Records alone.
    Plain(Arc<Vec<OutRecord>>),
}

/// What became of an order.
#[derive(Debug)]
pub enum Outcome {
    /// The sender is ready for its first order.
    Ready,
    /// Done; for a transaction: committed.
    Sent {
        /// From begin to the end of commit.
        took: Duration,
        /// Producers replaced so far, though their transactions were committed.
        replaced: u64,
    },
    /// Not done; nothing of it is open any more, so committed offsets tell where to go on. Try again.
    Failed(TxnError),
    /// Not done, and trying again cannot help.
    Broken(TxnError),
}

/// The poll thread's end of the sender.
pub struct Sender {
    orders: SyncSender<Order>,
    outcomes: Receiver<Outcome>,
    busy_since: Option<Instant>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Starts the thread; its first outcome is [`Outcome::Ready`]. `beacon` tells which call to Kafka it is in; `waker` is
    /// called after each outcome.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        name: &str,
        settings: SenderSettings,
        beacon: Beacon,
        waker: Waker,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = sync_channel(1);
        let (outcome, outcomes) = sync_channel(4);
        let answer = Answer { outcome, waker };
        let is_stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopping);
        let thread = std::thread::Builder::new()
            .name(format!("send {name}"))
            .spawn(move || run(settings, &inbox, &answer, &stop, beacon))?;
        let busy_since = Some(Instant::now());
        Ok(Self { orders, outcomes, busy_since, is_stopping, thread: Some(thread) })
    }

    /// Whether it works on something; it takes no order then.
    pub fn is_busy(&self) -> bool {
        self.busy_since.is_some()
    }

    /// Since when it works on the present order.
    pub fn busy_since(&self) -> Option<Instant> {
        self.busy_since
    }

    /// Whether it has worked on the present order for at least `limit`.
    pub fn is_busy_for(&self, limit: Duration) -> bool {
        self.busy_since.is_some_and(|since| since.elapsed() >= limit)
    }

    /// Hands over an order. Must not be called while busy.
    pub fn hand_over(&mut self, order: Order) {
        debug_assert!(!self.is_busy(), "one order at a time");
        self.busy_since = Some(Instant::now());
        // A thread that is gone is found by the next question for its outcome.
        let _ = self.orders.try_send(order);
    }

    /// The outcome of the order in work, waiting up to `wait`. `None` when there is none yet.
    ///
    /// # Errors
    /// When the thread is gone, which only a panic can cause.
    pub fn outcome(&mut self, wait: Duration) -> Result<Option<Outcome>, SenderGone> {
        let outcome = if wait.is_zero() {
            self.outcomes.try_recv().map_err(|error| error == TryRecvError::Disconnected)
        } else {
            self.outcomes.recv_timeout(wait).map_err(|error| error == RecvTimeoutError::Disconnected)
        };
        match outcome {
            Ok(outcome) => {
                self.busy_since = None;
                Ok(Some(outcome))
            }
            Err(false) => Ok(None),
            Err(true) => Err(SenderGone),
        }
    }

    /// Lets the thread end after its present order, and waits for it up to `wait`; later it is left behind.
    pub fn stop(mut self, wait: Duration) {
        self.is_stopping.store(true, Ordering::Release);
        let thread = self.thread.take();
        // Closes the channel of orders, which the thread waits on.
        drop(self);
        let begun = Instant::now();
        let Some(thread) = thread else { return };
        while !thread.is_finished() {
            if begun.elapsed() > wait {
                tracing::warn!("the sender is stuck in a call to Kafka and is left behind");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tracing::error!("the sender panicked");
        }
    }
}

/// The sender's thread ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the sender thread is gone")]
pub struct SenderGone;

/// The sender's end of the outcomes.
struct Answer {
    outcome: SyncSender<Outcome>,
    waker: Waker,
}

impl Answer {
    fn send(&self, outcome: Outcome) -> Result<(), SendError<Outcome>> {
        self.outcome.send(outcome)?;
        self.waker.wake();
        Ok(())
    }
}

fn run(
    settings: SenderSettings,
    orders: &Receiver<Order>,
    answer: &Answer,
    is_stopping: &AtomicBool,
    beacon: Beacon,
) {
    let mut link = match settings {
        SenderSettings::Plain(settings) => Link::Plain(PlainSender::new(settings)),
        SenderSettings::Transactions(settings) => {
            let open = || Transactor::open(settings.clone(), beacon.clone());
            match persist(open, is_stopping) {
                Ok(Some(transactor)) => Link::Transactions(transactor),
                Ok(None) => return,
                Err(error) => {
                    let _ = answer.send(Outcome::Broken(error));
                    return;
                }
            }
        }
    };
    let mut outcome = Outcome::Ready;
    loop {
        // Nobody listens any more when the poll thread has ended.
        if answer.send(outcome).is_err() {
            return;
        }
        let order = loop {
            match orders.recv_timeout(IDLE_TICK) {
                Ok(order) => break order,
                Err(RecvTimeoutError::Timeout) => link.idle(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        let begun = Instant::now();
        outcome = match link.send(order) {
            Ok(()) => Outcome::Sent { took: begun.elapsed(), replaced: link.replaced() },
            Err(error) if error.is_final() => Outcome::Broken(error),
            Err(error) => match link.recover(is_stopping) {
                Ok(()) => Outcome::Failed(error),
                Err(error) => Outcome::Broken(error),
            },
        };
    }
}

enum Link {
    Transactions(Transactor),
    Plain(PlainSender),
}

impl Link {
    fn send(&mut self, order: Order) -> Result<(), TxnError> {
        match (self, order) {
            (Self::Transactions(transactor), Order::Transaction(batch)) => match transactor.run(&batch) {
                Err(error) if !error.is_final() && !keeps(Rule::CommitOutcomeIsRead) => {
                    transactor.run(&batch)
                }
                result => result,
            },
            (Self::Plain(sender), Order::Plain(records)) => sender.send(&records),
            // The worker makes orders by the same setting that made this link.
            (Self::Transactions(_), Order::Plain(_)) | (Self::Plain(_), Order::Transaction(_)) => {
                unreachable!("order and sender are of one mode")
            }
        }
    }

    fn recover(&mut self, is_stopping: &AtomicBool) -> Result<(), TxnError> {
        match self {
            Self::Transactions(transactor) => persist(|| transactor.recover(), is_stopping).map(|_| ()),
            Self::Plain(_) => Ok(()),
        }
    }

    fn replaced(&self) -> u64 {
        match self {
            Self::Transactions(transactor) => transactor.replaced(),
            Self::Plain(_) => 0,
        }
    }

    fn idle(&self) {
        match self {
            Self::Transactions(transactor) => transactor.idle(),
            Self::Plain(sender) => sender.idle(),
        }
    }
}

/// Tries until it succeeds, cannot succeed, or (`None`) nobody wants it any more.
fn persist<T>(
    mut attempt: impl FnMut() -> Result<T, TxnError>,
    is_stopping: &AtomicBool,
) -> Result<Option<T>, TxnError> {
    let mut pause = Duration::from_millis(100);
    loop {
        match attempt() {
            Ok(done) => return Ok(Some(done)),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot reach the coordinator yet");
            }
        }
        if is_stopping.load(Ordering::Acquire) {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(RECOVER_PAUSE_MAX);
    }
}
