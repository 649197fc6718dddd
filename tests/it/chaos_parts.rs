//! The parts of `tests/chaos` that decide without servers, whose own tests run here: that program has no test harness.
#![allow(dead_code, reason = "only their tests are wanted")]

#[path = "../chaos/invariants.rs"]
mod invariants;
#[path = "../chaos/proxy/refusal.rs"]
mod refusal;
#[path = "../chaos/proxy/wire.rs"]
mod wire;
