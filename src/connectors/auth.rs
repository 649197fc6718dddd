//! Credentials of outgoing calls: by reference in the files, resolved at start, hidden in every message.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::connectors::oauth::{OauthConfig, OauthTokens};
use crate::connectors::target::header_name;
use crate::fault::Fault;
use crate::secrets::{Secret, SecretError, SecretRef, Secrets};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::Lints;
use crate::yaml::node::{Node, Yaml};

/// How calls of a target prove who they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthConfig {
    /// Not at all.
    None,
    /// `Authorization: Bearer <token>`.
    Bearer(SecretRef),
    /// `Authorization: Basic ...`.
    Basic {
        /// User name.
        username: Username,
        /// Password.
        password: SecretRef,
    },
    /// A header of its own.
    Header {
        /// Its name, in lower case.
        name: String,
        /// Its value.
        value: SecretRef,
    },
    /// A query parameter.
    Query {
        /// Its name.
        name: String,
        /// Its value.
        value: SecretRef,
    },
    /// OAuth 2.0 client credentials.
    Oauth2(OauthConfig),
}

/// A user name: an address is no secret, a key used as one is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Username {
    /// As written.
    Literal(String),
    /// By reference.
    Reference(SecretRef),
}

impl AuthConfig {
    /// Decodes one of `{bearer: ...}`, `{basic: ...}`, `{header: ...}`, `{query: ...}`, `{oauth2: ...}`.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "auth", lints)?;
        let mut ways = Vec::new();
        if let Some(node) = fields.optional("bearer") {
            ways.push(SecretRef::decode(node, lints).map(Self::Bearer));
        }
        if let Some(node) = fields.optional("basic") {
            ways.push(basic(node, lints));
        }
        if let Some(node) = fields.optional("header") {
            let named = named(node, "a credential header", lints);
            ways.push(
                named
                    .and_then(|(name, value)| Some(Self::Header { name: header_name(&name, lints)?, value })),
            );
        }
        if let Some(node) = fields.optional("query") {
            let named = named(node, "a credential parameter", lints);
            ways.push(named.map(|(name, value)| Self::Query { name: name.value, value }));
        }
        if let Some(node) = fields.optional("oauth2") {
            ways.push(OauthConfig::decode(node, lints).map(Self::Oauth2));
        }
        fields.finish(lints);
        if ways.len() == 1 {
            return ways.pop().flatten();
        }
        lints.error(
            "bad-auth",
            &node.span,
            "auth names one way to prove who calls",
            "write one of bearer, basic, header, query, oauth2",
        );
        None
    }

    /// Reads the secrets.
    ///
    /// # Errors
    /// [`SecretError`], which names the reference.
    pub fn resolve(&self, secrets: &Secrets) -> Result<Auth, SecretError> {
        Ok(match self {
            Self::None => Auth::None,
            Self::Bearer(token) => Auth::Bearer(needed(token, secrets)?),
            Self::Basic { username, password } => {
                let username = match username {
                    Username::Literal(name) => name.clone().into_bytes(),
                    Username::Reference(name) => needed(name, secrets)?.expose().to_vec(),
                };
                Auth::Basic { username: Secret::new(username), password: needed(password, secrets)? }
            }
            Self::Header { name, value } => {
                Auth::Header { name: name.clone(), value: needed(value, secrets)? }
            }
            Self::Query { name, value } => Auth::Query { name: name.clone(), value: needed(value, secrets)? },
            Self::Oauth2(config) => Auth::Oauth2(OauthTokens::new(config, secrets)?),
        })
    }
}

fn basic(node: &Node, lints: &mut Lints) -> Option<AuthConfig> {
    let mut fields = Fields::of(node, "basic credentials", lints)?;
    let username = fields.required("username", lints).and_then(|node| match node.value {
        Yaml::Map(_) => SecretRef::decode(node, lints).map(Username::Reference),
        _ => Some(Username::Literal(fields::text(node, lints)?.value)),
    });
    let password = fields.required("password", lints).and_then(|node| SecretRef::decode(node, lints));
    fields.finish(lints);
    Some(AuthConfig::Basic { username: username?, password: password? })
}

fn named(
    node: &Node,
    what: &str,
    lints: &mut Lints,
) -> Option<(crate::yaml::lint::Spanned<String>, SecretRef)> {
    let mut fields = Fields::of(node, what, lints)?;
    let name = fields.required("name", lints).and_then(|node| fields::text(node, lints));
    let value = fields.required("value", lints).and_then(|node| SecretRef::decode(node, lints));
    fields.finish(lints);
    Some((name?, value?))
}

/// The value of a secret that a call cannot do without: `optional: true` makes no sense here.
pub(crate) fn needed(reference: &SecretRef, secrets: &Secrets) -> Result<Secret, SecretError> {
    match secrets.resolve(reference)? {
        Some(secret) => Ok(secret),
        None => Err(SecretError::Unset(reference.name())),
    }
}

/// Credentials in hand.
pub enum Auth {
    /// None.
    None,
    /// A bearer token.
    Bearer(Secret),
    /// User name and password.
    Basic {
        /// User name.
        username: Secret,
        /// Password.
        password: Secret,
    },
    /// A header.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        value: Secret,
    },
    /// A query parameter.
    Query {
        /// Its name.
        name: String,
        /// Its value.
        value: Secret,
    },
    /// Tokens that are fetched when needed.
    Oauth2(OauthTokens),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "Auth::None",
            Self::Bearer(_) => "Auth::Bearer(..)",
            Self::Basic { .. } => "Auth::Basic(..)",
            Self::Header { .. } => "Auth::Header(..)",
            Self::Query { .. } => "Auth::Query(..)",
            Self::Oauth2(_) => "Auth::Oauth2(..)",
        })
    }
}

/// A value for a header that is marked as secret, so that no library prints it. `None` when it cannot stand in one.
fn secret_header(bytes: &[u8]) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(bytes).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Auth {
    /// Whether the secrets can stand where they are to be sent. False for a token with a line break in it.
    pub fn is_sendable(&self) -> bool {
        match self {
            Self::None | Self::Basic { .. } | Self::Oauth2(_) => true,
            Self::Bearer(token) => secret_header(token.expose()).is_some(),
            Self::Header { value, .. } => secret_header(value.expose()).is_some(),
            Self::Query { value, .. } => std::str::from_utf8(value.expose()).is_ok(),
        }
    }

    /// Adds the credentials to a request.
    ///
    /// # Errors
    /// When a token has to be fetched first and cannot be.
    pub async fn add(
        &self,
        request: RequestBuilder,
        client: &reqwest::Client,
    ) -> Result<RequestBuilder, Fault> {
        Ok(match self {
            Self::None => request,
            Self::Bearer(token) => authorization(request, b"Bearer ", token.expose()),
            Self::Basic { username, password } => {
                let pair = [username.expose(), password.expose()].join(&b':');
                authorization(request, b"Basic ", STANDARD.encode(pair).as_bytes())
            }
            Self::Header { name, value } => {
                match (HeaderName::try_from(name.as_str()), secret_header(value.expose())) {
                    (Ok(name), Some(value)) => request.header(name, value),
                    // Refused at start by `is_sendable`.
                    _ => request,
                }
            }
            Self::Query { name, value } => {
                request.query(&[(name.as_str(), String::from_utf8_lossy(value.expose()))])
            }
            Self::Oauth2(tokens) => authorization(request, b"Bearer ", tokens.token(client).await?.expose()),
        })
    }

    /// `text` without our credentials, for messages: some systems repeat what they were sent.
    pub fn redact(&self, text: &str) -> String {
        let mut hidden: Vec<String> = Vec::new();
        let mut hide = |secret: &Secret| hidden.push(String::from_utf8_lossy(secret.expose()).into_owned());
        match self {
            Self::None => {}
            Self::Bearer(token) => hide(token),
            Self::Basic { username, password } => {
                hide(password);
                let pair = [username.expose(), password.expose()].join(&b':');
                hidden.push(STANDARD.encode(pair));
            }
            Self::Header { value, .. } | Self::Query { value, .. } => hide(value),
            Self::Oauth2(tokens) => hidden.extend(tokens.known_secrets()),
        }
        let mut text = text.to_owned();
        for secret in hidden.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.as_str(), "***");
            let encoded: String = reqwest::Url::parse_with_params("http://a", &[("a", secret)]).map_or_else(
                |_| secret.clone(),
                |url| url.query().unwrap_or_default().trim_start_matches("a=").to_owned(),
            );
            text = text.replace(&encoded, "***");
        }
        text
    }
}

fn authorization(request: RequestBuilder, scheme: &[u8], value: &[u8]) -> RequestBuilder {
    match secret_header(&[scheme, value].concat()) {
        Some(value) => request.header(AUTHORIZATION, value),
        // Refused at start by `is_sendable`; the destination then answers 401.
        None => request,
    }
}
