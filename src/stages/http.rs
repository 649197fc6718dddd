//! `http: {connector, call, path_params?, query?, body?, headers?, idempotency_key?, store?}`: calls a destination.
//!
//! `body` is an expression; its value is sent in the call's format. Values of `path_params`, `query` and `headers` are
//! expressions too; a null query parameter or header is left out, a list repeats a query parameter. The answer stands
//! in `%stages.<id>` as `{status, headers, body}`, unless `store: false`.
//!
//! At-least-once: a call may be repeated after a crash, with the same idempotency key. The key names pipeline, record
//! and step; `idempotency_key` names the work by another word, such as an order's number.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::connectors::call::CallConfig;
use crate::connectors::http::CallInputs;
use crate::connectors::target::header_name;
use crate::expr::program::{self, Program};
use crate::expr::{Value, values};
use crate::fault::{Fault, FaultClass};
use crate::stages::context::{CompileCx, Next, StageCx};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Span, Spanned, suggestion};
use crate::yaml::node::{Key, Node};

/// Longest idempotency key that destinations are known to take, in characters.
const KEY_CHARS_MAX: usize = 255;

/// As written.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    connector: Spanned<String>,
    call: Spanned<String>,
    path_params: Vec<(Key, Node)>,
    query: Vec<(Key, Node)>,
    headers: Vec<(Key, Node)>,
    body: Option<Node>,
    idempotency_key: Option<Node>,
    stores: bool,
    span: Span,
}

/// Compiled.
#[derive(Debug)]
pub struct Http {
    connector: Arc<str>,
    call: Arc<str>,
    path_params: Vec<(String, Program)>,
    query: Vec<(String, Program)>,
    headers: Vec<(String, Program)>,
    body: Option<Program>,
    idempotency_key: Option<Program>,
    stores: bool,
}

impl HttpConfig {
    /// Decodes the mapping.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`http`", lints)?;
        let connector = fields.required("connector", lints).and_then(|node| fields::text(node, lints));
        let call = fields.required("call", lints).and_then(|node| fields::text(node, lints));
        let mut named = |key: &'static str, what: &str| {
            let node = fields.optional(key)?;
            let entries = Fields::of(node, what, lints)?.rest();
            Some(entries.into_iter().map(|(key, node)| (key.clone(), node.clone())).collect::<Vec<_>>())
        };
        let path_params = named("path_params", "a list of path parameters").unwrap_or_default();
        let query = named("query", "a list of query parameters").unwrap_or_default();
        let headers = named("headers", "a list of headers").unwrap_or_default();
        let body = fields.optional("body").cloned();
        let idempotency_key = fields.optional("idempotency_key").cloned();
        let stores = fields.optional("store").and_then(|node| fields::boolean(node, lints)).unwrap_or(true);
        fields.finish(lints);
        let (connector, call, span) = (connector?, call?, node.span.clone());
        Some(Self { connector, call, path_params, query, headers, body, idempotency_key, stores, span })
    }

    /// Finds the call and compiles the expressions.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<Http> {
        let is_called_well = self.find(cx, lints).map(|call| self.check(call, lints));
        let mut programs = |entries: &[(Key, Node)]| -> Option<Vec<(String, Program)>> {
            let compiled: Vec<_> = entries
                .iter()
                .map(|(key, node)| (key.name.clone(), program::compile_expression(node, &cx.types, lints)))
                .collect();
            compiled.into_iter().map(|(name, program)| Some((name, program?))).collect()
        };
        let path_params = programs(&self.path_params);
        let query = programs(&self.query);
        let headers = programs(&self.headers);
        let mut program = |node: &Option<Node>| match node {
            Some(node) => program::compile_expression(node, &cx.types, lints).map(Some),
            None => Some(None),
        };
        let body = program(&self.body);
        let idempotency_key = program(&self.idempotency_key);
        if !is_called_well? {
            return None;
        }
        let headers = headers?.into_iter().map(|(name, program)| (name.to_ascii_lowercase(), program));
        Some(Http {
            connector: self.connector.value.as_str().into(),
            call: self.call.value.as_str().into(),
            path_params: path_params?,
            query: query?,
            headers: headers.collect(),
            body: body?,
            idempotency_key: idempotency_key?,
            stores: self.stores,
        })
    }

    /// Name of the connector it calls.
    pub fn connector(&self) -> &str {
        &self.connector.value
    }

    fn find<'a>(&self, cx: &CompileCx<'a>, lints: &mut Lints) -> Option<&'a CallConfig> {
        let Spanned { value: connector, span } = &self.connector;
        let declared = cx.declared;
        let Some(target) = declared.targets.get(connector) else {
            // A connector whose file is broken is reported there.
            if !declared.broken_connectors.contains(connector) {
                let known: Vec<&str> = declared.targets.keys().map(String::as_str).collect();
                let message = format!("no file in connectors/ has a target called `{connector}`");
                lints.error("unknown-connector", span, message, suggestion(connector, &known));
            }
            return None;
        };
        let Spanned { value: call, span } = &self.call;
        let found = target.calls.get(call);
        if found.is_none() {
            let known: Vec<&str> = target.calls.keys().map(String::as_str).collect();
            let message = format!("connector `{connector}` has no call `{call}`");
            lints.error("unknown-call", span, message, suggestion(call, &known));
        }
        found
    }

    /// Whether the stage gives what the call takes.
    fn check(&self, call: &CallConfig, lints: &mut Lints) -> bool {
        let count = lints.0.len();
        let parameters: Vec<&str> = call.path.parameters().collect();
        for missing in
            parameters.iter().filter(|name| !self.path_params.iter().any(|(key, _)| key.name == **name))
        {
            lints.error(
                "missing-key",
                &self.span,
                format!("call `{}` needs the path parameter `{missing}`", self.call.value),
                format!("add path_params: {{{missing}: ...}}"),
            );
        }
        let query: Vec<&str> = call.query.iter().map(String::as_str).collect();
        for (given, known, what) in [(&self.path_params, &parameters, "path"), (&self.query, &query, "query")]
        {
            for (key, _) in given.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
                let message = format!("call `{}` has no {what} parameter `{}`", self.call.value, key.name);
                lints.error("unknown-parameter", &key.span, message, suggestion(&key.name, known));
            }
        }
        for (key, _) in &self.headers {
            let name = Spanned { value: key.name.clone(), span: key.span.clone() };
            if header_name(&name, lints).as_deref() == Some("authorization") {
                let help = "write them under `auth:` of the connector";
                lints.error("literal-secret", &key.span, "credentials belong to the connector", help);
            }
        }
        if let (Some(body), true) = (&self.body, call.method.is_read()) {
            let help = "remove it, or give `query`";
            lints.error("body-on-read", &body.span, "a call that only reads takes no body", help);
        }
        lints.0.len() == count
    }
}

impl Http {
    /// Its expressions.
    pub fn programs(&self) -> Vec<&Program> {
        let Self { connector: _, call: _, path_params, query, headers, body, idempotency_key, stores: _ } =
            self;
        let named = [path_params, query, headers].into_iter().flatten().map(|(_, program)| program);
        named.chain(body).chain(idempotency_key).collect()
    }

    /// Whether the answer stands in `%stages.<id>`.
    pub fn stores(&self) -> bool {
        self.stores
    }

    /// Calls.
    ///
    /// # Errors
    /// Those of its expressions; those of the call.
    pub async fn apply(&self, cx: &mut StageCx<'_, '_>) -> Result<Next, Fault> {
        let inputs = self.inputs(cx)?;
        let services = cx.services;
        let answer = services.http.call(&self.connector, &self.call, &inputs, &services.clock).await?;
        if self.stores {
            cx.answer(values::from_json(answer.into_json()));
        }
        Ok(Next::Continue)
    }

    fn inputs(&self, cx: &mut StageCx<'_, '_>) -> Result<CallInputs, Fault> {
        let mut inputs = CallInputs { idempotency_key: self.key(cx)?, ..CallInputs::default() };
        for (name, program) in &self.path_params {
            let value = program.evaluate(cx.scope)?;
            let text = values::text(&value).ok_or_else(|| {
                Fault::new(FaultClass::Permanent, format!("path parameter `{name}` is null"))
            })?;
            inputs.path_params.insert(name.clone(), text);
        }
        for (name, program) in &self.query {
            let value = program.evaluate(cx.scope)?;
            let items = match &value {
                Value::Array(items) => items.as_slice(),
                single => std::slice::from_ref(single),
            };
            inputs.query.extend(items.iter().filter_map(|item| Some((name.clone(), values::text(item)?))));
        }
        for (name, program) in &self.headers {
            let value = values::text(&program.evaluate(cx.scope)?);
            inputs.headers.extend(value.map(|value| (name.clone(), value)));
        }
        inputs.body = match &self.body {
            Some(program) => Some(values::to_json(&program.evaluate(cx.scope)?)),
            None => None,
        };
        Ok(inputs)
    }

    fn key(&self, cx: &mut StageCx<'_, '_>) -> Result<String, Fault> {
        let key = match &self.idempotency_key {
            Some(program) => values::text(&program.evaluate(cx.scope)?)
                .filter(|key| !key.is_empty())
                .ok_or_else(|| Fault::new(FaultClass::Permanent, "the idempotency key is null or empty"))?,
            None => cx.idempotency_key(),
        };
        Ok(sendable(key))
    }
}

/// The key, or its hash when it is longer than destinations take or holds what no header can.
fn sendable(key: String) -> String {
    let is_sendable = key.len() <= KEY_CHARS_MAX && key.chars().all(|c| c.is_ascii_graphic());
    if is_sendable { key } else { hex::encode(Sha256::digest(key)) }
}

#[cfg(test)]
mod tests;
