//! Why bytes cannot be made or read, or a schema cannot be had.

/// A failure of this folder.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SchemaError {
    /// The schema's text is no Avro schema.
    #[error("not an Avro schema: {message}")]
    NotASchema {
        /// What is wrong.
        message: String,
    },
    /// A value does not fit the schema. Names the field.
    #[error("field `{field}`: expected {expected}, found {found}")]
    Mismatch {
        /// Path of the field: `customer.name`, `items[3].sku`; `.` for the value itself.
        field: String,
        /// What the schema wants.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The value has a field that the schema lacks: it would be lost.
    #[error("field `{field}` is not in the schema; known here: {known}")]
    UnknownField {
        /// Path of the field.
        field: String,
        /// The fields that the schema has there.
        known: String,
    },
    /// The bytes are no record of the schema. Such a record is poison.
    #[error("the bytes do not hold what the schema says: {message}")]
    Corrupt {
        /// What is wrong.
        message: String,
    },
    /// The framing names a schema that is not known here (yet): [`crate::schema::codec::Codec::learn`] may find it.
    #[error("schema id {id} is unknown")]
    UnknownSchema {
        /// The id.
        id: u32,
    },
    /// The registry refused: an incompatible schema, no permission.
    #[error("the schema registry refused subject {subject}: {message}")]
    Refused {
        /// Subject that was asked for.
        subject: String,
        /// The registry's words.
        message: String,
    },
    /// The registry does not answer, or answers that it cannot now. Worth another try.
    #[error("the schema registry does not answer: {message}")]
    Unavailable {
        /// What happened.
        message: String,
    },
}

impl SchemaError {
    /// Whether the same call may work later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::Corrupt { message: message.into() }
    }
}
