//! Which types of two schemas go together, decided by the schemas alone.
//!
//! Named types are compared by name and by what lies on their surface, not by their parts, so that a decision takes no
//! longer than the schemas are wide, recursive types included. What does not fit further down is an error there.

use apache_avro::Schema;
use apache_avro::schema::{Alias, EnumSchema, Name, RecordSchema, UnionSchema};

use crate::schema::json::{Names, definition, field_at};
use crate::schema::raw::{Base, base};
use crate::schema::variants::may_be_absent;

/// How well a written type fits a wanted one; the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fit {
    /// The same kind, with the same full name where it has one.
    Same,
    /// The same name in another namespace, or an alias of the reader.
    Name,
    /// Another name; all that the reader needs is there.
    Shape,
    /// Becomes the other without loss, by Avro's rules.
    Promoted,
    /// Becomes the other where the value allows it. Avro's rules have no such thing; the Rust library always had.
    Narrowed,
    /// The same kind under another name; the value decides.
    Kind,
}

/// How `writer` fits `reader`; neither is a reference or a union. `None`: not at all.
pub fn fit(writer: &Schema, reader: &Schema) -> Option<Fit> {
    if let (Some(written), Some(wanted)) = (writer.name(), reader.name())
        && std::mem::discriminant(&base(writer)) == std::mem::discriminant(&base(reader))
    {
        let aliases = reader.aliases().map(Vec::as_slice).unwrap_or_default();
        let is_sized = base(writer) == base(reader);
        return named(written, wanted, aliases).or_else(|| same_shape(writer, reader)).filter(|_| is_sized);
    }
    match (base(writer), base(reader)) {
        (Base::Other, _) | (_, Base::Other) => None,
        (written, wanted) if written == wanted => Some(Fit::Same),
        (Base::Int, Base::Long | Base::Float | Base::Double)
        | (Base::Long, Base::Float | Base::Double)
        | (Base::Float, Base::Double)
        | (Base::String, Base::Bytes)
        | (Base::Bytes, Base::String) => Some(Fit::Promoted),
        (Base::Long, Base::Int)
        | (Base::Double, Base::Float)
        | (Base::String | Base::Bytes, Base::Fixed(_))
        | (Base::Fixed(_), Base::String | Base::Bytes)
        | (Base::String, Base::Enum) => Some(Fit::Narrowed),
        _ => None,
    }
}

/// The variant of the reader's `union` that `writer`, which is neither a reference nor a union, goes into.
pub fn variant(writer: &Schema, union: &UnionSchema, names: &Names) -> Option<usize> {
    let fits = union.variants().iter().enumerate().filter_map(|(at, variant)| {
        let variant = definition(variant, names).ok()?;
        Some((fit(writer, variant)?, at))
    });
    fits.min().map(|(_, at)| at)
}

fn named(written: &Name, wanted: &Name, aliases: &[Alias]) -> Option<Fit> {
    if written == wanted {
        return Some(Fit::Same);
    }
    let is_alias = || aliases.iter().any(|alias| alias.fullname(None) == written.fullname(None));
    (written.name() == wanted.name() || is_alias()).then_some(Fit::Name)
}

fn same_shape(writer: &Schema, reader: &Schema) -> Option<Fit> {
    let has_all = match (writer, reader) {
        (Schema::Record(writer), Schema::Record(reader)) => has_fields(writer, reader),
        (Schema::Enum(writer), Schema::Enum(reader)) => has_symbols(writer, reader),
        _ => true,
    };
    Some(if has_all { Fit::Shape } else { Fit::Kind })
}

/// Whether `writer` has every field that `reader` cannot do without.
fn has_fields(writer: &RecordSchema, reader: &RecordSchema) -> bool {
    reader
        .fields
        .iter()
        .all(|field| may_be_absent(field) || source(writer, reader, field.name.as_str()).is_some())
}

fn has_symbols(writer: &EnumSchema, reader: &EnumSchema) -> bool {
    reader.default.is_some() || writer.symbols.iter().all(|symbol| reader.symbols.contains(symbol))
}

/// Where the writer has what becomes the reader's field `name`: the field of this name, else of the first alias that
/// it has.
fn source(writer: &RecordSchema, reader: &RecordSchema, name: &str) -> Option<usize> {
    field_at(writer, name).or_else(|| {
        let field = &reader.fields[field_at(reader, name)?];
        field.aliases.iter().find_map(|alias| field_at(writer, alias))
    })
}

/// Where the reader has what the writer's field `name` becomes. No two fields of the writer become one.
pub fn target(writer: &RecordSchema, reader: &RecordSchema, name: &str) -> Option<usize> {
    // `lookup` has names and aliases.
    reader.lookup.get(name)?;
    field_at(reader, name).or_else(|| {
        let from = field_at(writer, name);
        reader.fields.iter().position(|field| {
            field.aliases.iter().any(|alias| alias == name) && source(writer, reader, &field.name) == from
        })
    })
}
