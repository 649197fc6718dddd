//! Confluent's framing: `0x00`, schema id (u32, big endian), datum.

use crate::schema::error::SchemaError;

/// Bytes before the datum.
pub const HEADER_BYTES: usize = 5;
/// Id of records written without a registry. Registries count from 1.
pub const EMBEDDED_ID: u32 = 0;

/// The header of records with schema `id`.
pub fn header(id: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, a, b, c, d]
}

/// Splits a framed value into schema id and datum.
///
/// # Errors
/// [`SchemaError::Corrupt`] when it is not framed.
pub fn split(framed: &[u8]) -> Result<(u32, &[u8]), SchemaError> {
    match framed {
        [0, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [0, ..] => {
            Err(SchemaError::corrupt(format!("{} bytes are too few for a framed record", framed.len())))
        }
        [first, ..] => Err(SchemaError::corrupt(format!(
            "the first byte is {first:#04x}, not 0x00: no schema id before it"
        ))),
        [] => Err(SchemaError::corrupt("the value is empty")),
    }
}
