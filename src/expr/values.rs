//! Values of the language to and from JSON and text.

use bytes::Bytes;
use chrono::SecondsFormat;

use crate::expr::{Key, Object, Value};

/// A value as JSON. Timestamps become RFC 3339 text; numbers without a JSON form become null.
pub fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Boolean(value) => (*value).into(),
        Value::Integer(value) => (*value).into(),
        Value::Float(value) => value.into_inner().into(),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), to_json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Bytes(_) | Value::String(_) | Value::Regex(_) | Value::Timestamp(_) => {
            text(value).unwrap_or_default().into()
        }
    }
}

/// JSON as a value. Integers that need more than 64 signed bits become floats.
pub fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Boolean(value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(value) => Value::Integer(value),
            None => Value::from_f64_or_zero(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Array(items) => Value::Array(items.into_iter().map(from_json).collect()),
        serde_json::Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(name, value)| (Key::from(name), from_json(value))).collect::<Object>(),
        ),
    }
}

/// A value as JSON text.
///
/// # Errors
/// None in practice: every value has a JSON form. The type is serde's.
pub fn to_json_bytes(value: &Value) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(value).map(Bytes::from)
}

/// JSON text as a value.
///
/// # Errors
/// When it is no JSON, is nested more than 128 levels deep, or holds a number beyond the range of a 64-bit float.
pub fn from_json_bytes(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(text)
}

/// The text of a scalar: as it is for text, decimal for numbers, RFC 3339 for timestamps. `None` for null; lists and
/// objects become their JSON text.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Boolean(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Timestamp(time) => Some(time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        Value::Bytes(_) | Value::String(_) => value.to_str_lossy().map(std::borrow::Cow::into_owned),
        Value::Regex(regex) => Some(regex.as_str().to_owned()),
        Value::Array(_) | Value::Object(_) => serde_json::to_string(value).ok(),
    }
}

/// The bytes of a value, for a record's key or a header: text as it is, without a copy where it can be; the rest as
/// [`text`] writes it. `None` for null.
pub fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        Value::String(text) => Some(text.into_bytes()),
        other => text(&other).map(Bytes::from),
    }
}

/// What kind of value it is, for messages that must not show the value itself.
pub fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Bytes(_) | Value::String(_) | Value::Regex(_) => "text",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a float",
        Value::Boolean(_) => "a boolean",
        Value::Timestamp(_) => "a timestamp",
        Value::Object(_) => "an object",
        Value::Array(_) => "a list",
        Value::Null => "null",
    }
}

/// Puts `new` at `path` (`.data.items[0].id`) of a value; objects on the way are made. False when `path` is none.
pub fn set_path(value: &mut Value, path: &str, new: Value) -> bool {
    let Ok(path) = vrl::path::parse_value_path(path) else { return false };
    value.insert(&path, new);
    true
}
