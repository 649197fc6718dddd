//! The Avro schema that a topic declares for its values: JSON in, bytes out, and back; and the columns that a table of
//! the topic has.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::schema::{RecordField, UnionSchema};
use bytes::Bytes;
use serde_json::Value;

use crate::schema::effort::Effort;
use crate::schema::error::SchemaError;
use crate::schema::framing;
use crate::schema::json::{self, Encoder, Names};
use crate::schema::path::Path;
use crate::schema::resolve::{self, Named};
use crate::schema::wire::Wire;

/// A topic's value schema, with the id its records are framed with.
#[derive(Debug)]
pub struct ValueSchema {
    id: u32,
    text: String,
    schema: Schema,
    names: Names,
}

/// Type of a table's column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColumnType {
    /// `text`
    Text,
    /// `bigint`
    BigInt,
    /// `integer`
    Integer,
    /// `double precision`
    Double,
    /// `boolean`
    Boolean,
    /// `numeric`
    Numeric,
    /// `timestamptz`
    Timestamp,
    /// `timestamp`: a local time, without zone.
    LocalTimestamp,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `uuid`
    Uuid,
    /// `bytea`
    Bytes,
    /// `jsonb`
    Json,
}

impl ColumnType {
    /// Postgres' name of the type, as `format_type` prints it.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::BigInt => "bigint",
            Self::Integer => "integer",
            Self::Double => "double precision",
            Self::Boolean => "boolean",
            Self::Numeric => "numeric",
            Self::Timestamp => "timestamp with time zone",
            Self::LocalTimestamp => "timestamp without time zone",
            Self::Date => "date",
            Self::Time => "time without time zone",
            Self::Uuid => "uuid",
            Self::Bytes => "bytea",
            Self::Json => "jsonb",
        }
    }
}

/// A field of the schema as a column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// The field's name.
    pub name: String,
    /// Type.
    pub kind: ColumnType,
    /// Whether the field may be null.
    pub is_nullable: bool,
}

impl ValueSchema {
    /// The schema in `text`, for records framed without a registry ([`framing::EMBEDDED_ID`]).
    ///
    /// # Errors
    /// [`SchemaError::NotASchema`], also for the two Avro types that Millrace does not use: `big-decimal`, `duration`.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        let schema = Schema::parse_str(text)
            .map_err(|error| SchemaError::NotASchema { message: error.to_string() })?;
        let mut names = Names::new();
        collect(&schema, &mut names)?;
        Ok(Self { id: framing::EMBEDDED_ID, text: text.to_owned(), schema, names })
    }

    /// The same schema under an id that the registry gave.
    #[must_use]
    pub fn with_id(self, id: u32) -> Self {
        Self { id, ..self }
    }

    /// Id in the framing.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The schema as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `value` as a framed record.
    ///
    /// # Errors
    /// [`SchemaError::Mismatch`] or [`SchemaError::UnknownField`], naming the field.
    pub fn encode(&self, value: &Value) -> Result<Bytes, SchemaError> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&framing::header(self.id));
        let encoder = Encoder { names: &self.names, effort: &Effort::new(out.len()) };
        encoder.put(&mut out, &self.schema, value, Path::ROOT)?;
        Ok(Bytes::from(out))
    }

    /// A datum (without framing) that was written with this very schema.
    ///
    /// # Errors
    /// [`SchemaError::Corrupt`].
    pub fn read(&self, datum: &[u8]) -> Result<Value, SchemaError> {
        let mut wire = Wire::new(datum);
        let value = json::read(&mut wire, &self.schema, &self.names, 0)?;
        wire.finish()?;
        Ok(value)
    }

    /// A datum written with the schema `writer`, as a datum of this one: fields are matched by name, absent ones take
    /// their defaults (Avro's schema resolution). Takes time and memory in proportion to the datum and no more.
    ///
    /// # Errors
    /// [`SchemaError::Corrupt`] when the bytes are not `writer`'s, or the two schemas do not go together.
    pub fn resolve(&self, writer: &Self, datum: &[u8]) -> Result<Vec<u8>, SchemaError> {
        resolve::resolve(writer.named(), self.named(), datum)
    }

    /// For the parts of this folder.
    pub(super) fn named(&self) -> Named<'_> {
        Named { schema: &self.schema, names: &self.names }
    }

    /// The columns of a table of this topic, in the fields' order.
    ///
    /// # Errors
    /// [`SchemaError::NotASchema`] when the schema is no record.
    pub fn columns(&self) -> Result<Vec<Column>, SchemaError> {
        let Schema::Record(record) = &self.schema else {
            return Err(SchemaError::NotASchema {
                message: String::from("a table needs a record; this schema is something else"),
            });
        };
        Ok(record.fields.iter().map(|field| self.column(field)).collect())
    }

    fn column(&self, field: &RecordField) -> Column {
        let (schema, is_nullable) = match &field.schema {
            Schema::Union(union) => match single(union) {
                Some(inner) => (Some(inner), union.is_nullable()),
                None => (None, union.is_nullable()),
            },
            other => (Some(other), false),
        };
        let kind = schema.map_or(ColumnType::Json, |schema| self.column_type(schema));
        Column { name: field.name.clone(), kind, is_nullable }
    }

    fn column_type(&self, schema: &Schema) -> ColumnType {
        match schema {
            Schema::String | Schema::Enum(_) => ColumnType::Text,
            Schema::Long => ColumnType::BigInt,
            Schema::Int => ColumnType::Integer,
            Schema::Float | Schema::Double => ColumnType::Double,
            Schema::Boolean => ColumnType::Boolean,
            Schema::Decimal(_) => ColumnType::Numeric,
            Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => {
                ColumnType::Timestamp
            }
            Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => {
                ColumnType::LocalTimestamp
            }
            Schema::Date => ColumnType::Date,
            Schema::TimeMillis | Schema::TimeMicros => ColumnType::Time,
            Schema::Uuid(_) => ColumnType::Uuid,
            Schema::Bytes | Schema::Fixed(_) => ColumnType::Bytes,
            Schema::Ref { name } => self
                .names
                .get(&name.fullname(None))
                .map_or(ColumnType::Json, |schema| self.column_type(schema)),
            Schema::Null
            | Schema::Array(_)
            | Schema::Map(_)
            | Schema::Union(_)
            | Schema::Record(_)
            | Schema::BigDecimal
            | Schema::Duration(_) => ColumnType::Json,
        }
    }
}

/// Shared by everybody who reads or writes a topic.
pub type SharedSchema = Arc<ValueSchema>;

/// The one branch of a union that is not null, if there is one.
fn single(union: &UnionSchema) -> Option<&Schema> {
    let mut rest = union.variants().iter().filter(|schema| !matches!(schema, Schema::Null));
    rest.next().filter(|_| rest.next().is_none())
}

/// Gathers named types and refuses those that have no counterpart in JSON and SQL.
fn collect(schema: &Schema, names: &mut Names) -> Result<(), SchemaError> {
    if let Some(name) = schema.name().filter(|_| !matches!(schema, Schema::Ref { .. })) {
        // A schema may refer to a type by its alias as well.
        for alias in schema.aliases().into_iter().flatten() {
            names.insert(alias.fullname(None), schema.clone());
        }
        names.insert(name.fullname(None), schema.clone());
    }
    match schema {
        Schema::Record(record) => record.fields.iter().try_for_each(|field| collect(&field.schema, names)),
        Schema::Array(array) => collect(&array.items, names),
        Schema::Map(map) => collect(&map.types, names),
        Schema::Union(union) => union.variants().iter().try_for_each(|variant| collect(variant, names)),
        Schema::BigDecimal | Schema::Duration(_) => Err(SchemaError::NotASchema {
            message: String::from("the logical types big-decimal and duration are not used by Millrace"),
        }),
        _ => Ok(()),
    }
}
