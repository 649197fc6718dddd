//! The development broker itself: what it does as Apache Kafka does, and what only it can do.
//!
//! What is asserted in `same` runs on whichever broker the scenarios run on; the other files start one of their own.

mod acks;
mod clients;
mod faults;
mod foreign;
mod retention;
mod same;
mod slow;
