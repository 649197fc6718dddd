//! `topics/<name>.yaml`: a topic as it is written.

use std::path::PathBuf;
use std::time::Duration;

use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Span, Spanned};
use crate::yaml::node::Node;

/// Longest topic name that Kafka allows.
const TOPIC_BYTES_MAX: usize = 249;
/// Longest identifier of Postgres.
const IDENTIFIER_BYTES_MAX: usize = 63;
/// Most partitions a topic may declare.
const PARTITIONS_MAX: i64 = 10_000;
/// Partitions of a topic that does not say.
const PARTITIONS_DEFAULT: i32 = 12;

/// What Kafka does with old records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cleanup {
    /// They are deleted when they are older than the retention.
    Delete,
    /// The last record of each key stays.
    Compact,
    /// Both.
    CompactAndDelete,
}

/// What a topic's values are.
#[derive(Clone, PartialEq, Debug)]
pub enum ValueFormat {
    /// Any bytes.
    Bytes,
    /// JSON, checked against a JSON Schema when one is named.
    Json {
        /// File below the project's folder.
        schema: Option<Spanned<PathBuf>>,
    },
    /// Avro.
    Avro {
        /// File below the project's folder.
        schema: Spanned<PathBuf>,
    },
}

/// What happens when a record's primary key is already in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnConflict {
    /// The record with the later event time stays; of equal times the higher offset.
    Newest,
    /// The record that came first stays.
    First,
    /// The record is refused and kept in `projector_rejects`.
    Error,
}

/// The Postgres table of a topic.
#[derive(Clone, PartialEq, Debug)]
pub struct TableConfig {
    /// Name of the table.
    pub name: Spanned<String>,
    /// Fields of the primary key; at least one, none twice.
    pub primary_key: Vec<Spanned<String>>,
    /// What happens to a second record of the same key.
    pub on_conflict: OnConflict,
    /// Where `table:` stands.
    pub span: Span,
}

/// A topic file.
#[derive(Clone, PartialEq, Debug)]
pub struct TopicConfig {
    /// Name: the file's name.
    pub name: String,
    /// The file as a whole, for messages.
    pub span: Span,
    /// How many partitions.
    pub partitions: i32,
    /// How long records are kept; `None` leaves it to the broker.
    pub retention: Option<Duration>,
    /// What happens to old records.
    pub cleanup: Cleanup,
    /// Field of the value that is the key, for `emit` without a key of its own.
    pub key: Option<Spanned<String>>,
    /// What the values are.
    pub value: ValueFormat,
    /// The table that the projector keeps.
    pub table: Option<TableConfig>,
}

impl TopicConfig {
    /// Decodes the file `topics/<name>.yaml`.
    pub fn decode(name: &str, node: &Node, lints: &mut Lints) -> Option<Self> {
        let named = check_name(name, &node.span, lints);
        let mut fields = Fields::of(node, "a topic", lints)?;
        let partitions = match fields.optional("partitions") {
            Some(node) => {
                fields::integer(node, 1..=PARTITIONS_MAX, lints).and_then(|n| i32::try_from(n).ok())
            }
            None => Some(PARTITIONS_DEFAULT),
        };
        let retention = fields.optional("retention").map(|node| fields::duration(node, lints));
        let cleanup = match fields.optional("cleanup") {
            Some(node) => fields::choice(
                node,
                &[
                    ("delete", Cleanup::Delete),
                    ("compact", Cleanup::Compact),
                    ("compact,delete", Cleanup::CompactAndDelete),
                ],
                lints,
            ),
            None => Some(Cleanup::Delete),
        };
        let key = fields.optional("key").map(|node| fields::text(node, lints));
        let value = match fields.optional("value") {
            Some(node) => decode_value(node, lints),
            None => Some(ValueFormat::Json { schema: None }),
        };
        let table = fields.optional("table").map(|node| TableConfig::decode(node, lints));
        fields.finish(lints);
        named?;
        Some(Self {
            name: name.to_owned(),
            span: node.span.clone(),
            partitions: partitions?,
            retention: optional(retention)?,
            cleanup: cleanup?,
            key: optional(key)?,
            value: value?,
            table: optional(table)?,
        })
    }
}

impl TableConfig {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a table", lints)?;
        let name = fields.required("name", lints).and_then(|node| decode_table_name(node, lints));
        let primary_key = fields.required("primary_key", lints).and_then(|node| decode_key(node, lints));
        let on_conflict = match fields.optional("on_conflict") {
            Some(node) => fields::choice(
                node,
                &[("newest", OnConflict::Newest), ("first", OnConflict::First), ("error", OnConflict::Error)],
                lints,
            ),
            None => Some(OnConflict::Newest),
        };
        fields.finish(lints);
        Some(Self {
            name: name?,
            primary_key: primary_key?,
            on_conflict: on_conflict?,
            span: node.span.clone(),
        })
    }
}

/// An absent field is fine, a field with a mistake is not.
#[allow(clippy::option_option, reason = "absent, wrong and present are three things")]
fn optional<T>(field: Option<Option<T>>) -> Option<Option<T>> {
    match field {
        None => Some(None),
        Some(decoded) => decoded.map(Some),
    }
}

fn check_name(name: &str, span: &Span, lints: &mut Lints) -> Option<()> {
    let fits = (1..=TOPIC_BYTES_MAX).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-')
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !fits {
        lints.error(
            "bad-name",
            span,
            format!("`{name}` cannot name a topic"),
            "lower-case letters, digits, dots and hyphens, beginning with a letter or digit",
        );
    }
    fits.then_some(())
}

fn decode_value(node: &Node, lints: &mut Lints) -> Option<ValueFormat> {
    #[derive(Clone)]
    enum Format {
        Avro,
        Json,
        Bytes,
    }
    let mut fields = Fields::of(node, "a value", lints)?;
    let format = fields.required("format", lints).and_then(|node| {
        fields::choice(
            node,
            &[("avro", Format::Avro), ("json", Format::Json), ("bytes", Format::Bytes)],
            lints,
        )
    });
    let entry = fields.entry("schema");
    let schema = entry.map(|(_, node)| fields::text(node, lints));
    fields.finish(lints);
    let schema = optional(schema)?.map(|path| Spanned { value: PathBuf::from(path.value), span: path.span });
    match (format?, schema) {
        (Format::Avro, Some(schema)) => Some(ValueFormat::Avro { schema }),
        (Format::Avro, None) => {
            lints.error(
                "missing-key",
                &node.span,
                "Avro values have a schema",
                "add `schema: schemas/<name>.avsc`",
            );
            None
        }
        (Format::Json, schema) => Some(ValueFormat::Json { schema }),
        (Format::Bytes, None) => Some(ValueFormat::Bytes),
        (Format::Bytes, Some(schema)) => {
            lints.error(
                "no-schema",
                &schema.span,
                "bytes have no schema",
                "remove it, or write format: avro or json",
            );
            None
        }
    }
}

fn decode_table_name(node: &Node, lints: &mut Lints) -> Option<Spanned<String>> {
    let name = fields::text(node, lints)?;
    let text = &name.value;
    let is_ours =
        text == "executions" || ["kpi_", "projector_", "pg_", "_"].iter().any(|own| text.starts_with(own));
    let fits = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && text.len() <= IDENTIFIER_BYTES_MAX;
    if is_ours {
        lints.error(
            "bad-name",
            &node.span,
            format!("`{text}` is one of Millrace's own tables"),
            "another name: not executions, kpi_..., projector_..., pg_..., _...",
        );
    } else if !fits {
        lints.error(
            "bad-name",
            &node.span,
            format!("`{text}` cannot name a table"),
            "lower-case letters, digits and _, beginning with a letter, at most 63",
        );
    }
    (fits && !is_ours).then_some(name)
}

fn decode_key(node: &Node, lints: &mut Lints) -> Option<Vec<Spanned<String>>> {
    let mut columns: Vec<Spanned<String>> = Vec::new();
    fields::list(node, lints, |item, lints| {
        let name = fields::text(item, lints)?;
        if columns.iter().any(|known| known.value == name.value) {
            lints.error("twice", &item.span, format!("`{}` is written twice", name.value), "remove one");
        } else {
            columns.push(name);
        }
        Some(())
    })?;
    if columns.is_empty() {
        lints.error("empty", &node.span, "a primary key has at least one field", "write [<field>]");
        return None;
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::yaml::lint::SourceFile;
    use crate::yaml::node;

    fn decode(name: &str, text: &str) -> Result<TopicConfig, Vec<String>> {
        let file = Arc::new(SourceFile { path: format!("topics/{name}.yaml").into(), text: text.to_owned() });
        let mut lints = Lints::default();
        let config =
            node::parse(&file, &mut lints).and_then(|node| TopicConfig::decode(name, &node, &mut lints));
        let messages: Vec<String> =
            lints.0.iter().map(|lint| format!("{}: {}", lint.span, lint.message)).collect();
        if messages.is_empty() { Ok(config.expect("no lint, so a config")) } else { Err(messages) }
    }

    #[test]
    fn a_topic_with_a_table_is_read() {
        let topic = decode(
            "payments",
            "partitions: 12\nretention: 30d\nkey: payment_id\nvalue: {format: avro, schema: schemas/payment.avsc}\n\
             table: {name: payments, primary_key: [payment_id], on_conflict: newest}\n",
        )
        .expect("no lint");
        assert_eq!(topic.partitions, 12);
        assert_eq!(topic.retention, Some(Duration::from_secs(30 * 86_400)));
        assert!(
            matches!(&topic.value, ValueFormat::Avro { schema } if schema.value.ends_with("payment.avsc"))
        );
        let table = topic.table.expect("a table");
        assert_eq!((table.name.value.as_str(), table.on_conflict), ("payments", OnConflict::Newest));
    }

    #[test]
    fn defaults_are_json_in_twelve_partitions() {
        let topic = decode("events.stripe", "retention: 7d\n").expect("no lint");
        assert_eq!((topic.partitions, topic.cleanup), (12, Cleanup::Delete));
        assert_eq!(topic.value, ValueFormat::Json { schema: None });
    }

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        let lints = decode(
            "pay_ments",
            "partitions: 0\nretention: 30\ncleanup: compat\nvalue: {format: avro}\n\
             table: {name: kpi_x, primary_key: [a, a], on_conflict: last}\nkeys: a\n",
        )
        .expect_err("mistakes");
        assert_eq!(
            lints,
            [
                "topics/pay_ments.yaml:1:1: `pay_ments` cannot name a topic",
                "topics/pay_ments.yaml:1:13: 0 is out of range",
                "topics/pay_ments.yaml:2:12: `30` is not a duration",
                "topics/pay_ments.yaml:3:10: `compat` is not one of delete, compact, compact,delete",
                "topics/pay_ments.yaml:4:8: Avro values have a schema",
                "topics/pay_ments.yaml:5:15: `kpi_x` is one of Millrace's own tables",
                "topics/pay_ments.yaml:5:39: `a` is written twice",
                "topics/pay_ments.yaml:5:56: `last` is not one of newest, first, error",
                "topics/pay_ments.yaml:6:1: there is no key `keys` here",
            ]
        );
    }
}
