//! What topics and KPIs mean: schemas read, tables and keys held against them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config;
use crate::config::project::{Project, Thing};
use crate::config::topic::{OnConflict as Written, Table, Topic, Value};
use crate::plan::kpis::{Aggregate, KpiSpec, Window};
use crate::plan::tables::{META_COLUMNS, OnConflict, TableSpec};
use crate::plan::topics::{self, Role, TopicSpec};
use crate::schema::value::{Column, ValueSchema};
use crate::stages::context::ValueFormat;
use crate::yaml::lint::{Lints, Span, Spanned, nearest};

/// Longest name of a table in Postgres, in bytes.
const TABLE_NAME_BYTES_MAX: usize = 63;
/// Tables and views that Millrace makes itself, and the begins of their names.
const RESERVED_TABLES: [&str; 3] = ["executions", "kpi_", "projector"];

/// Topics and tables of a project.
#[derive(Debug, Default)]
pub struct Topics {
    /// Topics by name.
    pub topics: BTreeMap<String, TopicSpec>,
    /// Tables in the order of their topics.
    pub tables: Vec<TableSpec>,
}

/// What the files in `topics/` mean.
pub fn topics(project: &Project, lints: &mut Lints) -> Topics {
    let mut found = Topics::default();
    let mut tables: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, thing) in &project.topics {
        let (value, columns) = value(project, &thing.value, lints);
        if let (Some(key), Some(columns)) = (&thing.value.key, &columns) {
            column(columns, key, "the key", lints);
        }
        if let Some(table) = &thing.value.table {
            if let Some(other) = tables.insert(&table.name.value, name) {
                let message = format!("topic `{other}` keeps the table `{}` too", table.name.value);
                lints.error(
                    "duplicate-table",
                    &table.name.span,
                    message,
                    "a table follows one topic: rename one",
                );
            }
            found.tables.extend(table_of(name, table, &value, columns.as_deref(), lints));
        }
        found.topics.insert(name.clone(), spec(name, thing, value));
    }
    found
}

fn spec(name: &str, thing: &Thing<Topic>, value: ValueFormat) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        role: Role::Declared,
        partitions: thing.value.partitions,
        settings: topics::deleted_after(thing.value.retention),
        value,
    }
}

/// The format of a topic's values; for Avro also its columns. A schema that cannot be used is said, and the topic
/// then counts as bytes.
fn value(project: &Project, topic: &Topic, lints: &mut Lints) -> (ValueFormat, Option<Vec<Column>>) {
    let path = match &topic.value {
        Value::Json => return (ValueFormat::Json, None),
        Value::Bytes => return (ValueFormat::Bytes, None),
        Value::Avro(path) => path,
    };
    let Some(file) = project.schemas.get(&path.value) else { return (ValueFormat::Bytes, None) };
    let columns = ValueSchema::parse(&file.text).and_then(|schema| schema.columns());
    match columns {
        Ok(columns) => (ValueFormat::Avro { schema: file.text.as_str().into() }, Some(columns)),
        Err(error) => {
            let message = format!("`{}` cannot be used: {error}", path.value);
            lints.error("bad-schema", &path.span, message, "write an Avro record with named fields");
            (ValueFormat::Bytes, None)
        }
    }
}

fn table_of(
    topic: &str,
    table: &Table,
    value: &ValueFormat,
    columns: Option<&[Column]>,
    lints: &mut Lints,
) -> Option<TableSpec> {
    table_name(&table.name, lints);
    let (ValueFormat::Avro { schema }, Some(columns)) = (value, columns) else {
        if !matches!(value, ValueFormat::Bytes) {
            let help = "write `value: {format: avro, schema: schemas/...}`";
            let message = "a table needs the names and types of an Avro schema";
            lints.error("table-without-schema", &table.name.span, message, help);
        }
        return None;
    };
    let mut primary_key: Vec<Arc<str>> = Vec::new();
    for name in &table.primary_key {
        let Some(column) = column(columns, name, "the primary key", lints) else { continue };
        if column.is_nullable {
            let message = format!("`{}` may be null, so that it cannot be part of a primary key", name.value);
            lints.error(
                "nullable-key",
                &name.span,
                message,
                "name a field without null, or change the schema",
            );
        }
        if primary_key.iter().any(|earlier| **earlier == *name.value) {
            lints.error(
                "duplicate",
                &name.span,
                format!("`{}` is listed twice", name.value),
                "remove one of them",
            );
        }
        primary_key.push(name.value.as_str().into());
    }
    for (reserved, _) in META_COLUMNS {
        if columns.iter().any(|column| column.name == reserved) {
            let message = format!("the schema has a field `{reserved}`, a column that Millrace fills itself");
            lints.error("reserved-name", &table.name.span, message, "rename the field");
        }
    }
    Some(TableSpec {
        topic: topic.into(),
        schema: Arc::clone(schema),
        name: table.name.value.as_str().into(),
        columns: columns.to_vec(),
        primary_key,
        on_conflict: match table.on_conflict {
            Written::Newest => OnConflict::Newest,
            Written::First => OnConflict::First,
            Written::Error => OnConflict::Error,
        },
    })
}

fn table_name(name: &Spanned<String>, lints: &mut Lints) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let text = name.value.as_str();
    let is_good = text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(allowed)
        && text.len() <= TABLE_NAME_BYTES_MAX;
    if !is_good {
        let help = "lower-case letters, digits and underscores, a letter first, at most 63";
        lints.error("bad-name", &name.span, format!("`{text}` cannot be the name of a table"), help);
    } else if RESERVED_TABLES.iter().any(|reserved| text.starts_with(reserved)) {
        lints.error(
            "reserved-name",
            &name.span,
            format!("`{text}` is a name of Millrace's own tables"),
            "rename it",
        );
    }
}

/// The column called `name`; a lint when there is none.
fn column<'a>(
    columns: &'a [Column],
    name: &Spanned<String>,
    what: &str,
    lints: &mut Lints,
) -> Option<&'a Column> {
    let found = columns.iter().find(|column| column.name == name.value);
    if found.is_none() {
        let known = || columns.iter().map(|column| column.name.as_str());
        let help = match nearest(&name.value, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it has: {}", known().collect::<Vec<_>>().join(", ")),
        };
        let message = format!("{what} names `{}`, which the schema does not have", name.value);
        lints.error("unknown-field", &name.span, message, help);
    }
    found
}

/// What the files in `kpis/` mean.
pub fn kpis(project: &Project) -> Vec<KpiSpec> {
    project.kpis.iter().map(|(name, thing)| kpi(name, &thing.value)).collect()
}

fn kpi(name: &str, written: &config::kpi::Kpi) -> KpiSpec {
    use config::kpi::{Aggregate as WrittenAggregate, Window as WrittenWindow};
    KpiSpec {
        name: name.into(),
        fact: written.fact.value.as_str().into(),
        aggregate: match written.aggregate {
            WrittenAggregate::Count => Aggregate::Count,
            WrittenAggregate::Sum => Aggregate::Sum,
            WrittenAggregate::Avg => Aggregate::Avg,
            WrittenAggregate::Min => Aggregate::Min,
            WrittenAggregate::Max => Aggregate::Max,
        },
        windows: written
            .windows
            .iter()
            .map(|window| match window {
                WrittenWindow::Minute => Window::Minute,
                WrittenWindow::Hour => Window::Hour,
                WrittenWindow::Day => Window::Day,
            })
            .collect(),
        dimensions: written.dimensions.iter().map(|name| name.value.as_str().into()).collect(),
        time_zone: written.time_zone,
        lateness: written.lateness,
    }
}

/// Reports topic files whose name Millrace gives to a topic of its own.
pub fn reserved_topics<'a>(project: &Project, taken: impl Iterator<Item = &'a str>, lints: &mut Lints) {
    for name in taken {
        if let Some(thing) = project.topics.get(name) {
            let message = format!("the topic `{name}` is made by Millrace itself");
            let place: Span = thing.begin();
            lints.error("reserved-name", &place, message, "remove the file, or rename the topic");
        }
    }
}
