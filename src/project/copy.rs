//! Rows in the text format of Postgres' `COPY`, and what a table's row is made of.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use crate::ledger::ExecutionResult;
use crate::schema::value::{Column, ColumnType};

/// Columns of `executions`, in the order of [`CopyText::execution`].
pub const EXECUTION_COLUMNS: &str = "pipeline, outcome, stage, error_class, error, attempts, event_id, event_source, \
     event_type, tenant, topic, partition, \"offset\", event_time, started_at, duration_us, records_out, config_hash";

/// Rows ready to be copied.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopyText {
    bytes: Vec<u8>,
    in_row: bool,
}

impl CopyText {
    /// The rows.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One row of `executions`.
    pub fn execution(&mut self, result: &ExecutionResult) {
        let ExecutionResult {
            pipeline,
            outcome,
            stage,
            error_class,
            error,
            attempts,
            event_id,
            event_source,
            event_type,
            tenant,
            topic,
            partition,
            offset,
            event_time,
            started_at,
            duration_us,
            records_out,
            config_hash,
        } = result;
        self.text(pipeline);
        self.text(outcome.name());
        self.optional(stage.as_deref());
        self.optional(error_class.as_deref());
        self.optional(error.as_deref());
        self.whole(i64::from(*attempts));
        self.text(event_id);
        self.text(event_source);
        self.text(event_type);
        self.optional(tenant.as_deref());
        self.text(topic);
        self.whole(i64::from(*partition));
        self.whole(*offset);
        self.time(*event_time);
        self.time(*started_at);
        self.whole(*duration_us);
        self.whole(i64::from(*records_out));
        self.text(config_hash);
        self.end_row();
    }

    /// The value of a field as its column wants it. What does not fit is left to Postgres to refuse.
    pub fn field(&mut self, column: &Column, value: &Value) {
        match (column.kind, value) {
            (_, Value::Null) => self.optional(None),
            (ColumnType::Json, value) => self.text(&json_text(value)),
            (ColumnType::Bytes, Value::String(text)) => {
                let bytes = BASE64.decode(text).unwrap_or_default();
                self.text(&format!("\\x{}", hex::encode(bytes)));
            }
            (_, Value::String(text)) => self.text(text),
            (_, other) => self.text(&other.to_string()),
        }
    }

    /// Text, escaped. Postgres cannot store NUL: it becomes U+FFFD.
    pub fn text(&mut self, text: &str) {
        self.begin_field();
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t' | 0)) {
            self.bytes.extend_from_slice(&rest[..at]);
            let escaped: &[u8] = match rest[at] {
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                _ => "\u{fffd}".as_bytes(),
            };
            self.bytes.extend_from_slice(escaped);
            rest = &rest[at + 1..];
        }
        self.bytes.extend_from_slice(rest);
    }

    /// Text or null.
    pub fn optional(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => {
                self.begin_field();
                self.bytes.extend_from_slice(b"\\N");
            }
        }
    }

    /// A whole number.
    pub fn whole(&mut self, number: i64) {
        self.begin_field();
        write!(self.bytes, "{number}").expect("a Vec takes what is written to it");
    }

    /// An instant, in the years that Postgres and its clients know.
    pub fn time(&mut self, time: DateTime<Utc>) {
        self.text(&time.to_rfc3339_opts(SecondsFormat::Micros, true));
    }

    /// Ends the row.
    pub fn end_row(&mut self) {
        self.bytes.push(b'\n');
        self.in_row = false;
    }

    fn begin_field(&mut self) {
        if self.in_row {
            self.bytes.push(b'\t');
        }
        self.in_row = true;
    }
}

/// JSON without NUL, which `jsonb` refuses.
fn json_text(value: &Value) -> String {
    let text = value.to_string();
    if text.contains("\\u0000") { without_nul(value).to_string() } else { text }
}

fn without_nul(value: &Value) -> Value {
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    match value {
        Value::String(text) => clean(text).into(),
        Value::Array(items) => items.iter().map(without_nul).collect(),
        Value::Object(object) => object
            .iter()
            .map(|(name, value)| (clean(name), without_nul(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_escaped_and_nul_is_replaced() {
        let mut copy = CopyText::default();
        copy.text("a\tb\\c\nd\re\0f");
        copy.optional(None);
        copy.whole(-1);
        copy.end_row();
        copy.text("");
        copy.end_row();
        assert_eq!(String::from_utf8_lossy(copy.as_bytes()), "a\\tb\\\\c\\nd\\re\u{fffd}f\t\\N\t-1\n\n");
    }

    #[test]
    fn fields_take_their_columns_form() {
        let column = |kind| Column { name: String::from("c"), kind, is_nullable: true };
        let mut copy = CopyText::default();
        copy.field(&column(ColumnType::Bytes), &json!("AAE="));
        copy.field(&column(ColumnType::Json), &json!({"a\0": ["\0", "\\u0000"]}));
        copy.field(&column(ColumnType::Boolean), &json!(true));
        copy.field(&column(ColumnType::Double), &json!(0.5));
        copy.field(&column(ColumnType::Text), &json!(null));
        assert_eq!(
            String::from_utf8_lossy(copy.as_bytes()),
            "\\\\x0001\t{\"a\u{fffd}\":[\"\u{fffd}\",\"\\\\\\\\u0000\"]}\ttrue\t0.5\t\\N"
        );
    }
}
