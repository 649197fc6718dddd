//! What a connector file says of its `target:`: where calls go, with which credentials, how many, and their names.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use crate::connectors::auth::AuthConfig;
use crate::connectors::breaker::BreakerConfig;
use crate::connectors::call::{CallConfig, StatusPattern, status};
use crate::secrets::SecretRef;
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned};
use crate::yaml::node::{Node, Yaml};
use crate::yaml::units::Rate;

/// Header that carries the idempotency key, unless `idempotency_header` says another.
const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// Longest time-out of one call.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Largest body that a target may be allowed to send or answer, in bytes.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// An outside system that stages call.
#[derive(Clone, PartialEq, Debug)]
pub struct TargetConfig {
    /// Where its calls go.
    pub base_url: BaseUrl,
    /// Credentials.
    pub auth: AuthConfig,
    /// Headers of every call.
    pub headers: Vec<(String, String)>,
    /// Header that carries the idempotency key on every call but `GET` and `HEAD`.
    pub idempotency_header: String,
    /// Limits of all its calls together.
    pub limits: TargetLimits,
    /// When calls stop because the destination is not well.
    pub breaker: BreakerConfig,
    /// Statuses to retry beside those that always are.
    pub retry_statuses: Vec<StatusPattern>,
    /// Whether credentials may go over `http://` to another machine.
    pub allows_plain_http: bool,
    /// Its calls, by name.
    pub calls: BTreeMap<String, CallConfig>,
}

/// Where a target is.
#[derive(Clone, PartialEq, Debug)]
pub enum BaseUrl {
    /// As written.
    Literal(Url),
    /// Resolved at start, because it differs by installation or is itself a secret. Never printed.
    Reference(SecretRef),
}

/// Limits of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TargetLimits {
    /// Most calls in a time; unlimited when not given.
    pub rate: Option<Rate>,
    /// Most calls at the same time, in this process.
    pub concurrency: NonZeroU32,
    /// Longest time of one call, body included.
    pub timeout: Duration,
    /// Largest request body, in bytes.
    pub request_bytes_max: u64,
    /// Largest answer that is read, in bytes.
    pub response_bytes_max: u64,
}

impl Default for TargetLimits {
    fn default() -> Self {
        Self {
            rate: None,
            concurrency: NonZeroU32::MIN.saturating_add(49),
            timeout: Duration::from_secs(10),
            request_bytes_max: 1 << 20,
            response_bytes_max: 1 << 20,
        }
    }
}

impl TargetConfig {
    /// Decodes the mapping below `target:`.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a target", lints)?;
        let base_url_node = fields.required("base_url", lints);
        let base_url = base_url_node.and_then(|node| base_url(node, lints));
        let auth = match fields.optional("auth") {
            Some(node) => AuthConfig::decode(node, lints),
            None => Some(AuthConfig::None),
        };
        let headers = fields.optional("headers").map(|node| headers(node, lints)).unwrap_or_default();
        let idempotency_header = match fields.optional("idempotency_header") {
            Some(node) => fields::text(node, lints).and_then(|name| header_name(&name, lints)),
            None => Some(String::from(IDEMPOTENCY_HEADER)),
        };
        let limits = match fields.optional("limits") {
            Some(node) => limits(node, lints),
            None => Some(TargetLimits::default()),
        };
        let breaker = match fields.optional("breaker") {
            Some(node) => breaker(node, lints),
            None => Some(BreakerConfig::default()),
        };
        let retry_statuses =
            fields.optional("retry").map(|node| retry_statuses(node, lints)).unwrap_or_default();
        let allows_plain_http = fields
            .optional("allow_plain_http")
            .and_then(|node| fields::boolean(node, lints))
            .unwrap_or(false);
        let calls = fields.required("calls", lints).map(|node| calls(node, lints)).unwrap_or_default();
        fields.finish(lints);
        let target = Self {
            base_url: base_url?,
            auth: auth?,
            headers,
            idempotency_header: idempotency_header?,
            limits: limits?,
            breaker: breaker?,
            retry_statuses,
            allows_plain_http,
            calls,
        };
        if let (BaseUrl::Literal(url), Some(node)) = (&target.base_url, base_url_node)
            && !target.may_send_to(url)
        {
            lints.error(
                "plain-http",
                &node.span,
                "credentials would travel unencrypted",
                "write https://, or add `allow_plain_http: true` to the target if the network is trusted",
            );
            return None;
        }
        Some(target)
    }

    /// Whether what this target sends may go to `url`: credentials do not travel unencrypted to another machine,
    /// unless `allow_plain_http` says so. A base URL that is a secret counts as a credential.
    pub fn may_send_to(&self, url: &Url) -> bool {
        url.scheme() == "https"
            || self.allows_plain_http
            || is_loopback(url)
            || (self.auth == AuthConfig::None && matches!(self.base_url, BaseUrl::Literal(_)))
    }
}

/// Whether `url` leads to this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// The base URL in `text`: `http` or `https`, a host, and nothing after the path.
///
/// # Errors
/// What is wrong with it, without the text itself.
pub fn parse_base_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "it is not an absolute URL")?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("it is not an http:// or https:// URL");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds credentials, which belong in `auth:`");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has a query or a fragment");
    }
    Ok(url)
}

fn base_url(node: &Node, lints: &mut Lints) -> Option<BaseUrl> {
    if matches!(node.value, Yaml::Map(_)) {
        return SecretRef::decode(node, lints).map(BaseUrl::Reference);
    }
    let text = fields::text(node, lints)?;
    match parse_base_url(&text.value) {
        Ok(url) => Some(BaseUrl::Literal(url)),
        Err(why) => {
            lints.error(
                "bad-url",
                &node.span,
                format!("this base URL cannot be used: {why}"),
                "write https://host, https://host/path, or {env: NAME}",
            );
            None
        }
    }
}

/// A header's name, in lower case.
pub(crate) fn header_name(name: &Spanned<String>, lints: &mut Lints) -> Option<String> {
    let refused =
        ["host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect"];
    match HeaderName::try_from(name.value.as_str()) {
        Ok(header) if !refused.contains(&header.as_str()) => Some(header.as_str().to_owned()),
        _ => {
            lints.error(
                "bad-header",
                &name.span,
                format!("`{}` is no header that may be set", name.value),
                "write a header name such as X-Api-Version",
            );
            None
        }
    }
}

pub(super) fn headers(node: &Node, lints: &mut Lints) -> Vec<(String, String)> {
    let Some(mut fields) = Fields::of(node, "a list of headers", lints) else { return Vec::new() };
    let mut headers = Vec::new();
    for (key, node) in fields.rest() {
        let name = Spanned { value: key.name.clone(), span: key.span.clone() };
        let name = header_name(&name, lints);
        let value = node.expression().filter(|value| HeaderValue::try_from(*value).is_ok());
        if value.is_none() {
            lints.error("bad-header", &node.span, "this is no header value", "write text on one line");
        }
        if name.as_deref() == Some("authorization") {
            let help = "write it under `auth:`, so that it stays out of files and messages";
            lints.error("literal-secret", &key.span, "credentials are given by reference", help);
        } else if let (Some(name), Some(value)) = (name, value) {
            headers.push((name, value.to_owned()));
        }
    }
    headers
}

fn limits(node: &Node, lints: &mut Lints) -> Option<TargetLimits> {
    let mut fields = Fields::of(node, "a target's limits", lints)?;
    let rate = fields.optional("rate").and_then(|node| fields::rate(node, lints));
    let mut limits = TargetLimits { rate, ..TargetLimits::default() };
    if let Some(count) =
        fields.optional("concurrency").and_then(|node| fields::integer(node, 1..=10_000, lints))
    {
        limits.concurrency = positive(count);
    }
    if let Some(timeout) = fields.optional("timeout").and_then(|node| timeout(node, lints)) {
        limits.timeout = timeout;
    }
    if let Some(bytes) = fields.optional("request").and_then(|node| body_size(node, lints)) {
        limits.request_bytes_max = bytes;
    }
    if let Some(bytes) = fields.optional("response").and_then(|node| body_size(node, lints)) {
        limits.response_bytes_max = bytes;
    }
    fields.finish(lints);
    Some(limits)
}

/// A number that was decoded as at least 1.
fn positive(count: i64) -> NonZeroU32 {
    u32::try_from(count).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}

pub(super) fn timeout(node: &Node, lints: &mut Lints) -> Option<Duration> {
    let timeout = fields::duration(node, lints)?;
    if timeout.is_zero() || timeout > TIMEOUT_MAX {
        lints.error("out-of-range", &node.span, "this time-out is out of range", "from 1ms to 10m");
        return None;
    }
    Some(timeout)
}

fn body_size(node: &Node, lints: &mut Lints) -> Option<u64> {
    let bytes = fields::size(node, lints)?;
    if bytes == 0 || bytes > BODY_BYTES_MAX {
        lints.error("out-of-range", &node.span, "this size is out of range", "from 1B to 64MiB");
        return None;
    }
    Some(bytes)
}

fn breaker(node: &Node, lints: &mut Lints) -> Option<BreakerConfig> {
    let mut fields = Fields::of(node, "a breaker", lints)?;
    let mut breaker = BreakerConfig::default();
    if let Some(failures) =
        fields.optional("failures").and_then(|node| fields::integer(node, 1..=1_000, lints))
    {
        breaker.failures = positive(failures);
    }
    if let Some(node) = fields.optional("cooldown")
        && let Some(cooldown) = fields::duration(node, lints)
    {
        if cooldown.is_zero() || cooldown > Duration::from_secs(3600) {
            lints.error("out-of-range", &node.span, "this cooldown is out of range", "from 1ms to 1h");
        }
        breaker.cooldown = cooldown;
    }
    fields.finish(lints);
    Some(breaker)
}

fn retry_statuses(node: &Node, lints: &mut Lints) -> Vec<StatusPattern> {
    let Some(mut fields) = Fields::of(node, "a target's retry", lints) else { return Vec::new() };
    let statuses = fields.required("statuses", lints).and_then(|node| fields::list(node, lints, status));
    fields.finish(lints);
    statuses.unwrap_or_default()
}

fn calls(node: &Node, lints: &mut Lints) -> BTreeMap<String, CallConfig> {
    let Some(mut fields) = Fields::of(node, "a list of calls", lints) else { return BTreeMap::new() };
    fields
        .rest()
        .into_iter()
        .filter_map(|(key, node)| Some((key.name.clone(), CallConfig::decode(node, lints)?)))
        .collect()
}

#[cfg(test)]
mod tests;
