//! A Postgres table that the projector keeps of a topic.

use std::sync::Arc;

use crate::config::topic::{OnConflict, TopicConfig, ValueFormat};
use crate::schema::value::{Column, ColumnType, ValueSchema};
use crate::yaml::lint::{Lints, Spanned, suggestion};

/// Columns that every table has besides the schema's: where the row comes from, and when the event happened.
pub const META_COLUMNS: [(&str, ColumnType); 4] = [
    ("_topic", ColumnType::Text),
    ("_partition", ColumnType::Integer),
    ("_offset", ColumnType::BigInt),
    ("_time", ColumnType::Timestamp),
];

/// Longest identifier of Postgres.
const IDENTIFIER_BYTES_MAX: usize = 63;
/// Most columns of a table.
const COLUMNS_MAX: usize = 500;

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

impl TableSpec {
    /// The table that `topic` declares, if it does. `schema` is the text of the file that its Avro value names.
    pub fn compile(topic: &TopicConfig, schema: &str, lints: &mut Lints) -> Option<Self> {
        let table = topic.table.as_ref()?;
        let ValueFormat::Avro { schema: place } = &topic.value else {
            lints.error(
                "table-without-schema",
                &table.span,
                "a table takes its columns from an Avro schema, and this topic has none",
                "write value: {format: avro, schema: schemas/<name>.avsc}",
            );
            return None;
        };
        let columns = ValueSchema::parse(schema).and_then(|schema| schema.columns());
        let columns = match columns {
            Ok(columns) => columns,
            Err(error) => {
                lints.error("bad-schema", &place.span, error.to_string(), "mend the schema");
                return None;
            }
        };
        check_columns(&columns, place, lints)?;
        let keys: Vec<Option<Arc<str>>> =
            table.primary_key.iter().map(|key| check_key(key, &columns, lints)).collect();
        Some(Self {
            topic: topic.name.as_str().into(),
            schema: schema.into(),
            name: table.name.value.as_str().into(),
            primary_key: keys.into_iter().collect::<Option<_>>()?,
            columns,
            on_conflict: table.on_conflict,
        })
    }
}

fn check_columns<T>(columns: &[Column], place: &Spanned<T>, lints: &mut Lints) -> Option<()> {
    let meta = |name: &str| META_COLUMNS.iter().any(|(own, _)| *own == name);
    let bad = columns.iter().find(|column| meta(&column.name) || column.name.len() > IDENTIFIER_BYTES_MAX);
    if let Some(column) = bad {
        lints.error(
            "bad-name",
            &place.span,
            format!("field `{}` cannot be a column", column.name),
            "not _topic, _partition, _offset or _time, and at most 63 characters",
        );
        return None;
    }
    if columns.is_empty() || columns.len() > COLUMNS_MAX {
        let message = format!("a table has 1 to {COLUMNS_MAX} columns, this schema {}", columns.len());
        lints.error("bad-schema", &place.span, message, "change the schema");
        return None;
    }
    Some(())
}

fn check_key(key: &Spanned<String>, columns: &[Column], lints: &mut Lints) -> Option<Arc<str>> {
    let Some(column) = columns.iter().find(|column| column.name == key.value) else {
        let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let message = format!("there is no field `{}` in the schema", key.value);
        lints.error("unknown-field", &key.span, message, suggestion(&key.value, &known));
        return None;
    };
    if column.is_nullable || column.kind == ColumnType::Json {
        let message = format!("field `{}` cannot be part of a primary key", key.value);
        lints.error("bad-key", &key.span, message, "a field that is never null and a single value");
        return None;
    }
    Some(key.value.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::lint::SourceFile;
    use crate::yaml::node;

    fn compile(text: &str, schema: &str) -> Result<TableSpec, Vec<String>> {
        let file = Arc::new(SourceFile { path: "topics/payments.yaml".into(), text: text.to_owned() });
        let mut lints = Lints::default();
        let topic = node::parse(&file, &mut lints)
            .and_then(|node| TopicConfig::decode("payments", &node, &mut lints))
            .expect("the tests' files can be read");
        let spec = TableSpec::compile(&topic, schema, &mut lints);
        spec.ok_or_else(|| lints.0.iter().map(|lint| format!("{}: {}", lint.span, lint.message)).collect())
    }

    const SCHEMA: &str = r#"{"type":"record","name":"P","fields":[
        {"name":"payment_id","type":"string"},{"name":"note","type":["null","string"]}]}"#;

    #[test]
    fn a_table_takes_its_columns_from_the_schema() {
        let text =
            "value: {format: avro, schema: s.avsc}\ntable: {name: payments, primary_key: [payment_id]}\n";
        let spec = compile(text, SCHEMA).expect("no lint");
        assert_eq!(spec.columns.len(), 2);
        assert_eq!(spec.primary_key, [Arc::from("payment_id")]);
        assert_eq!(spec.on_conflict, OnConflict::Newest);
    }

    #[test]
    fn a_key_that_is_no_key_is_reported() {
        let text = "value: {format: avro, schema: s.avsc}\ntable: {name: payments, primary_key: [paymentid, note]}\n";
        assert_eq!(
            compile(text, SCHEMA),
            Err(vec![
                String::from("topics/payments.yaml:2:39: there is no field `paymentid` in the schema"),
                String::from("topics/payments.yaml:2:50: field `note` cannot be part of a primary key"),
            ])
        );
        let json = "table: {name: payments, primary_key: [payment_id]}\n";
        assert!(
            compile(json, SCHEMA)
                .is_err_and(|lints| lints[0].contains("takes its columns from an Avro schema"))
        );
    }
}
