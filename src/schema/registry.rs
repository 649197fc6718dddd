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
        // The HTTP client is built without a TLS provider of its own and takes the process's; whoever is first sets it.
        let _already_set = rustls::crypto::ring::default_provider().install_default();
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
