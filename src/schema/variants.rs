//! The variant of a union that a JSON value is written as: the first that it fits.
//!
//! Variants are told apart by what lies on the surface before one is written, as far as that goes. What remains is
//! tried one after the other, which would double with each level of a recursive type if it went on without end:
//! [`Effort`](crate::schema::effort::Effort) ends it.

use apache_avro::Schema;
use apache_avro::schema::{RecordField, RecordSchema};
use serde_json::{Map, Value};

use crate::schema::error::SchemaError;
use crate::schema::json::{Encoder, definition, describe, field_at, put_leaf};
use crate::schema::path::Path;
use crate::schema::wire;

/// How many levels of records are looked into.
const SURFACE_LEVELS: usize = 1;

impl<'s> Encoder<'s> {
    /// Appends `value` as one of `variants`.
    pub fn put_union(
        self,
        out: &mut Vec<u8>,
        variants: &'s [Schema],
        value: &Value,
        path: Path<'_>,
    ) -> Result<(), SchemaError> {
        let candidates = || {
            let all = variants.iter().enumerate();
            all.filter(|(_, variant)| value.is_null() == matches!(variant, Schema::Null))
        };
        if candidates().count() == 1
            && let Some((at, variant)) = candidates().next()
        {
            wire::put_long(out, at as i64);
            return self.put(out, variant, value, path);
        }
        let begin = out.len();
        let mut failures = Vec::new();
        for (at, variant) in candidates().filter(|(_, variant)| self.may_be(variant, value, SURFACE_LEVELS)) {
            let before = self.effort.cost();
            wire::put_long(out, at as i64);
            let Err(error) = self.put(out, variant, value, path) else { return Ok(()) };
            if self.effort.is_over() {
                return Err(error);
            }
            self.effort.was_in_vain(before, out.len());
            if self.effort.is_over() {
                return Err(path.mismatch("fields that tell the variants of a union apart", value));
            }
            out.truncate(begin);
            failures.push(error);
        }
        // Where only one has these fields, its own words say more: they name the place inside.
        if failures.len() == 1 && (value.is_object() || value.is_array()) {
            return Err(failures.remove(0));
        }
        let words: Vec<String> = variants.iter().map(describe).collect();
        Err(path.mismatch(words.join(" or "), value))
    }

    /// False when `value` cannot be written as `schema`. Looks no deeper than `levels` of records.
    fn may_be(self, schema: &'s Schema, value: &Value, levels: usize) -> bool {
        match (definition(schema, self.names), value) {
            (Ok(Schema::Record(record)), Value::Object(object)) => self.may_be_record(record, object, levels),
            (Ok(Schema::Record(_)), _) | (Err(_), _) => false,
            (Ok(Schema::Array(_)), value) => value.is_array(),
            (Ok(Schema::Map(_)), value) => value.is_object(),
            (Ok(Schema::Union(union)), value) => {
                union.variants().iter().any(|variant| self.may_be(variant, value, levels))
            }
            (Ok(leaf), value) => {
                // A variant without parts is tried as quickly as it is looked at.
                let is_variant = levels == SURFACE_LEVELS;
                let has_parts = value.is_object() || value.is_array();
                !has_parts && (is_variant || put_leaf(&mut Vec::new(), leaf, value, Path::ROOT).is_ok())
            }
        }
    }

    fn may_be_record(self, record: &'s RecordSchema, object: &Map<String, Value>, levels: usize) -> bool {
        object.keys().all(|name| field_at(record, name).is_some())
            && record.fields.iter().all(|field| match object.get(&field.name) {
                None => may_be_absent(field),
                Some(value) => levels == 0 || self.may_be(&field.schema, value, levels - 1),
            })
    }
}

/// Whether something stands for a `field` that is not there ([`Encoder::put_absent`]).
pub fn may_be_absent(field: &RecordField) -> bool {
    let is_nullable = match &field.schema {
        Schema::Null => true,
        Schema::Union(union) => union.is_nullable(),
        _ => false,
    };
    field.default.is_some() || is_nullable
}

#[cfg(test)]
#[path = "variants_tests.rs"]
mod tests;
