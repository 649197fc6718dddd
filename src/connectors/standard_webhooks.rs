//! Standard Webhooks 1.0.0 and Svix: `webhook-id`, `webhook-timestamp` (seconds) and `webhook-signature`, or the same
//! with `svix-`. The signature header holds entries parted by spaces: `v1,<base64>` is HMAC-SHA256 over
//! `<id>.<timestamp>.<body>` with the base64-decoded secret, `v1a,<base64>` is Ed25519 over the same text.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::Deserialize;

use crate::connectors::request::{Draft, Refusal, Unverified};
use crate::connectors::signature::{self, Algorithm, ClockUnit, Encoding, MacKey};
use crate::secrets::Secret;

/// Entries looked at in one signature header.
const SIGNATURES_MAX: usize = 16;
const ED25519_KEY_BYTES: usize = 32;

/// Checks signatures of Standard Webhooks and Svix.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<MacKey>,
    public_keys: Vec<UnparsedPublicKey<Vec<u8>>>,
    tolerance: Duration,
}

/// The three headers of one naming.
struct Proof<'a> {
    id: &'a str,
    timestamp: &'a str,
    signatures: &'a str,
    timestamp_header: &'static str,
}

impl Verifier {
    /// A verifier for these secrets: `whsec_<base64>` or bare base64 for HMAC, `whpk_<base64>` for Ed25519.
    ///
    /// # Errors
    /// What is wrong with a secret, without the secret.
    pub fn new(secrets: &[Secret], tolerance: Duration) -> Result<Self, &'static str> {
        let mut verifier = Self { keys: Vec::new(), public_keys: Vec::new(), tolerance };
        for secret in secrets {
            let text = std::str::from_utf8(secret.expose()).map_err(|_| "is not text")?.trim();
            if text.starts_with("whsk_") {
                return Err("is the sender's private key (whsk_); the receiver needs the public one (whpk_)");
            }
            let (is_public, encoded) = match text.strip_prefix("whpk_") {
                Some(encoded) => (true, encoded),
                None => (false, text.strip_prefix("whsec_").unwrap_or(text)),
            };
            let key = Encoding::Base64.decode(encoded).ok_or("is not base64 after its prefix")?;
            match (is_public, key.len()) {
                (true, ED25519_KEY_BYTES) => {
                    verifier.public_keys.push(UnparsedPublicKey::new(&ED25519, key));
                }
                (true, _) => return Err("is no Ed25519 public key of 32 bytes"),
                (false, 0) => return Err("is empty after its prefix"),
                (false, _) => verifier.keys.push(MacKey::new(Algorithm::Sha256, &key)),
            }
        }
        Ok(verifier)
    }

    /// Checks signature and age of `request`.
    ///
    /// # Errors
    /// [`Refusal`] when a header is missing, no entry matches, or it is too old or from the future.
    pub fn verify(&self, request: &Unverified<'_>, now: DateTime<Utc>) -> Result<(), Refusal> {
        let Proof { id, timestamp, signatures, timestamp_header } = proof(request)?;
        signature::expect_recent(timestamp, timestamp_header, ClockUnit::Seconds, self.tolerance, now)?;
        let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", request.body];
        let mut macs = Vec::new();
        for entry in signatures.split(' ').take(SIGNATURES_MAX) {
            let Some((version, encoded)) = entry.split_once(',') else { continue };
            let Some(claimed) = Encoding::Base64.decode(encoded) else { continue };
            match version {
                "v1" => macs.push(claimed),
                "v1a" if self.is_signed_by_key_pair(&parts, &claimed) => return Ok(()),
                _ => {}
            }
        }
        signature::expect_mac(&self.keys, &parts, &macs)
    }

    fn is_signed_by_key_pair(&self, parts: &[&[u8]], claimed: &[u8]) -> bool {
        if self.public_keys.is_empty() {
            return false;
        }
        let signed = parts.concat();
        self.public_keys.iter().any(|key| key.verify(&signed, claimed).is_ok())
    }
}

/// The `svix-` headers when all three are there, else the `webhook-` ones, as Svix's library does.
fn proof<'a>(request: &Unverified<'a>) -> Result<Proof<'a>, Refusal> {
    let svix =
        (request.header("svix-id")?, request.header("svix-timestamp")?, request.header("svix-signature")?);
    if let (Some(id), Some(timestamp), Some(signatures)) = svix {
        return Ok(Proof { id, timestamp, signatures, timestamp_header: "svix-timestamp" });
    }
    Ok(Proof {
        id: request.required("webhook-id")?,
        timestamp: request.required("webhook-timestamp")?,
        signatures: request.required("webhook-signature")?,
        timestamp_header: "webhook-timestamp",
    })
}

/// The payload that the specification recommends; a sender may leave out all of it.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "eventType")]
    svix_kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    timestamp: Option<Cow<'a, str>>,
}

/// The event in a verified request. The id is the message's, the same on every delivery of it. The time is the
/// body's `timestamp`, else the header's, which is the time of the attempt.
///
/// # Errors
/// [`Refusal`] when the body is no JSON object or a header is missing.
pub fn normalise(request: &Unverified<'_>) -> Result<Vec<Draft>, Refusal> {
    request.expect_json()?;
    let body: Body<'_> = serde_json::from_str(request.body_text()?)
        .map_err(|error| Refusal::of_json(&error, "a Standard Webhooks payload"))?;
    let Proof { id, timestamp, .. } = proof(request)?;
    let time = body
        .timestamp
        .and_then(|text| DateTime::parse_from_rfc3339(&text).ok())
        .map(|time| time.with_timezone(&Utc))
        .or_else(|| DateTime::from_timestamp(timestamp.parse().ok()?, 0));
    Ok(vec![Draft {
        id: Some(id.to_owned()),
        kind: body.kind.or(body.svix_kind).map(Cow::into_owned),
        subject: None,
        time,
        key: None,
        payload: request.body.clone(),
    }])
}
