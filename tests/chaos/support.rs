//! What is shared with the scenario tests.
#![allow(dead_code, reason = "the scenario tests use the rest")]

#[path = "../support/dice.rs"]
pub mod dice;
#[path = "../support/millrace.rs"]
pub mod millrace;
#[path = "../support/readback.rs"]
pub mod readback;
