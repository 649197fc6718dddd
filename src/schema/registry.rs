//! Client of a Confluent-compatible schema registry.

use std::time::Duration;

use schema_registry_converter::async_impl::schema_registry::{self, SrSettings};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RawError, SchemaType, SuppliedSchema};

use crate::schema::error::SchemaError;

/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(10);
/// The registry's `error_code` for "schema not found".
const SCHEMA_NOT_FOUND: u32 = 40_403;
/// The registry's `error_code`s for "subject not found" and "version not found".
const SUBJECT_NOT_FOUND: [u32; 2] = [40_401, 40_402];

/// How a schema stands to the last one that is registered under its subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing is registered.
    Missing,
    /// It is the last one.
    Same,
    /// It differs, and the registry would take it as a new version.
    Newer,
    /// It differs, and the registry would refuse it.
    Incompatible,
}

/// A registry.
#[derive(Clone, Debug)]
pub struct Registry {
    settings: SrSettings,
}

impl Registry {
    /// The registry at `url`, e.g. `http://registry:8081`. Nothing is called yet.
    ///
    /// # Errors
    /// [`SchemaError::Unavailable`] when no HTTP client can be made.
    pub fn new(url: &str) -> Result<Self, SchemaError> {
        crate::tls::provide();
        let settings = SrSettings::new_builder(url.trim_end_matches('/').to_owned())
            .set_timeout(CALL_MAX)
            .build()
            .map_err(|error| unavailable(&error))?;
        Ok(Self { settings })
    }

    /// Registers `schema` under `subject` and gives its id; the same id for the same schema, however often.
    ///
    /// # Errors
    /// [`SchemaError::Refused`] when it does not go together with earlier versions, [`SchemaError::Unavailable`].
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, SchemaError> {
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, schema.to_owned());
        let answer = schema_registry::post_schema(&self.settings, subject.to_owned(), supplied).await;
        answer.map(|registered| registered.id).map_err(|error| match raw(&error) {
            Some(raw) if !is_outage(&error) => {
                SchemaError::Refused { subject: subject.to_owned(), message: raw.message.clone() }
            }
            _ => unavailable(&error),
        })
    }

    /// How `schema` stands to what is registered under `subject`. Changes nothing.
    ///
    /// # Errors
    /// [`SchemaError::Refused`] when the registry does not let it be asked, [`SchemaError::Unavailable`].
    pub async fn standing(&self, subject: &str, schema: &str) -> Result<Standing, SchemaError> {
        let refused = |error: &SRCError| match raw(error) {
            Some(raw) if !is_outage(error) => {
                SchemaError::Refused { subject: subject.to_owned(), message: raw.message.clone() }
            }
            _ => unavailable(error),
        };
        let latest = schema_registry::get_schema_by_subject_and_version(&self.settings, subject, None).await;
        let latest = match latest {
            Ok(latest) => latest,
            Err(error) if raw(&error).is_some_and(|raw| SUBJECT_NOT_FOUND.contains(&raw.error_code)) => {
                return Ok(Standing::Missing);
            }
            Err(error) => return Err(refused(&error)),
        };
        if is_same(&latest.schema, schema) {
            return Ok(Standing::Same);
        }
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, schema.to_owned());
        match schema_registry::is_compatible_schema(&self.settings, subject.to_owned(), supplied).await {
            Ok(true) => Ok(Standing::Newer),
            Ok(false) => Ok(Standing::Incompatible),
            Err(error) => Err(refused(&error)),
        }
    }

    /// The text of schema `id`.
    ///
    /// # Errors
    /// [`SchemaError::UnknownSchema`] when the registry has none, [`SchemaError::Unavailable`].
    pub async fn schema(&self, id: u32) -> Result<String, SchemaError> {
        match schema_registry::get_schema_by_id(id, &self.settings).await {
            Ok(found) => Ok(found.schema),
            Err(error) if raw(&error).is_some_and(|raw| raw.error_code == SCHEMA_NOT_FOUND) => {
                Err(SchemaError::UnknownSchema { id })
            }
            Err(error) => Err(unavailable(&error)),
        }
    }
}

/// Whether two texts are the same JSON: registries give a schema back in their own layout.
fn is_same(left: &str, right: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    read(left).is_some_and(|left| Some(left) == read(right))
}

/// The registry's own answer, when it gave one.
fn raw(error: &SRCError) -> Option<&RawError> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref::<RawError>())
}

/// Whether the registry is unable rather than unwilling: no answer, one that is not its own, or a 5xx.
fn is_outage(error: &SRCError) -> bool {
    error.retriable
        || raw(error)
            .is_none_or(|raw| raw.error_code == 0 || raw.error_code / 100 == 5 || raw.error_code >= 50_000)
}

fn unavailable(error: &SRCError) -> SchemaError {
    let message = match &error.cause {
        Some(cause) => format!("{}: {cause}", error.error),
        None => error.error.clone(),
    };
    SchemaError::Unavailable { message }
}
