//! Secrets by reference. A secret's value is never written in a file of the project, and never printed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Span};
use crate::yaml::node::{Node, Yaml};

/// Longest secret that is read, in bytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Where a secret's value is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// Environment variable.
    Env(String),
    /// File; one trailing line break is not part of the secret.
    File(PathBuf),
}

/// A reference to a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretRef {
    /// Where the value is.
    pub place: Place,
    /// Whether it may be absent.
    pub optional: bool,
}

/// A secret's value. Its `Debug` prints nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into())
    }

    /// The value itself. Give it to a MAC or an `Authorization` header and to nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a secret has no value. Names the place, never the value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment variable is not set.
    #[error("environment variable {0} is not set")]
    Unset(String),
    /// The file cannot be read.
    #[error("secret file {path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The value is empty or blank.
    #[error("the secret in {0} is empty")]
    Empty(String),
    /// The value is longer than a secret can be.
    #[error("the secret in {0} is longer than {SECRET_BYTES_MAX} bytes")]
    TooLong(String),
}

impl SecretRef {
    /// Decodes `{env: NAME}` or `{file: PATH}`, with `optional: true` if it may be absent.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        if !matches!(node.value, Yaml::Map(_)) {
            lints.error(
                "literal-secret",
                &node.span,
                "a secret is given by reference",
                "write {env: NAME} or {file: PATH}",
            );
            return None;
        }
        let mut fields = Fields::of(node, "a secret", lints)?;
        let env = fields.optional("env").and_then(|node| fields::text(node, lints));
        let file = fields.optional("file").and_then(|node| fields::text(node, lints));
        let optional =
            fields.optional("optional").and_then(|node| fields::boolean(node, lints)).unwrap_or(false);
        fields.finish(lints);
        let place = match (env, file) {
            (Some(name), None) => Place::Env(name.value),
            (None, Some(path)) => Place::File(PathBuf::from(path.value)),
            _ => {
                lints.error(
                    "bad-secret",
                    &node.span,
                    "a secret names one place",
                    "write {env: NAME} or {file: PATH}",
                );
                return None;
            }
        };
        Some(Self { place, optional })
    }

    /// Every reference to a secret in `node`, with its place: mappings that decode as one.
    pub fn all_in(node: &Node) -> Vec<(Self, Span)> {
        let mut found = Vec::new();
        match &node.value {
            Yaml::List(items) => found.extend(items.iter().flat_map(Self::all_in)),
            Yaml::Map(entries) => {
                let is_one = entries.iter().any(|(key, _)| key.name == "env" || key.name == "file");
                match is_one.then(|| Self::decode(node, &mut Lints::default())).flatten() {
                    Some(secret) => found.push((secret, node.span.clone())),
                    None => found.extend(entries.iter().flat_map(|(_, value)| Self::all_in(value))),
                }
            }
            Yaml::Null | Yaml::Bool(_) | Yaml::Int(_) | Yaml::Float(_) | Yaml::Text(_) => {}
        }
        found
    }

    /// The name of the place, for messages.
    pub fn name(&self) -> String {
        match &self.place {
            Place::Env(name) => format!("environment variable {name}"),
            Place::File(path) => format!("file {}", path.display()),
        }
    }

    /// Reads the value now. `Ok(None)` when it is absent and may be.
    ///
    /// # Errors
    /// [`SecretError`] when it is absent though needed, unreadable, empty or too long.
    pub fn resolve(&self) -> Result<Option<Secret>, SecretError> {
        let value = match &self.place {
            Place::Env(name) => match std::env::var_os(name) {
                Some(value) => value.into_encoded_bytes(),
                None if self.optional => return Ok(None),
                None => return Err(SecretError::Unset(name.clone())),
            },
            Place::File(path) => match std::fs::read(path) {
                Ok(mut value) => {
                    if value.ends_with(b"\n") {
                        value.pop();
                    }
                    value
                }
                Err(error) if self.optional && error.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(None);
                }
                Err(source) => {
                    let path = path.clone();
                    return Err(SecretError::Unreadable { path, source });
                }
            },
        };
        if value.iter().all(u8::is_ascii_whitespace) {
            return Err(SecretError::Empty(self.name()));
        }
        if value.len() > SECRET_BYTES_MAX {
            return Err(SecretError::TooLong(self.name()));
        }
        Ok(Some(Secret(value)))
    }
}

/// Where a process finds its secrets: environment and files, and for names that are not set there what was made up.
/// Nothing is made up unless it is asked for; a running installation has none.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    made_up: Arc<BTreeMap<String, Secret>>,
}

impl Secrets {
    /// With values for environment variables that are not set.
    pub fn with_made_up(made_up: BTreeMap<String, Secret>) -> Self {
        Self { made_up: Arc::new(made_up) }
    }

    /// Names and values that were made up.
    pub fn made_up(&self) -> &BTreeMap<String, Secret> {
        &self.made_up
    }

    /// Reads the value of `reference` now. `Ok(None)` when it is absent and may be.
    ///
    /// # Errors
    /// As [`SecretRef::resolve`].
    pub fn resolve(&self, reference: &SecretRef) -> Result<Option<Secret>, SecretError> {
        match self.made_up_for(reference) {
            Some(secret) => Ok(Some(secret.clone())),
            None => reference.resolve(),
        }
    }

    /// What was made up for `reference`; nothing when the environment has it.
    pub fn made_up_for(&self, reference: &SecretRef) -> Option<&Secret> {
        match &reference.place {
            Place::Env(name) if std::env::var_os(name).is_none() => self.made_up.get(name),
            Place::Env(_) | Place::File(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_up_stands_in_for_what_is_not_set_and_for_nothing_else() {
        let reference = |name: &str| SecretRef { place: Place::Env(name.to_owned()), optional: false };
        let made_up =
            ["PATH", "MILLRACE_TEST_NEVER_SET"].map(|name| (name.to_owned(), Secret::new("made up")));
        let secrets = Secrets::with_made_up(BTreeMap::from(made_up));
        let value =
            |secrets: &Secrets, name| secrets.resolve(&reference(name)).expect("there").expect("there");
        assert_eq!(value(&secrets, "MILLRACE_TEST_NEVER_SET"), Secret::new("made up"));
        assert_ne!(value(&secrets, "PATH"), Secret::new("made up"), "the environment comes first");
        assert!(Secrets::default().resolve(&reference("MILLRACE_TEST_NEVER_SET")).is_err());
    }
}
