//! What a group has committed, and what open transactions will commit for it.

use std::collections::{BTreeMap, HashMap};

use super::wire::{ResponseError, StrBytes};

/// `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4096;

/// Topic and partition.
pub(super) type Place = (String, i32);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: String,
}

impl Committed {
    pub(super) const NONE: Self = Self { offset: -1, leader_epoch: -1, metadata: String::new() };

    /// Refuses metadata that are too long.
    pub(super) fn new(
        offset: i64,
        leader_epoch: i32,
        metadata: Option<&StrBytes>,
    ) -> Result<Self, ResponseError> {
        let metadata = metadata.map(ToString::to_string).unwrap_or_default();
        let fits = metadata.len() <= METADATA_BYTES_MAX;
        fits.then_some(Self { offset, leader_epoch, metadata }).ok_or(ResponseError::OffsetMetadataTooLarge)
    }
}

#[derive(Default)]
pub(super) struct Offsets {
    pub committed: BTreeMap<Place, Committed>,
    /// By producer: what its open transaction will commit.
    pub pending: HashMap<i64, BTreeMap<Place, Committed>>,
}

impl Offsets {
    /// The producer's transaction has ended.
    pub(super) fn end(&mut self, producer: i64, commit: bool) {
        let held = self.pending.remove(&producer).unwrap_or_default();
        self.committed.extend(held.into_iter().filter(|_| commit));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    /// Whether an open transaction may still change this one.
    pub(super) fn is_unstable(&self, place: &Place) -> bool {
        self.pending.values().any(|held| held.contains_key(place))
    }

    /// The topic is gone.
    pub(super) fn forget(&mut self, topic: &str) {
        self.committed.retain(|(name, _), _| name != topic);
        self.pending.values_mut().for_each(|held| held.retain(|(name, _), _| name != topic));
    }
}
