//! How many random histories the property tests go through.

use proptest::prelude::ProptestConfig;

/// `quick` histories, or as many as `PROPTEST_CASES` says: `scripts/properties` sets it to a million.
pub fn cases(quick: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(quick),
    }
}
