//! JSON values as Avro data and back, led by the schema, without a value tree between.
//!
//! What JSON lacks is text: bytes and fixed in base64, decimals as text or number, timestamps as RFC 3339, dates as
//! `2026-11-23`, times as `13:00:00.5`, UUIDs in their usual form. Whole numbers stand for timestamps, dates and
//! times as well, in the schema's own unit. Absent fields take their default, else null where null is allowed.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{
    DecimalSchema, EnumSchema, InnerDecimalSchema, RecordField, RecordSchema, UnionSchema, UuidSchema,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use rust_decimal::Decimal;
use serde_json::Value;

use crate::schema::effort::Effort;
use crate::schema::error::SchemaError;
use crate::schema::path::Path;
use crate::schema::wire::{self, Wire};

/// Named types of a schema, by full name.
pub type Names = HashMap<String, Schema>;

/// How deep data may nest: a recursive type must not overflow the stack.
pub const DEPTH_MAX: usize = 64;

/// `schema`, or the type that it refers to.
pub fn definition<'s>(schema: &'s Schema, names: &'s Names) -> Result<&'s Schema, SchemaError> {
    let Schema::Ref { name } = schema else { return Ok(schema) };
    names
        .get(&name.fullname(None))
        .ok_or_else(|| SchemaError::NotASchema { message: format!("type {name} is not defined") })
}

/// Where the field `name` stands in `record`. Aliases do not count (`lookup` has them as well).
pub fn field_at(record: &RecordSchema, name: &str) -> Option<usize> {
    let at = *record.lookup.get(name)?;
    if record.fields[at].name == name {
        return Some(at);
    }
    // Another field's alias hides it in `lookup`, or it is nothing but an alias.
    record.fields.iter().position(|field| field.name == name)
}

/// What writing needs besides the value.
#[derive(Clone, Copy)]
pub struct Encoder<'s> {
    pub names: &'s Names,
    pub effort: &'s Effort,
}

impl<'s> Encoder<'s> {
    /// Appends `value` as a datum of `schema`.
    pub fn put(
        self,
        out: &mut Vec<u8>,
        schema: &'s Schema,
        value: &Value,
        path: Path<'_>,
    ) -> Result<(), SchemaError> {
        if path.depth > DEPTH_MAX {
            return Err(path.mismatch(format!("at most {DEPTH_MAX} levels"), value));
        }
        self.effort.step();
        let before = out.len();
        match definition(schema, self.names)? {
            Schema::Union(union) => self.put_union(out, union.variants(), value, path)?,
            Schema::Record(record) => self.put_record(out, record, value, path)?,
            Schema::Array(array) => self.put_array(out, &array.items, value, path)?,
            Schema::Map(map) => {
                let entries = value.as_object().ok_or_else(|| path.mismatch("an object", value))?;
                if !entries.is_empty() {
                    wire::put_long(out, entries.len() as i64);
                }
                for (name, entry) in entries {
                    wire::put_bytes(out, name.as_bytes());
                    self.put(out, &map.types, entry, path.field(name))?;
                }
                wire::put_long(out, 0);
            }
            leaf => put_leaf(out, leaf, value, path)?,
        }
        self.effort.wrote(before, out.len()).map_err(|wanted| path.mismatch(wanted, value))
    }

    fn put_array(
        self,
        out: &mut Vec<u8>,
        schema: &'s Schema,
        value: &Value,
        path: Path<'_>,
    ) -> Result<(), SchemaError> {
        let items = value.as_array().ok_or_else(|| path.mismatch("a list", value))?;
        if !items.is_empty() {
            wire::put_long(out, items.len() as i64);
        }
        for (at, item) in items.iter().enumerate() {
            let before = out.len();
            self.put(out, schema, item, path.index(at))?;
            self.effort.wrote_item(before, out.len()).map_err(|wanted| path.mismatch(wanted, value))?;
        }
        wire::put_long(out, 0);
        Ok(())
    }

    fn put_record(
        self,
        out: &mut Vec<u8>,
        record: &'s RecordSchema,
        value: &Value,
        path: Path<'_>,
    ) -> Result<(), SchemaError> {
        let object = value.as_object().ok_or_else(|| path.mismatch("an object", value))?;
        let mut found = 0;
        for field in &record.fields {
            let here = path.field(&field.name);
            if let Some(value) = object.get(&field.name) {
                found += 1;
                self.put(out, &field.schema, value, here)?;
            } else {
                self.put_absent(out, field, here)?;
            }
        }
        if found == object.len() {
            return Ok(());
        }
        let unknown = object.keys().find(|name| field_at(record, name).is_none());
        let known: Vec<&str> = record.fields.iter().map(|field| field.name.as_str()).collect();
        Err(SchemaError::UnknownField {
            field: unknown.map_or_else(|| path.text(), |name| path.field(name).text()),
            known: known.join(", "),
        })
    }

    /// Appends what stands for a `field` that is not there: its default, else null where null is allowed.
    pub fn put_absent(
        self,
        out: &mut Vec<u8>,
        field: &'s RecordField,
        path: Path<'_>,
    ) -> Result<(), SchemaError> {
        if let Some(default) = &field.default {
            return self.put(out, &field.schema, default, path);
        }
        self.put(out, &field.schema, &Value::Null, path).map_err(|error| match error {
            SchemaError::Mismatch { field, expected, .. } => {
                SchemaError::Mismatch { field, expected, found: String::from("nothing") }
            }
            other => other,
        })
    }
}

/// What a schema wants, in words.
pub fn describe(schema: &Schema) -> String {
    match schema {
        Schema::Null => String::from("null"),
        Schema::Boolean => String::from("a boolean"),
        Schema::Int => String::from("a whole number of 32 bits"),
        Schema::Long => String::from("a whole number"),
        Schema::Float | Schema::Double => String::from("a number"),
        Schema::Bytes => String::from("bytes in base64"),
        Schema::Fixed(fixed) => format!("{} bytes in base64", fixed.size),
        Schema::String => String::from("text"),
        Schema::Array(_) => String::from("a list"),
        Schema::Map(_) => String::from("an object"),
        Schema::Record(record) => format!("a record {}", record.name.name()),
        Schema::Enum(symbols) => format!("one of {}", symbols.symbols.join(", ")),
        Schema::Decimal(decimal) => {
            format!("a number of at most {} digits, {} of them decimals", decimal.precision, decimal.scale)
        }
        Schema::Uuid(_) => String::from("a UUID"),
        Schema::Date => String::from("a date such as 2026-11-23"),
        Schema::TimeMillis | Schema::TimeMicros => String::from("a time of day such as 13:00:00"),
        Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => {
            String::from("a time such as 2026-11-23T13:00:00Z")
        }
        Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => {
            String::from("a local time such as 2026-11-23T13:00:00")
        }
        Schema::Union(_) => String::from("a union"),
        Schema::Ref { name } => format!("a record {}", name.name()),
        Schema::BigDecimal | Schema::Duration(_) => String::from("a type that Millrace does not use"),
    }
}

/// Appends a value that has no parts.
pub fn put_leaf(
    out: &mut Vec<u8>,
    schema: &Schema,
    value: &Value,
    path: Path<'_>,
) -> Result<(), SchemaError> {
    let wrong = || path.mismatch(describe(schema), value);
    match schema {
        Schema::Null => value.as_null().ok_or_else(wrong)?,
        Schema::Boolean => out.push(u8::from(value.as_bool().ok_or_else(wrong)?)),
        Schema::Int => {
            let number = value.as_i64().and_then(|number| i32::try_from(number).ok()).ok_or_else(wrong)?;
            wire::put_long(out, i64::from(number));
        }
        Schema::Long => wire::put_long(out, value.as_i64().ok_or_else(wrong)?),
        Schema::Float => out.extend_from_slice(&(value.as_f64().ok_or_else(wrong)? as f32).to_le_bytes()),
        Schema::Double => out.extend_from_slice(&value.as_f64().ok_or_else(wrong)?.to_le_bytes()),
        Schema::String | Schema::Uuid(UuidSchema::String) => {
            let text = value.as_str().ok_or_else(wrong)?;
            if matches!(schema, Schema::Uuid(_)) {
                uuid::Uuid::parse_str(text).map_err(|_| wrong())?;
            }
            wire::put_bytes(out, text.as_bytes());
        }
        Schema::Bytes => {
            let bytes = value.as_str().and_then(|text| BASE64.decode(text).ok()).ok_or_else(wrong)?;
            wire::put_bytes(out, &bytes);
        }
        Schema::Fixed(fixed) => {
            let bytes = value.as_str().and_then(|text| BASE64.decode(text).ok());
            out.extend_from_slice(&bytes.filter(|bytes| bytes.len() == fixed.size).ok_or_else(wrong)?);
        }
        Schema::Uuid(inner) => {
            let id = value.as_str().and_then(|text| uuid::Uuid::parse_str(text).ok()).ok_or_else(wrong)?;
            match inner {
                UuidSchema::Fixed(_) => out.extend_from_slice(id.as_bytes()),
                UuidSchema::Bytes | UuidSchema::String => wire::put_bytes(out, id.as_bytes()),
            }
        }
        Schema::Enum(symbols) => {
            let at = value.as_str().and_then(|text| symbols.symbols.iter().position(|symbol| symbol == text));
            wire::put_long(out, at.ok_or_else(wrong)? as i64);
        }
        Schema::Decimal(decimal) => {
            let unscaled = unscaled(value, decimal.precision, decimal.scale).ok_or_else(wrong)?;
            match &decimal.inner {
                InnerDecimalSchema::Bytes => wire::put_unscaled(out, unscaled),
                InnerDecimalSchema::Fixed(fixed) => {
                    wire::put_fixed_unscaled(out, unscaled, fixed.size).ok_or_else(wrong)?;
                }
            }
        }
        _ => wire::put_long(out, moment(schema, value).ok_or_else(wrong)?),
    }
    Ok(())
}

/// A JSON number or text in units of 10^-`scale`, if it has no more digits than the schema allows.
fn unscaled(value: &Value, precision: usize, scale: usize) -> Option<i128> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let exact = if text.contains(['e', 'E']) {
        Decimal::from_scientific(&text).ok()?
    } else {
        Decimal::from_str_exact(&text).ok()?
    };
    let exact = exact.normalize();
    let scale = u32::try_from(scale).ok()?;
    if exact.scale() > scale {
        return None;
    }
    let unscaled = wire::unscaled(exact, scale)?;
    let limit = 10_u128.checked_pow(u32::try_from(precision).ok()?).unwrap_or(u128::MAX);
    (unscaled.unsigned_abs() < limit).then_some(unscaled)
}

/// Dates, times and timestamps as the number that the schema's unit makes of them.
fn moment(schema: &Schema, value: &Value) -> Option<i64> {
    if let Some(number) = value.as_i64() {
        let is_int = matches!(schema, Schema::Date | Schema::TimeMillis);
        return (!is_int || i32::try_from(number).is_ok()).then_some(number);
    }
    let text = value.as_str()?;
    // An offset may carry the year out of what RFC 3339 has; it could be written and not be said any more.
    let instant =
        || DateTime::parse_from_rfc3339(text).ok().filter(|time| (0..=9999).contains(&time.to_utc().year()));
    let local = || text.parse::<NaiveDateTime>().ok().map(|local| local.and_utc());
    // A leap second is the last moment before it: a day has no room for more.
    let time = || text.parse::<NaiveTime>().ok();
    match schema {
        Schema::Date => {
            let date = text.parse::<NaiveDate>().ok()?;
            Some(date.signed_duration_since(NaiveDate::default()).num_days())
        }
        Schema::TimeMillis => {
            let time = time()?;
            Some(
                i64::from(time.num_seconds_from_midnight()) * 1_000
                    + i64::from(time.nanosecond() / 1_000_000).min(999),
            )
        }
        Schema::TimeMicros => {
            let time = time()?;
            Some(
                i64::from(time.num_seconds_from_midnight()) * 1_000_000
                    + i64::from(time.nanosecond() / 1_000).min(999_999),
            )
        }
        Schema::TimestampMillis => Some(instant()?.timestamp_millis()),
        Schema::TimestampMicros => Some(instant()?.timestamp_micros()),
        Schema::TimestampNanos => instant()?.timestamp_nanos_opt(),
        Schema::LocalTimestampMillis => Some(local()?.timestamp_millis()),
        Schema::LocalTimestampMicros => Some(local()?.timestamp_micros()),
        Schema::LocalTimestampNanos => local()?.timestamp_nanos_opt(),
        _ => None,
    }
}

/// Reads a datum of `schema`. Fields and items count as levels, as they do in [`Encoder::put`]: what was written is read.
pub fn read(wire: &mut Wire<'_>, schema: &Schema, names: &Names, depth: usize) -> Result<Value, SchemaError> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    let before = wire.left();
    let value = match definition(schema, names)? {
        Schema::Union(union) => {
            let variant = branch(wire, union)?;
            read(wire, variant, names, depth)?
        }
        Schema::Record(record) => {
            let mut object = serde_json::Map::with_capacity(record.fields.len());
            for field in &record.fields {
                object.insert(field.name.clone(), read(wire, &field.schema, names, depth + 1)?);
            }
            Value::Object(object)
        }
        Schema::Array(array) => {
            let mut items = Vec::new();
            loop {
                let count = wire.block()?;
                if count == 0 {
                    break Value::Array(items);
                }
                for _ in 0..count {
                    items.push(read(wire, &array.items, names, depth + 1)?);
                }
            }
        }
        Schema::Map(map) => {
            let mut object = serde_json::Map::new();
            loop {
                let count = wire.block()?;
                if count == 0 {
                    break Value::Object(object);
                }
                for _ in 0..count {
                    let name = wire.text()?.to_owned();
                    object.insert(name, read(wire, &map.types, names, depth + 1)?);
                }
            }
        }
        leaf => read_leaf(wire, leaf)?,
    };
    wire.read_since(before)?;
    Ok(value)
}

pub fn too_deep() -> SchemaError {
    SchemaError::corrupt(format!("more than {DEPTH_MAX} levels"))
}

/// Reads which branch of a union follows.
pub fn branch<'s>(wire: &mut Wire<'_>, union: &'s UnionSchema) -> Result<&'s Schema, SchemaError> {
    let at = wire.long()?;
    let variant = usize::try_from(at).ok().and_then(|at| union.variants().get(at));
    variant.ok_or_else(|| SchemaError::corrupt(format!("a union has no branch {at}")))
}

/// Reads which symbol of an enum follows.
pub fn symbol<'s>(wire: &mut Wire<'_>, symbols: &'s EnumSchema) -> Result<&'s str, SchemaError> {
    let at = wire.long()?;
    let symbol = usize::try_from(at).ok().and_then(|at| symbols.symbols.get(at));
    symbol.map(String::as_str).ok_or_else(|| SchemaError::corrupt(format!("an enum has no symbol {at}")))
}

/// Reads a value that has no parts.
pub fn read_leaf(wire: &mut Wire<'_>, schema: &Schema) -> Result<Value, SchemaError> {
    Ok(match schema {
        Schema::Null => Value::Null,
        Schema::Boolean => wire.boolean()?.into(),
        Schema::Int => wire.int()?.into(),
        Schema::Long => wire.long()?.into(),
        Schema::Float => f64::from(wire.float()?).into(),
        Schema::Double => wire.double()?.into(),
        Schema::Bytes => BASE64.encode(wire.bytes()?).into(),
        Schema::Fixed(fixed) => BASE64.encode(wire.take(fixed.size)?).into(),
        Schema::String | Schema::Uuid(UuidSchema::String) => wire.text()?.into(),
        Schema::Uuid(UuidSchema::Bytes) => uuid_text(wire.bytes()?)?.into(),
        Schema::Uuid(UuidSchema::Fixed(_)) => uuid_text(wire.take(16)?)?.into(),
        Schema::Enum(symbols) => symbol(wire, symbols)?.into(),
        Schema::Decimal(decimal) => decimal_text(unscaled_from(wire, decimal)?, decimal.scale).into(),
        _ => moment_value(wire.long()?, schema)?,
    })
}

/// Reads a decimal's unscaled value.
pub fn unscaled_from(wire: &mut Wire<'_>, decimal: &DecimalSchema) -> Result<i128, SchemaError> {
    match &decimal.inner {
        InnerDecimalSchema::Bytes => wire.unscaled(),
        InnerDecimalSchema::Fixed(fixed) => wire::unscaled_of(wire.take(fixed.size)?),
    }
}

fn uuid_text(bytes: &[u8]) -> Result<String, SchemaError> {
    let id = uuid::Uuid::from_slice(bytes);
    id.map(|id| id.to_string()).map_err(|_| SchemaError::corrupt("a UUID has 16 bytes"))
}

/// `unscaled` × 10^-`scale` in digits, all decimals written: `42.00`.
pub fn decimal_text(unscaled: i128, scale: usize) -> String {
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, decimals) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    let point = if scale > 0 { "." } else { "" };
    format!("{sign}{whole}{point}{decimals}")
}

fn moment_value(number: i64, schema: &Schema) -> Result<Value, SchemaError> {
    let nanos = |per_second: i64| {
        let seconds = number.div_euclid(per_second);
        let rest = number.rem_euclid(per_second) * (1_000_000_000 / per_second);
        u32::try_from(rest).ok().and_then(|rest| DateTime::from_timestamp(seconds, rest))
    };
    let instant =
        |per_second| nanos(per_second).map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
    let local = |per_second| {
        nanos(per_second).map(|time| time.naive_utc().format("%Y-%m-%dT%H:%M:%S%.f").to_string())
    };
    let time = |per_second| nanos(per_second).map(|time| time.time().to_string());
    let text = match schema {
        Schema::Date => chrono::TimeDelta::try_days(number)
            .and_then(|days| NaiveDate::default().checked_add_signed(days))
            .map(|date| date.to_string()),
        Schema::TimeMillis => time(1_000),
        Schema::TimeMicros => time(1_000_000),
        Schema::TimestampMillis => instant(1_000),
        Schema::TimestampMicros => instant(1_000_000),
        Schema::TimestampNanos => instant(1_000_000_000),
        Schema::LocalTimestampMillis => local(1_000),
        Schema::LocalTimestampMicros => local(1_000_000),
        Schema::LocalTimestampNanos => local(1_000_000_000),
        _ => None,
    };
    text.map(Value::String)
        .ok_or_else(|| SchemaError::corrupt(format!("{number} is no {}", describe(schema))))
}
