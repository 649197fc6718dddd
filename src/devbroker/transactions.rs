//! Idempotent and transactional producers, as Kafka's transaction coordinator keeps them.
//!
//! A transaction ends at once: its markers and its offsets are there when EndTxn is answered.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::group::Place;
use super::state::State;
use super::wire::*;

/// `transaction.max.timeout.ms`.
const TIMEOUT_MAX: Duration = Duration::from_secs(900);

#[derive(Default)]
pub struct Transaction {
    producer: i64,
    epoch: i16,
    /// The epoch before, when its own producer asked for the next: it may ask again.
    epoch_before: Option<i16>,
    timeout: Duration,
    /// When it began, while it is open.
    since: Option<Instant>,
    /// Whether the one before was committed.
    committed: Option<bool>,
    partitions: BTreeSet<Place>,
    groups: BTreeSet<String>,
}

impl State {
    pub fn init_producer_id(&mut self, ask: &InitProducerIdRequest) -> InitProducerIdResponse {
        let result = self.next_epoch(ask);
        let error_code = code(&result);
        let (producer, producer_epoch) = result.unwrap_or((-1, -1));
        made!(InitProducerIdResponse { error_code, producer_id: producer.into(), producer_epoch })
    }

    fn next_epoch(&mut self, ask: &InitProducerIdRequest) -> Answer<(i64, i16)> {
        self.allow()?;
        let timeout = millis(ask.transaction_timeout_ms);
        let Some(id) = ask.transactional_id.as_ref().map(|id| &***id) else {
            return Ok(self.new_producer(None, timeout));
        };
        ensure(!id.is_empty(), InvalidRequest)?;
        ensure(!timeout.is_zero() && timeout <= TIMEOUT_MAX, InvalidTransactionTimeout)?;
        let Some(known) = self.transactions.get_mut(id) else {
            return Ok(self.new_producer(Some(id), timeout));
        };
        let own = (ask.producer_id.0 != -1).then_some(ask.producer_epoch);
        if own.is_some() {
            let is_same = ask.producer_id.0 == known.producer;
            if is_same && own == known.epoch_before {
                return Ok((known.producer, known.epoch));
            }
            let fenced = if self.version >= 4 { ProducerFenced } else { InvalidProducerEpoch };
            ensure(is_same && own == Some(known.epoch), fenced)?;
        }
        (known.timeout, known.epoch_before) = (timeout, own);
        known.epoch += 1;
        if known.since.is_some() {
            self.finish(id, false);
        }
        match self.transactions.get_mut(id) {
            // Epochs end at 32,767; the last is kept for fencing.
            Some(known) if known.epoch < i16::MAX - 1 => {
                known.committed = None;
                Ok((known.producer, known.epoch))
            }
            _ => Ok(self.new_producer(Some(id), timeout)),
        }
    }

    /// A producer under a new id, of a transactional id if it has one.
    fn new_producer(&mut self, id: Option<&str>, timeout: Duration) -> (i64, i16) {
        self.producers += 1;
        let transaction = Transaction { producer: self.producers, timeout, ..Transaction::default() };
        id.map(|id| self.transactions.insert(id.to_owned(), transaction));
        (self.producers, 0)
    }

    /// The transaction of who asks, unless somebody newer has taken its place.
    fn transaction(&mut self, id: &str, (producer, epoch): (ProducerId, i16)) -> Answer<&mut Transaction> {
        self.allow()?;
        let found = self.transactions.get_mut(id).filter(|transaction| transaction.producer == producer.0);
        let transaction = found.ok_or(InvalidProducerIdMapping)?;
        let fenced = if self.version >= 2 { ProducerFenced } else { InvalidProducerEpoch };
        ensure(transaction.epoch == epoch, fenced)?;
        Ok(transaction)
    }

    /// Whether a producer may write transactional records to a partition.
    pub fn check_write(&mut self, id: &str, owner: (ProducerId, i16), place: &Place) -> Answer<()> {
        let fenced = |error| if error == ProducerFenced { InvalidProducerEpoch } else { error };
        let transaction = self.transaction(id, owner).map_err(fenced)?;
        ensure(transaction.since.is_some() && transaction.partitions.contains(place), InvalidTxnState)
    }

    pub fn add_partitions(&mut self, ask: &AddPartitionsToTxnRequest) -> AddPartitionsToTxnResponse {
        let owner = (ask.v3_and_below_producer_id, ask.v3_and_below_producer_epoch);
        let mut add = |place: Place| {
            self.partition(&place.0, place.1)?;
            let transaction = self.transaction(&ask.v3_and_below_transactional_id, owner)?;
            transaction.since.get_or_insert_with(Instant::now);
            transaction.partitions.insert(place);
            Ok(())
        };
        let topics = &ask.v3_and_below_topics;
        let topics = each!(
            topics, partitions => AddPartitionsToTxnTopicResult.results_by_partition, |name, index| {
                let partition_error_code = code(&add((name.to_string(), *index)));
                made!(AddPartitionsToTxnPartitionResult { partition_index: *index, partition_error_code })
            }
        );
        made!(AddPartitionsToTxnResponse { results_by_topic_v3_and_below: topics })
    }

    pub fn add_offsets(&mut self, ask: &AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse {
        let found = self.transaction(&ask.transactional_id, (ask.producer_id, ask.producer_epoch));
        let added = found.map(|transaction| {
            transaction.since.get_or_insert_with(Instant::now);
            transaction.groups.insert(ask.group_id.to_string());
        });
        made!(AddOffsetsToTxnResponse { error_code: code(&added) })
    }

    /// Whether the transaction takes offsets of the group.
    pub fn may_commit_in_transaction(&mut self, ask: &TxnOffsetCommitRequest) -> Answer<()> {
        let transaction = self.transaction(&ask.transactional_id, (ask.producer_id, ask.producer_epoch))?;
        ensure(transaction.since.is_some() && transaction.groups.contains(&**ask.group_id), InvalidTxnState)
    }

    pub fn end_txn(&mut self, ask: &EndTxnRequest) -> EndTxnResponse {
        let found = self.transaction(&ask.transactional_id, (ask.producer_id, ask.producer_epoch));
        let ended = found.and_then(|transaction| {
            // The answer to a first request may have been lost.
            let is_late = transaction.since.is_none();
            ensure(!is_late || transaction.committed == Some(ask.committed), InvalidTxnState)
        });
        if ended.is_ok() {
            self.finish(&ask.transactional_id, ask.committed);
        }
        made!(EndTxnResponse { error_code: code(&ended) })
    }

    /// Writes the markers and settles the offsets.
    fn finish(&mut self, id: &str, commit: bool) {
        let Some(transaction) = self.transactions.get_mut(id) else { return };
        let owner = (transaction.producer, transaction.epoch);
        (transaction.since, transaction.committed) = (None, Some(commit));
        let partitions = std::mem::take(&mut transaction.partitions);
        let groups = std::mem::take(&mut transaction.groups);
        let millis = chrono::Utc::now().timestamp_millis();
        for (topic, index) in partitions {
            let _ = self.partition(&topic, index).map(|it| it.end_transaction(owner, commit, millis));
        }
        for group in groups {
            self.groups.entry(group).or_default().offsets.end(owner.0, commit);
        }
    }

    /// Aborts what its producers did not end in time, and fences them.
    pub fn abort_late_transactions(&mut self, now: Instant) {
        let mut late_ids = Vec::new();
        for (id, transaction) in &mut self.transactions {
            if transaction.since.is_some_and(|since| since + transaction.timeout <= now) {
                transaction.epoch = transaction.epoch.saturating_add(1);
                transaction.epoch_before = None;
                late_ids.push(id.clone());
            }
        }
        late_ids.iter().for_each(|id| self.finish(id, false));
    }
}
