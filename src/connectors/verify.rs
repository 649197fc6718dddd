//! `verify:` of a source: which scheme proves that a request comes from the outside system, as it is written
//! ([`VerifyConfig`]) and keyed with its secrets ([`Verifier`]).

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::connectors::generic::{self, HmacConfig};
use crate::connectors::request::{Draft, Refusal, Unverified};
use crate::connectors::{github, hubspot, standard_webhooks, stripe};
use crate::secrets::{Secret, SecretError, SecretRef};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, suggestion};
use crate::yaml::node::{Node, Yaml};

const TOLERANCE: Duration = Duration::from_secs(300);
const TOLERANCE_MAX: Duration = Duration::from_secs(24 * 3600);
const SECRETS_MAX: usize = 8;
const API_KEY_HEADER: &str = "x-api-key";

/// How requests are proved.
#[derive(Clone, PartialEq, Debug)]
pub enum Scheme {
    /// Stripe.
    Stripe {
        /// How far the signed time may be from now.
        tolerance: Duration,
    },
    /// HubSpot.
    HubSpot {
        /// How far the signed time may be from now (version 3).
        tolerance: Duration,
        /// Versions taken.
        versions: Vec<hubspot::Version>,
    },
    /// Standard Webhooks and Svix.
    StandardWebhooks {
        /// How far the signed time may be from now.
        tolerance: Duration,
    },
    /// GitHub.
    GitHub,
    /// A configured HMAC.
    Hmac(HmacConfig),
    /// A key in a header.
    ApiKey {
        /// Header, lower case.
        header: String,
        /// Text before the key.
        prefix: String,
    },
    /// `Authorization: Basic`; each secret is `user:password`.
    Basic,
    /// Nothing is checked.
    None,
}

impl Scheme {
    /// Whether the sender's payload tells id, type and time, so that `event:` has no place.
    pub fn knows_its_events(&self) -> bool {
        match self {
            Self::Stripe { .. } | Self::HubSpot { .. } | Self::StandardWebhooks { .. } | Self::GitHub => true,
            Self::Hmac(_) | Self::ApiKey { .. } | Self::Basic | Self::None => false,
        }
    }

    /// Time to answer when `limits.deadline` does not say: what the sender waits for, less a little.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(match self {
            Self::HubSpot { .. } => 4_500,
            Self::GitHub => 9_000,
            Self::StandardWebhooks { .. } => 14_000,
            Self::Stripe { .. } | Self::Hmac(_) | Self::ApiKey { .. } | Self::Basic | Self::None => 20_000,
        })
    }
}

/// `verify:` as it is written.
#[derive(Clone, PartialEq, Debug)]
pub struct VerifyConfig {
    /// The scheme and its own keys.
    pub scheme: Scheme,
    /// Secrets that count, all at once.
    pub secrets: Vec<SecretRef>,
    /// What stands before the path in the address that the sender calls; without a slash at its end. Needed by
    /// schemes that sign the address when the ingest role is not told its own.
    pub public_base_url: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SchemeName {
    Stripe,
    HubSpot,
    StandardWebhooks,
    GitHub,
    Hmac,
    ApiKey,
    Basic,
    None,
}

const SCHEMES: [(&str, SchemeName); 8] = [
    ("stripe", SchemeName::Stripe),
    ("hubspot", SchemeName::HubSpot),
    ("standard-webhooks", SchemeName::StandardWebhooks),
    ("github", SchemeName::GitHub),
    ("hmac", SchemeName::Hmac),
    ("api-key", SchemeName::ApiKey),
    ("basic", SchemeName::Basic),
    ("none", SchemeName::None),
];
/// Schemes of systems that are known by name but have no verifier yet.
const NOT_BUILT: [&str; 6] = ["slack", "shopify", "twilio", "meta", "discord", "cloudevents"];

impl VerifyConfig {
    /// Decodes `verify:`. Reports every mistake.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`verify`", lints)?;
        let Some(name) = fields.required("scheme", lints).and_then(|node| scheme_name(node, lints)) else {
            // Which of the other keys belong here depends on the scheme; secrets are looked at all the same.
            decode_secrets(fields.optional("secrets"), lints);
            return None;
        };
        let secrets_node = fields.optional("secrets");
        let secrets = decode_secrets(secrets_node, lints);
        let public_base_url = match fields.optional("public_base_url") {
            Some(node) => base_url(node, lints).map(Some),
            None => Some(None),
        };
        let scheme = decode_scheme(name, &mut fields, lints);
        expect_secrets(name, node, secrets_node, lints);
        fields.finish(lints);
        Some(Self { scheme: scheme?, secrets: secrets?, public_base_url: public_base_url? })
    }
}

fn scheme_name(node: &Node, lints: &mut Lints) -> Option<SchemeName> {
    let written = node.expression().unwrap_or_default();
    if let Some((_, name)) = SCHEMES.iter().find(|(word, _)| *word == written) {
        return Some(*name);
    }
    let known = SCHEMES.map(|(word, _)| word);
    if NOT_BUILT.contains(&written) {
        lints.error(
            "scheme-not-built",
            &node.span,
            format!("scheme `{written}` is not built yet"),
            format!("there is {}; `hmac` may do", known.join(", ")),
        );
    } else {
        let message = format!("`{written}` is not one of {}", known.join(", "));
        lints.error("unknown-word", &node.span, message, suggestion(written, &known));
    }
    None
}

fn decode_secrets(node: Option<&Node>, lints: &mut Lints) -> Option<Vec<SecretRef>> {
    let Some(node) = node else { return Some(Vec::new()) };
    let secrets = fields::list(node, lints, SecretRef::decode)?;
    let Yaml::List(items) = &node.value else { return None };
    if items.len() > SECRETS_MAX {
        lints.error(
            "too-many-secrets",
            &node.span,
            format!("{} secrets", items.len()),
            format!("at most {SECRETS_MAX} at once"),
        );
        return None;
    }
    (secrets.len() == items.len()).then_some(secrets)
}

fn expect_secrets(name: SchemeName, node: &Node, written: Option<&Node>, lints: &mut Lints) {
    let is_empty = match written.map(|node| &node.value) {
        None => true,
        Some(Yaml::List(items)) => items.is_empty(),
        Some(_) => false,
    };
    let place = written.map_or(&node.span, |node| &node.span);
    match name {
        SchemeName::None if written.is_some() => lints.error(
            "needless-secrets",
            place,
            "scheme `none` checks nothing, so its secrets are not used",
            "remove `secrets`, or choose a scheme that checks them",
        ),
        SchemeName::None => lints.warning(
            "unverified-source",
            place,
            "everybody who finds the address can send events",
            "use `api-key` or `hmac` if the sender can",
        ),
        _ if is_empty => {
            lints.error("no-secrets", place, "this scheme needs a secret", "add `secrets: [{env: NAME}]`")
        }
        _ => {}
    }
}

fn decode_scheme(name: SchemeName, fields: &mut Fields<'_>, lints: &mut Lints) -> Option<Scheme> {
    match name {
        SchemeName::Stripe => Some(Scheme::Stripe { tolerance: tolerance(fields, lints)? }),
        SchemeName::StandardWebhooks => {
            Some(Scheme::StandardWebhooks { tolerance: tolerance(fields, lints)? })
        }
        SchemeName::HubSpot => {
            let tolerance = tolerance(fields, lints);
            let versions = hubspot_versions(fields, lints);
            Some(Scheme::HubSpot { tolerance: tolerance?, versions: versions? })
        }
        SchemeName::GitHub => Some(Scheme::GitHub),
        SchemeName::Hmac => {
            // A bad tolerance is said; the default stands in so that the other keys are looked at too.
            let tolerance = tolerance(fields, lints);
            let config = HmacConfig::decode(fields, tolerance.unwrap_or(TOLERANCE), lints);
            tolerance.and(config).map(Scheme::Hmac)
        }
        SchemeName::ApiKey => {
            let header = match fields.optional("header") {
                Some(node) => generic::header_name(node, lints),
                None => Some(API_KEY_HEADER.to_owned()),
            };
            let prefix = match fields.optional("prefix") {
                Some(node) => generic::prefix_text(node, lints),
                None => Some(String::new()),
            };
            Some(Scheme::ApiKey { header: header?, prefix: prefix? })
        }
        SchemeName::Basic => Some(Scheme::Basic),
        SchemeName::None => Some(Scheme::None),
    }
}

fn tolerance(fields: &mut Fields<'_>, lints: &mut Lints) -> Option<Duration> {
    let Some(node) = fields.optional("tolerance") else { return Some(TOLERANCE) };
    let tolerance = fields::duration(node, lints)?;
    if tolerance < Duration::from_secs(1) || tolerance > TOLERANCE_MAX {
        lints.error("out-of-range", &node.span, "the tolerance is out of range", "from 1s to 24h");
        return None;
    }
    Some(tolerance)
}

fn hubspot_versions(fields: &mut Fields<'_>, lints: &mut Lints) -> Option<Vec<hubspot::Version>> {
    let words = [("v3", hubspot::Version::V3), ("v2", hubspot::Version::V2), ("v1", hubspot::Version::V1)];
    let Some(node) = fields.optional("versions") else { return Some(vec![hubspot::Version::V3]) };
    let versions = fields::list(node, lints, |node, lints| fields::choice(node, &words, lints))?;
    if matches!(&node.value, Yaml::List(items) if items.is_empty()) {
        lints.error("empty", &node.span, "no version of the signature is taken", "write [v3]");
    }
    (!versions.is_empty()).then_some(versions)
}

fn base_url(node: &Node, lints: &mut Lints) -> Option<String> {
    let text = fields::text(node, lints)?.value;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_good = rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && !rest.contains(['?', '#', ' ', '@'])
    });
    if !is_good {
        lints.error(
            "bad-url",
            &node.span,
            format!("`{text}` is no base address"),
            "such as https://hooks.example.com, without query and password",
        );
        return None;
    }
    Some(text.trim_end_matches('/').to_owned())
}

/// What a source is given when it is built.
pub struct Surroundings<'a> {
    /// Finds a secret's value; [`SecretRef::resolve`] outside of tests.
    pub secrets: &'a dyn Fn(&SecretRef) -> Result<Option<Secret>, SecretError>,
    /// The address under which senders reach the ingest role, unless the connector says its own.
    pub public_base_url: Option<&'a str>,
}

/// Why a source cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A secret has no value.
    #[error("connector `{connector}`: a secret of its source cannot be read")]
    Secret {
        /// Name of the connector.
        connector: String,
        /// Why.
        source: SecretError,
    },
    /// All secrets are optional, and none is set.
    #[error("connector `{connector}`: none of the secrets of its source is set: {names}")]
    NoSecret {
        /// Name of the connector.
        connector: String,
        /// Where they were looked for.
        names: String,
    },
    /// A secret is not what the scheme needs.
    #[error("connector `{connector}`: a secret of its source {why}")]
    BadSecret {
        /// Name of the connector.
        connector: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The scheme signs the address, which nobody told.
    #[error(
        "connector `{connector}`: its signature covers the address that is called: set `public_base_url` under \
         `verify`, or the public address of the ingest role"
    )]
    NoPublicUrl {
        /// Name of the connector.
        connector: String,
    },
}

/// A scheme ready to judge requests.
#[derive(Debug)]
pub enum Verifier {
    /// Stripe.
    Stripe(stripe::Verifier),
    /// HubSpot.
    HubSpot(hubspot::Verifier),
    StandardWebhooks(standard_webhooks::Verifier),
    /// GitHub.
    GitHub(github::Verifier),
    /// A configured HMAC.
    Hmac(generic::HmacVerifier),
    /// A key in a header.
    ApiKey(generic::ApiKeyVerifier),
    /// `Authorization: Basic`.
    Basic(generic::BasicVerifier),
    /// Nothing is checked.
    None,
}

impl Verifier {
    /// Reads the secrets that `config` of connector `name` refers to, and keys its MACs.
    ///
    /// # Errors
    /// [`BuildError`] when a secret is missing or unfit, or the public address is needed and unknown.
    pub fn build(
        name: &str,
        config: &VerifyConfig,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, BuildError> {
        let secrets = resolve(name, config, surroundings)?;
        let url = config.public_base_url.as_deref().or(surroundings.public_base_url);
        let url = url.map(|url| url.trim_end_matches('/').to_owned());
        let needed_url = || url.clone().ok_or_else(|| BuildError::NoPublicUrl { connector: name.to_owned() });
        let unfit = |why| BuildError::BadSecret { connector: name.to_owned(), why };
        Ok(match &config.scheme {
            Scheme::Stripe { tolerance } => Self::Stripe(stripe::Verifier::new(&secrets, *tolerance)),
            Scheme::HubSpot { tolerance, versions } => {
                let url = if versions.iter().all(|version| *version == hubspot::Version::V1) {
                    String::new()
                } else {
                    needed_url()?
                };
                Self::HubSpot(hubspot::Verifier::new(secrets, versions.clone(), *tolerance, url))
            }
            Scheme::StandardWebhooks { tolerance } => {
                Self::StandardWebhooks(standard_webhooks::Verifier::new(&secrets, *tolerance).map_err(unfit)?)
            }
            Scheme::GitHub => Self::GitHub(github::Verifier::new(&secrets)),
            Scheme::Hmac(hmac) => {
                let url = if hmac.signs_url() { needed_url()? } else { String::new() };
                Self::Hmac(generic::HmacVerifier::new(&secrets, hmac.clone(), url))
            }
            Scheme::ApiKey { header, prefix } => Self::ApiKey(generic::ApiKeyVerifier {
                secrets,
                header: header.clone(),
                prefix: prefix.clone(),
            }),
            Scheme::Basic if secrets.iter().any(|secret| !secret.expose().contains(&b':')) => {
                return Err(unfit("is not `user:password`"));
            }
            Scheme::Basic => Self::Basic(generic::BasicVerifier { secrets }),
            Scheme::None => Self::None,
        })
    }

    /// Checks who sent `request`, and when.
    ///
    /// # Errors
    /// [`Refusal`] when that is not proved.
    pub fn verify(&self, request: &Unverified<'_>, now: DateTime<Utc>) -> Result<(), Refusal> {
        match self {
            Self::Stripe(verifier) => verifier.verify(request, now),
            Self::HubSpot(verifier) => verifier.verify(request, now),
            Self::StandardWebhooks(verifier) => verifier.verify(request, now),
            Self::GitHub(verifier) => verifier.verify(request),
            Self::Hmac(verifier) => verifier.verify(request, now),
            Self::ApiKey(verifier) => verifier.verify(request),
            Self::Basic(verifier) => verifier.verify(request),
            Self::None => Ok(()),
        }
    }

    /// What the scheme reads from a verified request, at least one draft.
    ///
    /// # Errors
    /// [`Refusal`] when the body is not what the scheme sends.
    pub fn normalise(&self, request: &Unverified<'_>) -> Result<Vec<Draft>, Refusal> {
        match self {
            Self::Stripe(_) => stripe::normalise(request),
            Self::HubSpot(_) => hubspot::normalise(request),
            Self::StandardWebhooks(_) => standard_webhooks::normalise(request),
            Self::GitHub(_) => github::normalise(request),
            Self::Hmac(_) | Self::ApiKey(_) | Self::Basic(_) | Self::None => Ok(generic::normalise(request)),
        }
    }
}

fn resolve(
    name: &str,
    config: &VerifyConfig,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<Secret>, BuildError> {
    let mut secrets = Vec::new();
    for reference in &config.secrets {
        let found = (surroundings.secrets)(reference)
            .map_err(|source| BuildError::Secret { connector: name.to_owned(), source })?;
        secrets.extend(found);
    }
    if secrets.is_empty() && config.scheme != Scheme::None {
        let names: Vec<String> = config.secrets.iter().map(SecretRef::name).collect();
        return Err(BuildError::NoSecret { connector: name.to_owned(), names: names.join(", ") });
    }
    Ok(secrets)
}
