//! What comes in from an outside system: `source:` of a connector as it is written ([`SourceConfig`]) and ready to
//! judge requests ([`Source`]). `Unverified` becomes [`Verified`] becomes events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::connectors::request::{ATTRIBUTE_BYTES_MAX, Draft, Refusal, Unverified};
use crate::connectors::verify::{BuildError, Surroundings, Verifier, VerifyConfig};
use crate::event::{self, Attributes, Event};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned};
use crate::yaml::node::Node;
use crate::yaml::units::Rate;

const BODY_BYTES: u64 = 1024 * 1024;
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;
const DEADLINE_MAX: Duration = Duration::from_secs(60);
const DEADLINE_MIN: Duration = Duration::from_millis(100);
const CONCURRENCY: u32 = 256;
const CONCURRENCY_MAX: i64 = 10_000;
const TOPIC_CHARACTERS_MAX: usize = 249;

/// `source:` as it is written.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// How requests are proved.
    pub verify: VerifyConfig,
    /// Topic that the events go to.
    pub topic: Spanned<String>,
    /// Expressions over the body.
    pub expressions: SourceExpressions,
    /// Limits.
    pub limits: SourceLimits,
}

/// Expressions over the decoded body, not compiled yet.
#[derive(Clone, Debug, Default)]
pub struct SourceExpressions {
    /// `event.id`.
    pub id: Option<Node>,
    /// `event.type`.
    pub kind: Option<Node>,
    /// `event.time`.
    pub time: Option<Node>,
    /// `key`, or `event.key`.
    pub key: Option<Node>,
}

/// `limits:` of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceLimits {
    /// Longest body, in bytes.
    pub body_bytes_max: usize,
    /// Requests in a time, counted after their signature was found good; `None` for no such limit.
    pub rate: Option<Rate>,
    /// From the request's head to the answer.
    pub deadline: Duration,
    /// Requests at one time.
    pub concurrency_max: u32,
}

impl SourceConfig {
    /// Decodes `source:`. Reports every mistake.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`source`", lints)?;
        let verify = fields.required("verify", lints).and_then(|node| VerifyConfig::decode(node, lints));
        let topic = fields.required("topic", lints).and_then(|node| topic(node, lints));
        let key = fields.optional("key");
        let event = fields.optional("event");
        let expressions = expressions(verify.as_ref(), key, event, lints);
        let deadline = verify.as_ref().map_or(DEADLINE_MAX, |verify| verify.scheme.deadline());
        let limits = match fields.optional("limits") {
            Some(node) => SourceLimits::decode(node, deadline, lints),
            None => Some(SourceLimits::with_deadline(deadline)),
        };
        fields.finish(lints);
        Some(Self { verify: verify?, topic: topic?, expressions: expressions?, limits: limits? })
    }
}

impl SourceLimits {
    fn with_deadline(deadline: Duration) -> Self {
        Self { body_bytes_max: as_bytes(BODY_BYTES), rate: None, deadline, concurrency_max: CONCURRENCY }
    }

    fn decode(node: &Node, deadline: Duration, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`limits`", lints)?;
        let mut limits = Self::with_deadline(deadline);
        if let Some(node) = fields.optional("body")
            && let Some(bytes) = fields::size(node, lints)
        {
            if !(1..=BODY_BYTES_MAX).contains(&bytes) {
                lints.error("out-of-range", &node.span, "the body limit is out of range", "from 1B to 16MiB");
            }
            limits.body_bytes_max = as_bytes(bytes);
        }
        if let Some(node) = fields.optional("deadline")
            && let Some(deadline) = fields::duration(node, lints)
        {
            if !(DEADLINE_MIN..=DEADLINE_MAX).contains(&deadline) {
                lints.error("out-of-range", &node.span, "the deadline is out of range", "from 100ms to 60s");
            }
            limits.deadline = deadline;
        }
        if let Some(node) = fields.optional("concurrency")
            && let Some(count) = fields::integer(node, 1..=CONCURRENCY_MAX, lints)
        {
            limits.concurrency_max = u32::try_from(count).unwrap_or(CONCURRENCY);
        }
        limits.rate = fields.optional("rate").and_then(|node| fields::rate(node, lints));
        fields.finish(lints);
        Some(limits)
    }
}

/// Sizes here are at most [`BODY_BYTES_MAX`] or were refused.
fn as_bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn topic(node: &Node, lints: &mut Lints) -> Option<Spanned<String>> {
    let topic = fields::text(node, lints)?;
    let name = topic.value.as_str();
    let is_legal = name.len() <= TOPIC_CHARACTERS_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !is_legal {
        lints.error(
            "bad-topic",
            &node.span,
            format!("`{name}` is no topic name"),
            "letters, digits, dots and dashes, such as events.stripe",
        );
        return None;
    }
    Some(topic)
}

fn expressions(
    verify: Option<&VerifyConfig>,
    key: Option<&Node>,
    event: Option<&Node>,
    lints: &mut Lints,
) -> Option<SourceExpressions> {
    let read = |node: Option<&Node>, lints: &mut Lints| {
        let node = node?;
        fields::expression(node, lints).map(|_| node.clone())
    };
    let mut expressions = SourceExpressions { key: read(key, lints), ..SourceExpressions::default() };
    let Some(node) = event else { return Some(expressions) };
    let mut fields = Fields::of(node, "`event`", lints)?;
    expressions.id = read(fields.optional("id"), lints);
    expressions.kind = read(fields.optional("type"), lints);
    expressions.time = read(fields.optional("time"), lints);
    let event_key = fields.optional("key");
    fields.finish(lints);
    if verify.is_some_and(|verify| verify.scheme.knows_its_events()) {
        lints.error(
            "needless-event",
            &node.span,
            "this scheme knows id, type and time of its events",
            "remove `event`; a key of your own is written as `key`",
        );
        return None;
    }
    if let (Some(_), Some(second)) = (key, event_key) {
        lints.error("duplicate-key", &second.span, "the key is written twice", "remove one of the two");
        return None;
    }
    expressions.key = expressions.key.or_else(|| read(event_key, lints));
    Some(expressions)
}

/// Reads one text from a decoded body; `None` when it is not there.
pub type Extract = Box<dyn Fn(&serde_json::Value) -> Option<String> + Send + Sync>;

/// Compiled [`SourceExpressions`].
#[derive(Default)]
pub struct Extractors {
    /// `event.id`; a body without it is refused.
    pub id: Option<Extract>,
    /// `event.type`; a body without it is refused.
    pub kind: Option<Extract>,
    /// `event.time`, RFC 3339 or seconds or milliseconds since 1970; a body without it is refused.
    pub time: Option<Extract>,
    /// `key`; a body without it takes the scheme's own key.
    pub key: Option<Extract>,
}

impl Extractors {
    fn is_empty(&self) -> bool {
        self.id.is_none() && self.kind.is_none() && self.time.is_none() && self.key.is_none()
    }
}

/// A source ready to judge requests.
pub struct Source {
    name: String,
    topic: Arc<str>,
    limits: SourceLimits,
    verifier: Verifier,
    extract: Extractors,
}

impl Source {
    /// Builds the source of connector `name`: reads its secrets, keys its MACs.
    ///
    /// # Errors
    /// [`BuildError`] when a secret is missing or unfit, or the public address is needed and unknown.
    pub fn build(
        name: &str,
        config: &SourceConfig,
        extract: Extractors,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, BuildError> {
        let verifier = Verifier::build(name, &config.verify, surroundings)?;
        Ok(Self {
            name: name.to_owned(),
            topic: Arc::from(config.topic.value.as_str()),
            limits: config.limits.clone(),
            verifier,
            extract,
        })
    }

    /// Name of the connector.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Topic that the events go to.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Limits of the source.
    pub fn limits(&self) -> &SourceLimits {
        &self.limits
    }

    /// What a body is that does not say so.
    fn media_type(&self) -> &'static str {
        match &self.verifier {
            Verifier::Stripe(_)
            | Verifier::HubSpot(_)
            | Verifier::StandardWebhooks(_)
            | Verifier::GitHub(_) => "application/json",
            Verifier::Hmac(_) | Verifier::ApiKey(_) | Verifier::Basic(_) | Verifier::None => {
                if self.extract.is_empty() { "application/octet-stream" } else { "application/json" }
            }
        }
    }

    /// Whether a refused request should be told to send `Authorization: Basic`.
    pub fn wants_basic(&self) -> bool {
        matches!(self.verifier, Verifier::Basic(_))
    }

    /// Checks who sent `request`, and when.
    ///
    /// # Errors
    /// [`Refusal`] when that is not proved.
    pub fn verify<'a>(
        &'a self,
        request: Unverified<'a>,
        now: DateTime<Utc>,
    ) -> Result<Verified<'a>, Refusal> {
        self.verifier.verify(&request, now)?;
        Ok(Verified { source: self, request })
    }
}

/// A request whose sender is proved. Its body may still be anything.
pub struct Verified<'a> {
    source: &'a Source,
    request: Unverified<'a>,
}

impl Verified<'_> {
    /// The events of the request, at least one.
    ///
    /// # Errors
    /// [`Refusal`] when the body is not what the scheme sends, or lacks what `event:` names.
    pub fn normalise(&self) -> Result<Vec<Event>, Refusal> {
        let request = &self.request;
        let drafts = self.source.verifier.normalise(request)?;
        drafts.into_iter().map(|draft| self.event(draft)).collect()
    }

    /// Fills what the draft leaves open: an id made up (nothing then tells a repeat apart), the connector's name as
    /// type. The key is the id's, where the sender gave one, so that repeats meet in one partition.
    fn event(&self, draft: Draft) -> Result<Event, Refusal> {
        let Draft { id, kind, subject, time, key, payload } = self.extracted(draft)?;
        let key = key.or_else(|| id.clone());
        let id = id.unwrap_or_else(|| Uuid::new_v4().to_string());
        let kind = kind.unwrap_or_else(|| self.source.name.clone());
        for (what, text) in
            [("id", Some(&id)), ("type", Some(&kind)), ("subject", subject.as_ref()), ("key", key.as_ref())]
        {
            if text.is_some_and(|text| text.len() > ATTRIBUTE_BYTES_MAX) {
                return Err(Refusal::BadBody(format!(
                    "its {what} is longer than {ATTRIBUTE_BYTES_MAX} bytes"
                )));
            }
        }
        let content_type =
            self.request.header("content-type")?.unwrap_or(self.source.media_type()).to_owned();
        Ok(Event {
            attributes: Attributes {
                id,
                source: self.source.name.clone(),
                kind,
                subject,
                time: time.and_then(event::sayable),
                tenant: None,
            },
            key: key.map(Bytes::from),
            content_type,
            traceparent: self.traceparent(),
            payload,
        })
    }

    /// The sender's trace context. A broken one is left out; the event counts more.
    fn traceparent(&self) -> Option<String> {
        let text = self.request.header("traceparent").ok()??;
        is_traceparent(text).then(|| text.to_owned())
    }

    fn extracted(&self, draft: Draft) -> Result<Draft, Refusal> {
        let extract = &self.source.extract;
        if extract.is_empty() {
            return Ok(draft);
        }
        let body: serde_json::Value =
            serde_json::from_slice(&draft.payload).map_err(|error| Refusal::of_json(&error, "JSON"))?;
        let named = |what: &str, extract: Option<&Extract>| match extract {
            Some(extract) => match extract(&body).filter(|text| !text.is_empty()) {
                Some(text) => Ok(Some(text)),
                None => {
                    Err(Refusal::BadBody(format!("the source's expression for its {what} finds nothing")))
                }
            },
            None => Ok(None),
        };
        let id = named("id", extract.id.as_ref())?;
        let kind = named("type", extract.kind.as_ref())?;
        let time = match named("time", extract.time.as_ref())? {
            Some(text) => Some(instant(&text).ok_or_else(|| {
                Refusal::BadBody(String::from(
                    "its time is neither RFC 3339 nor a number of seconds or milliseconds",
                ))
            })?),
            None => None,
        };
        let key = extract.key.as_ref().and_then(|extract| extract(&body)).filter(|text| !text.is_empty());
        Ok(Draft {
            id: id.or(draft.id),
            kind: kind.or(draft.kind),
            subject: draft.subject,
            time: time.or(draft.time),
            key: key.or(draft.key),
            payload: draft.payload,
        })
    }
}

/// RFC 3339, or a number: seconds up to eleven digits (the year 5138), milliseconds above.
pub fn instant(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(number) = text.parse::<i64>() {
        return if number.unsigned_abs() < 100_000_000_000 {
            DateTime::from_timestamp(number, 0)
        } else {
            DateTime::from_timestamp_millis(number)
        };
    }
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc))
}

/// Whether `text` is a W3C trace context of version 00: `00-<32 hex>-<16 hex>-<2 hex>`.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts[..], ["00", trace, span, flags] if hex(trace, 32) && hex(span, 16) && hex(flags, 2))
}

#[cfg(test)]
mod tests;
