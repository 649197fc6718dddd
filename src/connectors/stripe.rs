//! Stripe's webhooks: `Stripe-Signature: t=<seconds>,v1=<hex>[,v1=<hex>]`, HMAC-SHA256 over `<t>.<raw body>` with the
//! whole `whsec_...` text as key. Several `v1` occur while a secret is rolled. `v0` belongs to Stripe's test scheme
//! and is never looked at.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::connectors::request::{Draft, Refusal, Unverified};
use crate::connectors::signature::{self, Algorithm, ClockUnit, Encoding, MacKey};
use crate::secrets::Secret;

const SIGNATURE: &str = "stripe-signature";
/// Signatures looked at in one header; Stripe sends one for each secret that is valid, at most a handful.
const SIGNATURES_MAX: usize = 16;

/// Checks Stripe's signatures.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<MacKey>,
    tolerance: Duration,
}

impl Verifier {
    /// A verifier for these signing secrets.
    pub fn new(secrets: &[Secret], tolerance: Duration) -> Self {
        Self { keys: MacKey::of_secrets(Algorithm::Sha256, secrets), tolerance }
    }

    /// Checks signature and age of `request`.
    ///
    /// # Errors
    /// [`Refusal`] when there is no signature, it does not match, is too old, or `t` occurs twice: Stripe's own
    /// libraries disagree about which of two counts.
    pub fn verify(&self, request: &Unverified<'_>, now: DateTime<Utc>) -> Result<(), Refusal> {
        let written = request.required(SIGNATURE)?;
        let bad = || Refusal::BadHeader(SIGNATURE.to_owned());
        let mut timestamp = None;
        let mut claimed = Vec::new();
        for item in written.split(',') {
            match item.split_once('=') {
                Some(("t", _)) if timestamp.is_some() => return Err(bad()),
                Some(("t", value)) => timestamp = Some(value),
                Some(("v1", value)) if claimed.len() < SIGNATURES_MAX => {
                    claimed.extend(Encoding::HexLower.decode(value));
                }
                Some(_) | None => {}
            }
        }
        let timestamp = timestamp.ok_or_else(bad)?;
        signature::expect_recent(timestamp, SIGNATURE, ClockUnit::Seconds, self.tolerance, now)?;
        signature::expect_mac(&self.keys, &[timestamp.as_bytes(), b".", request.body], &claimed)
    }
}

/// A snapshot event (`object: event`) or a thin event (`object: v2.core.event`).
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    created: Option<Created>,
    data: Option<Data>,
    related_object: Option<Object>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Created {
    Seconds(i64),
    Text(String),
    Other(IgnoredAny),
}

#[derive(Deserialize)]
struct Data {
    object: Option<Object>,
}

#[derive(Deserialize)]
struct Object {
    id: Option<String>,
    customer: Option<Customer>,
}

/// The customer of an object: an id, or the whole customer where the account expands it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Customer {
    Id(String),
    Expanded { id: String },
    Other(IgnoredAny),
}

/// The event in a verified body. Key: the customer, else the object's own id, so that everything about one customer
/// stays in order.
///
/// # Errors
/// [`Refusal::BadBody`] when it is no Stripe event, [`Refusal::UnsupportedType`] when it does not even say JSON.
pub fn normalise(request: &Unverified<'_>) -> Result<Vec<Draft>, Refusal> {
    request.expect_json()?;
    let body: Body<'_> = serde_json::from_str(request.body_text()?)
        .map_err(|error| Refusal::of_json(&error, "a Stripe event"))?;
    let time = match body.created {
        Some(Created::Seconds(seconds)) => DateTime::from_timestamp(seconds, 0),
        Some(Created::Text(text)) => {
            DateTime::parse_from_rfc3339(&text).ok().map(|time| time.with_timezone(&Utc))
        }
        Some(Created::Other(_)) | None => None,
    };
    let object = body.data.and_then(|data| data.object).or(body.related_object);
    let (subject, customer) = object.map_or((None, None), |object| (object.id, object.customer));
    let customer = customer.and_then(|customer| match customer {
        Customer::Id(id) | Customer::Expanded { id } => Some(id),
        Customer::Other(_) => None,
    });
    Ok(vec![Draft {
        id: Some(body.id.into_owned()),
        kind: Some(body.kind.into_owned()),
        key: customer.or_else(|| subject.clone()),
        subject,
        time,
        payload: request.body.clone(),
    }])
}
