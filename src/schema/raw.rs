//! Values without parts as they are in bytes, whatever they mean: what an `int` of one schema is to a `double` of
//! another.

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, UuidSchema};

use crate::schema::error::SchemaError;
use crate::schema::json::{describe, symbol};
use crate::schema::wire::{self, Wire};

/// How a type is written: logical types are what they are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum,
    Record,
    Array,
    Map,
    /// A union, or a type that Millrace does not use.
    Other,
}

/// How `schema`, which is no reference, is written.
pub fn base(schema: &Schema) -> Base {
    match schema {
        Schema::Null => Base::Null,
        Schema::Boolean => Base::Boolean,
        Schema::Int | Schema::Date | Schema::TimeMillis => Base::Int,
        Schema::Long
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => Base::Long,
        Schema::Float => Base::Float,
        Schema::Double => Base::Double,
        Schema::Bytes
        | Schema::Uuid(UuidSchema::Bytes)
        | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Bytes, .. }) => Base::Bytes,
        Schema::String | Schema::Uuid(UuidSchema::String) => Base::String,
        Schema::Fixed(fixed)
        | Schema::Uuid(UuidSchema::Fixed(fixed))
        | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Fixed(fixed), .. }) => {
            Base::Fixed(fixed.size)
        }
        Schema::Enum(_) => Base::Enum,
        Schema::Record(_) => Base::Record,
        Schema::Array(_) => Base::Array,
        Schema::Map(_) => Base::Map,
        Schema::Union(_) | Schema::Ref { .. } | Schema::BigDecimal | Schema::Duration(_) => Base::Other,
    }
}

/// A value without parts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Raw<'a> {
    Null,
    Boolean(bool),
    Whole(i64),
    Float(f32),
    Double(f64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Symbol(&'a str),
}

impl<'a> Raw<'a> {
    /// Reads a value of `schema`.
    pub fn read(wire: &mut Wire<'a>, schema: &'a Schema) -> Result<Self, SchemaError> {
        Ok(match base(schema) {
            Base::Null => Self::Null,
            Base::Boolean => Self::Boolean(wire.boolean()?),
            Base::Int => Self::Whole(i64::from(wire.int()?)),
            Base::Long => Self::Whole(wire.long()?),
            Base::Float => Self::Float(wire.float()?),
            Base::Double => Self::Double(wire.double()?),
            Base::Bytes => Self::Bytes(wire.bytes()?),
            Base::String => Self::Text(wire.text()?),
            Base::Fixed(size) => Self::Bytes(wire.take(size)?),
            Base::Enum | Base::Record | Base::Array | Base::Map | Base::Other => match schema {
                Schema::Enum(symbols) => Self::Symbol(symbol(wire, symbols)?),
                _ => return Err(SchemaError::corrupt(format!("{} has parts", describe(schema)))),
            },
        })
    }

    /// Appends the value as one of `schema`; `None` when it is none.
    pub fn put(self, out: &mut Vec<u8>, schema: &Schema) -> Option<()> {
        match (base(schema), self) {
            (Base::Null, Self::Null) => {}
            (Base::Boolean, Self::Boolean(value)) => out.push(u8::from(value)),
            (Base::Int, Self::Whole(value)) => wire::put_long(out, i64::from(i32::try_from(value).ok()?)),
            (Base::Long, Self::Whole(value)) => wire::put_long(out, value),
            (Base::Float, _) => out.extend_from_slice(&self.float()?.to_le_bytes()),
            (Base::Double, _) => out.extend_from_slice(&self.double()?.to_le_bytes()),
            (Base::Bytes, _) => wire::put_bytes(out, checked(self.bytes()?, schema)?),
            (Base::String, _) => {
                let text = std::str::from_utf8(self.bytes()?).ok()?;
                wire::put_bytes(out, checked(text.as_bytes(), schema)?);
            }
            (Base::Fixed(size), _) => {
                let bytes = self.bytes().filter(|bytes| bytes.len() == size)?;
                out.extend_from_slice(checked(bytes, schema)?);
            }
            (Base::Enum, Self::Symbol(name) | Self::Text(name)) => {
                let Schema::Enum(symbols) = schema else { return None };
                let at = |name: &str| symbols.symbols.iter().position(|symbol| symbol == name);
                let at = at(name).or_else(|| at(symbols.default.as_deref()?))?;
                wire::put_long(out, at as i64);
            }
            _ => return None,
        }
        Some(())
    }

    /// The value of `schema` in words.
    pub fn words(self, schema: &Schema) -> String {
        match self {
            Self::Whole(value) => format!("the number {value}"),
            Self::Symbol(name) => format!("the symbol {name}"),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            _ => describe(schema),
        }
    }

    fn float(self) -> Option<f32> {
        match self {
            Self::Whole(value) => Some(value as f32),
            Self::Float(value) => Some(value),
            Self::Double(value) => Some(value as f32),
            _ => None,
        }
    }

    fn double(self) -> Option<f64> {
        match self {
            Self::Whole(value) => Some(value as f64),
            Self::Float(value) => Some(f64::from(value)),
            Self::Double(value) => Some(value),
            _ => None,
        }
    }

    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }
}

/// `bytes`, unless `schema` is a UUID and they are none.
fn checked<'a>(bytes: &'a [u8], schema: &Schema) -> Option<&'a [u8]> {
    let is_good = match schema {
        Schema::Uuid(UuidSchema::String) => uuid::Uuid::try_parse_ascii(bytes).is_ok(),
        Schema::Uuid(_) => bytes.len() == 16,
        _ => true,
    };
    is_good.then_some(bytes)
}
