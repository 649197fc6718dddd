//! A topic's file.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned};
use crate::yaml::node::Node;

/// Most partitions of one topic.
const PARTITIONS_MAX: i64 = 10_000;
/// How long records are kept when nothing is said.
const RETENTION: Duration = Duration::from_secs(7 * 86_400);
/// Shortest retention that Kafka's log cleaner can keep to.
const RETENTION_MIN: Duration = Duration::from_secs(60);

/// A topic as it is written.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Partitions.
    pub partitions: NonZeroU32,
    /// How long records are kept.
    pub retention: Duration,
    /// Field of the value that is the record's key.
    pub key: Option<Spanned<String>>,
    /// How values are written.
    pub value: Value,
    /// The table that the projector keeps of it.
    pub table: Option<Table>,
}

/// `value`.
#[derive(Clone, Debug)]
pub enum Value {
    /// JSON text.
    Json,
    /// Avro; path of the schema, from the project's folder.
    Avro(Spanned<String>),
    /// Bytes that nobody looks into.
    Bytes,
}

/// `table`.
#[derive(Clone, Debug)]
pub struct Table {
    /// Name of the table.
    pub name: Spanned<String>,
    /// Columns of its primary key.
    pub primary_key: Vec<Spanned<String>>,
    /// What happens to a second record of the same key.
    pub on_conflict: OnConflict,
}

/// `on_conflict`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnConflict {
    /// The newer record stays.
    #[default]
    Newest,
    /// The first record stays.
    First,
    /// The second record is refused.
    Error,
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Avro,
    Bytes,
}

impl Topic {
    /// Decodes a topic's file.
    pub fn decode(_name: &str, node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a topic", lints)?;
        fields.optional("description").and_then(|node| fields::text(node, lints));
        let partitions = fields
            .required("partitions", lints)
            .and_then(|node| fields::integer(node, 1..=PARTITIONS_MAX, lints))
            .and_then(|count| u32::try_from(count).ok().and_then(NonZeroU32::new));
        let retention = match fields.optional("retention") {
            Some(node) => retention(node, lints),
            None => Some(RETENTION),
        };
        let key = fields.optional("key").and_then(|node| fields::text(node, lints));
        let value = fields.required("value", lints).and_then(|node| Value::decode(node, lints));
        let table = fields.optional("table");
        fields.finish(lints);
        Some(Self {
            table: table.and_then(|node| Table::decode(node, lints)),
            partitions: partitions?,
            retention: retention?,
            key,
            value: value?,
        })
    }
}

fn retention(node: &Node, lints: &mut Lints) -> Option<Duration> {
    let retention = fields::duration(node, lints)?;
    if retention < RETENTION_MIN {
        lints.error("out-of-range", &node.span, "records are deleted too soon", "keep them at least 1m");
        return None;
    }
    Some(retention)
}

impl Value {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`value`", lints)?;
        let formats = [("json", Format::Json), ("avro", Format::Avro), ("bytes", Format::Bytes)];
        let format = fields.required("format", lints).and_then(|node| fields::choice(node, &formats, lints));
        let value = match format {
            Some(Format::Json) => Some(Self::Json),
            Some(Format::Bytes) => Some(Self::Bytes),
            Some(Format::Avro) => {
                fields.required("schema", lints).and_then(|node| fields::text(node, lints)).map(Self::Avro)
            }
            None => {
                fields.optional("schema");
                None
            }
        };
        fields.finish(lints);
        value
    }
}

impl Table {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`table`", lints)?;
        let name = fields.required("name", lints).and_then(|node| fields::text(node, lints));
        let primary_key = fields.required("primary_key", lints);
        let primary_key = primary_key.and_then(|node| {
            let columns = fields::list(node, lints, fields::text)?;
            if columns.is_empty() {
                let help = "name the fields that make a row unique: [payment_id]";
                lints.error("empty", &node.span, "the primary key has no column", help);
                return None;
            }
            Some(columns)
        });
        let words =
            [("newest", OnConflict::Newest), ("first", OnConflict::First), ("error", OnConflict::Error)];
        let on_conflict = fields.optional("on_conflict").and_then(|node| fields::choice(node, &words, lints));
        fields.finish(lints);
        Some(Self { name: name?, primary_key: primary_key?, on_conflict: on_conflict.unwrap_or_default() })
    }
}
