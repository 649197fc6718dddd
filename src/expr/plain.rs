//! Programs that are but a path of the value, `.data.customer`, or its comparison with a constant, `.live == true`: most
//! filters and keys. They need no runtime.

use vrl::compiler::{ProgramInfo, Target};
use vrl::path::{OwnedSegment, OwnedTargetPath, PathPrefix};
use vrl::prelude::VrlValueArithmetic as _;

use crate::expr::Value;
use crate::expr::scope::Scope;

/// A program whose result needs no runtime.
#[derive(Clone, Debug)]
pub(super) struct Plain {
    path: OwnedTargetPath,
    /// What the value at the path is compared with.
    constant: Option<Value>,
}

impl Plain {
    /// What `text`, whose compiled form has this `info`, comes to if it is so plain.
    pub(super) fn of(text: &str, info: &ProgramInfo) -> Option<Self> {
        let [path] = &info.target_queries[..] else { return None };
        if path.prefix != PathPrefix::Event || !info.target_assignments.is_empty() {
            return None;
        }
        let (left, right) = match text.trim().split_once("==") {
            Some((left, right)) => (left.trim(), Some(right.trim())),
            None => (text.trim(), None),
        };
        if left != written(path)? {
            return None;
        }
        let constant = match right {
            Some(right) => Some(constant(right)?),
            None => None,
        };
        Some(Self { path: path.clone(), constant })
    }

    /// The result. What `scope` was asked for and has not decoded it notes, as under the runtime.
    pub(super) fn resolve(&self, scope: &Scope<'_>) -> Value {
        let found = scope.target_get(&self.path).ok().flatten().unwrap_or(&Value::Null);
        match &self.constant {
            Some(constant) => Value::Boolean(found.eq_lossy(constant)),
            None => found.clone(),
        }
    }
}

/// A path of names that need no quotes, as one writes it.
fn written(path: &OwnedTargetPath) -> Option<String> {
    let mut text = String::new();
    for segment in &path.path.segments {
        let OwnedSegment::Field(name) = segment else { return None };
        text.push('.');
        text.push_str(name.as_str());
    }
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
    (is_plain && !text.is_empty()).then_some(text)
}

/// The value of a boolean, a whole number, or text without anything that has a meaning in it.
fn constant(text: &str) -> Option<Value> {
    let is_plain =
        |inner: &str| inner.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" ._-/:".contains(&byte));
    let is_number = text.len() < 16
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => is_plain(inner).then(|| Value::from(inner)),
        None if is_number => text.parse::<i64>().ok().map(Value::from),
        None => matches!(text, "true" | "false").then(|| Value::Boolean(text == "true")),
    }
}
