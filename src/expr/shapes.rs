//! From a schema's text to the kinds of the language. Every claim made here lets an author leave out a check, so a
//! claim is made only where the schema leaves no other reading; the rest is any JSON value.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use vrl::value::kind::{Collection, Field, Index};

use crate::expr::Kind;

/// How deep schemas are followed; deeper, a value may be anything.
const DEPTH_MAX: usize = 32;

/// Kind of the values that satisfy a JSON Schema.
pub fn json_schema(schema: &Json) -> Kind {
    JsonSchema { root: schema }.kind(schema, 0)
}

struct JsonSchema<'a> {
    root: &'a Json,
}

impl JsonSchema<'_> {
    fn kind(&self, schema: &Json, depth: usize) -> Kind {
        let Json::Object(words) = schema else { return Kind::json() };
        if depth > DEPTH_MAX {
            return Kind::json();
        }
        if let Some(Json::String(reference)) = words.get("$ref") {
            // Up to draft 7 the words beside a `$ref` count for nothing, so nothing is taken from them.
            return self.referred(reference).map_or_else(Kind::json, |schema| self.kind(schema, depth + 1));
        }
        if let Some(constant) = words.get("const") {
            return kind_of(constant);
        }
        if let Some(Json::Array(choices)) = words.get("enum") {
            return choices.iter().fold(Kind::never(), |kind, choice| kind.union(kind_of(choice)));
        }
        match words.get("type") {
            Some(Json::String(name)) => self.typed(name, words, depth),
            Some(Json::Array(names)) => names.iter().fold(Kind::never(), |kind, name| {
                kind.union(self.typed(name.as_str().unwrap_or(""), words, depth))
            }),
            _ => match words.get("anyOf").or_else(|| words.get("oneOf")) {
                Some(Json::Array(choices)) if !choices.is_empty() => choices
                    .iter()
                    .fold(Kind::never(), |kind, choice| kind.union(self.kind(choice, depth + 1))),
                _ => Kind::json(),
            },
        }
    }

    fn typed(&self, name: &str, words: &Map<String, Json>, depth: usize) -> Kind {
        match name {
            "string" => Kind::bytes(),
            // `1.0` is an integer to JSON Schema and a float to the language.
            "integer" | "number" => Kind::integer().or_float(),
            "boolean" => Kind::boolean(),
            "null" => Kind::null(),
            "object" => Kind::object(self.fields(words, depth)),
            "array" => Kind::array(self.items(words, depth)),
            _ => Kind::json(),
        }
    }

    fn fields(&self, words: &Map<String, Json>, depth: usize) -> Collection<Field> {
        let required: Vec<&str> = words
            .get("required")
            .and_then(Json::as_array)
            .map(|names| names.iter().filter_map(Json::as_str).collect())
            .unwrap_or_default();
        let mut known = BTreeMap::new();
        if let Some(Json::Object(properties)) = words.get("properties") {
            for (name, schema) in properties {
                let kind = self.kind(schema, depth + 1);
                let kind = if required.contains(&name.as_str()) { kind } else { kind.or_undefined() };
                known.insert(Field::from(name.as_str()), kind);
            }
        }
        for name in required {
            known.entry(Field::from(name)).or_insert_with(Kind::json);
        }
        let unknown = match (words.get("additionalProperties"), words.contains_key("patternProperties")) {
            (Some(Json::Bool(false)), false) => Kind::undefined(),
            (Some(schema @ Json::Object(_)), false) => self.kind(schema, depth + 1).or_undefined(),
            _ => Kind::json().or_undefined(),
        };
        Collection::from_parts(known, unknown)
    }

    fn items(&self, words: &Map<String, Json>, depth: usize) -> Collection<Index> {
        let is_plain = !words.contains_key("prefixItems");
        let items = match words.get("items") {
            Some(schema @ Json::Object(_)) if is_plain => self.kind(schema, depth + 1),
            _ => Kind::json(),
        };
        Collection::from_unknown(items.or_undefined())
    }

    /// The schema a local reference (`#/$defs/money`) points at.
    fn referred(&self, reference: &str) -> Option<&Json> {
        self.root.pointer(reference.strip_prefix('#')?)
    }
}

/// Kind of exactly such a value, without its content.
fn kind_of(value: &Json) -> Kind {
    match value {
        Json::Null => Kind::null(),
        Json::Bool(_) => Kind::boolean(),
        // `1` and `1.0` are equal to JSON Schema.
        Json::Number(_) => Kind::integer().or_float(),
        Json::String(_) => Kind::bytes(),
        Json::Array(_) => Kind::array(Collection::from_unknown(Kind::json().or_undefined())),
        Json::Object(_) => Kind::object(Collection::from_unknown(Kind::json().or_undefined())),
    }
}

/// Kind of the values that an Avro schema describes. Logical types are any JSON value: how they are written as JSON is
/// the codec's choice.
pub fn avro_schema(schema: &Json) -> Kind {
    avro(schema, 0)
}

fn avro(schema: &Json, depth: usize) -> Kind {
    if depth > DEPTH_MAX {
        return Kind::json();
    }
    match schema {
        Json::String(name) => avro_primitive(name),
        Json::Array(branches) => {
            branches.iter().fold(Kind::never(), |kind, branch| kind.union(avro(branch, depth + 1)))
        }
        Json::Object(words) if words.contains_key("logicalType") => Kind::json(),
        Json::Object(words) => match words.get("type") {
            Some(Json::String(name)) => match name.as_str() {
                "record" => Kind::object(avro_fields(words, depth)),
                "enum" => Kind::bytes(),
                "array" => Kind::array(avro_items(words.get("items"), depth)),
                "map" => {
                    let values =
                        words.get("values").map_or_else(Kind::json, |values| avro(values, depth + 1));
                    Kind::object(Collection::from_unknown(values.or_undefined()))
                }
                primitive => avro_primitive(primitive),
            },
            Some(inner) => avro(inner, depth + 1),
            None => Kind::json(),
        },
        Json::Null | Json::Bool(_) | Json::Number(_) => Kind::json(),
    }
}

fn avro_primitive(name: &str) -> Kind {
    match name {
        "null" => Kind::null(),
        "boolean" => Kind::boolean(),
        "int" | "long" => Kind::integer(),
        "string" => Kind::bytes(),
        // Floats may be NaN, which JSON has no number for; bytes and fixed have no one text; names are not followed.
        _ => Kind::json(),
    }
}

fn avro_fields(words: &Map<String, Json>, depth: usize) -> Collection<Field> {
    let mut known = BTreeMap::new();
    for field in words.get("fields").and_then(Json::as_array).into_iter().flatten() {
        if let (Some(Json::String(name)), Some(schema)) = (field.get("name"), field.get("type")) {
            known.insert(Field::from(name.as_str()), avro(schema, depth + 1));
        }
    }
    Collection::from_parts(known, Kind::undefined())
}

fn avro_items(items: Option<&Json>, depth: usize) -> Collection<Index> {
    let items = items.map_or_else(Kind::json, |items| avro(items, depth + 1));
    Collection::from_unknown(items.or_undefined())
}
