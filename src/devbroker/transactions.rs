//! Idempotent and transactional producers, as Kafka's transaction coordinator keeps them.
//!
//! A transaction ends at once: its markers and its offsets are there when EndTxn is answered.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError::{self, InvalidProducerEpoch, InvalidTxnState, ProducerFenced};
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};

use super::group_offsets::{Committed, Place};
use super::groups::METADATA_BYTES_MAX;
use super::state::{Call, State, code, wall_millis};

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
    /// `transactional.id` of each producer id.
    ids: HashMap<i64, String>,
    producers: i64,
}

impl Transactions {
    fn new_producer(&mut self, id: Option<&str>) -> i64 {
        self.producers += 1;
        if let Some(id) = id {
            self.ids.insert(self.producers, id.to_owned());
        }
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
        let transaction = found.ok_or(ResponseError::InvalidProducerIdMapping)?;
        if transaction.epoch != epoch {
            return Err(if version >= 2 { ProducerFenced } else { InvalidProducerEpoch });
        }
        Ok(transaction)
    }

    /// Whether a producer may write transactional records to a partition.
    pub(super) fn check_write(&self, producer: i64, epoch: i16, place: &Place) -> Result<(), ResponseError> {
        let found = self.ids.get(&producer).and_then(|id| self.by_id.get(id));
        let found = found.filter(|transaction| transaction.producer == producer);
        let transaction = found.ok_or(ResponseError::InvalidProducerIdMapping)?;
        if epoch != transaction.epoch {
            return Err(InvalidProducerEpoch);
        }
        let ongoing = matches!(transaction.stage, Stage::Ongoing { .. });
        if ongoing && transaction.partitions.contains(place) { Ok(()) } else { Err(InvalidTxnState) }
    }
}

impl Transaction {
    fn begin(&mut self, now: Instant) {
        if !matches!(self.stage, Stage::Ongoing { .. }) {
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
        let result = self.next_epoch(call, ask);
        let (producer, epoch) = result.unwrap_or((-1, -1));
        InitProducerIdResponse::default()
            .with_error_code(code(result))
            .with_producer_id(producer.into())
            .with_producer_epoch(epoch)
    }

    fn next_epoch(&mut self, call: &Call, ask: &InitProducerIdRequest) -> Result<(i64, i16), ResponseError> {
        call.allow()?;
        let Some(id) = ask.transactional_id.as_deref() else {
            return Ok((self.transactions.new_producer(None), 0));
        };
        let timeout = Duration::from_millis(u64::try_from(ask.transaction_timeout_ms).unwrap_or(0));
        if id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(ResponseError::InvalidTransactionTimeout);
        }
        let Some(known) = self.transactions.by_id.get_mut(&**id) else {
            let producer = self.transactions.new_producer(Some(id));
            let (partitions, groups) = (BTreeSet::new(), BTreeSet::new());
            let (epoch, epoch_before, stage) = (0, -1, Stage::Empty);
            let new = Transaction { producer, epoch, epoch_before, timeout, stage, partitions, groups };
            self.transactions.by_id.insert(id.to_string(), new);
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
        let ongoing = matches!(known.stage, Stage::Ongoing { .. });
        known.epoch_before = if own { known.epoch } else { -1 };
        known.epoch += 1;
        if ongoing {
            self.finish(id, false);
        }
        self.without_exhausted_epoch(id)
    }

    /// Epochs end at 32,767; the last is kept for fencing. Then a new producer id begins at 0.
    fn without_exhausted_epoch(&mut self, id: &str) -> Result<(i64, i16), ResponseError> {
        let exhausted = self.transactions.by_id.get(id).is_some_and(|known| known.epoch >= i16::MAX - 1);
        let new = exhausted.then(|| self.transactions.new_producer(Some(id)));
        let known = self.transactions.by_id.get_mut(id).ok_or(ResponseError::UnknownServerError)?;
        if let Some(new) = new {
            (known.producer, known.epoch, known.epoch_before) = (new, 0, -1);
        }
        known.stage = Stage::Empty;
        Ok((known.producer, known.epoch))
    }

    pub(super) fn add_partitions(
        &mut self,
        call: &Call,
        ask: &AddPartitionsToTxnRequest,
    ) -> AddPartitionsToTxnResponse {
        let places: Vec<Place> = ask
            .v3_and_below_topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|&index| (topic.name.to_string(), index)))
            .collect();
        let missing: Vec<bool> =
            places.iter().map(|(topic, index)| self.partition(topic, *index).is_err()).collect();
        let result = call.allow().and_then(|()| {
            let owner = (ask.v3_and_below_producer_id.0, ask.v3_and_below_producer_epoch);
            let id = &ask.v3_and_below_transactional_id;
            let transaction = self.transactions.of(id, owner, call.version)?;
            if !missing.contains(&true) {
                transaction.begin(call.now);
                transaction.partitions.extend(places.iter().cloned());
            }
            Ok(())
        });
        let some_missing = missing.contains(&true);
        let mut missing = missing.into_iter();
        let mut one = |index| {
            let missing = missing.next().unwrap_or(false);
            let code = match result {
                Err(error) => error.code(),
                Ok(()) if missing => ResponseError::UnknownTopicOrPartition.code(),
                Ok(()) if some_missing => ResponseError::OperationNotAttempted.code(),
                Ok(()) => 0,
            };
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(index)
                .with_partition_error_code(code)
        };
        let topics = ask.v3_and_below_topics.iter().map(|topic| {
            AddPartitionsToTxnTopicResult::default()
                .with_name(topic.name.clone())
                .with_results_by_partition(topic.partitions.iter().map(|&index| one(index)).collect())
        });
        AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics.collect())
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
        AddOffsetsToTxnResponse::default().with_error_code(code(result))
    }

    pub(super) fn txn_offset_commit(
        &mut self,
        call: &Call,
        ask: &TxnOffsetCommitRequest,
    ) -> TxnOffsetCommitResponse {
        let allowed = self.check_txn_commit(call, ask);
        let mut topics = Vec::new();
        for topic in &ask.topics {
            let mut partitions = Vec::new();
            for partition in &topic.partitions {
                let metadata = partition.committed_metadata.as_deref().map(ToString::to_string);
                let committed = Committed {
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: metadata.unwrap_or_default(),
                };
                let result = allowed.and_then(|()| {
                    self.partition(&topic.name, partition.partition_index)?;
                    if committed.metadata.len() > METADATA_BYTES_MAX {
                        return Err(ResponseError::OffsetMetadataTooLarge);
                    }
                    let place = (topic.name.to_string(), partition.partition_index);
                    let group = self.groups.entry(ask.group_id.to_string()).or_default();
                    group.offsets.hold(ask.producer_id.0, place, committed);
                    Ok(())
                });
                partitions.push(
                    TxnOffsetCommitResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(code(result)),
                );
            }
            topics.push(
                TxnOffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        TxnOffsetCommitResponse::default().with_topics(topics)
    }

    fn check_txn_commit(&mut self, call: &Call, ask: &TxnOffsetCommitRequest) -> Result<(), ResponseError> {
        call.allow()?;
        let owner = (ask.producer_id.0, ask.producer_epoch);
        let transaction = self.transactions.of(&ask.transactional_id, owner, call.version)?;
        let ongoing = matches!(transaction.stage, Stage::Ongoing { .. });
        if !ongoing || !transaction.groups.contains(&**ask.group_id) {
            return Err(InvalidTxnState);
        }
        let who = (&*ask.member_id, ask.group_instance_id.as_deref(), ask.generation_id);
        self.groups.entry(ask.group_id.to_string()).or_default().may_commit(who, true, call.now)
    }

    pub(super) fn end_txn(&mut self, call: &Call, ask: &EndTxnRequest) -> EndTxnResponse {
        let result = call.allow().and_then(|()| {
            let owner = (ask.producer_id.0, ask.producer_epoch);
            let stage = self.transactions.of(&ask.transactional_id, owner, call.version)?.stage;
            match stage {
                Stage::Ongoing { .. } => {
                    self.finish(&ask.transactional_id, ask.committed);
                    Ok(())
                }
                // The answer to the first request was lost.
                Stage::Ended { committed } if committed == ask.committed => Ok(()),
                Stage::Empty | Stage::Ended { .. } => Err(InvalidTxnState),
            }
        });
        EndTxnResponse::default().with_error_code(code(result))
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
