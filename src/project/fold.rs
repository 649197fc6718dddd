//! Records of one partition become one transaction's content. Pure: decodes, folds, refuses; writes nothing.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::plan::kpis::KpiSpec;
use crate::plan::tables::TableSpec;
use crate::position::NextOffset;
use crate::project::copy::CopyText;
use crate::project::store::{Position, Reject, Rows, Write};
use crate::project::window::{self, Folder};
use crate::record::InRecord;
use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;
use crate::schema::value::SharedSchema;

/// What a topic's records become.
#[derive(Clone, Debug)]
pub enum Target {
    /// Rows of `executions`.
    Executions,
    /// KPI rows.
    Facts(Vec<KpiSpec>),
    /// Rows of the topic's table.
    Table(TableSpec, SharedSchema),
}

/// Folds records in the order of their offsets.
#[derive(Clone, Copy, Debug)]
pub struct Fold<'a> {
    /// What of.
    pub target: &'a Target,
    /// How values are read.
    pub codec: &'a Codec,
    /// Schema ids that the registry does not know: records that name one are rejected.
    pub unknown: &'a HashSet<u32>,
    /// The wall clock.
    pub now: DateTime<Utc>,
}

/// A schema id that must be asked for before the batch can be folded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unlearned(pub u32);

/// A record's verdict: folded, or not and why.
type Read<T> = Result<T, SchemaError>;

impl<'a> Fold<'a> {
    /// The transaction of `records`, which follow `from`. Records before it have been folded and are left out.
    ///
    /// # Errors
    /// [`Unlearned`] when a schema id must be asked for first.
    pub fn records(self, from: Position, records: &'a [InRecord]) -> Result<Write<'a>, Unlearned> {
        let fresh = records.iter().filter(|record| record.offset >= from.next.0);
        let mut rejects = Vec::new();
        let rows = match self.target {
            Target::Executions => {
                let mut copy = CopyText::default();
                for record in fresh {
                    if let Some(result) =
                        self.read(record, &mut rejects, |value| self.codec.read_execution(value))?
                    {
                        if window::is_storable(result.event_time) && window::is_storable(result.started_at) {
                            copy.execution(&result);
                        } else {
                            rejects.push(Reject::of(
                                record,
                                "no_time",
                                "a time is not in the years 1 to 9998",
                            ));
                        }
                    }
                }
                Rows::Executions(copy)
            }
            Target::Facts(kpis) => {
                let mut folder = Folder::new(kpis, from.time_max);
                for record in fresh {
                    if let Some(fact) =
                        self.read(record, &mut rejects, |value| self.codec.read_fact(value))?
                    {
                        folder.fold(record.offset, &fact, self.now);
                    }
                }
                Rows::Kpis(folder.finish())
            }
            Target::Table(spec, schema) => {
                let mut copy = CopyText::default();
                for record in fresh {
                    let value =
                        self.read(record, &mut rejects, |value| self.codec.read_value(schema, value))?;
                    if let Some(value) = value {
                        put_row(&mut copy, spec, record, &value);
                    }
                }
                Rows::Table(spec, copy)
            }
        };
        let to = records.last().map_or(from.next, |last| NextOffset::after(last.offset).max(from.next));
        Ok(Write { to, rows, rejects, records })
    }

    /// A transaction that folds nothing of `record` and keeps it among the rejects: Postgres refused its row.
    pub fn refused(self, from: Position, record: &'a [InRecord; 1], detail: String) -> Write<'a> {
        let rows = match self.target {
            Target::Executions => Rows::Executions(CopyText::default()),
            Target::Facts(kpis) => Rows::Kpis(Folder::new(kpis, from.time_max).finish()),
            Target::Table(spec, _) => Rows::Table(spec, CopyText::default()),
        };
        let rejects = vec![Reject::of(&record[0], "refused_by_postgres", detail)];
        Write { to: NextOffset::after(record[0].offset), rows, rejects, records: record }
    }

    fn read<T>(
        self,
        record: &InRecord,
        rejects: &mut Vec<Reject>,
        decode: impl Fn(&[u8]) -> Read<T>,
    ) -> Result<Option<T>, Unlearned> {
        let Some(value) = &record.value else {
            rejects.push(Reject::of(record, "tombstone", "the value is null"));
            return Ok(None);
        };
        match decode(value) {
            Ok(decoded) => Ok(Some(decoded)),
            Err(SchemaError::UnknownSchema { id }) if !self.unknown.contains(&id) => Err(Unlearned(id)),
            Err(error) => {
                let reason = match &error {
                    SchemaError::UnknownSchema { .. } => "unknown_schema",
                    _ => "undecodable",
                };
                rejects.push(Reject::of(record, reason, error.to_string()));
                Ok(None)
            }
        }
    }
}

fn put_row(copy: &mut CopyText, spec: &TableSpec, record: &InRecord, value: &serde_json::Value) {
    for column in &spec.columns {
        copy.field(column, value.get(&column.name).unwrap_or(&serde_json::Value::Null));
    }
    copy.text(&record.topic);
    copy.whole(i64::from(record.partition));
    copy.whole(record.offset);
    copy.time(event_time(record));
    copy.end_row();
}

/// When the event of a record happened: `ce_time`, else Kafka's timestamp.
fn event_time(record: &InRecord) -> DateTime<Utc> {
    record
        .header_text("ce_time")
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .map(|time| time.with_timezone(&Utc))
        .or_else(|| DateTime::from_timestamp_millis(record.timestamp_ms?))
        .filter(|time| window::is_storable(*time))
        .unwrap_or(DateTime::UNIX_EPOCH)
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod history;
