//! HubSpot's webhooks. Version 3 signs `METHOD + URI + body + timestamp` with HMAC-SHA256 (base64); the URI is the one
//! HubSpot called, so behind a proxy the public address must be known. Versions 2 and 1 are plain SHA-256 over
//! `secret + METHOD + URI + body` and `secret + body` (hex) with no time in them: they can be replayed, and bytes can
//! be appended to what they cover. They count only where a connector asks for them.
//!
//! A body is an array of up to 100 events, or one object (workflow actions).

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::connectors::request::{Draft, Refusal, Unverified};
use crate::connectors::signature::{self, Algorithm, ClockUnit, Encoding, MacKey};
use crate::secrets::Secret;

const SIGNATURE_V3: &str = "x-hubspot-signature-v3";
const TIMESTAMP: &str = "x-hubspot-request-timestamp";
const SIGNATURE: &str = "x-hubspot-signature";
const SIGNATURE_VERSION: &str = "x-hubspot-signature-version";
const TIMESTAMP_DIGITS: usize = 13;
/// Events taken from one body. HubSpot sends at most 100.
const BATCH_EVENTS_MAX: usize = 1000;
/// What HubSpot decodes in the URI before it signs; everything else stays percent-encoded.
const DECODED: &[u8] = b":/?@!$'()*,;";

/// A version of HubSpot's signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// `X-HubSpot-Signature-v3`.
    V3,
    /// `X-HubSpot-Signature` with version `v2`: workflow actions, CRM cards.
    V2,
    /// `X-HubSpot-Signature` with version `v1`: old webhook subscriptions.
    V1,
}

/// Checks HubSpot's signatures.
#[derive(Debug)]
pub struct Verifier {
    secrets: Vec<Secret>,
    keys: Vec<MacKey>,
    versions: Vec<Version>,
    tolerance: Duration,
    public_base_url: String,
}

impl Verifier {
    /// A verifier for these client secrets. `public_base_url` is what stands before the path in the address that
    /// HubSpot calls, without a slash at its end.
    pub fn new(
        secrets: Vec<Secret>,
        versions: Vec<Version>,
        tolerance: Duration,
        public_base_url: String,
    ) -> Self {
        let keys = MacKey::of_secrets(Algorithm::Sha256, &secrets);
        Self { secrets, keys, versions, tolerance, public_base_url }
    }

    /// Checks signature and, for version 3, age of `request`. A request that carries version 3 is judged by it alone
    /// where that version is taken, so that nobody can fall back to a weaker one.
    ///
    /// # Errors
    /// [`Refusal`] when no accepted version is there or it does not match.
    pub fn verify(&self, request: &Unverified<'_>, now: DateTime<Utc>) -> Result<(), Refusal> {
        let takes = |version| self.versions.contains(&version);
        if takes(Version::V3) && request.header(SIGNATURE_V3)?.is_some() {
            return self.verify_v3(request, now);
        }
        if !takes(Version::V2) && !takes(Version::V1) {
            return Err(Refusal::MissingHeader(SIGNATURE_V3.to_owned()));
        }
        let claimed = Encoding::HexLower
            .decode(request.required(SIGNATURE)?)
            .ok_or_else(|| Refusal::BadHeader(SIGNATURE.to_owned()))?;
        match request.required(SIGNATURE_VERSION)? {
            "v2" if takes(Version::V2) => {
                let uri = self.uri(request);
                let parts = [request.method.as_bytes(), uri.as_bytes(), request.body];
                signature::expect_prefix_hash(&self.secrets, &parts, &claimed)
            }
            "v1" if takes(Version::V1) => {
                signature::expect_prefix_hash(&self.secrets, &[request.body], &claimed)
            }
            _ => Err(Refusal::BadHeader(SIGNATURE_VERSION.to_owned())),
        }
    }

    fn verify_v3(&self, request: &Unverified<'_>, now: DateTime<Utc>) -> Result<(), Refusal> {
        let claimed = Encoding::Base64
            .decode(request.required(SIGNATURE_V3)?)
            .ok_or_else(|| Refusal::BadHeader(SIGNATURE_V3.to_owned()))?;
        let timestamp = request.required(TIMESTAMP)?;
        if timestamp.len() != TIMESTAMP_DIGITS {
            return Err(Refusal::BadHeader(TIMESTAMP.to_owned()));
        }
        signature::expect_recent(timestamp, TIMESTAMP, ClockUnit::Milliseconds, self.tolerance, now)?;
        let uri = decode_signed_characters(&self.uri(request));
        let parts = [request.method.as_bytes(), uri.as_bytes(), request.body, timestamp.as_bytes()];
        signature::expect_mac(&self.keys, &parts, &[claimed])
    }

    fn uri(&self, request: &Unverified<'_>) -> String {
        format!("{}{}", self.public_base_url, request.target)
    }
}

/// Undoes the percent-encoding of [`DECODED`] and of nothing else.
pub fn decode_signed_characters(uri: &str) -> String {
    let mut decoded = String::with_capacity(uri.len());
    let mut rest = uri;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let character = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match character.filter(|byte| DECODED.contains(byte)) {
            Some(byte) => {
                decoded.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            None => {
                decoded.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// One event of a batch. Numbers stay text: HubSpot's ids pass 2^53.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(borrow)]
    event_id: Option<&'a RawValue>,
    #[serde(borrow)]
    portal_id: Option<&'a RawValue>,
    #[serde(borrow)]
    object_id: Option<&'a RawValue>,
    #[serde(borrow)]
    from_object_id: Option<&'a RawValue>,
    #[serde(borrow)]
    primary_object_id: Option<&'a RawValue>,
    #[serde(borrow)]
    occurred_at: Option<&'a RawValue>,
    #[serde(borrow)]
    subscription_type: Option<&'a RawValue>,
}

/// The events of a verified body, each with its own bytes. Key: `portalId:objectId`. The id is made of portal, type,
/// object, event id and time, because HubSpot does not promise that its `eventId` is unique.
///
/// # Errors
/// [`Refusal::BadBody`] when it is no HubSpot payload, an empty batch included.
pub fn normalise(request: &Unverified<'_>) -> Result<Vec<Draft>, Refusal> {
    request.expect_json()?;
    let text = request.body_text()?;
    if !text.trim_start().starts_with('[') {
        let element: &RawValue =
            serde_json::from_str(text).map_err(|error| Refusal::of_json(&error, "a HubSpot payload"))?;
        return Ok(vec![Draft { payload: request.body.clone(), ..event(element, request.body)? }]);
    }
    let elements: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| Refusal::of_json(&error, "a list of HubSpot events"))?;
    if elements.is_empty() || elements.len() > BATCH_EVENTS_MAX {
        return Err(Refusal::BadBody(format!("a batch holds 1 to {BATCH_EVENTS_MAX} events")));
    }
    elements.into_iter().map(|element| event(element, request.body)).collect()
}

fn event(element: &RawValue, body: &Bytes) -> Result<Draft, Refusal> {
    let event: Body<'_> =
        serde_json::from_str(element.get()).map_err(|error| Refusal::of_json(&error, "a HubSpot event"))?;
    let portal = scalar(event.portal_id);
    let object = scalar(event.object_id)
        .or_else(|| scalar(event.from_object_id))
        .or_else(|| scalar(event.primary_object_id));
    let kind = scalar(event.subscription_type);
    let event_id = scalar(event.event_id);
    let occurred_at = scalar(event.occurred_at);
    let id = match (&portal, &kind, &event_id, &occurred_at) {
        (Some(portal), Some(kind), Some(event_id), Some(occurred_at)) => {
            let object = object.as_deref().unwrap_or("-");
            Some(format!("{portal}:{kind}:{object}:{event_id}:{occurred_at}"))
        }
        _ => None,
    };
    let key = match (&portal, &object) {
        (Some(portal), Some(object)) => Some(format!("{portal}:{object}")),
        (Some(portal), None) => Some(portal.clone()),
        (None, _) => None,
    };
    let time = occurred_at.and_then(|text| DateTime::from_timestamp_millis(text.parse().ok()?));
    Ok(Draft { id, kind, subject: object, time, key, payload: body.slice_ref(element.get().as_bytes()) })
}

/// The text of a JSON string or number; nothing for anything else.
fn scalar(value: Option<&RawValue>) -> Option<String> {
    let text = value?.get();
    match text.as_bytes().first()? {
        b'"' => serde_json::from_str(text).ok().filter(|text: &String| !text.is_empty()),
        b'-' | b'0'..=b'9' => Some(text.to_owned()),
        _ => None,
    }
}
