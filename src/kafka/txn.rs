//! Records and the offsets they follow from, in one Kafka transaction.
//!
//! Every call here blocks and may do so as long as a broker is away; it belongs on a thread of its own. What holds:
//! - The group membership in a [`Batch`] is taken before its transaction begins. The broker refuses the offsets when
//!   the group has gone on without the member, and the transaction is aborted. Librdkafka would also send offsets
//!   without a generation, which the broker takes from anybody: [`Membership`] cannot be made without one.
//! - Producers take turns, one open transaction at a time ([`TransactionSettings::turns`]). The next one begins only
//!   after the commit of the former was answered, so the records of a partition stay in the order of transactions;
//!   the broker applies offsets of two producers in the order they were written.
//! - A producer that failed, or whose commit was slow, is never used again. Its successor of the same
//!   `transactional.id` begins with `init_transactions`, which ends whatever was open and fences requests that are
//!   still on their way (librdkafka has no KIP-890). After that, and not before, committed offsets can be read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::failpoint::{self, Place, Rule, dies, keeps};
use crate::kafka::beacon::Beacon;
use crate::kafka::native::Membership;
use crate::kafka::offsets::{self, Commit};
use crate::kafka::outgoing::{Outgoing, SendError};
use crate::kafka::raw_producer::TransactionError;
use crate::kafka::settings::{ProducerSettings, TransactionSettings};
use crate::record::OutRecord;

/// How long one transactional call may take before it is made again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts of a call that can be repeated.
const CALL_PAUSE: Duration = Duration::from_millis(50);
/// Attempts of such a call.
const CALL_ATTEMPTS: u32 = 20;
/// Without a transaction the flush follows at once, so no record waits so long; but while many are handed over, they gather
/// into few large requests. Within a transaction they are to be on their way while offsets are sent.
const PLAIN_LINGER_MS: &str = "10";

/// What belongs into one transaction.
pub struct Batch {
    /// Records, in the order in which they are to stand.
    pub records: Arc<Vec<OutRecord>>,
    /// Source offsets that they follow from.
    pub offsets: Vec<Commit>,
    /// The group member that read them.
    pub membership: Membership,
}

/// Why a transaction, or the sending of records, failed.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// Another process uses the same `transactional.id`: one of the two must go.
    #[error("another process uses the transactional id `{id}`")]
    Fenced {
        /// `transactional.id`.
        id: String,
    },
    /// A transactional call failed.
    #[error("transaction of `{id}` failed at {step}")]
    Call {
        /// `transactional.id`.
        id: String,
        /// The call.
        step: &'static str,
        /// What librdkafka says.
        source: TransactionError,
    },
    /// A record was refused or not delivered.
    #[error("cannot send")]
    Send(#[source] SendError),
    /// librdkafka did not take the settings.
    #[error("cannot start a producer")]
    Start(#[source] KafkaError),
}

impl TxnError {
    /// Whether trying again cannot help: the role must stop and say so.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Fenced { .. } => keeps(Rule::FencedIsFinal),
            Self::Start(_) => true,
            Self::Call { .. } => false,
            Self::Send(error) => error.is_too_large(),
        }
    }
}

/// Runs transactions one after another.
pub struct Transactor {
    settings: TransactionSettings,
    /// `None` after a failure: made anew when its turn comes.
    turns: Vec<Option<Turn>>,
    next: usize,
    beacon: Beacon,
    replaced: u64,
}

/// A producer, between its transactions.
struct Turn {
    outgoing: Outgoing,
    /// Signs of requests sent twice, when its last commit began. Statistics tell of some only later.
    signs: u64,
}

impl Transactor {
    /// Starts the producers, which ends what a former run left open. Blocks; `beacon` tells in which call.
    ///
    /// # Errors
    /// When a coordinator cannot be reached ([`TxnError::is_final`] is false: try again) or refuses.
    pub fn open(settings: TransactionSettings, beacon: Beacon) -> Result<Self, TxnError> {
        let turns: Vec<_> = (0..settings.turns.max(1)).map(|_| None).collect();
        let mut transactor = Self { settings, turns, next: 0, beacon, replaced: 0 };
        transactor.recover()?;
        Ok(transactor)
    }

    /// Replaces the producers that are not to be used again. Afterwards no transaction of this instance is open or
    /// undecided.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn recover(&mut self) -> Result<(), TxnError> {
        for turn in 0..self.turns.len() {
            if self.turns[turn].is_none() {
                // Without brokers this takes minutes, again and again, and statistics come for the others meanwhile.
                self.idle();
                let outgoing = start(&self.settings, turn, &self.beacon, &|| self.idle())?;
                self.turns[turn] = Some(Turn { signs: outgoing.signs(), outgoing });
            }
        }
        Ok(())
    }

    /// One transaction, from begin to commit. After an error nothing of `batch` is to be seen by readers of committed
    /// records, unless the commit itself was left undecided: call [`Self::recover`] until it succeeds, then read the
    /// committed offsets to know.
    ///
    /// # Errors
    /// See [`TxnError::is_final`].
    pub fn run(&mut self, batch: &Batch) -> Result<(), TxnError> {
        let turn = self.next;
        self.next = (turn + 1) % self.turns.len();
        self.retire_suspect(turn);
        self.recover()?;
        let mut own = self.turns[turn].take().expect("recover fills every turn");
        let begun = Instant::now();
        let id = self.id(turn);
        match self.attempt(&id, &mut own, batch) {
            Ok(commit_took) => {
                self.turns[turn] = Some(own);
                if commit_took >= self.settings.slow_commit() {
                    self.retire(turn, "slow commit");
                }
                self.retire_suspect(turn);
                Ok(())
            }
            Err(error) => {
                // Not aborted here: that call waits for reports which nobody would serve meanwhile, and fails half the
                // time. The next producer of this id ends the transaction.
                Err(judge(error, begun.elapsed(), &self.settings))
            }
        }
    }

    /// Does not use a producer again that showed a sign of a request sent twice since its last commit began.
    fn retire_suspect(&mut self, turn: usize) {
        let Some(own) = &self.turns[turn] else { return };
        own.outgoing.serve();
        if own.outgoing.signs() != own.signs {
            self.retire(turn, "a connection broke, or a request was repeated");
        }
    }

    fn retire(&mut self, turn: usize, reason: &'static str) {
        if keeps(Rule::RecycleProducer) {
            tracing::warn!(id = self.id(turn), reason, "the producer is replaced");
            self.turns[turn] = None;
            self.replaced += 1;
        }
    }

    /// Producers that were replaced though their transactions were committed.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Serves the producers while there is nothing to send.
    pub fn idle(&self) {
        self.turns.iter().flatten().for_each(|turn| turn.outgoing.serve());
    }

    fn id(&self, turn: usize) -> String {
        format!("{}.{turn}", self.settings.id)
    }

    /// Returns how long the commit took.
    fn attempt(&self, id: &str, own: &mut Turn, batch: &Batch) -> Result<Duration, TxnError> {
        let Batch { records, offsets, membership } = batch;
        failpoint::freeze(Place::BeforeTransaction);
        let Turn { outgoing, signs } = own;
        let calls = Calls { id, beacon: &self.beacon, meanwhile: &|| {} };
        calls.repeat("begin", || outgoing.producer().begin_transaction())?;
        outgoing.send_all(records).map_err(TxnError::Send)?;
        die_at(Place::AfterSend, || outgoing.flush());
        // The records are on their way meanwhile.
        let list = offsets::commit_list(offsets).map_err(TxnError::Start)?;
        calls.repeat("send offsets", || outgoing.producer().send_offsets(&list, membership, CALL_TIMEOUT))?;
        die_at(Place::AfterSendOffsets, || outgoing.flush());
        outgoing.flush().map_err(TxnError::Send)?;
        die_in_commit();
        *signs = outgoing.signs();
        let begun = Instant::now();
        commit(&calls, outgoing)?;
        die_at(Place::AfterCommit, || Ok(()));
        Ok(begun.elapsed())
    }
}

/// Dies here if a test wants it so, after `before`.
pub(super) fn die_at(place: Place, before: impl FnOnce() -> Result<(), SendError>) {
    if dies(place) {
        // The test wants the state after a flush; whether it succeeded shows in what the test finds.
        let _ = before();
        std::process::abort();
    }
}

pub(super) fn die_in_commit() {
    if dies(Place::InCommit) {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_micros(700));
            std::process::abort();
        });
    }
}

/// Other time limits than "never" leave librdkafka's idea of the transaction apart from the broker's.
pub(super) fn commit(calls: &Calls<'_>, outgoing: &Outgoing) -> Result<(), TxnError> {
    if keeps(Rule::CommitOutcomeIsRead) {
        return calls.repeat("commit", || outgoing.producer().commit_transaction(None));
    }
    let call = |error| TxnError::Call { id: calls.id.to_owned(), step: "commit", source: error };
    outgoing.producer().commit_transaction(Some(CALL_PAUSE * 20)).map_err(call)
}

/// A producer whose `init_transactions` succeeded.
pub(super) fn start(
    settings: &TransactionSettings,
    turn: usize,
    beacon: &Beacon,
    meanwhile: &dyn Fn(),
) -> Result<Outgoing, TxnError> {
    let id = format!("{}.{turn}", settings.id);
    let outgoing = Outgoing::new(&settings.to_client_config(turn), settings.producer.delivery_timeout)
        .map_err(TxnError::Start)?;
    let begun = Instant::now();
    let meanwhile = || {
        outgoing.serve();
        meanwhile();
    };
    Calls { id: &id, beacon, meanwhile: &meanwhile }
        .repeat("init", || outgoing.producer().init_transactions(CALL_TIMEOUT))
        .map_err(|error| judge(error, begun.elapsed(), settings))?;
    Ok(outgoing)
}

/// Tells "fenced by somebody else" from "fenced by the broker, which gave up our transaction after its timeout": a
/// process that was frozen may go on, two processes of one id may not.
pub(super) fn judge(error: TxnError, took: Duration, settings: &TransactionSettings) -> TxnError {
    match error {
        TxnError::Call { id, source, .. } if is_fenced(source.code) && took < settings.timeout => {
            TxnError::Fenced { id }
        }
        other => other,
    }
}

pub(super) fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    matches!(code, Fenced | ProducerFenced | InvalidProducerEpoch)
}

/// Makes the transactional calls of one producer.
pub(super) struct Calls<'a> {
    pub(super) id: &'a str,
    pub(super) beacon: &'a Beacon,
    /// Called between attempts, for what waits meanwhile.
    pub(super) meanwhile: &'a dyn Fn(),
}

impl Calls<'_> {
    pub(super) fn repeat(
        &self,
        step: &'static str,
        mut call: impl FnMut() -> Result<(), TransactionError>,
    ) -> Result<(), TxnError> {
        let mut attempt = 1;
        loop {
            self.beacon.enter(step);
            let result = call();
            self.beacon.leave();
            match result {
                Ok(()) => return Ok(()),
                Err(error) if error.is_retriable && attempt < CALL_ATTEMPTS => {
                    attempt += 1;
                    (self.meanwhile)();
                    std::thread::sleep(CALL_PAUSE);
                }
                Err(source) => return Err(TxnError::Call { id: self.id.to_owned(), step, source }),
            }
        }
    }
}

/// Sends records without a transaction: acknowledged by all replicas, in order, none doubled by its own retries.
pub struct PlainSender {
    settings: ProducerSettings,
    outgoing: Option<Outgoing>,
}

impl PlainSender {
    /// A sender; connects when something is sent.
    pub fn new(settings: ProducerSettings) -> Self {
        Self { settings, outgoing: None }
    }

    /// Sends `records` and waits for the acknowledgements of all. After an error some may have been written.
    ///
    /// # Errors
    /// When one of them was refused or not delivered in time.
    pub fn send(&mut self, records: &Arc<Vec<OutRecord>>) -> Result<(), TxnError> {
        let mut outgoing = match self.outgoing.take() {
            Some(outgoing) => outgoing,
            None => {
                let mut config = self.settings.to_client_config();
                config.set("linger.ms", PLAIN_LINGER_MS);
                Outgoing::new(&config, self.settings.delivery_timeout).map_err(TxnError::Start)?
            }
        };
        outgoing.send_all(records).and_then(|()| outgoing.flush()).map_err(TxnError::Send)?;
        // Kept only after success: what failed may still lie in its queue and must not come later.
        self.outgoing = Some(outgoing);
        Ok(())
    }

    /// Serves the producer while there is nothing to send.
    pub fn idle(&self) {
        self.outgoing.iter().for_each(Outgoing::serve);
    }
}

#[cfg(test)]
#[path = "txn_tests.rs"]
mod tests;
