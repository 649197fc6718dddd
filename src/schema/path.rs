//! Places in a value, for messages about it.

use std::borrow::Cow;

use serde_json::Value;

use crate::schema::error::SchemaError;

/// Where in the value we are, for messages: a list that lives on the stack.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
    /// Levels above.
    pub depth: usize,
}

/// Characters of a name that are shown: keys of maps may be as long as a record.
const SHOWN_MAX: usize = 64;

fn short(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
        None => Cow::Borrowed(name),
    }
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The value itself.
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Root, depth: 0 };

    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name), depth: self.depth + 1 }
    }

    pub fn index(&'a self, at: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(at), depth: self.depth + 1 }
    }

    pub fn text(&self) -> String {
        let before = self.parent.map(Path::text).filter(|before| before != ".");
        match self.step {
            Step::Root => String::from("."),
            Step::Field(name) => {
                let name = short(name);
                before.map_or_else(|| name.clone().into_owned(), |before| format!("{before}.{name}"))
            }
            Step::Index(at) => format!("{}[{at}]", before.unwrap_or_default()),
        }
    }

    pub fn mismatch(&self, expected: impl Into<String>, found: &Value) -> SchemaError {
        let found = match found {
            Value::Null => String::from("null"),
            Value::Bool(_) => String::from("a boolean"),
            Value::Number(number) => format!("the number {number}"),
            Value::String(text) if text.chars().count() > 40 => String::from("a long text"),
            Value::String(text) => format!("the text {text:?}"),
            Value::Array(_) => String::from("a list"),
            Value::Object(_) => String::from("an object"),
        };
        SchemaError::Mismatch { field: self.text(), expected: expected.into(), found }
    }
}
