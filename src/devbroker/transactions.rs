//! Idempotent and transactional producers, as Kafka's transaction coordinator keeps them.
//!
//! A transaction ends at once: its markers and its offsets are there when EndTxn is answered.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::group_offsets::{Committed, Place};
use super::state::{Call, State, wall_millis};
use super::wire::ResponseError::{
    InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, ProducerFenced,
};
use super::wire::*;

/// `transaction.max.timeout.ms`.
const TIMEOUT_MAX: Duration = Duration::from_secs(900);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Empty,
    Ongoing { since: Instant },
    Ended { committed: bool },
}

struct Transaction {
    producer: i64,
    epoch: i16,
    /// The epoch before, when its own producer asked for the next: it may ask again.
    epoch_before: i16,
    timeout: Duration,
    stage: Stage,
    partitions: BTreeSet<Place>,
    groups: BTreeSet<String>,
}

#[derive(Default)]
pub(super) struct Transactions {
    by_id: HashMap<String, Transaction>,
    /// Producer ids given away.
    producers: i64,
}

impl Transactions {
    fn new_producer(&mut self) -> i64 {
        self.producers += 1;
        self.producers
    }

    /// The transaction of who asks, unless somebody newer has taken its place.
    fn of(
        &mut self,
        id: &str,
        (producer, epoch): (i64, i16),
        version: i16,
    ) -> Result<&mut Transaction, ResponseError> {
        let found = self.by_id.get_mut(id).filter(|transaction| transaction.producer == producer);
        let transaction = found.ok_or(InvalidProducerIdMapping)?;
        if transaction.epoch != epoch {
            return Err(if version >= 2 { ProducerFenced } else { InvalidProducerEpoch });
        }
        Ok(transaction)
    }

    /// Whether a producer may write transactional records to a partition.
    pub(super) fn check_write(
        &mut self,
        id: &str,
        owner: (i64, i16),
        place: &Place,
    ) -> Result<(), ResponseError> {
        let transaction = self.of(id, owner, 0)?;
        let is_in = transaction.is_ongoing() && transaction.partitions.contains(place);
        if is_in { Ok(()) } else { Err(InvalidTxnState) }
    }
}

impl Transaction {
    fn new(producer: i64, timeout: Duration) -> Self {
        let (partitions, groups) = (BTreeSet::new(), BTreeSet::new());
        Self { producer, epoch: 0, epoch_before: -1, timeout, stage: Stage::Empty, partitions, groups }
    }

    fn is_ongoing(&self) -> bool {
        matches!(self.stage, Stage::Ongoing { .. })
    }

    fn begin(&mut self, now: Instant) {
        if !self.is_ongoing() {
            self.stage = Stage::Ongoing { since: now };
        }
    }
}

impl State {
    pub(super) fn init_producer_id(
        &mut self,
        call: &Call,
        ask: &InitProducerIdRequest,
    ) -> InitProducerIdResponse {
        let result = call.allow().and_then(|()| self.next_epoch(call, ask));
        let (producer, epoch) = *result.as_ref().unwrap_or(&(-1, -1));
        made!(InitProducerIdResponse {
            error_code: code(&result),
            producer_id: producer.into(),
            producer_epoch: epoch,
        })
    }

    fn next_epoch(&mut self, call: &Call, ask: &InitProducerIdRequest) -> Result<(i64, i16), ResponseError> {
        let Some(id) = ask.transactional_id.as_deref() else {
            return Ok((self.transactions.new_producer(), 0));
        };
        let timeout = Duration::from_millis(u64::try_from(ask.transaction_timeout_ms).unwrap_or(0));
        if id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(ResponseError::InvalidTransactionTimeout);
        }
        let Some(known) = self.transactions.by_id.get_mut(&**id) else {
            let producer = self.transactions.new_producer();
            self.transactions.by_id.insert(id.to_string(), Transaction::new(producer, timeout));
            return Ok((producer, 0));
        };
        let own = ask.producer_id.0 != -1;
        if own {
            let fenced = if call.version >= 4 { ProducerFenced } else { InvalidProducerEpoch };
            let same = known.producer == ask.producer_id.0;
            if same && ask.producer_epoch == known.epoch_before {
                return Ok((known.producer, known.epoch));
            }
            if !same || ask.producer_epoch != known.epoch {
                return Err(fenced);
            }
        }
        known.timeout = timeout;
        let ongoing = known.is_ongoing();
        known.epoch_before = if own { known.epoch } else { -1 };
        known.epoch += 1;
        if ongoing {
            self.finish(id, false);
        }
        let new = self.transactions.producers + 1;
        let known = self.transactions.by_id.get_mut(&**id).ok_or(ResponseError::UnknownServerError)?;
        if known.epoch >= i16::MAX - 1 {
            // Epochs end at 32,767; the last is kept for fencing.
            (known.producer, known.epoch, known.epoch_before) = (new, 0, -1);
            self.transactions.producers = new;
        }
        known.stage = Stage::Empty;
        Ok((known.producer, known.epoch))
    }

    pub(super) fn add_partitions(
        &mut self,
        call: &Call,
        ask: &AddPartitionsToTxnRequest,
    ) -> AddPartitionsToTxnResponse {
        let places: BTreeSet<Place> = (ask.v3_and_below_topics.iter())
            .flat_map(|topic| topic.partitions.iter().map(|&index| (topic.name.to_string(), index)))
            .collect();
        let missing = |place: &&Place| self.partition(&place.0, place.1).is_err();
        let missing: BTreeSet<Place> = places.iter().filter(missing).cloned().collect();
        let result = call.allow().and_then(|()| {
            let owner = (ask.v3_and_below_producer_id.0, ask.v3_and_below_producer_epoch);
            let transaction =
                self.transactions.of(&ask.v3_and_below_transactional_id, owner, call.version)?;
            if missing.is_empty() {
                transaction.begin(call.now);
                transaction.partitions.extend(places);
            }
            Ok(())
        });
        let one = |topic: &TopicName, index: i32| match result {
            Err(error) => error.code(),
            Ok(()) if missing.is_empty() => 0,
            Ok(()) if missing.contains(&(topic.to_string(), index)) => {
                ResponseError::UnknownTopicOrPartition.code()
            }
            Ok(()) => ResponseError::OperationNotAttempted.code(),
        };
        let topics = per_partition!(
            ask.v3_and_below_topics, partitions => AddPartitionsToTxnTopicResult.results_by_partition, |name, index| {
                let error = one(name, *index);
                made!(AddPartitionsToTxnPartitionResult { partition_index: *index, partition_error_code: error })
            }
        );
        made!(AddPartitionsToTxnResponse { results_by_topic_v3_and_below: topics })
    }

    pub(super) fn add_offsets(
        &mut self,
        call: &Call,
        ask: &AddOffsetsToTxnRequest,
    ) -> AddOffsetsToTxnResponse {
        let result = call.allow().and_then(|()| {
            let owner = (ask.producer_id.0, ask.producer_epoch);
            let transaction = self.transactions.of(&ask.transactional_id, owner, call.version)?;
            transaction.begin(call.now);
            transaction.groups.insert(ask.group_id.to_string());
            Ok(())
        });
        made!(AddOffsetsToTxnResponse { error_code: code(&result) })
    }

    pub(super) fn txn_offset_commit(
        &mut self,
        call: &Call,
        ask: &TxnOffsetCommitRequest,
    ) -> TxnOffsetCommitResponse {
        let allowed = self.check_txn_commit(call, ask);
        let topics = per_partition!(ask.topics, partitions => TxnOffsetCommitResponseTopic.partitions, |name, one| {
            let result = allowed.and_then(|()| {
                self.partition(name, one.partition_index)?;
                let (offset, epoch) = (one.committed_offset, one.committed_leader_epoch);
                let committed = Committed::new(offset, epoch, one.committed_metadata.as_ref())?;
                let group = self.groups.entry(ask.group_id.to_string()).or_default();
                let held = group.offsets.pending.entry(ask.producer_id.0).or_default();
                held.insert((name.to_string(), one.partition_index), committed);
                Ok(())
            });
            made!(TxnOffsetCommitResponsePartition {
                partition_index: one.partition_index,
                error_code: code(&result),
            })
        });
        made!(TxnOffsetCommitResponse { topics: topics })
    }

    fn check_txn_commit(&mut self, call: &Call, ask: &TxnOffsetCommitRequest) -> Result<(), ResponseError> {
        call.allow()?;
        let owner = (ask.producer_id.0, ask.producer_epoch);
        let transaction = self.transactions.of(&ask.transactional_id, owner, call.version)?;
        if !transaction.is_ongoing() || !transaction.groups.contains(&**ask.group_id) {
            return Err(InvalidTxnState);
        }
        let who = (&*ask.member_id, ask.group_instance_id.as_deref(), ask.generation_id);
        self.groups.entry(ask.group_id.to_string()).or_default().may_commit(who, true, call.now)
    }

    pub(super) fn end_txn(&mut self, call: &Call, ask: &EndTxnRequest) -> EndTxnResponse {
        let result = call.allow().and_then(|()| {
            let owner = (ask.producer_id.0, ask.producer_epoch);
            match self.transactions.of(&ask.transactional_id, owner, call.version)?.stage {
                Stage::Ongoing { .. } => self.finish(&ask.transactional_id, ask.committed),
                // The answer to the first request was lost.
                Stage::Ended { committed } if committed == ask.committed => {}
                Stage::Empty | Stage::Ended { .. } => return Err(InvalidTxnState),
            }
            Ok(())
        });
        made!(EndTxnResponse { error_code: code(&result) })
    }

    /// Writes the markers and settles the offsets.
    fn finish(&mut self, id: &str, commit: bool) {
        let Some(transaction) = self.transactions.by_id.get_mut(id) else { return };
        let (producer, epoch) = (transaction.producer, transaction.epoch);
        transaction.stage = Stage::Ended { committed: commit };
        let partitions = std::mem::take(&mut transaction.partitions);
        let groups = std::mem::take(&mut transaction.groups);
        for (topic, index) in partitions {
            if let Ok(partition) = self.partition(&topic, index) {
                partition.end_transaction(producer, epoch, commit, wall_millis());
            }
        }
        for group in groups {
            if let Some(group) = self.groups.get_mut(&group) {
                group.offsets.end(producer, commit);
            }
        }
    }

    /// Aborts what its producers did not end in time, and fences them.
    pub(super) fn abort_late_transactions(&mut self, now: Instant) {
        let late = |transaction: &Transaction| match transaction.stage {
            Stage::Ongoing { since } => since + transaction.timeout <= now,
            Stage::Empty | Stage::Ended { .. } => false,
        };
        let all = self.transactions.by_id.iter_mut();
        let mut late_ids = Vec::new();
        for (id, transaction) in all.filter(|(_, transaction)| late(transaction)) {
            transaction.epoch = transaction.epoch.saturating_add(1);
            transaction.epoch_before = -1;
            late_ids.push(id.clone());
        }
        for id in late_ids {
            self.finish(&id, false);
        }
    }
}
