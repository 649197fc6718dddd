//! Outside systems, in both directions: what comes in (`Source`: verify, normalise) and what goes out (`Target`).
//! The only folder that names `reqwest`.
