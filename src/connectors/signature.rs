//! Signatures as data: MAC keys, encodings and the replay window, shared by all schemes.
//!
//! Laws: the MAC is computed over the bytes that arrived, never over decoded text. Every comparison of secrets takes
//! the same time whatever differs. Several secrets may hold at once, so that a sender can roll its secret.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use crate::connectors::request::Refusal;
use crate::secrets::Secret;

/// Padding may be left out; bits that mean nothing must be zero, so that one signature has one spelling.
const LENIENT_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT_PADDING);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT_PADDING);

/// Hash function of a MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// HMAC-SHA1; still sound as a MAC, kept for old senders.
    Sha1,
    /// HMAC-SHA256.
    Sha256,
    /// HMAC-SHA512.
    Sha512,
}

/// How signature bytes are written as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// Hexadecimal, in either case.
    Hex,
    /// Hexadecimal in lower case only, as Stripe, HubSpot and GitHub write it.
    HexLower,
    /// Base64, padding optional.
    Base64,
    /// Base64 with `-` and `_`, padding optional.
    Base64Url,
}

impl Encoding {
    /// The bytes that `text` writes; `None` when it is not this encoding.
    pub fn decode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Hex => hex::decode(text).ok(),
            Self::HexLower if text.bytes().any(|byte| byte.is_ascii_uppercase()) => None,
            Self::HexLower => hex::decode(text).ok(),
            Self::Base64 => BASE64.decode(text).ok(),
            Self::Base64Url => BASE64_URL.decode(text).ok(),
        }
    }
}

/// A secret made ready for MACs. Cloned per request, which is cheaper than keying anew.
#[derive(Clone)]
pub struct MacKey(Keyed);

#[derive(Clone)]
enum Keyed {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Hmac<Sha512>),
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

impl MacKey {
    /// Keys a MAC with `key`, of any length.
    pub fn new(algorithm: Algorithm, key: &[u8]) -> Self {
        const ANY: &str = "HMAC takes keys of any length";
        Self(match algorithm {
            Algorithm::Sha1 => Keyed::Sha1(Hmac::new_from_slice(key).expect(ANY)),
            Algorithm::Sha256 => Keyed::Sha256(Hmac::new_from_slice(key).expect(ANY)),
            Algorithm::Sha512 => Keyed::Sha512(Hmac::new_from_slice(key).expect(ANY)),
        })
    }

    /// Keys with each secret as it stands.
    pub fn of_secrets(algorithm: Algorithm, secrets: &[Secret]) -> Vec<Self> {
        secrets.iter().map(|secret| Self::new(algorithm, secret.expose())).collect()
    }

    /// The MAC of `parts`, one after the other.
    pub fn sign(&self, parts: &[&[u8]]) -> Vec<u8> {
        fn run<M: Mac>(mut mac: M, parts: &[&[u8]]) -> Vec<u8> {
            for part in parts {
                mac.update(part);
            }
            mac.finalize().into_bytes().to_vec()
        }
        match &self.0 {
            Keyed::Sha1(mac) => run(mac.clone(), parts),
            Keyed::Sha256(mac) => run(mac.clone(), parts),
            Keyed::Sha512(mac) => run(mac.clone(), parts),
        }
    }
}

/// Checks that one of `claimed` is the MAC of `parts` under one of `keys`. Looks at every key and every claim, so
/// that the time does not tell which one matched.
///
/// # Errors
/// [`Refusal::BadSignature`] when none is.
pub fn expect_mac(keys: &[MacKey], parts: &[&[u8]], claimed: &[Vec<u8>]) -> Result<(), Refusal> {
    let mut found = subtle::Choice::from(0);
    for key in keys {
        let expected = key.sign(parts);
        for claim in claimed {
            found |= expected.ct_eq(claim);
        }
    }
    if bool::from(found) { Ok(()) } else { Err(Refusal::BadSignature) }
}

/// Checks that `claimed` is the SHA-256 of one of `secrets` followed by `parts` (HubSpot v1 and v2).
///
/// # Errors
/// [`Refusal::BadSignature`] when it is not.
pub fn expect_prefix_hash(secrets: &[Secret], parts: &[&[u8]], claimed: &[u8]) -> Result<(), Refusal> {
    let mut found = subtle::Choice::from(0);
    for secret in secrets {
        let mut hash = Sha256::new_with_prefix(secret.expose());
        for part in parts {
            hash.update(part);
        }
        found |= hash.finalize().as_slice().ct_eq(claimed);
    }
    if bool::from(found) { Ok(()) } else { Err(Refusal::BadSignature) }
}

/// Checks that `given` is one of `secrets`. Both sides are hashed first, so that not even a length shows.
///
/// # Errors
/// [`Refusal::BadSignature`] when it is not.
pub fn expect_secret(secrets: &[Secret], given: &[u8]) -> Result<(), Refusal> {
    let given = Sha256::digest(given);
    let mut found = subtle::Choice::from(0);
    for secret in secrets {
        found |= Sha256::digest(secret.expose()).as_slice().ct_eq(given.as_slice());
    }
    if bool::from(found) { Ok(()) } else { Err(Refusal::BadSignature) }
}

/// Unit in which a sender writes its timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockUnit {
    /// Seconds since 1970.
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
}

/// Reads a timestamp of digits only and checks that it is within `tolerance` of `now`, on either side.
///
/// # Errors
/// [`Refusal::BadHeader`] naming `header` when it is no timestamp, [`Refusal::OutsideWindow`] when it is too far away.
pub fn expect_recent(
    written: &str,
    header: &str,
    unit: ClockUnit,
    tolerance: Duration,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, Refusal> {
    let bad = || Refusal::BadHeader(header.to_owned());
    if written.is_empty() || !written.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let number: i64 = written.parse().map_err(|_| bad())?;
    let signed_at = match unit {
        ClockUnit::Seconds => DateTime::from_timestamp(number, 0),
        ClockUnit::Milliseconds => DateTime::from_timestamp_millis(number),
    }
    .ok_or_else(bad)?;
    let distance = (now - signed_at).abs().to_std().unwrap_or(Duration::MAX);
    if distance > tolerance {
        return Err(Refusal::OutsideWindow);
    }
    Ok(signed_at)
}
