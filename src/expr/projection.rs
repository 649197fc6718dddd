//! The part of a JSON text that programs look at: found by one pass over the text that builds nothing else.
//!
//! The compiler knows which paths a program reads and which fields it sets. Where these are few, only their values are
//! made; the text around them stays as it is, and goes out with the new fields spliced in: in the order it came in,
//! with numbers as they were written.
//!
//! The result must be that of decoding the whole text. So the pass checks all of it, and gives up ([`Projection::find`]
//! says `None`, the text is decoded as a whole then) where it cannot be sure: a field that is looked at and stands there
//! twice, an escape in a field's name, exponents, half of a surrogate pair, deep nesting, and
//! everything that is no JSON.

use bytes::Bytes;
use vrl::path::{OwnedSegment, OwnedValuePath};

use crate::expr::pass::{self, Outermost};
use crate::expr::{Key, Value, values};

/// Most fields of the outermost object that are looked at.
pub(super) const FIELDS_MAX: usize = 16;
/// Most paths.
const PATHS_MAX: usize = 32;

/// Where the value of a field begins and ends.
pub(super) type Place = (u32, u32);
/// The place of a field that is not there: before each value there is a brace.
pub(super) const NOWHERE: Place = (0, 0);

/// What one program touches of the value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Reach {
    /// Paths whose values it may ask for.
    reads: Vec<Vec<Box<str>>>,
    /// Fields of the outermost object that it may set.
    sets: Vec<Box<str>>,
}

impl Reach {
    /// The value at `path` may be asked for. False when that may be all of it.
    pub(super) fn read(&mut self, path: &OwnedValuePath) -> bool {
        let fields = path.segments.iter().map_while(|segment| match segment {
            OwnedSegment::Field(name) => Some(Box::from(name.as_str())),
            OwnedSegment::Index(_) => None,
        });
        let fields: Vec<Box<str>> = fields.collect();
        let is_part = !fields.is_empty();
        self.reads.push(fields);
        is_part
    }

    /// The value at `path` may be set. That of the whole needs no look at what it was.
    pub(super) fn set(&mut self, path: &OwnedValuePath) -> bool {
        match &path.segments[..] {
            [] => true,
            [OwnedSegment::Field(name)] => {
                self.sets.push(Box::from(name.as_str()));
                true
            }
            // What is changed within a field is written together with the rest of it.
            [OwnedSegment::Field(name), ..] => {
                self.reads.push(vec![Box::from(name.as_str())]);
                true
            }
            [OwnedSegment::Index(_), ..] => false,
        }
    }
}

/// What all programs of a pipeline touch together.
#[derive(Clone, Debug)]
pub struct Projection {
    /// The first is that of the outermost object.
    pub(super) nodes: Vec<Node>,
}

/// An object on the way to a path.
#[derive(Clone, Default, Debug)]
pub(super) struct Node {
    /// Names, and the nodes of their values.
    pub(super) fields: Vec<(Box<str>, usize)>,
    /// Whether the value itself is asked for, with all that is in it.
    pub(super) is_whole: bool,
}

impl Projection {
    /// The parts that these programs touch; `None` when they are none, or too many to gain anything.
    pub(super) fn of<'p>(reaches: impl Iterator<Item = &'p Reach>) -> Option<Self> {
        let mut projection = Self { nodes: vec![Node::default()] };
        let mut paths = 0;
        for Reach { reads, sets } in reaches {
            for path in reads {
                let node = path.iter().fold(0, |node, name| projection.child(node, name));
                projection.nodes[node].is_whole = true;
                paths += 1;
            }
            for name in sets {
                projection.child(0, name);
            }
        }
        let fields = projection.nodes[0].fields.len();
        (paths <= PATHS_MAX && (1..=FIELDS_MAX).contains(&fields)).then_some(projection)
    }

    fn child(&mut self, node: usize, name: &str) -> usize {
        if let Some((_, child)) = self.nodes[node].fields.iter().find(|(own, _)| **own == *name) {
            return *child;
        }
        let child = self.nodes.len();
        self.nodes.push(Node::default());
        self.nodes[node].fields.push((Box::from(name), child));
        child
    }

    /// Number of a field of the outermost object.
    fn field(&self, name: &str) -> Option<usize> {
        self.nodes[0].fields.iter().position(|(own, _)| **own == *name)
    }

    /// Whether everything at `path` is part of this.
    fn covers(&self, path: &[OwnedSegment]) -> bool {
        let mut node = &self.nodes[0];
        for segment in path {
            if node.is_whole {
                return true;
            }
            let OwnedSegment::Field(name) = segment else { return false };
            let Some((_, child)) = node.fields.iter().find(|(own, _)| **own == *name.as_str()) else {
                return false;
            };
            node = &self.nodes[*child];
        }
        node.is_whole
    }

    /// Finds the parts in `text`. `None` when the text has to be decoded as a whole to be sure.
    pub(super) fn find<'p>(&'p self, text: &Bytes) -> Option<Part<'p>> {
        if u32::try_from(text.len()).is_err() || simdutf8::basic::from_utf8(text).is_err() {
            return None;
        }
        let Outermost { found, places, end, is_empty } = pass::outermost(self, text)?;
        Some(Part {
            projection: self,
            raw: text.clone(),
            found: Value::Object(found),
            places,
            end,
            is_empty,
            set: 0,
        })
    }
}

/// The part of one text, and what was set since.
#[derive(Clone, Debug)]
pub(super) struct Part<'p> {
    projection: &'p Projection,
    raw: Bytes,
    /// An object with what was found, and what was set.
    found: Value,
    /// Where the values of the outermost object's fields stand, by their numbers.
    places: [Place; FIELDS_MAX],
    /// Where the outermost object is closed.
    end: usize,
    /// Whether the outermost object has no fields.
    is_empty: bool,
    /// Fields that were set, a bit for each number.
    set: u16,
}

impl Part<'_> {
    /// The text as it came in.
    pub(super) fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// What is there of the value.
    pub(super) fn found(&self) -> &Value {
        &self.found
    }

    /// Whether anything was set.
    pub(super) fn is_changed(&self) -> bool {
        self.set != 0
    }

    /// Whether everything at `path` is here.
    pub(super) fn covers(&self, path: &OwnedValuePath) -> bool {
        let segments = &path.segments[..];
        let is_set = match segments.first() {
            Some(OwnedSegment::Field(name)) => {
                self.projection.field(name.as_str()).is_some_and(|number| self.set & (1 << number) != 0)
            }
            Some(OwnedSegment::Index(_)) | None => false,
        };
        is_set || self.projection.covers(segments)
    }

    /// Sets the value at `path`, which is not the whole. Gives it back when there is no way to do so here.
    pub(super) fn insert(&mut self, path: &OwnedValuePath, value: Value) -> Result<(), Value> {
        let segments = &path.segments[..];
        let Some(OwnedSegment::Field(name)) = segments.first() else { return Err(value) };
        let Some(number) = self.projection.field(name.as_str()) else { return Err(value) };
        if segments.len() > 1 && !self.covers(&OwnedValuePath::single_field(name.as_str())) {
            return Err(value);
        }
        self.set |= 1 << number;
        self.found.insert(path, value);
        Ok(())
    }

    /// Fields that were set: number, name and value.
    fn set_fields(&self) -> impl Iterator<Item = (usize, &str, &Value)> {
        let fields = self.projection.nodes[0].fields.iter().enumerate();
        let set = fields.filter(|(number, _)| self.set & (1 << number) != 0);
        set.filter_map(|(number, (name, _))| Some((number, &**name, self.found.as_object()?.get(&**name)?)))
    }

    /// The whole value.
    ///
    /// # Errors
    /// As decoding.
    pub(super) fn whole(&self) -> Result<Value, serde_json::Error> {
        let mut value = values::from_json_bytes(&self.raw)?;
        if let Value::Object(fields) = &mut value {
            for (_, name, set) in self.set_fields() {
                fields.insert(Key::from(name), set.clone());
            }
        }
        Ok(value)
    }

    /// The text with what was set: new values in their places, new fields at the end.
    ///
    /// # Errors
    /// As [`values::to_json_bytes`].
    pub(super) fn text(&self) -> Result<Bytes, serde_json::Error> {
        let place_of = |number: usize| {
            let place = self.places[number];
            (place != NOWHERE).then_some((place.0 as usize, place.1 as usize))
        };
        let mut replaced: Vec<((usize, usize), &Value)> =
            self.set_fields().filter_map(|(number, _, value)| Some((place_of(number)?, value))).collect();
        replaced.sort_unstable_by_key(|(place, _)| *place);
        let mut text = Vec::with_capacity(self.raw.len() + 64 * self.set.count_ones() as usize);
        let mut copied = 0;
        for ((from, to), value) in replaced {
            text.extend_from_slice(&self.raw[copied..from]);
            serde_json::to_writer(&mut text, value)?;
            copied = to;
        }
        text.extend_from_slice(&self.raw[copied..self.end]);
        let mut is_first = self.is_empty;
        for (_, name, value) in self.set_fields().filter(|(number, ..)| place_of(*number).is_none()) {
            if !is_first {
                text.push(b',');
            }
            is_first = false;
            serde_json::to_writer(&mut text, name)?;
            text.push(b':');
            serde_json::to_writer(&mut text, value)?;
        }
        text.push(b'}');
        Ok(Bytes::from(text))
    }
}

#[cfg(test)]
#[path = "projection_tests.rs"]
mod tests;
