//! A named call of a target: method, path, how its body is written, and which answers mean that it was done.

use std::time::Duration;

use serde_json::Value;

use crate::connectors::path::PathTemplate;
use crate::connectors::target::{headers, timeout};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// A status or a class of statuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusPattern {
    /// This status.
    Exact(u16),
    /// `5xx`: all that begin with this digit.
    Class(u16),
}

impl StatusPattern {
    /// Whether `status` is meant.
    pub fn matches(self, status: u16) -> bool {
        match self {
            Self::Exact(exact) => status == exact,
            Self::Class(class) => status / 100 == class,
        }
    }
}

/// HTTP method of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallMethod {
    /// Reads.
    Get,
    /// Reads the headers alone.
    Head,
    /// Creates or does.
    Post,
    /// Replaces.
    Put,
    /// Changes.
    Patch,
    /// Removes.
    Delete,
}

impl CallMethod {
    /// Whether the call only reads: no idempotency key, and a redirect to the same host is followed.
    pub fn is_read(self) -> bool {
        match self {
            Self::Get | Self::Head => true,
            Self::Post | Self::Put | Self::Patch | Self::Delete => false,
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyFormat {
    /// JSON.
    Json,
    /// `application/x-www-form-urlencoded`, nested names in brackets: `metadata[order]=7`.
    Form,
    /// Text as it is.
    Text,
}

/// A named call.
#[derive(Clone, PartialEq, Debug)]
pub struct CallConfig {
    /// Method.
    pub method: CallMethod,
    /// Path below the base URL.
    pub path: PathTemplate,
    /// Query parameters that a stage may give.
    pub query: Vec<String>,
    /// Headers of this call.
    pub headers: Vec<(String, String)>,
    /// Its own time-out.
    pub timeout: Option<Duration>,
    /// How its body is written.
    pub format: BodyFormat,
    /// Statuses that mean it was done.
    pub success: Vec<StatusPattern>,
    /// What a successful answer's body says, by JSON pointer: for systems that answer 200 to what they did not do.
    pub require: Vec<(String, Value)>,
}

impl CallConfig {
    /// Decodes one call.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let methods = [
            ("GET", CallMethod::Get),
            ("HEAD", CallMethod::Head),
            ("POST", CallMethod::Post),
            ("PUT", CallMethod::Put),
            ("PATCH", CallMethod::Patch),
            ("DELETE", CallMethod::Delete),
        ];
        let formats = [("json", BodyFormat::Json), ("form", BodyFormat::Form), ("text", BodyFormat::Text)];
        let mut fields = Fields::of(node, "a call", lints)?;
        let method = fields.required("method", lints).and_then(|node| fields::choice(node, &methods, lints));
        let path = match fields.optional("path") {
            Some(node) => path(node, lints),
            None => Some(PathTemplate::default()),
        };
        let query = fields
            .optional("query")
            .and_then(|node| fields::list(node, lints, |node, lints| Some(fields::text(node, lints)?.value)))
            .unwrap_or_default();
        let headers = fields.optional("headers").map(|node| headers(node, lints)).unwrap_or_default();
        let timeout = fields.optional("timeout").and_then(|node| timeout(node, lints));
        let format = match fields.optional("format") {
            Some(node) => fields::choice(node, &formats, lints),
            None => Some(BodyFormat::Json),
        };
        let (success, require) = match fields.optional("response") {
            Some(node) => response(node, lints)?,
            None => (vec![StatusPattern::Class(2)], Vec::new()),
        };
        fields.finish(lints);
        Some(Self {
            method: method?,
            path: path?,
            query,
            headers,
            timeout,
            format: format?,
            success,
            require,
        })
    }
}

fn path(node: &Node, lints: &mut Lints) -> Option<PathTemplate> {
    let text = fields::text(node, lints)?;
    let parsed = PathTemplate::parse(&text.value);
    if parsed.is_none() {
        lints.error(
            "bad-path",
            &node.span,
            "this path is no template",
            "write parameters as names in braces: /v1/customers/{id}",
        );
    }
    parsed
}

/// What an answer must be: statuses, and fields of the body by JSON pointer.
type Response = (Vec<StatusPattern>, Vec<(String, Value)>);

fn response(node: &Node, lints: &mut Lints) -> Option<Response> {
    let mut fields = Fields::of(node, "a call's response", lints)?;
    let success = match fields.optional("success") {
        Some(node) => fields::list(node, lints, status)?,
        None => vec![StatusPattern::Class(2)],
    };
    let mut require = Vec::new();
    if let Some(node) = fields.optional("require")
        && let Some(mut pointers) = Fields::of(node, "what the body says", lints)
    {
        for (key, node) in pointers.rest() {
            if !key.name.starts_with('/') {
                lints.error(
                    "bad-pointer",
                    &key.span,
                    format!("`{}` is no JSON pointer", key.name),
                    "write the path with slashes: /status",
                );
            }
            require.push((key.name.clone(), fields::json(node)));
        }
    }
    fields.finish(lints);
    Some((success, require))
}

/// Decodes a status or a class of statuses.
pub(super) fn status(node: &Node, lints: &mut Lints) -> Option<StatusPattern> {
    let written = node.expression().unwrap_or_default();
    let found = match written.strip_suffix("xx") {
        Some(class) => class.parse().ok().filter(|class| (2..=5).contains(class)).map(StatusPattern::Class),
        None => written.parse().ok().filter(|status| (200..=599).contains(status)).map(StatusPattern::Exact),
    };
    if found.is_none() {
        lints.error(
            "bad-status",
            &node.span,
            format!("`{written}` is no HTTP status"),
            "write a status such as 409, or a class such as 5xx",
        );
    }
    found
}
