//! Programs that are but a path of the value, `.data.customer`, or its comparison with a constant, `.live == true`: most
//! filters and keys. They need no runtime.

use vrl::compiler::{Program, ProgramInfo, Target};
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
    /// What `text`, whose compiled form has this `info`, comes to if it is so plain. `constant` gives the value of a
    /// text that is a constant.
    pub(super) fn of(
        text: &str,
        info: &ProgramInfo,
        constant: impl FnOnce(&str) -> Option<Value>,
    ) -> Option<Self> {
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
            Some(right) if is_constant(right) => Some(constant(right)?),
            Some(_) => return None,
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

/// Whether it is a boolean, a whole number, or text without anything that has a meaning in it.
fn is_constant(text: &str) -> bool {
    let is_text =
        |inner: &str| inner.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" ._-/:".contains(&byte));
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let is_number = !text.is_empty() && text.len() < 16 && text.bytes().all(|byte| byte.is_ascii_digit());
    matches!(text, "true" | "false") || is_number || quoted.is_some_and(is_text)
}

/// The value of a compiled text that looks at nothing.
pub(super) fn constant_of(program: &Program) -> Option<Value> {
    let mut nothing = vrl::compiler::TargetValue {
        value: Value::Null,
        metadata: Value::Null,
        secrets: vrl::value::Secrets::default(),
    };
    let info = program.info();
    let is_closed = info.target_queries.is_empty() && info.target_assignments.is_empty();
    let mut runtime = vrl::compiler::runtime::Runtime::default();
    is_closed
        .then(|| runtime.resolve(&mut nothing, program, &vrl::compiler::TimeZone::default()).ok())
        .flatten()
}
