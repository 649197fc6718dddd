//! Requests as each outside system signs them, made with another implementation of HMAC than the one under test.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::DateTime;
use millrace::connectors::request::{Refusal, Unverified};
use millrace::connectors::source::{Extractors, Source, SourceConfig, Verified};
use millrace::connectors::verify::Surroundings;
use millrace::secrets::{Place, Secret, SecretRef};
use millrace::yaml::lint::{Lints, SourceFile};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use ring::{digest, hmac};

/// When honest requests are signed, in seconds since 1970.
pub const NOW_SECONDS: i64 = 1_700_000_000;
/// How far a signed time may be away, in seconds: the default of every scheme.
pub const TOLERANCE_SECONDS: i64 = 300;
/// The address before the path that senders call.
const BASE_URL: &str = "https://hooks.example.com";
/// Secrets as they are configured, by the name of their environment variable.
const SECRETS: [(&str, &str); 4] = [
    ("OLD", "whsec_b2xkLW9sZC1vbGQ="),
    ("NEW", "whsec_bmV3LW5ldy1uZXc="),
    ("PAIR", "crm:not:the-vector"),
    ("KEY", "k-1234567890"),
];
/// Seed of the key pair of Standard Webhooks; its public half is secret `PUBLIC`.
const ED25519_SEED: [u8; 32] = [7; 32];

/// A scheme, and how its sender signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    Stripe,
    HubSpotV3,
    HubSpotV2,
    HubSpotV1,
    StandardWebhooks,
    StandardWebhooksPair,
    Svix,
    GitHub,
    HmacHex,
    HmacTimestamp,
    HmacUrl,
    ApiKey,
    Basic,
}

/// Every scheme with its `verify:`.
pub const SCHEMES: [(Scheme, &str); 13] = [
    (Scheme::Stripe, "{scheme: stripe, secrets: [{env: OLD}, {env: NEW}]}"),
    (Scheme::HubSpotV3, "{scheme: hubspot, secrets: [{env: OLD}, {env: NEW}]}"),
    (Scheme::HubSpotV2, "{scheme: hubspot, versions: [v3, v2], secrets: [{env: NEW}]}"),
    (Scheme::HubSpotV1, "{scheme: hubspot, versions: [v1], secrets: [{env: NEW}]}"),
    (Scheme::StandardWebhooks, "{scheme: standard-webhooks, secrets: [{env: OLD}, {env: NEW}]}"),
    (Scheme::StandardWebhooksPair, "{scheme: standard-webhooks, secrets: [{env: PUBLIC}]}"),
    (Scheme::Svix, "{scheme: standard-webhooks, secrets: [{env: NEW}]}"),
    (Scheme::GitHub, "{scheme: github, secrets: [{env: OLD}, {env: NEW}]}"),
    (
        Scheme::HmacHex,
        "{scheme: hmac, header: x-signature, prefix: \"sha1=\", algorithm: sha1, secrets: [{env: NEW}]}",
    ),
    (
        Scheme::HmacTimestamp,
        "{scheme: hmac, header: x-signature, encoding: base64, prefix: v0=, signed: \"v0:{timestamp}:{body}\", \
         timestamp_header: x-time, timestamp_unit: ms, secrets: [{env: NEW}]}",
    ),
    (
        Scheme::HmacUrl,
        "{scheme: hmac, header: x-signature, algorithm: sha512, encoding: base64url, \
         signed: \"{method} {url}\\n{body}\", secrets: [{env: NEW}]}",
    ),
    (Scheme::ApiKey, "{scheme: api-key, header: authorization, prefix: \"Bearer \", secrets: [{env: KEY}]}"),
    (Scheme::Basic, "{scheme: basic, secrets: [{env: PAIR}]}"),
];

/// A source for each of [`SCHEMES`].
pub static SOURCES: LazyLock<Vec<Source>> =
    LazyLock::new(|| SCHEMES.iter().map(|(_, verify)| source(verify, Extractors::default())).collect());

/// The source with this `verify:`.
pub fn source(verify: &str, extract: Extractors) -> Source {
    let text = format!("verify: {verify}\ntopic: t\n");
    let file = Arc::new(SourceFile { path: PathBuf::from("a.yaml"), text });
    let mut lints = Lints::default();
    let node = millrace::yaml::node::parse(&file, &mut lints).expect("YAML of ours");
    let config = SourceConfig::decode(&node, &mut lints).unwrap_or_else(|| panic!("{lints:?}"));
    let secrets = |reference: &SecretRef| match &reference.place {
        Place::Env(name) => Ok(Some(Secret::new(secret(name)))),
        Place::File(_) => Ok(None),
    };
    let surroundings = Surroundings { secrets: &secrets, public_base_url: Some(BASE_URL) };
    Source::build("fuzz", &config, extract, &surroundings).expect("secrets of ours")
}

fn key_pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&ED25519_SEED).expect("a seed of 32 bytes")
}

fn secret(name: &str) -> String {
    match SECRETS.iter().find(|(known, _)| *known == name) {
        Some((_, value)) => (*value).to_owned(),
        None => format!("whpk_{}", STANDARD.encode(key_pair().public_key().as_ref())),
    }
}

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub target: String,
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub body: Bytes,
}

impl Request {
    /// The request as `scheme`'s sender signs it at [`NOW_SECONDS`], with its newest secret.
    pub fn signed(scheme: Scheme, target: String, body: Bytes) -> Self {
        let headers = signature(scheme, "POST", &target, &body);
        let headers = headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        Self { method: "POST", target, headers, body }
    }

    /// What `source` says of it when it arrives `late_seconds` after [`NOW_SECONDS`].
    ///
    /// # Errors
    /// The source's refusal.
    pub fn judge<T>(
        &self,
        source: &Source,
        late_seconds: i64,
        then: impl FnOnce(&Verified<'_>) -> T,
    ) -> Result<T, Refusal> {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let request =
            Unverified { method: self.method, target: &self.target, headers: &headers, body: &self.body };
        let now = DateTime::from_timestamp(NOW_SECONDS + late_seconds, 0).expect("a time of ours");
        source.verify(request, now).map(|verified| then(&verified))
    }
}

fn signature(scheme: Scheme, method: &str, target: &str, body: &[u8]) -> Vec<(&'static str, String)> {
    let seconds = NOW_SECONDS.to_string();
    let millis = format!("{NOW_SECONDS}000");
    let new = secret("NEW");
    let uri = format!("{BASE_URL}{target}");
    let sha256 = |parts: &[&[u8]]| mac(hmac::HMAC_SHA256, new.as_bytes(), parts);
    match scheme {
        Scheme::Stripe => {
            let v1 = hex::encode(sha256(&[seconds.as_bytes(), b".", body]));
            vec![("stripe-signature", format!("t={seconds},v1={v1}"))]
        }
        Scheme::HubSpotV3 => {
            let uri = as_hubspot_signs(&uri);
            let signed = sha256(&[method.as_bytes(), uri.as_bytes(), body, millis.as_bytes()]);
            vec![("x-hubspot-signature-v3", STANDARD.encode(signed)), ("x-hubspot-request-timestamp", millis)]
        }
        Scheme::HubSpotV2 | Scheme::HubSpotV1 => {
            let is_second = scheme == Scheme::HubSpotV2;
            let before = if is_second { format!("{new}{method}{uri}") } else { new.clone() };
            let hash = digest::digest(&digest::SHA256, &[before.as_bytes(), body].concat());
            let version = if is_second { "v2" } else { "v1" };
            vec![
                ("x-hubspot-signature", hex::encode(hash)),
                ("x-hubspot-signature-version", version.to_owned()),
            ]
        }
        Scheme::StandardWebhooks | Scheme::StandardWebhooksPair | Scheme::Svix => {
            standard_webhooks(scheme, seconds, body)
        }
        Scheme::GitHub => vec![("x-hub-signature-256", format!("sha256={}", hex::encode(sha256(&[body]))))],
        Scheme::HmacHex => {
            let signed = mac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, new.as_bytes(), &[body]);
            vec![("x-signature", format!("sha1={}", hex::encode(signed)))]
        }
        Scheme::HmacTimestamp => {
            let signed = sha256(&[b"v0:", millis.as_bytes(), b":", body]);
            vec![("x-signature", format!("v0={}", STANDARD.encode(signed))), ("x-time", millis)]
        }
        Scheme::HmacUrl => {
            let parts = [method.as_bytes(), b" ", uri.as_bytes(), b"\n", body];
            let signed = mac(hmac::HMAC_SHA512, new.as_bytes(), &parts);
            vec![("x-signature", URL_SAFE_NO_PAD.encode(signed))]
        }
        Scheme::ApiKey => vec![("authorization", format!("Bearer {}", secret("KEY")))],
        Scheme::Basic => vec![("authorization", format!("Basic {}", STANDARD.encode(secret("PAIR"))))],
    }
}

fn standard_webhooks(scheme: Scheme, seconds: String, body: &[u8]) -> Vec<(&'static str, String)> {
    let id = String::from("msg_1");
    let parts = [id.as_bytes(), b".", seconds.as_bytes(), b".", body];
    let written = if scheme == Scheme::StandardWebhooksPair {
        format!("v1a,{}", STANDARD.encode(key_pair().sign(&parts.concat())))
    } else {
        let key = STANDARD.decode(secret("NEW").trim_start_matches("whsec_")).expect("base64 of ours");
        format!("v1,{}", STANDARD.encode(mac(hmac::HMAC_SHA256, &key, &parts)))
    };
    if scheme == Scheme::Svix {
        return vec![("svix-id", id), ("svix-timestamp", seconds), ("svix-signature", written)];
    }
    vec![("webhook-id", id), ("webhook-timestamp", seconds), ("webhook-signature", written)]
}

fn mac(algorithm: hmac::Algorithm, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, key), &parts.concat()).as_ref().to_vec()
}

/// HubSpot decodes these characters of the address before it signs it, and no others.
pub fn as_hubspot_signs(uri: &str) -> String {
    ":/?@!$'()*,;".bytes().fold(uri.to_owned(), |uri, byte| {
        let character = char::from(byte).to_string();
        uri.replace(&format!("%{byte:02X}"), &character).replace(&format!("%{byte:02x}"), &character)
    })
}
