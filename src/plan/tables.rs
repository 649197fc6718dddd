//! A Postgres table that the projector keeps of a topic.

use std::sync::Arc;

use crate::schema::value::{Column, ColumnType};

/// What happens when a record's primary key is already there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnConflict {
    /// The record with the later event time stays; of equal times the higher offset.
    Newest,
    /// The first record stays.
    First,
    /// The record is refused and kept in `projector_rejects`.
    Error,
}

/// Columns that every table has besides the schema's: where the row comes from, and when the event happened.
pub const META_COLUMNS: [(&str, ColumnType); 4] = [
    ("_topic", ColumnType::Text),
    ("_partition", ColumnType::Integer),
    ("_offset", ColumnType::BigInt),
    ("_time", ColumnType::Timestamp),
];

/// A table of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSpec {
    /// Topic it is kept of.
    pub topic: Arc<str>,
    /// The topic's Avro schema, as written.
    pub schema: Arc<str>,
    /// Name of the table.
    pub name: Arc<str>,
    /// Its columns, in the schema's order, without [`META_COLUMNS`].
    pub columns: Vec<Column>,
    /// Columns of the primary key; at least one, none nullable.
    pub primary_key: Vec<Arc<str>>,
    /// What happens to a second record of the same key.
    pub on_conflict: OnConflict,
}
