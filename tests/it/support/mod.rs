#![allow(dead_code, reason = "scenarios use what they need of it")]

//! Stripe-shaped events with its oracle, and readers of what came out.

pub mod events;
pub mod millrace;
pub mod project;
pub mod readback;
pub mod servers;
