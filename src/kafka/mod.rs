//! Kafka: the only folder that names `rdkafka`.
