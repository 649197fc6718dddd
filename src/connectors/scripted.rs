//! Destinations of a pipeline's tests: what would be sent is built and kept, the answer is one the test gives. No
//! network.
//!
//! A call without an answer, and an answer that nobody asked for, are problems: the test that has them fails.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use reqwest::Url;
use serde_json::Value;

use crate::connectors::answer::{Answer, RawAnswer, interpret};
use crate::connectors::http::{CallInputs, find_call, prepare};
use crate::connectors::target::{BaseUrl, TargetConfig};
use crate::fault::{Fault, FaultClass};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned, suggestion};
use crate::yaml::node::Node;

/// What a test answers to the calls of one name, in turn.
#[derive(Clone, Debug)]
pub struct ScriptedCall {
    /// Connector.
    pub connector: Spanned<String>,
    /// Call.
    pub call: Spanned<String>,
    /// Answers, one for each time it is called.
    pub respond: Vec<RawAnswer>,
}

impl ScriptedCall {
    /// Decodes `{connector, call, respond: [{status?, json?, text?, headers?}]}`.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a scripted call", lints)?;
        let connector = fields.required("connector", lints).and_then(|node| fields::text(node, lints));
        let call = fields.required("call", lints).and_then(|node| fields::text(node, lints));
        let respond =
            fields.required("respond", lints).and_then(|node| fields::list(node, lints, decode_answer));
        fields.finish(lints);
        Some(Self { connector: connector?, call: call?, respond: respond? })
    }

    /// Reports a connector or call that the project does not have.
    pub fn check(&self, targets: &BTreeMap<String, Arc<TargetConfig>>, lints: &mut Lints) {
        let Spanned { value: connector, span } = &self.connector;
        let Some(target) = targets.get(connector) else {
            let known: Vec<&str> = targets.keys().map(String::as_str).collect();
            let message = format!("no file in connectors/ has a target called `{connector}`");
            lints.error("unknown-connector", span, message, suggestion(connector, &known));
            return;
        };
        let Spanned { value: call, span } = &self.call;
        if !target.calls.contains_key(call) {
            let known: Vec<&str> = target.calls.keys().map(String::as_str).collect();
            let message = format!("connector `{connector}` has no call `{call}`");
            lints.error("unknown-call", span, message, suggestion(call, &known));
        }
    }
}

fn decode_answer(node: &Node, lints: &mut Lints) -> Option<RawAnswer> {
    let mut fields = Fields::of(node, "an answer", lints)?;
    let status = match fields.optional("status") {
        Some(node) => fields::integer(node, 200..=599, lints)?,
        None => 200,
    };
    let json = fields.optional("json").map(|node| fields::json(node).to_string().into_bytes());
    let text = fields.optional("text").and_then(|node| fields::text(node, lints));
    let headers = fields.optional("headers").map(fields::json);
    fields.finish(lints);
    let headers = match headers {
        Some(Value::Object(headers)) => headers
            .into_iter()
            .map(|(name, value)| {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                (name.to_ascii_lowercase(), value)
            })
            .collect(),
        _ => BTreeMap::new(),
    };
    let body = json.or_else(|| Some(text?.value.into_bytes())).unwrap_or_default();
    Some(RawAnswer { status: u16::try_from(status).ok()?, headers, body, is_cut: false })
}

/// A request that would have been sent.
#[derive(Clone, PartialEq, Debug)]
pub struct SentRequest {
    /// Connector.
    pub connector: String,
    /// Call.
    pub call: String,
    /// Method and URL, as in `POST https://api.example.com/notes`, without credentials.
    pub line: String,
    /// Body as the stage gave it.
    pub body: Option<Value>,
}

/// The destinations of one case of a test.
#[derive(Default, Debug)]
pub struct Script {
    targets: BTreeMap<String, Arc<TargetConfig>>,
    state: Mutex<State>,
}

#[derive(Default, Debug)]
struct State {
    answers: BTreeMap<(String, String), VecDeque<RawAnswer>>,
    requests: Vec<SentRequest>,
    problems: Vec<String>,
}

impl Script {
    /// A script over the project's targets.
    pub fn new(targets: BTreeMap<String, Arc<TargetConfig>>, calls: &[ScriptedCall]) -> Self {
        let mut state = State::default();
        for ScriptedCall { connector, call, respond } in calls {
            let key = (connector.value.clone(), call.value.clone());
            state.answers.entry(key).or_default().extend(respond.iter().cloned());
        }
        Self { targets, state: Mutex::new(state) }
    }

    /// Gives the next answer to `call` of `connector`, sorted as a real one would be.
    ///
    /// # Errors
    /// As of a real call; permanent when the script has no answer left.
    pub fn call(
        &self,
        connector: &str,
        call_name: &str,
        inputs: &CallInputs,
        now: DateTime<Utc>,
    ) -> Result<Answer, Fault> {
        let named = |mut fault: Fault| {
            fault.message = format!("{connector}.{call_name}: {}", fault.message);
            fault
        };
        let target = self.targets.get(connector).ok_or_else(|| {
            Fault::new(FaultClass::Permanent, format!("connector {connector} has no target"))
        })?;
        let call = find_call(target, call_name).map_err(named)?;
        let base = stand_in(&target.base_url).map_err(named)?;
        let prepared = prepare(target, call, &base, inputs).map_err(named)?;
        let mut state = self.state();
        state.requests.push(SentRequest {
            connector: connector.to_owned(),
            call: call_name.to_owned(),
            line: format!("{} {}", prepared.method, prepared.url),
            body: inputs.body.clone(),
        });
        let key = (connector.to_owned(), call_name.to_owned());
        let Some(answer) = state.answers.get_mut(&key).and_then(VecDeque::pop_front) else {
            let message = format!("{connector}.{call_name} was called, but the test gives it no answer");
            state.problems.push(message.clone());
            return Err(Fault::new(FaultClass::Permanent, message));
        };
        drop(state);
        interpret(target, call, answer, now, str::to_owned).map_err(named)
    }

    /// What would have been sent, in order.
    pub fn requests(&self) -> Vec<SentRequest> {
        self.state().requests.clone()
    }

    /// Calls without an answer, and answers that nobody asked for.
    pub fn problems(&self) -> Vec<String> {
        let state = self.state();
        let unused = state.answers.iter().filter(|(_, answers)| !answers.is_empty());
        let unused = unused.map(|((connector, call), answers)| {
            format!("{connector}.{call}: {} answers of the test were not asked for", answers.len())
        });
        state.problems.iter().cloned().chain(unused).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The base URL of a target whose own is known at start only.
fn stand_in(base: &BaseUrl) -> Result<Url, Fault> {
    match base {
        BaseUrl::Literal(url) => Ok(url.clone()),
        BaseUrl::Reference(_) => Url::parse("https://base-url.invalid")
            .map_err(|error| Fault::new(FaultClass::Permanent, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::lint::SourceFile;
    use crate::yaml::node::parse;

    fn node(text: &str) -> Node {
        let file = Arc::new(SourceFile { path: "a.yaml".into(), text: text.to_owned() });
        parse(&file, &mut Lints::default()).expect("YAML")
    }

    fn script(calls: &str) -> Script {
        let mut lints = Lints::default();
        let target = TargetConfig::decode(
            &node("base_url: {env: NEVER_SET}\ncalls: {note: {method: POST, path: '/n/{id}'}}\n"),
            &mut lints,
        );
        let targets = BTreeMap::from([(String::from("crm"), Arc::new(target.expect("a target")))]);
        let calls: Vec<ScriptedCall> =
            fields::list(&node(calls), &mut lints, ScriptedCall::decode).expect("a list");
        for call in &calls {
            call.check(&targets, &mut lints);
        }
        assert_eq!(lints.0, []);
        Script::new(targets, &calls)
    }

    fn inputs() -> CallInputs {
        CallInputs {
            path_params: BTreeMap::from([(String::from("id"), String::from("7"))]),
            body: Some(Value::from(1)),
            idempotency_key: String::from("k"),
            ..CallInputs::default()
        }
    }

    #[test]
    fn answers_come_in_turn_and_are_sorted_as_real_ones() {
        let script = script(
            "- {connector: crm, call: note, respond: [{status: 503}, {status: 200, json: {ok: true}}]}\n",
        );
        let now = Utc::now();
        let fault = script.call("crm", "note", &inputs(), now).expect_err("503");
        assert_eq!((fault.class, fault.http_status), (FaultClass::Transient, Some(503)));
        let answer = script.call("crm", "note", &inputs(), now).expect("200");
        assert_eq!(answer.body, serde_json::json!({ "ok": true }));
        assert_eq!(script.problems(), Vec::<String>::new());
        assert_eq!(script.requests()[1].line, "POST https://base-url.invalid/n/7");
        let fault = script.call("crm", "note", &inputs(), now).expect_err("none left");
        assert_eq!(fault.class, FaultClass::Permanent);
        assert_eq!(script.problems(), ["crm.note was called, but the test gives it no answer"]);
    }

    #[test]
    fn an_unused_answer_is_a_problem() {
        let script = script("- {connector: crm, call: note, respond: [{}, {text: hi}]}\n");
        script.call("crm", "note", &inputs(), Utc::now()).expect("200");
        assert_eq!(script.problems(), ["crm.note: 1 answers of the test were not asked for"]);
    }
}
