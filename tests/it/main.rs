//! Scenarios against real Kafka, a registry and Postgres.

mod end_to_end;
mod ingest;
mod support;
mod tail;

mod chaos_parts;
mod cli;
mod concurrency;
mod copying;
mod dead_letters;
mod dev;
mod devbroker;
mod exactly_once;
mod idempotency;
mod kpi;
mod memory;
mod outbound;
mod poison;
mod private_postgres;
mod project;
mod rebalance;
mod retries;
mod rules;
mod static_membership;

/// As in the program: the development broker, projectors and clients of many scenarios share this process, and with
/// glibc's malloc a sixth of its time went there.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
