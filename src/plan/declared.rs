//! What topics and KPIs mean: schemas read, tables and keys held against them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::config;
use crate::config::project::{Project, Thing};
use crate::config::topic::{Cleanup, TopicConfig};
use crate::plan::kpis::KpiSpec;
use crate::plan::tables::TableSpec;
use crate::plan::topics::{RECORD_ROOM_BYTES, Role, TopicSpec};
use crate::schema::value::{Column, ValueSchema};
use crate::stages::context::ValueFormat;
use crate::yaml::lint::{Lints, Spanned, suggestion};

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
        let topic = &thing.value;
        let value = value(project, topic, lints);
        if let Some(table) = &topic.table
            && let Some(other) = tables.insert(&table.name.value, name)
        {
            let message = format!("topic `{other}` keeps the table `{}` too", table.name.value);
            lints.error(
                "duplicate-table",
                &table.name.span,
                message,
                "a table follows one topic: rename one",
            );
        }
        let schema = match &value {
            Some(ValueFormat::Avro { schema }) => Some(&**schema),
            Some(ValueFormat::Json | ValueFormat::Bytes) => Some(""),
            None => None,
        };
        found.tables.extend(schema.and_then(|schema| TableSpec::compile(topic, schema, lints)));
        found.topics.insert(name.clone(), spec(name, topic, value.unwrap_or(ValueFormat::Bytes)));
    }
    found
}

fn spec(name: &str, topic: &TopicConfig, value: ValueFormat) -> TopicSpec {
    let policy = match topic.cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
        Cleanup::CompactAndDelete => "compact,delete",
    };
    let mut settings = BTreeMap::from([("cleanup.policy", String::from(policy))]);
    // Kafka's default counts the batch around a record too and would refuse the largest that is taken in.
    settings.insert("max.message.bytes", RECORD_ROOM_BYTES.to_string());
    if let Some(retention) = topic.retention {
        settings.insert("retention.ms", retention.as_millis().to_string());
    }
    let partitions = u32::try_from(topic.partitions).ok().and_then(NonZeroU32::new);
    TopicSpec {
        name: name.into(),
        role: Role::Declared,
        partitions: partitions.unwrap_or(NonZeroU32::MIN),
        settings,
        value,
        mirrors: None,
    }
}

/// The format of a topic's values. `None`, after a lint, when its schema cannot be used.
fn value(project: &Project, topic: &TopicConfig, lints: &mut Lints) -> Option<ValueFormat> {
    let place = match &topic.value {
        config::topic::ValueFormat::Json { .. } => return Some(ValueFormat::Json),
        config::topic::ValueFormat::Bytes => return Some(ValueFormat::Bytes),
        config::topic::ValueFormat::Avro { schema } => schema,
    };
    let file = project.schemas.get(&place.value)?;
    match ValueSchema::parse(&file.text).and_then(|schema| schema.columns()) {
        Ok(columns) => {
            key(topic.key.as_ref(), &columns, lints);
            Some(ValueFormat::Avro { schema: file.text.as_str().into() })
        }
        Err(error) => {
            let message = format!("`{}` cannot be used: {error}", place.value.display());
            lints.error("bad-schema", &place.span, message, "write an Avro record with named fields");
            None
        }
    }
}

/// The key is a field of the value.
fn key(key: Option<&Spanned<String>>, columns: &[Column], lints: &mut Lints) {
    let Some(key) = key else { return };
    let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    if !known.contains(&key.value.as_str()) {
        let message = format!("the key is `{}`, which the schema does not have", key.value);
        lints.error("unknown-field", &key.span, message, suggestion(&key.value, &known));
    }
}

/// What the files in `kpis/` mean.
pub fn kpis(project: &Project, lints: &mut Lints) -> Vec<KpiSpec> {
    let mut views: BTreeMap<String, &str> = BTreeMap::new();
    let mut specs = Vec::new();
    for (name, thing) in &project.kpis {
        let spec = KpiSpec::compile(&thing.value);
        let view = spec.windows.first().map(|window| spec.view(*window)).unwrap_or_default();
        if let Some(other) = views.insert(view, name) {
            let message = format!("the views of `{name}` are called like those of `{other}`");
            lints.error("duplicate-view", &thing.begin(), message, "rename one of the two files");
        }
        specs.push(spec);
    }
    specs
}

/// Reports topic files whose name Millrace gives to a topic of its own.
pub fn reserved_topics<'a>(project: &Project, taken: impl Iterator<Item = &'a str>, lints: &mut Lints) {
    for thing in taken.filter_map(|name| project.topics.get(name)) {
        let Thing { value: topic, .. } = thing;
        let message = format!("the topic `{}` is made by Millrace itself", topic.name);
        lints.error("reserved-name", &thing.begin(), message, "remove the file, or rename the topic");
    }
}
