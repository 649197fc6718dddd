//! What scenarios share: servers named by the environment, child processes, a project folder, a generator of
//! Stripe-shaped events with its oracle, and readers of what came out.
#![allow(dead_code, reason = "scenarios use what they need of it")]

pub mod calls;
pub mod destination;
#[path = "../../support/dice.rs"]
pub mod dice;
pub mod events;
pub mod live;
#[path = "../../support/millrace.rs"]
pub mod millrace;
pub mod mock;
pub mod postgres;
pub mod postgres_proxy;
pub mod project;
#[path = "../../support/readback.rs"]
pub mod readback;
pub mod scenario;
pub mod servers;
