//! What a group has committed, and what open transactions will commit for it.

use std::collections::{BTreeMap, HashMap};

/// Topic and partition.
pub(super) type Place = (String, i32);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: String,
}

#[derive(Default)]
pub(super) struct Offsets {
    pub committed: BTreeMap<Place, Committed>,
    /// By producer.
    pending: HashMap<i64, BTreeMap<Place, Committed>>,
}

impl Offsets {
    /// Keeps an offset until the producer's transaction ends.
    pub(super) fn hold(&mut self, producer: i64, place: Place, committed: Committed) {
        self.pending.entry(producer).or_default().insert(place, committed);
    }

    /// The producer's transaction has ended.
    pub(super) fn end(&mut self, producer: i64, commit: bool) {
        let held = self.pending.remove(&producer).unwrap_or_default();
        if commit {
            self.committed.extend(held);
        }
    }

    /// Whether an open transaction may still change this one.
    pub(super) fn is_unstable(&self, place: &Place) -> bool {
        self.pending.values().any(|held| held.contains_key(place))
    }

    /// The topic is gone.
    pub(super) fn forget(&mut self, topic: &str) {
        self.committed.retain(|(name, _), _| name != topic);
        for held in self.pending.values_mut() {
            held.retain(|(name, _), _| name != topic);
        }
    }
}
