//! Kafka: the only folder that names `rdkafka`.

pub mod settings;
