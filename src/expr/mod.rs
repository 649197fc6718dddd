//! Expressions: VRL programs over one event, compiled once with the types that are known. The only folder that names `vrl`.
//!
//! A program sees two things. `.` is the decoded value: JSON, or what a codec made of Avro; null for a tombstone. `%` is
//! the metadata: `%id`, `%source`, `%type`, `%time`, `%subject`, `%tenant`, `%key`, `%topic`, `%partition`, `%offset`,
//! `%headers`, and `%stages.<id>` with what an earlier stage answered. Metadata is read-only.
//!
//! Nothing is decoded that no program looks at: a compiled program knows whether it reads `.` and which metadata it
//! reads, and only that is built (see [`scope::Scope`]); where it reads a few paths of a JSON text, only these are
//! decoded ([`projection`]).
//!
//! Functions that reach outside the event (network, environment, system, log) are not in the build or not offered, nor
//! are those whose result can be far larger than their input (decompression).

mod pass;
mod plain;
pub mod program;
pub mod projection;
pub mod scope;
pub mod shapes;
pub mod types;
pub mod values;

#[cfg(test)]
mod tests;

/// A value of the language.
pub type Value = vrl::value::Value;
/// An object's fields.
pub type Object = vrl::value::ObjectMap;
/// What is known of the type of a value.
pub type Kind = vrl::value::Kind;

/// A key of an object.
pub type Key = vrl::value::KeyString;
