//! Sources without a scheme of their own: an HMAC whose header, encoding and signed text are configured, an API key
//! in a header, or a Basic password. The body may be anything; `event:` expressions read it as JSON.

use std::time::Duration;

use base64::Engine as _;
use chrono::{DateTime, Utc};

use crate::connectors::request::{Draft, Refusal, Unverified};
use crate::connectors::signature::{self, Algorithm, ClockUnit, Encoding, MacKey};
use crate::secrets::Secret;
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// How a configured HMAC is made.
#[derive(Clone, PartialEq, Debug)]
pub struct HmacConfig {
    /// Header that carries the signature, lower case.
    pub header: String,
    /// Hash function.
    pub algorithm: Algorithm,
    /// How the signature is written.
    pub encoding: Encoding,
    /// Text before the signature in its header, such as `sha256=`.
    pub prefix: String,
    /// What is signed.
    pub signed: Vec<Piece>,
    /// Where the time of signing stands, when it is signed.
    pub timestamp: Option<TimestampConfig>,
}

/// Where the time of signing stands.
#[derive(Clone, PartialEq, Debug)]
pub struct TimestampConfig {
    /// Header, lower case.
    pub header: String,
    /// Its unit.
    pub unit: ClockUnit,
    /// How far it may be from now.
    pub tolerance: Duration,
}

/// A piece of the signed text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Literal text.
    Text(String),
    /// `{body}`: the raw body.
    Body,
    /// `{timestamp}`: the timestamp header as it was written.
    Timestamp,
    /// `{method}`: the HTTP method.
    Method,
    /// `{url}`: the public address with path and query.
    Url,
}

const PIECES: [(&str, Piece); 4] = [
    ("{body}", Piece::Body),
    ("{timestamp}", Piece::Timestamp),
    ("{method}", Piece::Method),
    ("{url}", Piece::Url),
];

impl HmacConfig {
    /// Takes the keys of `scheme: hmac` from `fields`; `tolerance` was read by the caller.
    pub fn decode(fields: &mut Fields<'_>, tolerance: Duration, lints: &mut Lints) -> Option<Self> {
        let algorithms =
            [("sha256", Algorithm::Sha256), ("sha512", Algorithm::Sha512), ("sha1", Algorithm::Sha1)];
        let encodings =
            [("hex", Encoding::Hex), ("base64", Encoding::Base64), ("base64url", Encoding::Base64Url)];
        let units = [("s", ClockUnit::Seconds), ("ms", ClockUnit::Milliseconds)];
        let header = fields.required("header", lints).and_then(|node| header_name(node, lints));
        let algorithm = or(Algorithm::Sha256, fields.optional("algorithm"), |node| {
            fields::choice(node, &algorithms, lints)
        });
        let encoding =
            or(Encoding::Hex, fields.optional("encoding"), |node| fields::choice(node, &encodings, lints));
        let prefix = or(String::new(), fields.optional("prefix"), |node| prefix_text(node, lints));
        let signed_node = fields.optional("signed");
        let signed = or(vec![Piece::Body], signed_node, |node| template(node, lints));
        let unit = or(ClockUnit::Seconds, fields.optional("timestamp_unit"), |node| {
            fields::choice(node, &units, lints)
        });
        let timestamp_node = fields.optional("timestamp_header");
        let timestamp_header = or(None, timestamp_node, |node| header_name(node, lints).map(Some));
        let (signed, timestamp_header) = (signed?, timestamp_header?);
        let place = signed_node.or(timestamp_node).unwrap_or(fields.node);
        if timestamp_header.is_some() != signed.contains(&Piece::Timestamp) {
            lints.error(
                "unsigned-timestamp",
                &place.span,
                "`timestamp_header` and `{timestamp}` in `signed` go together",
                "a time that is not signed proves nothing: write both or neither",
            );
            return None;
        }
        let timestamp = match timestamp_header {
            Some(header) => Some(TimestampConfig { header, unit: unit?, tolerance }),
            None => None,
        };
        Some(Self {
            header: header?,
            algorithm: algorithm?,
            encoding: encoding?,
            prefix: prefix?,
            signed,
            timestamp,
        })
    }

    /// Whether the signed text holds the public address.
    pub fn signs_url(&self) -> bool {
        self.signed.contains(&Piece::Url)
    }
}

/// The decoded value, the default where nothing is written, nothing after a mistake.
fn or<T>(default: T, node: Option<&Node>, decode: impl FnOnce(&Node) -> Option<T>) -> Option<T> {
    match node {
        Some(node) => decode(node),
        None => Some(default),
    }
}

/// A header's name, in lower case.
pub fn header_name(node: &Node, lints: &mut Lints) -> Option<String> {
    let name = fields::text(node, lints)?.value.to_ascii_lowercase();
    let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !is_token {
        lints.error(
            "bad-header-name",
            &node.span,
            format!("`{name}` is no header name"),
            "letters, digits and dashes, such as X-Signature",
        );
        return None;
    }
    Some(name)
}

/// Text before a signature or key; may be empty.
pub fn prefix_text(node: &Node, lints: &mut Lints) -> Option<String> {
    match node.expression() {
        Some(text) => Some(text.to_owned()),
        None => fields::text(node, lints).map(|text| text.value),
    }
}

fn template(node: &Node, lints: &mut Lints) -> Option<Vec<Piece>> {
    let text = fields::text(node, lints)?.value;
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text.as_str();
    'next: while !rest.is_empty() {
        for (word, piece) in &PIECES {
            if let Some(after) = rest.strip_prefix(word) {
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                }
                pieces.push(piece.clone());
                rest = after;
                continue 'next;
            }
        }
        let mut characters = rest.chars();
        literal.extend(characters.next());
        rest = characters.as_str();
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    let known = "{body}, {timestamp}, {method} and {url} are filled in";
    if !pieces.contains(&Piece::Body) {
        lints.error("unsigned-body", &node.span, "`signed` does not hold {body}", known);
        return None;
    }
    let strange = pieces.iter().any(|piece| matches!(piece, Piece::Text(text) if text.contains(['{', '}'])));
    if strange {
        lints.error("unknown-word", &node.span, "there is an unknown word in braces", known);
        return None;
    }
    Some(pieces)
}

/// Checks a configured HMAC.
#[derive(Debug)]
pub struct HmacVerifier {
    keys: Vec<MacKey>,
    config: HmacConfig,
    public_base_url: String,
}

impl HmacVerifier {
    /// A verifier for these secrets. `public_base_url` is only read where the address is signed.
    pub fn new(secrets: &[Secret], config: HmacConfig, public_base_url: String) -> Self {
        Self { keys: MacKey::of_secrets(config.algorithm, secrets), config, public_base_url }
    }

    /// Checks signature and, where a time is signed, age of `request`.
    ///
    /// # Errors
    /// [`Refusal`] when a header is missing or malformed, the signature does not match, or it is too old.
    pub fn verify(&self, request: &Unverified<'_>, now: DateTime<Utc>) -> Result<(), Refusal> {
        let HmacConfig { header, algorithm: _, encoding, prefix, signed, timestamp } = &self.config;
        let claimed = request
            .required(header)?
            .strip_prefix(prefix.as_str())
            .and_then(|text| encoding.decode(text))
            .ok_or_else(|| Refusal::BadHeader(header.clone()))?;
        let written = match timestamp {
            Some(TimestampConfig { header, unit, tolerance }) => {
                let written = request.required(header)?;
                signature::expect_recent(written, header, *unit, *tolerance, now)?;
                written
            }
            None => "",
        };
        let mut parts: Vec<&[u8]> = Vec::with_capacity(signed.len() + 1);
        for piece in signed {
            match piece {
                Piece::Text(text) => parts.push(text.as_bytes()),
                Piece::Body => parts.push(request.body),
                Piece::Timestamp => parts.push(written.as_bytes()),
                Piece::Method => parts.push(request.method.as_bytes()),
                Piece::Url => {
                    parts.extend([self.public_base_url.as_bytes(), request.target.as_bytes()]);
                }
            }
        }
        signature::expect_mac(&self.keys, &parts, &[claimed])
    }
}

/// Checks an API key in a header.
#[derive(Debug)]
pub struct ApiKeyVerifier {
    /// The keys that are taken.
    pub secrets: Vec<Secret>,
    /// Header, lower case.
    pub header: String,
    /// Text before the key, such as `Bearer `.
    pub prefix: String,
}

impl ApiKeyVerifier {
    /// Checks the key of `request`.
    ///
    /// # Errors
    /// [`Refusal`] when it is absent or none of ours.
    pub fn verify(&self, request: &Unverified<'_>) -> Result<(), Refusal> {
        let given = request
            .required(&self.header)?
            .strip_prefix(self.prefix.as_str())
            .ok_or_else(|| Refusal::BadHeader(self.header.clone()))?;
        signature::expect_secret(&self.secrets, given.as_bytes())
    }
}

/// Checks `Authorization: Basic`. Each secret is `user:password`.
#[derive(Debug)]
pub struct BasicVerifier {
    /// The pairs that are taken.
    pub secrets: Vec<Secret>,
}

impl BasicVerifier {
    /// Checks user and password of `request`.
    ///
    /// # Errors
    /// [`Refusal`] when they are absent, malformed or none of ours.
    pub fn verify(&self, request: &Unverified<'_>) -> Result<(), Refusal> {
        const HEADER: &str = "authorization";
        let given = request
            .required(HEADER)?
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .and_then(|(_, encoded)| base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok())
            .ok_or_else(|| Refusal::BadHeader(HEADER.to_owned()))?;
        signature::expect_secret(&self.secrets, &given)
    }
}

/// The event in a verified request: the body as it is; everything else comes from `event:` expressions.
pub fn normalise(request: &Unverified<'_>) -> Vec<Draft> {
    vec![Draft { id: None, kind: None, subject: None, time: None, key: None, payload: request.body.clone() }]
}
