//! Random events through a pipeline with every kind of step, whose destination answers anything: the verdict is that of
//! a simple model, in which the pipeline is written out by hand. Time passes by waiting alone.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;

use crate::config::step;
use crate::connectors::answer::RawAnswer;
use crate::connectors::scripted::{Script, ScriptedCall};
use crate::connectors::target::TargetConfig;
use crate::engine::comeback::Past;
use crate::engine::run;
use crate::engine::verdict::Verdict;
use crate::ledger::Outcome;
use crate::plan::compile_flow;
use crate::plan::pipeline::Pipeline;
use crate::stages::context::{CompileCx, Declared};
use crate::stages::scripted_rows::RowScript;
use crate::stages::services::Services;
use crate::tests::histories;
use crate::yaml::lint::{Lints, SourceFile, Spanned};
use crate::yaml::node::{self, Node};

const STEPS: &str = r#"
- {id: gate, filter: .gate == true}
- {id: number, map: .n = int!(.number)}
- {id: begun, emit: {topic: out, value: '"begun"'}}
- id: first
  http: {connector: crm, call: first}
  on_error: {retry: {attempts: 3, backoff: 1s, max: 4s}}
- id: way
  route:
    - when: .way == true
      stages:
        - {id: within, emit: {topic: out, value: '"within"'}}
        - id: inner
          http: {connector: crm, call: inner}
          on_error: {retry: {attempts: 2, backoff: 1s, max: 1s}}
        - {id: inner-gate, filter: .inner == true}
    - otherwise:
        - {id: other, kpi: {fact: other, value: '1'}}
  on_error: {retry: {attempts: 2, backoff: 2s, max: 2s}, then: ignore}
- id: each
  for_each:
    in: .items
    concurrency: 2
    stages:
      - {id: part-gate, filter: . != 0}
      - {id: part, emit: {topic: out, value: '"part"'}}
      - {id: part-number, map: . = int!(.)}
- {id: last, map: .m = int!(.last), on_error: ignore}
- {id: done, kpi: {fact: done, value: '1'}}
"#;

fn node(text: &str) -> Node {
    let file = SourceFile { path: PathBuf::from("pipelines/p.yaml"), text: text.to_owned() };
    node::parse(&Arc::new(file), &mut Lints::default()).expect("YAML of ours")
}

static TARGETS: LazyLock<BTreeMap<String, Arc<TargetConfig>>> = LazyLock::new(|| {
    let text = "base_url: https://crm.test\ncalls: {first: {method: POST, path: /a}, inner: {method: POST, path: /b}}\n";
    let target = TargetConfig::decode(&node(text), &mut Lints::default()).expect("a target of ours");
    BTreeMap::from([(String::from("crm"), Arc::new(target))])
});

static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| {
    let mut lints = Lints::default();
    let written = step::decode_steps(&node(STEPS), &mut lints).unwrap_or_default();
    let declared = Declared { targets: TARGETS.clone(), ..super::declared() };
    let name: Arc<str> = "p".into();
    let types = crate::expr::types::Types::default();
    let mut cx = CompileCx { types, declared: &declared, pipeline: Arc::clone(&name), step: name };
    let steps = compile_flow::compile_steps(&written, &mut cx, &mut lints);
    assert!(!lints.has_errors(), "{lints:?}");
    Pipeline { steps, is_cpu_only: false, ..super::pipeline("- emit: {topic: out}") }
});

/// What the destination answers.
#[derive(Clone, Copy, Debug)]
enum Answered {
    Done,
    Transient,
    Permanent,
    Throttled { seconds: u64 },
}

fn answered() -> impl Strategy<Value = Answered> {
    prop_oneof![
        3 => Just(Answered::Done),
        4 => Just(Answered::Transient),
        1 => Just(Answered::Permanent),
        3 => (1..400_u64).prop_map(|seconds| Answered::Throttled { seconds }),
    ]
}

fn raw(answered: Answered) -> RawAnswer {
    let (status, wait) = match answered {
        Answered::Done => (200, None),
        Answered::Transient => (502, None),
        Answered::Permanent => (422, None),
        Answered::Throttled { seconds } => (429, Some((String::from("retry-after"), seconds.to_string()))),
    };
    RawAnswer { status, headers: wait.into_iter().collect(), body: Vec::new(), is_cut: false }
}

/// An event, and what is answered meanwhile.
#[derive(Clone, Debug)]
struct Case {
    gate: bool,
    number: Option<i64>,
    way: bool,
    inner_gate: bool,
    items: Vec<Option<i64>>,
    last: Option<i64>,
    first: Vec<Answered>,
    inner: Vec<Answered>,
}

fn case() -> impl Strategy<Value = Case> {
    let number = || prop::option::weighted(0.9, 0..3_i64);
    let switches = (prop::bool::weighted(0.9), any::<bool>(), any::<bool>());
    let answers = || prop::collection::vec(answered(), 0..9);
    (
        switches,
        number(),
        number(),
        prop::collection::vec(prop::option::weighted(0.95, 0..3_i64), 0..4),
        answers(),
        answers(),
    )
        .prop_map(|((gate, way, inner_gate), number, last, items, first, inner)| Case {
            gate,
            number,
            way,
            inner_gate,
            items,
            last,
            first,
            inner,
        })
}

impl Case {
    fn value(&self) -> String {
        serde_json::json!({
            "gate": self.gate, "number": self.number, "way": self.way, "inner": self.inner_gate,
            "items": self.items, "last": self.last,
        })
        .to_string()
    }

    fn services(&self) -> Services {
        let call = |name: &str, answers: &[Answered]| {
            let span = node("a").span;
            ScriptedCall {
                connector: Spanned { value: String::from("crm"), span: span.clone() },
                call: Spanned { value: name.to_owned(), span },
                respond: answers.iter().copied().map(raw).collect(),
            }
        };
        let calls = [call("first", &self.first), call("inner", &self.inner)];
        Services::offline(BTreeMap::new(), Script::new(TARGETS.clone(), &calls), RowScript::default())
    }
}

/// Why a step failed in the model: whether, and how, it may be tried again.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Final,
    Transient,
    Throttled { seconds: u64 },
}

/// The obvious way: the pipeline above, by hand.
struct Model {
    first: VecDeque<Answered>,
    inner: VecDeque<Answered>,
    written: Vec<&'static str>,
    facts: Vec<&'static str>,
    attempts: u32,
    calls: usize,
    /// Shortest and longest that may have been waited.
    waited: (Duration, Duration),
}

/// A policy's attempts, in seconds.
struct Tries {
    made: u32,
    max: u32,
    backoff: u64,
    longest: u64,
    throttled: u64,
}

impl Model {
    /// Whether there is one more attempt after `failure`.
    fn goes_on(&mut self, tries: &mut Tries, failure: Failure) -> bool {
        let asked = match failure {
            Failure::Throttled { seconds } if tries.throttled + seconds <= 600 => Some(seconds),
            _ => None,
        };
        let goes_on = match (failure, asked) {
            (Failure::Final, _) => false,
            (_, Some(seconds)) => {
                tries.throttled += seconds;
                self.waited.0 += Duration::from_secs(seconds);
                self.waited.1 += Duration::from_secs(seconds);
                true
            }
            (_, None) if tries.made < tries.max => {
                let ceiling = (tries.backoff << (tries.made - 1)).min(tries.longest);
                self.waited.1 += Duration::from_secs(ceiling);
                tries.made += 1;
                true
            }
            (_, None) => false,
        };
        self.attempts = self.attempts.max(tries.made);
        goes_on
    }

    fn call(&mut self, is_first: bool, mut tries: Tries) -> Result<(), Failure> {
        loop {
            self.calls += 1;
            let answers = if is_first { &mut self.first } else { &mut self.inner };
            let failure = match answers.pop_front() {
                Some(Answered::Done) => return Ok(()),
                Some(Answered::Transient) => Failure::Transient,
                Some(Answered::Throttled { seconds }) => Failure::Throttled { seconds },
                // A script without an answer refuses for good.
                Some(Answered::Permanent) | None => Failure::Final,
            };
            if !self.goes_on(&mut tries, failure) {
                return Err(failure);
            }
        }
    }

    /// Outcome and the step at which it was decided.
    fn run(&mut self, case: &Case) -> (Outcome, Option<&'static str>) {
        if !case.gate {
            return (Outcome::Filtered, Some("gate"));
        }
        if case.number.is_none() {
            return (Outcome::DeadLettered, Some("number"));
        }
        self.written.push("begun");
        if self.call(true, Tries { made: 1, max: 3, backoff: 1, longest: 4, throttled: 0 }).is_err() {
            return (Outcome::DeadLettered, Some("first"));
        }
        if !case.way {
            self.facts.push("other");
        } else if self.way(case) {
            return (Outcome::Filtered, Some("inner-gate"));
        }
        for item in case.items.iter().filter(|item| **item != Some(0)) {
            self.written.push("part");
            if item.is_none() {
                return (Outcome::DeadLettered, Some("part-number"));
            }
        }
        self.facts.push("done");
        (Outcome::Succeeded, None)
    }

    /// Whether the branch filtered the record.
    fn way(&mut self, case: &Case) -> bool {
        let mut tries = Tries { made: 1, max: 2, backoff: 2, longest: 2, throttled: 0 };
        loop {
            match self.call(false, Tries { made: 1, max: 2, backoff: 1, longest: 1, throttled: 0 }) {
                Ok(()) => {
                    self.written.push("within");
                    return !case.inner_gate;
                }
                Err(failure) => {
                    if !self.goes_on(&mut tries, failure) {
                        return false;
                    }
                }
            }
        }
    }
}

fn ran(case: &Case, services: &Services) -> Verdict {
    let record = super::record(Some(&case.value()));
    let past = Past::default();
    let verdict = pin!(run::process(&PIPELINE, &record, &past, services, super::now()));
    match verdict.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => panic!("the simulated clock lets nobody wait"),
    }
}

proptest! {
    #![proptest_config(histories::cases(150))]

    #[test]
    fn the_verdict_is_that_of_the_model(case in case()) {
        let mut model = Model {
            first: case.first.iter().copied().collect(),
            inner: case.inner.iter().copied().collect(),
            written: Vec::new(),
            facts: Vec::new(),
            attempts: 1,
            calls: 0,
            waited: (Duration::ZERO, Duration::ZERO),
        };
        let (outcome, stage) = model.run(&case);
        let services = case.services();
        let verdict = ran(&case, &services);
        prop_assert_eq!((verdict.outcome, verdict.stage.as_deref()), (outcome, stage), "{:?}", verdict.fault);
        prop_assert_eq!(verdict.fault.is_some(), outcome == Outcome::DeadLettered);
        prop_assert_eq!(verdict.attempts, model.attempts);
        prop_assert!(model.waited.0 <= verdict.duration && verdict.duration <= model.waited.1,
            "{:?} within {:?}", verdict.duration, model.waited);
        let facts: Vec<&str> = verdict.facts.iter().map(|fact| fact.fact.as_str()).collect();
        let quoted: Vec<String> = model.written.iter().map(|word| format!("{word:?}")).collect();
        if outcome == Outcome::DeadLettered {
            prop_assert!(verdict.records.is_empty() && facts.is_empty());
        } else {
            prop_assert_eq!(super::values(&verdict), quoted);
            prop_assert_eq!(facts, model.facts);
        }
        let crate::stages::services::HttpService::Scripted(script) = &services.http else { unreachable!("offline") };
        prop_assert_eq!(script.requests().len(), model.calls);
    }
}
