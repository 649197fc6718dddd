//! What a program reads and writes at run time: one event, or one element of a list in it.
//!
//! The value stays bytes until a program asks for it, and the bytes stay beside the decoded value until a program
//! changes it: what nobody touched goes out as it came in, byte for byte. Where a pipeline's programs touch a few paths,
//! only these are decoded ([`crate::expr::projection`]). Metadata is built field by field, only what some program reads.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use vrl::compiler::{SecretTarget, Target};
use vrl::path::{OwnedTargetPath, PathPrefix};

use crate::event;
use crate::expr::projection::{Part, Projection, Reach};
use crate::expr::{Key, Object, Value, values};
use crate::fault::{Fault, FaultClass};
use crate::record::InRecord;

/// One event under the programs of a pipeline.
#[derive(Debug)]
pub struct Scope<'r> {
    record: &'r InRecord,
    now: DateTime<Utc>,
    /// The paths that are enough to decode.
    projection: Option<&'r Projection>,
    body: Body<'r>,
    /// What the running program has asked for and is not decoded.
    asked: Asked,
    /// An object; holds the fields built so far, and `stages` once a stage has answered.
    metadata: Value,
    built: Metadata,
}

/// What a program asked for of a value that is decoded in part.
#[derive(Default, Debug)]
struct Asked {
    /// How often all of it. The runtime itself does so once, and only looks whether there is something.
    whole: AtomicU32,
    /// Whether something else that is not there.
    other: AtomicBool,
}

#[derive(Clone, Debug)]
enum Body<'r> {
    /// JSON text that nobody has looked at; `None` is a tombstone.
    Raw(Option<Bytes>),
    /// JSON text, decoded in part; fields of it may have been set.
    Part(Part<'r>),
    /// JSON text, decoded and unchanged.
    Decoded { raw: Option<Bytes>, value: Value },
    /// Bytes that are not JSON text, decoded by a codec and unchanged.
    Foreign { raw: Bytes, value: Value },
    /// A value that no bytes stand for.
    New(Value),
}

/// How the value stands when it is written out.
#[derive(Debug)]
pub enum Payload<'a> {
    /// The bytes as they came in; `None` is a tombstone.
    Original(Option<&'a Bytes>),
    /// Bytes of a codec as they came in, and what they mean.
    Foreign {
        /// The bytes.
        raw: &'a Bytes,
        /// What they mean.
        value: &'a Value,
    },
    /// JSON text in which fields were set, as bytes.
    Spliced(Bytes),
    /// A value made or changed by a program.
    New(&'a Value),
}

/// The value at an earlier point, to go back to when a step fails and is skipped.
#[derive(Debug)]
pub struct Memory<'r>(Body<'r>);

/// Which metadata fields a program reads: one bit for each of [`FIELDS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Metadata(u16);

/// The fields of `%`.
pub(super) const FIELDS: [&str; 12] = [
    "id",
    "source",
    "type",
    "time",
    "subject",
    "tenant",
    "key",
    "topic",
    "partition",
    "offset",
    "headers",
    "stages",
];

impl Metadata {
    /// Every field.
    pub(super) const ALL: Self = Self((1 << FIELDS.len()) - 1);

    /// Adds the field called `name`; false when there is none.
    pub(super) fn add(&mut self, name: &str) -> bool {
        let at = FIELDS.iter().position(|field| *field == name);
        self.0 |= at.map_or(0, |at| 1 << at);
        at.is_some()
    }
}

static NULL: Value = Value::Null;

impl<'r> Scope<'r> {
    /// The scope of a record whose value is JSON text. `now` stands in for the event time where a record has none.
    pub fn new(record: &'r InRecord, now: DateTime<Utc>) -> Self {
        Self::with_body(record, now, Body::Raw(record.value.clone()))
    }

    /// As [`Self::new`], under programs that mostly touch no more of the value than `projection` says.
    pub fn projected(record: &'r InRecord, now: DateTime<Utc>, projection: &'r Projection) -> Self {
        Self { projection: Some(projection), ..Self::new(record, now) }
    }

    /// The scope of a record whose value a codec decoded.
    pub fn decoded(record: &'r InRecord, now: DateTime<Utc>, value: Value) -> Self {
        let body = match &record.value {
            Some(raw) => Body::Foreign { raw: raw.clone(), value },
            None => Body::New(value),
        };
        Self::with_body(record, now, body)
    }

    fn with_body(record: &'r InRecord, now: DateTime<Utc>, body: Body<'r>) -> Self {
        Self {
            record,
            now,
            projection: None,
            body,
            asked: Asked::default(),
            metadata: Value::Object(Object::new()),
            built: Metadata::default(),
        }
    }

    /// The scope of one element of a list in this event: `.` is the element, `%` is the same.
    pub fn element(&self, element: Value) -> Self {
        let Self { record, now, projection: _, body: _, asked: _, metadata, built } = self;
        let (metadata, built) = (metadata.clone(), *built);
        Self { metadata, built, ..Self::with_body(record, *now, Body::New(element)) }
    }

    /// The record in hand.
    pub fn record(&self) -> &'r InRecord {
        self.record
    }

    /// Keeps what a stage answered, as `%stages.<id>`.
    pub fn answer(&mut self, stage: &str, answer: Value) {
        let Value::Object(fields) = &mut self.metadata else { return };
        let stages = fields.entry(Key::from("stages")).or_insert_with(|| Value::Object(Object::new()));
        if let Value::Object(stages) = stages {
            stages.insert(Key::from(stage), answer);
        }
    }

    /// What a stage answered.
    pub fn answer_of(&self, stage: &str) -> Option<&Value> {
        let Value::Object(fields) = &self.metadata else { return None };
        let Value::Object(stages) = fields.get("stages")? else { return None };
        stages.get(stage)
    }

    /// The value, decoded.
    ///
    /// # Errors
    /// [`FaultClass::Poison`] when the value is no JSON.
    pub fn value(&mut self) -> Result<&Value, Fault> {
        self.decode()?;
        Ok(self.seen())
    }

    /// The value, moved out; null stays behind. For the end of an element's steps.
    ///
    /// # Errors
    /// [`FaultClass::Poison`] when the value is no JSON.
    pub fn take_value(&mut self) -> Result<Value, Fault> {
        self.decode()?;
        match std::mem::replace(&mut self.body, Body::New(Value::Null)) {
            Body::Decoded { value, .. } | Body::Foreign { value, .. } | Body::New(value) => Ok(value),
            Body::Raw(_) | Body::Part(_) => Ok(Value::Null),
        }
    }

    /// The value as it is to be written out.
    ///
    /// # Errors
    /// As [`values::to_json_bytes`].
    pub fn payload(&self) -> Result<Payload<'_>, serde_json::Error> {
        Ok(match &self.body {
            Body::Raw(raw) | Body::Decoded { raw, .. } => Payload::Original(raw.as_ref()),
            Body::Part(part) if part.is_changed() => Payload::Spliced(part.text()?),
            Body::Part(part) => Payload::Original(Some(part.raw())),
            Body::Foreign { raw, value } => Payload::Foreign { raw, value },
            Body::New(value) => Payload::New(value),
        })
    }

    /// The value at this point. Costs nothing while the value is JSON as it came in, else a copy.
    pub fn remember(&self) -> Memory<'r> {
        Memory(match &self.body {
            Body::Raw(raw) | Body::Decoded { raw, .. } => Body::Raw(raw.clone()),
            Body::Part(part) if !part.is_changed() => Body::Raw(Some(part.raw().clone())),
            other => other.clone(),
        })
    }

    /// Goes back to the value as it was.
    pub fn restore(&mut self, memory: Memory<'r>) {
        self.body = memory.0;
    }

    /// Makes ready what a program reads: of the value all, or what it reaches.
    pub(super) fn prepare(
        &mut self,
        reads_value: bool,
        reach: Option<&Reach>,
        reads: Metadata,
    ) -> Result<(), Fault> {
        if reads_value {
            self.asked = Asked::default();
            if reach.is_none() || !self.decode_part() {
                self.decode()?;
            }
        }
        let missing = reads.0 & !self.built.0;
        if missing != 0 {
            self.build(missing);
            self.built.0 |= missing;
        }
        Ok(())
    }

    /// Whether the value is decoded in part, or now could be.
    fn decode_part(&mut self) -> bool {
        if let (Body::Raw(Some(text)), Some(projection)) = (&self.body, self.projection) {
            match projection.find(text) {
                Some(part) => self.body = Body::Part(part),
                // Nor could it be the next time.
                None => self.projection = None,
            }
        }
        matches!(self.body, Body::Part(_))
    }

    /// Whether the program that ran last asked for something that was not decoded, so that its run is void.
    pub(super) fn has_missed(&self) -> bool {
        self.asked.other.load(Ordering::Relaxed) || self.asked.whole.load(Ordering::Relaxed) > 1
    }

    /// Whether the value is decoded in part.
    pub(super) fn is_part(&self) -> bool {
        matches!(self.body, Body::Part(_))
    }

    /// Decodes the whole value.
    pub(super) fn decode(&mut self) -> Result<(), Fault> {
        self.body = match &self.body {
            Body::Raw(None) => Body::Decoded { raw: None, value: Value::Null },
            Body::Raw(Some(text)) => {
                let value = values::from_json_bytes(text).map_err(|error| undecodable(&error))?;
                Body::Decoded { raw: Some(text.clone()), value }
            }
            Body::Part(part) => {
                let value = part.whole().map_err(|error| undecodable(&error))?;
                match part.is_changed() {
                    true => Body::New(value),
                    false => Body::Decoded { raw: Some(part.raw().clone()), value },
                }
            }
            Body::Decoded { .. } | Body::Foreign { .. } | Body::New(_) => return Ok(()),
        };
        Ok(())
    }

    fn seen(&self) -> &Value {
        match &self.body {
            Body::Raw(_) => &NULL,
            Body::Part(part) => part.found(),
            Body::Decoded { value, .. } | Body::Foreign { value, .. } | Body::New(value) => value,
        }
    }

    /// The value to be changed; from here on no bytes stand for it.
    fn changed(&mut self) -> &mut Value {
        if !matches!(self.body, Body::New(_)) {
            let value = match std::mem::replace(&mut self.body, Body::New(Value::Null)) {
                Body::Raw(_) | Body::Part(_) => Value::Null,
                Body::Decoded { value, .. } | Body::Foreign { value, .. } | Body::New(value) => value,
            };
            self.body = Body::New(value);
        }
        match &mut self.body {
            Body::New(value) => value,
            Body::Raw(_) | Body::Part(_) | Body::Decoded { .. } | Body::Foreign { .. } => {
                unreachable!("made new above")
            }
        }
    }

    fn build(&mut self, missing: u16) {
        let record = self.record;
        let Value::Object(fields) = &mut self.metadata else { return };
        for (at, name) in FIELDS.into_iter().enumerate() {
            if missing & (1 << at) == 0 {
                continue;
            }
            let value = match name {
                "id" => Value::from(event::id_of(record)),
                "source" => Value::from(event::source_of(record)),
                "type" => Value::from(event::kind_of(record)),
                "time" => Value::Timestamp(event::event_time_of(record, self.now)),
                "subject" => Value::from(record.header_text("ce_subject")),
                "tenant" => Value::from(record.header_text("ce_tenant")),
                "key" => record.key.as_ref().map_or(Value::Null, text_of),
                "topic" => Value::from(&*record.topic),
                "partition" => Value::from(record.partition),
                "offset" => Value::from(record.offset),
                "headers" => headers(record),
                _ => continue,
            };
            fields.insert(Key::from(name), value);
        }
    }
}

/// Bytes as text. Bytes that are not UTF-8 stay as they are: the language takes them for text as well.
fn text_of(bytes: &Bytes) -> Value {
    Value::from_utf8_or_bytes(bytes.clone())
}

/// Headers as an object; of a repeated name the last counts.
fn headers(record: &InRecord) -> Value {
    let fields = record
        .headers
        .iter()
        .map(|header| (Key::from(header.name.as_str()), header.value.as_ref().map_or(Value::Null, text_of)));
    Value::Object(fields.collect::<Object>())
}

fn undecodable(error: &serde_json::Error) -> Fault {
    let place = format!("line {}, column {}", error.line(), error.column());
    let message = format!("the value cannot be decoded as JSON: {} at {place}", category(error));
    Fault::new(FaultClass::Poison, message)
}

fn category(error: &serde_json::Error) -> &'static str {
    if error.is_eof() {
        "it ends too early"
    } else {
        "a syntax error, a number out of range, or nesting deeper than 128"
    }
}

/// Of a value that is decoded in part only what is there can be touched. Anything else is noted and not done: the run is
/// void then, and made again on the whole value.
impl Target for Scope<'_> {
    fn target_insert(&mut self, path: &OwnedTargetPath, value: Value) -> Result<(), String> {
        match path.prefix {
            PathPrefix::Event => {
                if let Body::Part(part) = &mut self.body
                    && !path.path.is_root()
                {
                    if part.insert(&path.path, value).is_err() {
                        self.asked.other.store(true, Ordering::Relaxed);
                    }
                    return Ok(());
                }
                self.changed().insert(&path.path, value);
                Ok(())
            }
            PathPrefix::Metadata => Err(String::from("metadata is read-only")),
        }
    }

    fn target_get(&self, path: &OwnedTargetPath) -> Result<Option<&Value>, String> {
        if let (Body::Part(part), PathPrefix::Event) = (&self.body, path.prefix)
            && !part.covers(&path.path)
        {
            let Asked { whole, other } = &self.asked;
            if path.path.is_root() {
                whole.fetch_add(1, Ordering::Relaxed);
                return Ok(Some(part.found()));
            }
            other.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        Ok(match path.prefix {
            PathPrefix::Event => self.seen().get(&path.path),
            PathPrefix::Metadata => self.metadata.get(&path.path),
        })
    }

    fn target_get_mut(&mut self, path: &OwnedTargetPath) -> Result<Option<&mut Value>, String> {
        match path.prefix {
            PathPrefix::Event if self.is_part() => {
                self.asked.other.store(true, Ordering::Relaxed);
                Ok(None)
            }
            PathPrefix::Event => Ok(self.changed().get_mut(&path.path)),
            PathPrefix::Metadata => Err(String::from("metadata is read-only")),
        }
    }

    fn target_remove(&mut self, path: &OwnedTargetPath, compact: bool) -> Result<Option<Value>, String> {
        match path.prefix {
            PathPrefix::Event if self.is_part() => {
                self.asked.other.store(true, Ordering::Relaxed);
                Ok(None)
            }
            PathPrefix::Event => Ok(self.changed().remove(&path.path, compact)),
            PathPrefix::Metadata => Err(String::from("metadata is read-only")),
        }
    }
}

/// Programs know no secrets.
impl SecretTarget for Scope<'_> {
    fn get_secret(&self, _: &str) -> Option<&str> {
        None
    }

    fn insert_secret(&mut self, _: &str, _: &str) {}

    fn remove_secret(&mut self, _: &str) {}
}
