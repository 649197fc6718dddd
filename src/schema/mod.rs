//! Avro and the schema registry: the only folder that names `apache-avro` and `schema_registry_converter`.
//!
//! Values on Millrace's topics are Avro in Confluent's framing: a zero byte, the schema's id in 4 bytes big endian,
//! the datum. With a registry the ids are the registry's. Without one the id is [`framing::EMBEDDED_ID`], which no
//! registry gives out: "the schema that the project declares for this topic". So the bytes look the same either way,
//! and a reader that knows the schema by file can read them.

pub mod codec;
mod effort;
pub mod error;
mod fit;
pub mod framing;
mod json;
pub mod ledger;
mod path;
mod raw;
pub mod registry;
mod resolve;
pub mod value;
mod variants;
mod wire;

#[cfg(test)]
mod tests;
