//! One outgoing call: request, credentials, time-out, answer. Rates, concurrency and the circuit breaker stand around
//! it (`stages/destinations.rs`).
//!
//! Redirects: followed for `GET` and `HEAD` to the same scheme, host and port, at most [`REDIRECTS_MAX`] times. Any
//! other is an answer like every other: credentials never follow one to another host.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Client, Method, Response, Url, redirect};
use serde_json::Value;

use crate::connectors::answer::{Answer, RawAnswer, interpret};
use crate::connectors::auth::Auth;
use crate::connectors::call::{BodyFormat, CallConfig, CallMethod};
use crate::connectors::form;
use crate::connectors::target::{BaseUrl, TargetConfig, parse_base_url};
use crate::fault::{Fault, FaultClass};
use crate::secrets::{SecretError, Secrets};

/// Redirects followed for one call.
const REDIRECTS_MAX: usize = 5;
/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept; shorter than the usual 60 s of load balancers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// What a stage gives to a call.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CallInputs {
    /// Values of the path's parameters.
    pub path_params: BTreeMap<String, String>,
    /// Query parameters.
    pub query: Vec<(String, String)>,
    /// Headers, names in lower case; they replace the target's and the call's.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Option<Value>,
    /// Names the work: the same for every attempt, another for other work.
    pub idempotency_key: String,
}

/// A request before credentials: what a mock sees too.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Method.
    pub method: Method,
    /// URL without credentials.
    pub url: Url,
    /// Headers without credentials.
    pub headers: HeaderMap,
    /// Body.
    pub body: Option<Vec<u8>>,
}

/// Why a target cannot be used at all. Found at start.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A secret has no value.
    #[error("connector {connector}: credentials are missing")]
    Secret {
        /// The connector.
        connector: Arc<str>,
        /// Which secret.
        source: SecretError,
    },
    /// The base URL that a reference gave cannot be used.
    #[error("connector {connector}: the base URL in {place} cannot be used: {why}")]
    BaseUrl {
        /// The connector.
        connector: Arc<str>,
        /// Where it was read.
        place: String,
        /// Why not.
        why: &'static str,
    },
    /// A secret cannot stand in a header.
    #[error("connector {connector}: the credentials hold a character that no header can carry")]
    Unsendable {
        /// The connector.
        connector: Arc<str>,
    },
    /// No client can be made, mostly because no root certificates are installed.
    #[error("connector {connector}: no HTTPS client can be made")]
    Client {
        /// The connector.
        connector: Arc<str>,
        /// Why not.
        source: reqwest::Error,
    },
}

/// A target in use: secrets read, client made.
#[derive(Debug)]
pub struct Target {
    name: Arc<str>,
    config: Arc<TargetConfig>,
    base: Url,
    auth: Auth,
    client: Client,
}

impl Target {
    /// Reads the secrets of connector `name` and makes its client. Connects to nothing.
    ///
    /// # Errors
    /// [`TargetError`], which names the connector and the reference.
    pub fn new(name: Arc<str>, config: Arc<TargetConfig>, secrets: &Secrets) -> Result<Self, TargetError> {
        let secret = |source| TargetError::Secret { connector: Arc::clone(&name), source };
        let auth = config.auth.resolve(secrets).map_err(secret)?;
        if !auth.is_sendable() {
            return Err(TargetError::Unsendable { connector: name });
        }
        let base = match &config.base_url {
            BaseUrl::Literal(url) => url.clone(),
            BaseUrl::Reference(reference) => {
                let text = crate::connectors::auth::needed(reference, secrets).map_err(secret)?;
                let url = std::str::from_utf8(text.expose())
                    .map_err(|_| "it is not text")
                    .and_then(|text| parse_base_url(text.trim()));
                let url = url.and_then(|url| match config.may_send_to(&url) {
                    true => Ok(url),
                    false => Err("it is not https://, and `allow_plain_http` is not set"),
                });
                let place = reference.name();
                url.map_err(|why| TargetError::BaseUrl { connector: Arc::clone(&name), place, why })?
            }
        };
        crate::tls::provide();
        let client = Client::builder()
            .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|source| TargetError::Client { connector: Arc::clone(&name), source })?;
        Ok(Self { name, config, base, auth, client })
    }

    /// What the connector file says.
    pub fn config(&self) -> &TargetConfig {
        &self.config
    }

    /// Sends one call and reads its answer. Not retried here, except once with a new token after a 401 under OAuth.
    ///
    /// # Errors
    /// A [`Fault`] that names connector and call, with the status when there was an answer.
    pub async fn call(&self, call_name: &str, inputs: &CallInputs) -> Result<Answer, Fault> {
        let named = |mut fault: Fault| {
            fault.message = format!("{}.{call_name}: {}", self.name, self.auth.redact(&fault.message));
            fault
        };
        let call = find_call(&self.config, call_name).map_err(named)?;
        let prepared = prepare(&self.config, call, &self.base, inputs).map_err(named)?;
        let mut raw = self.send(call, &prepared).await.map_err(named)?;
        if let (401, Auth::Oauth2(tokens)) = (raw.status, &self.auth) {
            tokens.forget().await;
            raw = self.send(call, &prepared).await.map_err(named)?;
        }
        interpret(&self.config, call, raw, Utc::now(), |text| self.auth.redact(text)).map_err(named)
    }

    async fn send(&self, call: &CallConfig, prepared: &Prepared) -> Result<RawAnswer, Fault> {
        let timeout = call.timeout.unwrap_or(self.config.limits.timeout);
        match tokio::time::timeout(timeout, self.exchange(call, prepared)).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("no answer within {} ms", timeout.as_millis());
                Err(Fault::new(FaultClass::Transient, message))
            }
        }
    }

    /// Sends, follows allowed redirects, reads the body.
    async fn exchange(&self, call: &CallConfig, prepared: &Prepared) -> Result<RawAnswer, Fault> {
        let mut url = prepared.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.client.request(prepared.method.clone(), url.clone());
            request = request.headers(prepared.headers.clone());
            if let Some(body) = &prepared.body {
                request = request.body(body.clone());
            }
            let request = self.auth.add(request, &self.client).await?;
            let response = request.send().await.map_err(network)?;
            match redirected(call.method, &url, &response) {
                Some(next) => url = next,
                None => return read(response, self.config.limits.response_bytes_max).await,
            }
        }
        Err(Fault::new(FaultClass::Permanent, format!("more than {REDIRECTS_MAX} redirects")))
    }
}

/// The call named `name`.
///
/// # Errors
/// Permanent: the project was checked with another connector file.
pub fn find_call<'a>(target: &'a TargetConfig, name: &str) -> Result<&'a CallConfig, Fault> {
    target.calls.get(name).ok_or_else(|| Fault::new(FaultClass::Permanent, "there is no such call"))
}

/// The request of a call, without credentials. Pure.
///
/// # Errors
/// Permanent when the inputs cannot be sent: a path parameter that is missing or no single segment, a header with a
/// line break, a body of the wrong shape or size.
pub fn prepare(
    target: &TargetConfig,
    call: &CallConfig,
    base: &Url,
    inputs: &CallInputs,
) -> Result<Prepared, Fault> {
    let permanent = |message: String| Fault::new(FaultClass::Permanent, message);
    let mut url = call.path.url(base, &inputs.path_params).map_err(|error| permanent(error.to_string()))?;
    if !inputs.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&inputs.query);
    }
    let mut headers = HeaderMap::new();
    let mut set = |name: &str, value: &str| {
        let pair = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
        let (name, value) = pair.ok_or_else(|| permanent(format!("header {name} cannot be sent")))?;
        headers.insert(name, value);
        Ok::<(), Fault>(())
    };
    set(ACCEPT.as_str(), "application/json")?;
    if let (Some(_), Some(kind)) = (&inputs.body, content_type(call.format)) {
        set(CONTENT_TYPE.as_str(), kind)?;
    }
    if !call.method.is_read() {
        set(&target.idempotency_header, &inputs.idempotency_key)?;
    }
    for (name, value) in target.headers.iter().chain(&call.headers).chain(&inputs.headers) {
        set(name, value)?;
    }
    let body = inputs.body.as_ref().map(|body| encode(call.format, body)).transpose()?;
    let bytes = body.as_ref().map_or(0, |body| body.len() as u64);
    if bytes > target.limits.request_bytes_max {
        let limit = target.limits.request_bytes_max;
        return Err(permanent(format!("the body has {bytes} bytes, the target allows {limit}")));
    }
    Ok(Prepared { method: method(call.method), url, headers, body })
}

fn method(method: CallMethod) -> Method {
    match method {
        CallMethod::Get => Method::GET,
        CallMethod::Head => Method::HEAD,
        CallMethod::Post => Method::POST,
        CallMethod::Put => Method::PUT,
        CallMethod::Patch => Method::PATCH,
        CallMethod::Delete => Method::DELETE,
    }
}

fn content_type(format: BodyFormat) -> Option<&'static str> {
    match format {
        BodyFormat::Json => Some("application/json"),
        BodyFormat::Form => Some("application/x-www-form-urlencoded"),
        BodyFormat::Text => Some("text/plain; charset=utf-8"),
    }
}

fn encode(format: BodyFormat, body: &Value) -> Result<Vec<u8>, Fault> {
    let encoded = match (format, body) {
        (BodyFormat::Json, body) => Some(body.to_string()),
        (BodyFormat::Form, body) => form::encode(body),
        (BodyFormat::Text, Value::String(text)) => Some(text.clone()),
        (BodyFormat::Text, _) => None,
    };
    let wanted = match format {
        BodyFormat::Form => "an object",
        BodyFormat::Text | BodyFormat::Json => "text",
    };
    let bytes = encoded.map(String::into_bytes);
    bytes.ok_or_else(|| Fault::new(FaultClass::Permanent, format!("the body must be {wanted}")))
}

/// Where a redirect leads, when it is followed.
fn redirected(method: CallMethod, url: &Url, response: &Response) -> Option<Url> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let next = url.join(location).ok()?;
    (is_redirect && method.is_read() && next.origin() == url.origin()).then_some(next)
}

/// Reads an answer, but no more than `bytes_max` of its body.
async fn read(mut response: Response, bytes_max: u64) -> Result<RawAnswer, Fault> {
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let mut body = Vec::new();
    let mut is_cut = false;
    while let Some(chunk) = response.chunk().await.map_err(network)? {
        is_cut = (body.len() + chunk.len()) as u64 > bytes_max;
        if is_cut {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(RawAnswer { status, headers, body, is_cut })
}

/// A failure of the network: always worth another try. Its text never holds the URL, which may be a secret.
fn network(error: reqwest::Error) -> Fault {
    let class = if error.is_builder() { FaultClass::Permanent } else { FaultClass::Transient };
    let error = error.without_url();
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    Fault::new(class, message)
}

#[cfg(test)]
pub(crate) mod loopback;
#[cfg(test)]
mod tests;
