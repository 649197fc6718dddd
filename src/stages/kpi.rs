//! `kpi: {fact, value, time?, dimensions?}`: states one KPI fact.
//!
//! The value is taken exactly: an integer as it is, text as the decimal it spells, a float as the shortest decimal that
//! names it. The time is a timestamp, RFC 3339 text, or seconds since 1970; without `time` it is the event's time. A
//! dimension is a scalar's text; one that is null becomes the empty text, so that a sum over all its values is still
//! the whole.

use std::collections::BTreeMap;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use crate::expr::program::{self, Program};
use crate::expr::{Value, values};
use crate::fault::{Fault, FaultClass};
use crate::ledger::KpiFact;
use crate::stages::context::{CompileCx, Next, StageCx};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned};
use crate::yaml::node::{Node, Yaml};

/// Most dimensions of one fact.
const DIMENSIONS_MAX: usize = 16;
/// Longest text of a dimension, in bytes: dimensions are keys of tables.
const DIMENSION_BYTES_MAX: usize = 512;

/// As written.
#[derive(Clone, Debug)]
pub struct KpiConfig {
    /// Name of the fact.
    pub fact: Spanned<String>,
    value: Node,
    time: Option<Node>,
    dimensions: Vec<(Spanned<String>, Node)>,
}

/// Compiled.
#[derive(Debug)]
pub struct Kpi {
    fact: String,
    value: Program,
    time: Option<Program>,
    dimensions: Vec<(String, Program)>,
}

impl KpiConfig {
    /// Decodes the mapping.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`kpi`", lints)?;
        let fact = fields.required("fact", lints).and_then(|node| fields::text(node, lints));
        let value = fields.required("value", lints).cloned();
        let time = fields.optional("time").cloned();
        let dimensions =
            fields.optional("dimensions").map_or(Some(Vec::new()), |node| dimensions(node, lints));
        fields.finish(lints);
        Some(Self { fact: fact?, value: value?, time, dimensions: dimensions? })
    }

    /// Names of its dimensions, for checks against the KPIs that use them.
    pub fn dimension_names(&self) -> impl Iterator<Item = &Spanned<String>> {
        self.dimensions.iter().map(|(name, _)| name)
    }

    /// Compiles its expressions.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<Kpi> {
        let value = program::compile_expression(&self.value, &cx.types, lints);
        if let Some(program) = &value {
            let kind = program.result();
            if !(kind.contains_integer() || kind.contains_float() || kind.contains_bytes()) {
                let message = format!("a fact's value is a number, this is {kind}");
                lints.error("not-a-number", &self.value.span, message, "a count is value: 1");
            }
        }
        let time = self.time.as_ref().map(|node| program::compile_expression(node, &cx.types, lints));
        let mut dimensions = Vec::with_capacity(self.dimensions.len());
        for (name, node) in &self.dimensions {
            if let Some(program) = program::compile_expression(node, &cx.types, lints) {
                dimensions.push((name.value.clone(), program));
            }
        }
        if dimensions.len() < self.dimensions.len() {
            return None;
        }
        let time = match time {
            Some(time) => Some(time?),
            None => None,
        };
        Some(Kpi { fact: self.fact.value.clone(), value: value?, time, dimensions })
    }
}

fn dimensions(node: &Node, lints: &mut Lints) -> Option<Vec<(Spanned<String>, Node)>> {
    let Yaml::Map(entries) = &node.value else {
        let message = format!("dimensions are a mapping, not {}", node.kind());
        lints.error("wrong-type", &node.span, message, "write {currency: .currency}");
        return None;
    };
    if entries.len() > DIMENSIONS_MAX {
        let message = format!("a fact has at most {DIMENSIONS_MAX} dimensions");
        lints.error("out-of-range", &node.span, message, "leave some out");
        return None;
    }
    let entries = entries
        .iter()
        .map(|(key, value)| (Spanned { value: key.name.clone(), span: key.span.clone() }, value.clone()));
    Some(entries.collect())
}

impl Kpi {
    /// Its expressions.
    pub fn programs(&self) -> Vec<&Program> {
        let Self { fact: _, value, time, dimensions } = self;
        let dimensions = dimensions.iter().map(|(_, program)| program);
        std::iter::once(value).chain(time).chain(dimensions).collect()
    }

    /// States the fact.
    ///
    /// # Errors
    /// Those of its expressions; [`FaultClass::Permanent`] for a value that is no number, a time that is none, a
    /// dimension that is a list, an object or too long.
    pub fn apply(&self, cx: &mut StageCx<'_, '_>) -> Result<Next, Fault> {
        let value = self.value.evaluate(cx.scope)?;
        let value = decimal(&value).map_err(|why| self.refuse("value", why))?;
        let time = match &self.time {
            Some(program) => {
                let time = program.evaluate(cx.scope)?;
                instant(&time).map_err(|why| self.refuse("time", why))?
            }
            None => cx.origin.event_time(),
        };
        let mut dimensions = BTreeMap::new();
        for (name, program) in &self.dimensions {
            let value = program.evaluate(cx.scope)?;
            let text = dimension(&value).map_err(|why| self.refuse(&format!("dimension {name}"), why))?;
            dimensions.insert(name.clone(), text);
        }
        let record = cx.origin.record;
        cx.outputs.facts.push(KpiFact {
            fact: self.fact.clone(),
            value,
            time,
            dimensions,
            pipeline: cx.origin.pipeline.to_string(),
            tenant: cx.origin.tenant().map(str::to_owned),
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
        });
        Ok(Next::Continue)
    }

    fn refuse(&self, what: &str, why: String) -> Fault {
        Fault::new(FaultClass::Permanent, format!("fact {}: its {what} is {why}", self.fact))
    }
}

/// A number, exactly; else what it is instead.
fn decimal(value: &Value) -> Result<Decimal, String> {
    match value {
        Value::Integer(number) => Ok(Decimal::from(*number)),
        // The shortest decimal that reads back as this float: 0.1 is 0.1, not 0.1000000000000000055.
        Value::Float(number) => {
            decimal_of_text(&number.to_string()).ok_or_else(|| String::from("a float beyond 28 digits"))
        }
        Value::Bytes(_) | Value::String(_) => value
            .to_str()
            .and_then(|text| decimal_of_text(text.trim()))
            .ok_or_else(|| String::from("text that spells no number of at most 28 digits")),
        other => Err(values::kind_name(other).to_owned()),
    }
}

fn decimal_of_text(text: &str) -> Option<Decimal> {
    // `from_str` rounds what is too precise; `from_str_exact` refuses it.
    let exact = if text.contains(['e', 'E']) {
        Decimal::from_scientific(text)
    } else {
        Decimal::from_str_exact(text)
    };
    exact.or_else(|_| Decimal::from_str(text).ok().filter(|number| number.scale() == 0).ok_or(())).ok()
}

/// An instant; else what it is instead.
fn instant(value: &Value) -> Result<DateTime<Utc>, String> {
    match value {
        Value::Timestamp(time) => Ok(*time),
        Value::Integer(seconds) => DateTime::from_timestamp(*seconds, 0)
            .ok_or_else(|| String::from("a number of seconds beyond the calendar")),
        Value::Float(seconds) => {
            let seconds = seconds.into_inner();
            #[allow(
                clippy::cast_possible_truncation,
                reason = "a float beyond the range saturates, and is refused then"
            )]
            let millis = (seconds * 1000.0).round() as i64;
            DateTime::from_timestamp_millis(millis)
                .ok_or_else(|| String::from("a number of seconds beyond the calendar"))
        }
        Value::Bytes(_) | Value::String(_) => value
            .to_str()
            .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
            .map(|time| time.with_timezone(&Utc))
            .ok_or_else(|| String::from("text that is no RFC 3339 time")),
        other => Err(values::kind_name(other).to_owned()),
    }
}

/// Text of a dimension; else what it is instead.
fn dimension(value: &Value) -> Result<String, String> {
    let text = match value {
        Value::Array(_) | Value::Object(_) => return Err(values::kind_name(value).to_owned()),
        scalar => values::text(scalar).unwrap_or_default(),
    };
    if text.len() > DIMENSION_BYTES_MAX {
        return Err(format!("longer than {DIMENSION_BYTES_MAX} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::from_str_exact(text).unwrap()
    }

    #[test]
    fn numbers_are_taken_exactly() {
        assert_eq!(decimal(&Value::Integer(i64::MAX)), Ok(Decimal::from(i64::MAX)));
        assert_eq!(decimal(&Value::from_f64_or_zero(0.1)), Ok(number("0.1")));
        assert_eq!(decimal(&Value::from(" 19.99 ")), Ok(number("19.99")));
        assert_eq!(decimal(&Value::from("1.5e3")), Ok(number("1500")));
        assert!(decimal(&Value::from("0.12345678901234567890123456789012")).is_err(), "rounded");
        assert!(decimal(&Value::from("12 EUR")).is_err());
        assert!(decimal(&Value::from_f64_or_zero(1e300)).is_err());
        assert_eq!(decimal(&Value::Null), Err(String::from("null")));
    }

    #[test]
    fn times_are_read_in_three_ways() {
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        assert_eq!(instant(&Value::Timestamp(at)), Ok(at));
        assert_eq!(instant(&Value::Integer(1_700_000_000)), Ok(at));
        assert_eq!(instant(&Value::from("2023-11-14T23:13:20+01:00")), Ok(at));
        assert!(instant(&Value::from("yesterday")).is_err());
        assert!(instant(&Value::Integer(i64::MAX)).is_err());
        assert!(instant(&Value::from_f64_or_zero(1e300)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_number(text in ".{0,40}") {
            let _ = decimal(&Value::from(text.as_str()));
            let _ = instant(&Value::from(text.as_str()));
        }

        #[test]
        fn decimals_of_up_to_28_digits_survive(units in any::<i64>(), scale in 0_u32..10) {
            let written = Decimal::new(units, scale);
            prop_assert_eq!(decimal(&Value::from(written.to_string())), Ok(written));
        }
    }
}
