//! Role `ingest`: takes webhooks over HTTP and puts them into Kafka. A request is answered with success only when
//! every record of it is acknowledged by all in-sync replicas.

pub mod accept;
pub mod limits;
pub mod server;
