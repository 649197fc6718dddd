//! A condition on dead letters, in the language of the pipelines: `.` is the decoded value, `%` what is known of the
//! record; `%topic`, `%partition` and `%offset` are those of the record that failed, `%headers` has the dead letter's, too.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::app::values::Shown;
use crate::expr::program::{self, Program};
use crate::expr::scope::Scope;
use crate::expr::types::Types;
use crate::expr::values;
use crate::fault::{Fault, FaultClass};
use crate::record::InRecord;
use crate::yaml::lint::{Lint, Lints, SourceFile, Span};
use crate::yaml::node::{Node, Text, Yaml};

/// A compiled condition.
#[derive(Debug)]
pub struct Condition(Program);

impl Condition {
    /// Compiles what was typed behind `flag`.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn compile(flag: &str, text: &str) -> Result<Self, Vec<Lint>> {
        let file = Arc::new(SourceFile { path: PathBuf::from(flag), text: text.to_owned() });
        let span = Span { file, start: 0, end: text.len() };
        let value = Yaml::Text(Text { text: text.to_owned(), is_block: false, is_quoted: false });
        let mut lints = Lints::default();
        let program = program::compile_condition(&Node { span, value }, &Types::default(), &mut lints);
        program.map(Self).ok_or(lints.0)
    }

    /// Whether it holds of a record, whose value is `value`.
    ///
    /// # Errors
    /// When the value is no JSON or Avro, or the program fails on it.
    pub fn holds(&self, record: &InRecord, value: Shown, now: DateTime<Utc>) -> Result<bool, Fault> {
        let value = match value {
            Shown::Nothing => serde_json::Value::Null,
            Shown::Json(value) => value,
            Shown::Text(_) | Shown::Base64(_) => {
                return Err(Fault::new(FaultClass::Poison, "the value is neither JSON nor Avro"));
            }
        };
        self.0.holds(&mut Scope::decoded(record, now, values::from_json(value)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::record::Header;

    fn record() -> InRecord {
        InRecord {
            topic: Arc::from("events"),
            partition: 1,
            offset: 7,
            timestamp_ms: None,
            key: Some(Bytes::from_static(b"ada")),
            value: Some(Bytes::from_static(b"never looked at")),
            headers: vec![Header::of("millrace.dlq.http.status", "404")],
        }
    }

    fn holds(text: &str, value: Shown) -> Result<bool, Fault> {
        let condition = Condition::compile("--where", text).expect("it compiles");
        condition.holds(&record(), value, DateTime::default())
    }

    #[test]
    fn sees_value_and_metadata() {
        let value = || Shown::Json(json!({"amount": 12, "currency": "EUR"}));
        for (text, expected) in [
            (".currency == \"EUR\"", true),
            ("int!(.amount) > 100", false),
            ("%headers.\"millrace.dlq.http.status\" == \"404\"", true),
            ("%topic == \"events\" && %offset == 7 && %key == \"ada\"", true),
        ] {
            assert_eq!(holds(text, value()), Ok(expected), "{text}");
        }
        assert_eq!(holds(". == null", Shown::Nothing), Ok(true));
    }

    #[test]
    fn what_cannot_be_looked_at_is_said() {
        let no_number = holds("int!(.amount) > 1", Shown::Json(json!({"amount": "a lot"})));
        assert_eq!(no_number.map_err(|fault| fault.class), Err(FaultClass::Bug));
        let bytes = holds(".a == 1", Shown::Text(String::from("no JSON")));
        assert_eq!(bytes.map_err(|fault| fault.class), Err(FaultClass::Poison));
    }

    #[test]
    fn mistakes_have_their_place() {
        for text in [".amount > 100", ".amount ==", "del(.a)"] {
            let lints = Condition::compile("--where", text).expect_err("no condition");
            assert!(lints[0].span.to_string().starts_with("--where:1:"), "{text}: {lints:?}");
        }
    }
}
