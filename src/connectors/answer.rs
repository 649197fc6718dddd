//! What an answer means: done, try again, wait, or give up. Pure; `now` is an argument.
//!
//! | status                                        | meaning                                             |
//! |-----------------------------------------------|-----------------------------------------------------|
//! | in the call's `success`                       | done, when the body says what `require` asks        |
//! | `...-should-retry: true` or `false`           | transient or permanent, whatever the status         |
//! | 429                                           | throttled, for as long as the headers say           |
//! | 503 or a listed 4xx that says how long        | throttled                                           |
//! | 408, 425, 5xx except 501 and 505, or listed   | transient                                           |
//! | everything else                               | permanent                                           |
//!
//! An answer that means "done" but is longer than the target allows is permanent too: the work was done, and doing it
//! again would not make the answer shorter.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::connectors::call::{CallConfig, StatusPattern};
use crate::connectors::target::TargetConfig;
use crate::fault::{Fault, FaultClass};

/// Longest wait that a destination may ask for; after it the destination is asked again.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Longest part of an answer's body that a message repeats, in bytes.
pub const EXCERPT_BYTES_MAX: usize = 512;

/// Headers of an answer that later stages may read.
const HEADERS_KEPT: [&str; 10] = [
    "content-type",
    "etag",
    "idempotent-replayed",
    "last-modified",
    "link",
    "location",
    "request-id",
    "x-correlation-id",
    "x-request-id",
    "x-total-count",
];

/// An answer as it came.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RawAnswer {
    /// Status.
    pub status: u16,
    /// Headers, names in lower case. The last of a name wins.
    pub headers: BTreeMap<String, String>,
    /// Body, as far as it was read.
    pub body: Vec<u8>,
    /// Whether the body was longer than the target allows.
    pub is_cut: bool,
}

/// An answer that means "done".
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Some of its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body: JSON when it is JSON, else text; null when it is empty.
    pub body: Value,
}

impl Answer {
    /// As later stages see it: `{status, headers, body}`.
    pub fn into_json(self) -> Value {
        let headers: serde_json::Map<String, Value> =
            self.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        serde_json::json!({ "status": self.status, "headers": headers, "body": self.body })
    }
}

/// What `raw` means for `call`.
///
/// # Errors
/// A [`Fault`] with the status and an excerpt of the body, in which `hide` has hidden our credentials.
pub fn interpret(
    target: &TargetConfig,
    call: &CallConfig,
    raw: RawAnswer,
    now: DateTime<Utc>,
    hide: impl Fn(&str) -> String,
) -> Result<Answer, Fault> {
    let fault = |class, message: String| Fault { class, message, http_status: Some(raw.status) };
    let class = classify(raw.status, &raw.headers, &target.retry_statuses, now);
    if !call.success.iter().any(|pattern| pattern.matches(raw.status)) {
        return Err(fault(class, format!("status {}{}", raw.status, excerpt(&raw.body, hide))));
    }
    if raw.is_cut {
        let limit = target.limits.response_bytes_max;
        let message = format!("status {}, but the answer is longer than {limit} bytes", raw.status);
        return Err(fault(FaultClass::Permanent, message));
    }
    let body = body(&raw.body);
    for (pointer, wanted) in &call.require {
        if body.pointer(pointer) != Some(wanted) {
            let message =
                format!("status {}, but {pointer} is not {wanted}{}", raw.status, excerpt(&raw.body, hide));
            return Err(fault(FaultClass::Permanent, message));
        }
    }
    let mut headers = raw.headers;
    headers.retain(|name, _| HEADERS_KEPT.contains(&name.as_str()));
    Ok(Answer { status: raw.status, headers, body })
}

/// Class of an answer that does not mean "done".
pub fn classify(
    status: u16,
    headers: &BTreeMap<String, String>,
    retried: &[StatusPattern],
    now: DateTime<Utc>,
) -> FaultClass {
    let is_listed = retried.iter().any(|pattern| pattern.matches(status));
    match should_retry(headers) {
        Some(false) => return FaultClass::Permanent,
        Some(true) if status != 429 => return FaultClass::Transient,
        Some(true) | None => {}
    }
    let after = wait_asked_for(headers, now);
    match status {
        429 => FaultClass::Throttled { after },
        503 if after.is_some() => FaultClass::Throttled { after },
        400..=499 if is_listed && after.is_some() => FaultClass::Throttled { after },
        408 | 425 => FaultClass::Transient,
        501 | 505 if !is_listed => FaultClass::Permanent,
        500..=599 => FaultClass::Transient,
        _ if is_listed => FaultClass::Transient,
        _ => FaultClass::Permanent,
    }
}

/// `Stripe-Should-Retry` and the like, which know more than the status.
fn should_retry(headers: &BTreeMap<String, String>) -> Option<bool> {
    let said = headers.get("stripe-should-retry").or_else(|| headers.get("x-should-retry"))?;
    said.trim().parse().ok()
}

/// How long the destination asks to wait, from the headers in use for it: the most exact first. At most an hour, at
/// least a millisecond.
pub fn wait_asked_for(headers: &BTreeMap<String, String>, now: DateTime<Utc>) -> Option<Duration> {
    let header = |name: &str| headers.get(name).map(|value| value.trim());
    let millis = |text: &str| seconds(text).map(|wait| wait / 1000);
    let wait = header("retry-after-ms")
        .and_then(millis)
        .or_else(|| {
            header("retry-after").and_then(|text| seconds(text).or_else(|| until(http_date(text)?, now)))
        })
        .or_else(|| header("x-ratelimit-reset-after").and_then(seconds))
        .or_else(|| header("x-ratelimit-reset").and_then(|text| reset(text, now)))
        .or_else(|| header("ratelimit-reset").and_then(|text| reset(text, now)))?;
    Some(wait.clamp(Duration::from_millis(1), WAIT_MAX))
}

/// A number of seconds, fractions allowed; nothing negative.
fn seconds(text: &str) -> Option<Duration> {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number: f64 = text.parse().ok().filter(|_| is_number)?;
    Duration::try_from_secs_f64(number).ok()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(text).ok().map(|time| time.with_timezone(&Utc))
}

/// From `now` until `time`; nothing when it has passed, so that a wrong clock does not wait.
fn until(time: DateTime<Utc>, now: DateTime<Utc>) -> Option<Duration> {
    Some((time - now).to_std().unwrap_or(Duration::ZERO))
}

/// `X-RateLimit-Reset`, whose unit varies: seconds from now, seconds or milliseconds since 1970, or ISO 8601.
fn reset(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return until(time.with_timezone(&Utc), now);
    }
    let wait = seconds(text)?;
    let number = i64::try_from(wait.as_secs()).ok()?;
    match number {
        0..1_000_000_000 => Some(wait),
        1_000_000_000..100_000_000_000 => until(DateTime::from_timestamp(number, 0)?, now),
        _ => until(DateTime::from_timestamp_millis(number)?, now),
    }
}

fn body(bytes: &[u8]) -> Value {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Value::Null;
    }
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned().into())
}

/// The begin of a body on one line, with a colon before it; nothing for an empty one. Credentials are hidden before
/// the text is cut, or a half of one could remain.
fn excerpt(body: &[u8], hide: impl Fn(&str) -> String) -> String {
    let text = hide(&String::from_utf8_lossy(body));
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let cut = &line[..line.floor_char_boundary(EXCERPT_BYTES_MAX)];
    match (cut.is_empty(), cut.len() < line.len()) {
        (true, _) => String::new(),
        (false, false) => format!(": {cut}"),
        (false, true) => format!(": {cut}…"),
    }
}

#[cfg(test)]
mod tests;
