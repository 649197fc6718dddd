//! OAuth 2.0 client credentials (RFC 6749 section 4.4): a token is fetched when it is needed, by one caller at a
//! time, and kept until shortly before it ends.

use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::sync::Mutex;

use crate::connectors::auth::needed;
use crate::connectors::target::parse_base_url;
use crate::fault::{Fault, FaultClass};
use crate::secrets::{Secret, SecretError, SecretRef, Secrets};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// Longest time of a token request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer of a token endpoint, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long a token lasts whose answer does not say.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);

/// How long a token is used at most, whatever its answer says.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a token of `lifetime` is used: a minute or a tenth less, but never under a half.
fn used_for(lifetime: Duration) -> Duration {
    let margin = (lifetime / 10).max(Duration::from_secs(60)).min(lifetime / 2);
    lifetime - margin
}

/// Where and how tokens are fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OauthConfig {
    /// Token endpoint.
    pub token_url: Url,
    /// Client id.
    pub client_id: SecretRef,
    /// Client secret.
    pub client_secret: SecretRef,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
}

impl OauthConfig {
    /// Decodes `{token_url, client_id, client_secret, scope}`.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "OAuth 2.0 client credentials", lints)?;
        let token_url = fields.required("token_url", lints).and_then(|node| {
            let text = fields::text(node, lints)?;
            let url = parse_base_url(&text.value).ok();
            let url = url.filter(|url| url.scheme() == "https" || is_local(url));
            if url.is_none() {
                let help = "write https://host/path";
                lints.error("bad-url", &node.span, "this token endpoint cannot be used", help);
            }
            url
        });
        let client_id = fields.required("client_id", lints).and_then(|node| SecretRef::decode(node, lints));
        let client_secret =
            fields.required("client_secret", lints).and_then(|node| SecretRef::decode(node, lints));
        let scope =
            fields.optional("scope").and_then(|node| fields::text(node, lints)).map(|scope| scope.value);
        fields.finish(lints);
        Some(Self { token_url: token_url?, client_id: client_id?, client_secret: client_secret?, scope })
    }
}

fn is_local(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

/// A token and when to fetch the next.
struct Token {
    value: Secret,
    renew_at: Instant,
}

/// The tokens of one target.
pub struct OauthTokens {
    token_url: Url,
    client_id: Secret,
    client_secret: Secret,
    scope: Option<String>,
    /// Held while a token is fetched, so that one caller fetches and the others wait for it.
    current: Mutex<Option<Token>>,
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<u64>,
}

impl OauthTokens {
    /// Reads the client's credentials; fetches nothing yet.
    ///
    /// # Errors
    /// [`SecretError`], which names the reference.
    pub fn new(config: &OauthConfig, secrets: &Secrets) -> Result<Self, SecretError> {
        Ok(Self {
            token_url: config.token_url.clone(),
            client_id: needed(&config.client_id, secrets)?,
            client_secret: needed(&config.client_secret, secrets)?,
            scope: config.scope.clone(),
            current: Mutex::new(None),
        })
    }

    /// A token that is good for now.
    ///
    /// # Errors
    /// Transient when the endpoint cannot be reached, permanent when it refuses the client.
    pub async fn token(&self, client: &reqwest::Client) -> Result<Secret, Fault> {
        let mut current = self.current.lock().await;
        if let Some(token) = current.as_ref().filter(|token| token.renew_at > Instant::now()) {
            return Ok(token.value.clone());
        }
        let token = self.fetch(client).await?;
        let value = token.value.clone();
        *current = Some(token);
        Ok(value)
    }

    /// Throws the token away, after a 401: the next call fetches another.
    pub async fn forget(&self) {
        *self.current.lock().await = None;
    }

    /// What must not appear in messages.
    pub(crate) fn known_secrets(&self) -> Vec<String> {
        let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
        let mut secrets = vec![text(&self.client_secret)];
        if let Ok(current) = self.current.try_lock() {
            secrets.extend(current.as_ref().map(|token| text(&token.value)));
        }
        secrets
    }

    async fn fetch(&self, client: &reqwest::Client) -> Result<Token, Fault> {
        let transient = |message: String| Fault::new(FaultClass::Transient, message);
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        let sent_at = Instant::now();
        let mut response = client
            .post(self.token_url.clone())
            .timeout(TIMEOUT)
            .basic_auth(
                String::from_utf8_lossy(self.client_id.expose()),
                Some(String::from_utf8_lossy(self.client_secret.expose())),
            )
            .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(crate::connectors::form::encode_pairs(&form))
            .send()
            .await
            .map_err(|error| transient(format!("no token: {}", error.without_url())))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| transient(format!("no token: {}", error.without_url())))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(Fault::new(FaultClass::Permanent, "the token endpoint answers too much"));
            }
        }
        if status != 200 {
            let class = match status {
                408 | 425 | 429 | 500..=599 => FaultClass::Transient,
                _ => FaultClass::Permanent,
            };
            let message = format!("the token endpoint answered {status}");
            return Err(Fault { class, message, http_status: Some(status) });
        }
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| Fault::new(FaultClass::Permanent, "the token endpoint answered no token"))?;
        let lifetime = answer.expires_in.map_or(LIFETIME_DEFAULT, Duration::from_secs).min(LIFETIME_MAX);
        Ok(Token { value: Secret::new(answer.access_token), renew_at: sent_at + used_for(lifetime) })
    }
}
