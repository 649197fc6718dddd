//! What is known of the types of `.` and `%` at a point of a pipeline.

use std::collections::{BTreeMap, BTreeSet};

use vrl::compiler::state::ExternalEnv;
use vrl::value::kind::{Collection, Field};

use crate::expr::{Kind, shapes};

/// What is known of the types of `.` and `%` at a point of a pipeline.
#[derive(Clone, PartialEq, Debug)]
pub struct Types {
    /// Kind of the value (`.`).
    value: Kind,
    /// Stages that have answered before this point: fields of `%stages`.
    stages: BTreeSet<String>,
}

impl Default for Types {
    /// Any JSON value, and no stage before.
    fn default() -> Self {
        Self { value: Kind::json(), stages: BTreeSet::new() }
    }
}

impl Types {
    /// The types of an event whose value satisfies this JSON Schema. Claims only what the schema guarantees; what it
    /// says in ways not understood here is any JSON value.
    pub fn of_json_schema(schema: &serde_json::Value) -> Self {
        Self { value: shapes::json_schema(schema), stages: BTreeSet::new() }
    }

    /// The types of an event whose value was decoded with this Avro schema, given as JSON text.
    pub fn of_avro_schema(schema: &serde_json::Value) -> Self {
        Self { value: shapes::avro_schema(schema), stages: BTreeSet::new() }
    }

    /// Kind of `.`.
    pub fn value(&self) -> &Kind {
        &self.value
    }

    /// Sets the kind of `.`: the value is a new one from here on.
    pub fn set_value(&mut self, value: Kind) {
        self.value = value;
    }

    /// From here on `%stages.<id>` may be asked for.
    pub fn add_stage(&mut self, id: &str) {
        self.stages.insert(id.to_owned());
    }

    /// Ids of the stages that have answered.
    pub fn stages(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(String::as_str)
    }

    /// What is known where two ways of a pipeline meet.
    pub fn join(&mut self, other: Self) {
        let mine = std::mem::replace(&mut self.value, Kind::never());
        self.value = mine.union(other.value);
        self.stages.extend(other.stages);
    }

    /// Types of one element of a list of kind `list`, as the steps of a `for_each` see it.
    pub fn of_element(&self, list: &Kind) -> Self {
        let mut list = list.clone();
        let items =
            list.as_array_mut().map_or_else(Kind::json, |items| items.reduced_kind()).without_undefined();
        let value = if items.is_never() { Kind::json() } else { items };
        Self { value, stages: self.stages.clone() }
    }

    /// The environment a program is compiled in.
    pub(super) fn environment(&self) -> ExternalEnv {
        ExternalEnv::new_with_kind(self.value.clone(), self.metadata())
    }

    fn metadata(&self) -> Kind {
        let text = Kind::bytes();
        let optional = Kind::bytes().or_null();
        let headers = Kind::object(Collection::from_unknown(Kind::bytes().or_null().or_undefined()));
        let mut stages = BTreeMap::new();
        for id in &self.stages {
            stages.insert(Field::from(id.as_str()), Kind::any());
        }
        let stages = Kind::object(Collection::from_parts(stages, Kind::undefined()));
        let fields = [
            ("id", text.clone()),
            ("source", text.clone()),
            ("type", text.clone()),
            ("time", Kind::timestamp()),
            ("subject", optional.clone()),
            ("tenant", optional.clone()),
            ("key", optional),
            ("topic", text),
            ("partition", Kind::integer()),
            ("offset", Kind::integer()),
            ("headers", headers),
            ("stages", stages),
        ];
        let known: BTreeMap<Field, Kind> =
            fields.into_iter().map(|(name, kind)| (Field::from(name), kind)).collect();
        Kind::object(Collection::from_parts(known, Kind::undefined()))
    }
}
