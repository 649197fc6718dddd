//! Avro and the schema registry: the only folder that names `apache-avro` and `schema_registry_converter`.
