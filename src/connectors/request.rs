//! A webhook request before its signature is checked, and why one is refused.

use bytes::Bytes;
use chrono::{DateTime, Utc};

/// Longest id, type, subject or key that is taken over from a request, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// A request as it was received. Nothing in it can be trusted yet.
#[derive(Clone, Copy, Debug)]
pub struct Unverified<'a> {
    /// HTTP method in upper case.
    pub method: &'a str,
    /// Path and query exactly as received, such as `/hooks/hubspot?src=a%2Fb`.
    pub target: &'a str,
    /// Header names in lower case, and values, in the order received.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body's bytes.
    pub body: &'a Bytes,
}

impl<'a> Unverified<'a> {
    /// The header `name` (lower case) as text; `None` when it is absent.
    ///
    /// # Errors
    /// [`Refusal::BadHeader`] when it stands there twice or is no ASCII text: two readers could then see two values.
    pub fn header(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let mut values = self.headers.iter().filter(|(known, _)| *known == name);
        let Some((_, value)) = values.next() else { return Ok(None) };
        let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii());
        match (text, values.next()) {
            (Some(text), None) => Ok(Some(text)),
            _ => Err(Refusal::BadHeader(name.to_owned())),
        }
    }

    /// The header `name`, which must be there and not be empty.
    ///
    /// # Errors
    /// [`Refusal::MissingHeader`], or as [`Unverified::header`].
    pub fn required(&self, name: &str) -> Result<&'a str, Refusal> {
        self.header(name)?
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Refusal::MissingHeader(name.to_owned()))
    }

    /// The body as text.
    ///
    /// # Errors
    /// [`Refusal::BadBody`] when it is not UTF-8.
    pub fn body_text(&self) -> Result<&'a str, Refusal> {
        std::str::from_utf8(self.body)
            .map_err(|error| Refusal::BadBody(format!("not UTF-8 after byte {}", error.valid_up_to())))
    }

    /// Refuses a body that says it is something else than JSON. No content type at all is let through.
    ///
    /// # Errors
    /// [`Refusal::UnsupportedType`].
    pub fn expect_json(&self) -> Result<(), Refusal> {
        let Some(written) = self.header("content-type")? else { return Ok(()) };
        let media = written.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if media.is_empty() || media == "application/json" || media.ends_with("+json") {
            return Ok(());
        }
        Err(Refusal::UnsupportedType)
    }
}

/// What a scheme reads from a request, before gaps are filled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// The sender's id of the event.
    pub id: Option<String>,
    /// The sender's type of the event.
    pub kind: Option<String>,
    /// What it is about.
    pub subject: Option<String>,
    /// When it happened.
    pub time: Option<DateTime<Utc>>,
    /// Ordering key.
    pub key: Option<String>,
    /// The sender's bytes.
    pub payload: Bytes,
}

/// Why a request is not taken. The text is safe to answer: it holds nothing of the body and no secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A header that carries the proof is not there.
    #[error("header {0} is missing")]
    MissingHeader(String),
    /// A header is there but cannot be read, or stands there twice.
    #[error("header {0} is malformed or repeated")]
    BadHeader(String),
    /// No signature, key or password matches.
    #[error("the signature does not match")]
    BadSignature,
    /// Signed too long ago, or too far in the future.
    #[error("the timestamp is outside the tolerance")]
    OutsideWindow,
    /// The body is not what the scheme sends.
    #[error("bad body: {0}")]
    BadBody(String),
    /// The body's media type is not taken.
    #[error("the body's content type is not taken here, send application/json")]
    UnsupportedType,
}

impl Refusal {
    /// Stable short name, for answers and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingHeader(_) => "missing_header",
            Self::BadHeader(_) => "bad_header",
            Self::BadSignature => "bad_signature",
            Self::OutsideWindow => "outside_tolerance",
            Self::BadBody(_) => "bad_body",
            Self::UnsupportedType => "unsupported_type",
        }
    }

    /// A body that does not parse as what `wanted` names. The parser's own words are left out: they quote the body.
    pub fn of_json(error: &serde_json::Error, wanted: &str) -> Self {
        let place = format!("line {} column {}", error.line(), error.column());
        Self::BadBody(match error.classify() {
            serde_json::error::Category::Data => format!("not {wanted}, at {place}"),
            serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof
            | serde_json::error::Category::Io => format!("not JSON, at {place}"),
        })
    }
}
