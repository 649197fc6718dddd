//! What a failed statement means.

use crate::fault::FaultClass;

/// A statement that failed, with its class by SQLSTATE. The message holds no parameters.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SqlFault {
    /// [`FaultClass::Transient`] when the same statement may work later, else [`FaultClass::Permanent`].
    pub class: FaultClass,
    /// SQLSTATE, when Postgres answered.
    pub code: Option<String>,
    /// What happened.
    pub message: String,
    /// The driver's error; none for what was refused before it was sent.
    #[source]
    pub source: Option<sqlx::Error>,
}

impl SqlFault {
    /// Sorts `error`.
    pub fn of(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()).map(std::borrow::Cow::into_owned);
        let class = match &code {
            Some(code) if is_transient_code(code) => FaultClass::Transient,
            Some(_) => FaultClass::Permanent,
            None if is_transient(&error) => FaultClass::Transient,
            None => FaultClass::Permanent,
        };
        let message = match error.as_database_error() {
            Some(answer) => answer.message().to_owned(),
            None => String::from("no answer from Postgres"),
        };
        Self { class, code, message, source: Some(error) }
    }

    /// The same, for another who waited for the same statement; the driver's error stays here.
    pub fn again(&self) -> Self {
        let Self { class, code, message, source: _ } = self;
        Self { class: *class, code: code.clone(), message: message.clone(), source: None }
    }

    /// What is refused before it is sent.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { class: FaultClass::Permanent, code: None, message: message.into(), source: None }
    }

    /// Whether the data are at fault: a value that Postgres cannot store (class 22), a constraint (23), a size (54).
    pub fn is_data(&self) -> bool {
        let is_class = |class| self.code.as_deref().is_some_and(|code| code.starts_with(class));
        ["22", "23", "54"].into_iter().any(is_class)
    }
}

/// Connection lost or refused, conflict with another transaction, shutdown or start, out of resources, read-only
/// after a failover, time-out.
fn is_transient_code(code: &str) -> bool {
    ["08", "53"].iter().any(|class| code.starts_with(class))
        || code.starts_with("57P0")
        || ["40001", "40P01", "25006", "55P03", "57014"].contains(&code)
}

/// Errors of the driver that pass: everything about the connection.
fn is_transient(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed
    )
}
