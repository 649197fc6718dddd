//! Claims of one statement, in which no key may be named twice. Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::postgres::dedupe::{Claim, Sighting};

/// Claims in the order in which they came: of those of one key only the first goes to Postgres, and what Postgres says
/// of it answers the others.
#[derive(Debug)]
pub struct Merged {
    distinct: Vec<Claim>,
    /// For each claim that came: who made it, and which of the distinct ones answers it.
    all: Vec<(Sighting, usize)>,
}

impl Merged {
    /// Merges claims.
    pub fn of(claims: Vec<Claim>) -> Self {
        let mut places: HashMap<(String, [u8; 32]), usize> = HashMap::with_capacity(claims.len());
        let mut merged = Self { distinct: Vec::new(), all: Vec::with_capacity(claims.len()) };
        for claim in claims {
            let place = match places.entry((claim.scope.clone(), claim.key_hash)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(fresh) => *fresh.insert(merged.distinct.len()),
            };
            merged.all.push((claim.sighting.clone(), place));
            if place == merged.distinct.len() {
                merged.distinct.push(claim);
            }
        }
        merged
    }

    /// What goes to Postgres.
    pub fn distinct(&self) -> &[Claim] {
        &self.distinct
    }

    /// Whether the key of claim number `at` is its claimant's, when the distinct ones are `owners`'.
    pub fn is_mine(&self, at: usize, owners: &[Sighting]) -> bool {
        self.all.get(at).is_some_and(|(sighting, place)| owners.get(*place) == Some(sighting))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn claim((scope, key, offset): (u8, u8, i64)) -> Claim {
        Claim {
            scope: format!("leads/{scope}"),
            key_hash: [key; 32],
            sighting: Sighting {
                topic: String::from("events"),
                partition: 0,
                offset,
                element: String::new(),
            },
            ttl: Duration::from_secs(60),
        }
    }

    /// What the table does with claims of different keys.
    fn answer(table: &mut HashMap<(String, [u8; 32]), Sighting>, claims: &[Claim]) -> Vec<Sighting> {
        let owner = |claim: &Claim| {
            let key = (claim.scope.clone(), claim.key_hash);
            table.entry(key).or_insert_with(|| claim.sighting.clone()).clone()
        };
        claims.iter().map(owner).collect()
    }

    proptest! {
        /// Claims in batches of any size are answered as if each had been asked alone: the first bringer of a key has
        /// it, as often as it asks, and nobody else.
        #[test]
        fn batches_change_no_answer(
            claims in proptest::collection::vec((0..2_u8, 0..6_u8, 0..8_i64), 0..80),
            size in 1..20_usize,
        ) {
            let claims: Vec<Claim> = claims.into_iter().map(claim).collect();
            let mut alone = HashMap::new();
            let wanted: Vec<bool> = claims
                .iter()
                .map(|claim| answer(&mut alone, std::slice::from_ref(claim)) == [claim.sighting.clone()])
                .collect();
            let (mut table, mut found) = (HashMap::new(), Vec::new());
            for batch in claims.chunks(size) {
                let merged = Merged::of(batch.to_vec());
                let mut keys: Vec<_> = merged.distinct().iter().map(|claim| (&claim.scope, claim.key_hash)).collect();
                keys.sort();
                keys.dedup();
                prop_assert_eq!(keys.len(), merged.distinct().len(), "no key twice");
                let owners = answer(&mut table, merged.distinct());
                found.extend((0..batch.len()).map(|at| merged.is_mine(at, &owners)));
            }
            prop_assert_eq!(found, wanted);
        }
    }
}
