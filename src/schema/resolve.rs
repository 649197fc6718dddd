//! Avro's schema resolution: a datum that was written with one schema as a datum of another.
//!
//! One pass over the bytes, with both schemas side by side. Nothing is tried: which variant of the reader's union a
//! value goes into follows from the schemas ([`fit`]). So whoever writes a record decides how long it is, and nothing
//! else about how long it takes.

use std::mem::discriminant;
use std::ops::Range;

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, RecordSchema};

use crate::schema::effort::Effort;
use crate::schema::error::SchemaError;
use crate::schema::fit;
use crate::schema::json::{self, DEPTH_MAX, Encoder, Names, branch, definition, describe};
use crate::schema::path::Path;
use crate::schema::raw::{Base, Raw, base};
use crate::schema::wire::{self, Wire};

/// A schema with the types that it names.
#[derive(Clone, Copy)]
pub struct Named<'s> {
    pub schema: &'s Schema,
    pub names: &'s Names,
}

/// Bytes that any datum may become.
const GROWN_MAX: usize = 16 * 1024 * 1024;
/// Bytes above that for each byte of the datum: an `int` of one byte becomes a `double`.
const GROWN_PER_BYTE: usize = 8;

/// `datum`, which `writer` wrote, as one of `reader`. Defaults and what one meaning becomes in another type are the
/// encoder's business.
///
/// # Errors
/// [`SchemaError::Corrupt`] when it is no datum of `writer`, or has something that `reader` cannot take.
pub fn resolve(writer: Named<'_>, reader: Named<'_>, datum: &[u8]) -> Result<Vec<u8>, SchemaError> {
    let effort = Effort::new(0);
    let mut resolver = Resolver {
        wire: Wire::new(datum),
        out: Vec::with_capacity(datum.len() + 64),
        out_max: GROWN_MAX + datum.len().saturating_mul(GROWN_PER_BYTE),
        writers: writer.names,
        reader: Encoder { names: reader.names, effort: &effort },
    };
    resolver.value(writer.schema, reader.schema, Path::ROOT)?;
    resolver.wire.finish()?;
    Ok(resolver.out)
}

struct Resolver<'s, 'd> {
    wire: Wire<'d>,
    out: Vec<u8>,
    out_max: usize,
    writers: &'s Names,
    reader: Encoder<'s>,
}

impl<'s, 'd> Resolver<'s, 'd>
where
    's: 'd,
{
    fn value(&mut self, writer: &'s Schema, reader: &'s Schema, path: Path<'_>) -> Result<(), SchemaError> {
        if path.depth > DEPTH_MAX {
            return Err(json::too_deep());
        }
        let writer = self.written(writer).map_err(|error| at(path, error))?;
        let reader = self.wanted(writer, reader, path)?;
        let (left, len) = (self.wire.left(), self.out.len());
        match (writer, reader) {
            (Schema::Record(writer), Schema::Record(reader)) => self.record(writer, reader, path)?,
            (Schema::Array(writer), Schema::Array(reader)) => {
                self.array(&writer.items, &reader.items, path)?;
            }
            (Schema::Map(writer), Schema::Map(reader)) => self.map(&writer.types, &reader.types, path)?,
            _ => self.leaf(writer, reader, path)?,
        }
        self.wire.read_since(left).map_err(|error| at(path, error))?;
        self.reader.effort.wrote(len, self.out.len()).map_err(|wanted| refused(path, &wanted))?;
        if self.out.len() > self.out_max {
            return Err(refused(path, "a datum that does not grow this much"));
        }
        Ok(())
    }

    /// What was written: no reference, and of a union the branch.
    fn written(&mut self, schema: &'s Schema) -> Result<&'s Schema, SchemaError> {
        match definition(schema, self.writers)? {
            Schema::Union(union) => definition(branch(&mut self.wire, union)?, self.writers),
            other => Ok(other),
        }
    }

    /// What is wanted for it; of a union the variant, which is written down.
    fn wanted(
        &mut self,
        writer: &Schema,
        reader: &'s Schema,
        path: Path<'_>,
    ) -> Result<&'s Schema, SchemaError> {
        match definition(reader, self.reader.names)? {
            Schema::Union(union) => {
                let variant = fit::variant(writer, union, self.reader.names).ok_or_else(|| {
                    let words: Vec<String> = union.variants().iter().map(describe).collect();
                    misfit(path, &describe(writer), &words.join(" or "))
                })?;
                wire::put_long(&mut self.out, variant as i64);
                definition(&union.variants()[variant], self.reader.names)
            }
            other => Ok(other),
        }
    }

    fn record(
        &mut self,
        writer: &'s RecordSchema,
        reader: &'s RecordSchema,
        path: Path<'_>,
    ) -> Result<(), SchemaError> {
        let begin = self.out.len();
        let mut parts: Vec<Option<Range<usize>>> = vec![None; reader.fields.len()];
        let mut in_order = 0;
        for field in &writer.fields {
            let Some(at) = fit::target(writer, reader, &field.name) else {
                self.skip(&field.schema, path.field(&field.name))?;
                continue;
            };
            let wanted = &reader.fields[at];
            let from = self.out.len();
            self.value(&field.schema, &wanted.schema, path.field(&wanted.name))?;
            parts[at] = Some(from - begin..self.out.len() - begin);
            in_order += usize::from(at == in_order);
        }
        if in_order == parts.len() {
            return Ok(());
        }
        let written = self.out.split_off(begin);
        for (field, part) in reader.fields.iter().zip(parts) {
            match part {
                Some(part) => self.out.extend_from_slice(&written[part]),
                None => self
                    .reader
                    .put_absent(&mut self.out, field, path.field(&field.name))
                    .map_err(|error| SchemaError::corrupt(error.to_string()))?,
            }
        }
        Ok(())
    }

    fn array(&mut self, writer: &'s Schema, reader: &'s Schema, path: Path<'_>) -> Result<(), SchemaError> {
        let mut index = 0;
        loop {
            let count = self.wire.block().map_err(|error| at(path, error))?;
            wire::put_long(&mut self.out, count as i64);
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count {
                let len = self.out.len();
                self.value(writer, reader, path.index(index))?;
                let counted = self.reader.effort.wrote_item(len, self.out.len());
                counted.map_err(|wanted| refused(path, &wanted))?;
                index += 1;
            }
        }
    }

    fn map(&mut self, writer: &'s Schema, reader: &'s Schema, path: Path<'_>) -> Result<(), SchemaError> {
        loop {
            let count = self.wire.block().map_err(|error| at(path, error))?;
            wire::put_long(&mut self.out, count as i64);
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count {
                let name = self.wire.text().map_err(|error| at(path, error))?;
                wire::put_bytes(&mut self.out, name.as_bytes());
                self.value(writer, reader, path.field(name))?;
            }
        }
    }

    fn leaf(&mut self, writer: &'s Schema, reader: &'s Schema, path: Path<'_>) -> Result<(), SchemaError> {
        if fit::fit(writer, reader).is_none() {
            return Err(misfit(path, &describe(writer), &describe(reader)));
        }
        if let (Schema::Decimal(written), Schema::Decimal(wanted)) = (writer, reader) {
            let unscaled = json::unscaled_from(&mut self.wire, written).map_err(|error| at(path, error))?;
            let put = rescaled(unscaled, written, wanted).and_then(|unscaled| match &wanted.inner {
                InnerDecimalSchema::Bytes => {
                    wire::put_unscaled(&mut self.out, unscaled);
                    Some(())
                }
                InnerDecimalSchema::Fixed(fixed) => {
                    wire::put_fixed_unscaled(&mut self.out, unscaled, fixed.size)
                }
            });
            let number = || json::decimal_text(unscaled, written.scale);
            return put.ok_or_else(|| misfit(path, &number(), &describe(reader)));
        }
        if differ_in_meaning(writer, reader) {
            let value = json::read_leaf(&mut self.wire, writer).map_err(|error| at(path, error))?;
            return json::put_leaf(&mut self.out, reader, &value, path)
                .map_err(|error| SchemaError::corrupt(error.to_string()));
        }
        let raw = Raw::read(&mut self.wire, writer).map_err(|error| at(path, error))?;
        raw.put(&mut self.out, reader).ok_or_else(|| misfit(path, &raw.words(writer), &describe(reader)))
    }

    /// Reads what the reader has no place for. It is counted and checked like anything else.
    fn skip(&mut self, schema: &'s Schema, path: Path<'_>) -> Result<(), SchemaError> {
        if path.depth > DEPTH_MAX {
            return Err(json::too_deep());
        }
        let schema = self.written(schema).map_err(|error| at(path, error))?;
        let left = self.wire.left();
        match schema {
            Schema::Record(record) => {
                for field in &record.fields {
                    self.skip(&field.schema, path.field(&field.name))?;
                }
            }
            Schema::Array(array) => {
                let mut index = 0;
                loop {
                    let count = self.wire.block().map_err(|error| at(path, error))?;
                    if count == 0 {
                        break;
                    }
                    for _ in 0..count {
                        self.skip(&array.items, path.index(index))?;
                        index += 1;
                    }
                }
            }
            Schema::Map(map) => loop {
                let count = self.wire.block().map_err(|error| at(path, error))?;
                if count == 0 {
                    break;
                }
                for _ in 0..count {
                    let name = self.wire.text().map_err(|error| at(path, error))?;
                    self.skip(&map.types, path.field(name))?;
                }
            },
            leaf => {
                Raw::read(&mut self.wire, leaf).map_err(|error| at(path, error))?;
            }
        }
        self.wire.read_since(left).map_err(|error| at(path, error))
    }
}

/// Whether both are logical types, and not the same: the bytes of one would mean something else in the other.
fn differ_in_meaning(writer: &Schema, reader: &Schema) -> bool {
    let is_logical = |schema: &Schema| match schema {
        Schema::Uuid(_) | Schema::Decimal(_) => true,
        other => {
            matches!(base(other), Base::Int | Base::Long) && !matches!(other, Schema::Int | Schema::Long)
        }
    };
    let is_same = match (writer, reader) {
        (Schema::Uuid(writer), Schema::Uuid(reader)) => discriminant(writer) == discriminant(reader),
        _ => discriminant(writer) == discriminant(reader),
    };
    is_logical(writer) && is_logical(reader) && !is_same
}

/// The unscaled value that `wanted` has for `unscaled` of `written`; `None` when digits would be lost or are too many.
fn rescaled(unscaled: i128, written: &DecimalSchema, wanted: &DecimalSchema) -> Option<i128> {
    if (written.precision, written.scale) == (wanted.precision, wanted.scale) {
        return Some(unscaled);
    }
    let power = |digits: usize| 10_i128.checked_pow(u32::try_from(digits).ok()?);
    let moved = if written.scale <= wanted.scale {
        unscaled.checked_mul(power(wanted.scale - written.scale)?)?
    } else {
        let factor = power(written.scale - wanted.scale)?;
        if unscaled % factor != 0 {
            return None;
        }
        unscaled / factor
    };
    let has_room = power(wanted.precision).is_none_or(|limit| moved.unsigned_abs() < limit.unsigned_abs());
    has_room.then_some(moved)
}

/// `error` with its place.
fn at(path: Path<'_>, error: SchemaError) -> SchemaError {
    match error {
        SchemaError::Corrupt { message } => refused(path, &message),
        other => other,
    }
}

fn refused(path: Path<'_>, what: &str) -> SchemaError {
    SchemaError::corrupt(format!("field `{}`: {what}", path.text()))
}

fn misfit(path: Path<'_>, written: &str, wanted: &str) -> SchemaError {
    refused(path, &format!("expected {wanted}, the writer has {written}"))
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "resolve_stock_tests.rs"]
mod stock_tests;
