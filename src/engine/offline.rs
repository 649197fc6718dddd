//! `millrace test`: the tests of a pipeline, through the same plan and the same code as the worker, without a network
//! and in simulated time.
//!
//! An event gets the attributes and the key that its connector would read from it, unless the test says otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::config::project::Project;
use crate::config::test_case::{BodyConfig, EventConfig, TestCase};
use crate::connectors::request::{Draft, Unverified};
use crate::connectors::scripted::Script;
use crate::connectors::source::{self, Extract, Extractors};
use crate::connectors::verify::Scheme;
use crate::connectors::{github, hubspot, standard_webhooks, stripe};
use crate::engine::comeback::Past;
use crate::engine::expect;
use crate::engine::run;
use crate::engine::verdict::Verdict;
use crate::expr::values;
use crate::plan::Plan;
use crate::plan::pipeline::Pipeline;
use crate::plan::sources::PlannedSource;
use crate::record::{Header, HeaderName, InRecord};
use crate::schema::value::ValueSchema;
use crate::stages::context::ValueFormat;
use crate::stages::scripted_rows::RowScript;
use crate::stages::services::Services;
use crate::yaml::lint::Span;

/// Largest fixture file, in bytes.
const FIXTURE_BYTES_MAX: u64 = 16 << 20;

/// How one test ended.
#[derive(Clone, Debug)]
pub struct TestReport {
    /// Pipeline.
    pub pipeline: String,
    /// Name of the test.
    pub name: String,
    /// How long it took.
    pub duration: Duration,
    /// What is not as expected; empty when it passed.
    pub problems: Vec<Problem>,
}

/// Something that is not as expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What.
    pub message: String,
    /// Where it is expected: `pipelines/a.yaml:52`.
    pub place: String,
}

impl Problem {
    /// `message` at the line of `span`.
    pub fn at(span: &Span, message: impl Into<String>) -> Self {
        let (line, _) = span.line_column();
        Self { message: message.into(), place: format!("{}:{line}", span.file.path.display()) }
    }
}

impl TestReport {
    /// Whether all was as expected.
    pub fn passed(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Runs the tests of the pipeline called `name`, in the order written. `now` is when all events are processed.
pub async fn run_tests(project: &Project, plan: &Plan, name: &str, now: DateTime<Utc>) -> Vec<TestReport> {
    let (Some(written), Some(pipeline)) = (project.pipelines.get(name), plan.pipeline(name)) else {
        return Vec::new();
    };
    let mut reports = Vec::with_capacity(written.value.tests.len());
    for case in &written.value.tests {
        let begun = Instant::now();
        let problems = Case { project, plan, pipeline, now }.run(case).await;
        reports.push(TestReport {
            pipeline: name.to_owned(),
            name: case.name.value.clone(),
            duration: begun.elapsed(),
            problems,
        });
    }
    reports
}

/// What events a test's services have: nothing is shared between tests.
fn services(plan: &Plan, case: &TestCase) -> Services {
    let mut schemas = BTreeMap::new();
    for topic in &plan.topics {
        if let ValueFormat::Avro { schema } = &topic.value
            && let Ok(schema) = ValueSchema::parse(schema)
        {
            schemas.insert(topic.name.to_string(), Arc::new(schema));
        }
    }
    let http = Script::new(plan.targets.clone(), &case.http);
    Services::offline(schemas, http, RowScript::new(&case.sql))
}

struct Case<'a> {
    project: &'a Project,
    plan: &'a Plan,
    pipeline: &'a Pipeline,
    now: DateTime<Utc>,
}

impl Case<'_> {
    async fn run(&self, case: &TestCase) -> Vec<Problem> {
        let services = services(self.plan, case);
        let mut problems = Vec::new();
        let mut verdicts = Vec::with_capacity(case.events.len());
        for (at, event) in case.events.iter().enumerate() {
            let record = match self.record(event, at, &services) {
                Ok(record) => record,
                Err(message) => {
                    problems.push(Problem::at(&event.span, message));
                    continue;
                }
            };
            let kind = crate::event::kind_of(&record);
            if !self.pipeline.takes(&record.topic, kind) {
                let message =
                    format!("the pipeline does not take events of type `{kind}` from {}", record.topic);
                problems.push(Problem::at(&event.span, message));
                continue;
            }
            verdicts.push(self.to_its_end(&record, &services).await);
        }
        if problems.is_empty() {
            expect::check(&case.expect, &case.name.span, &verdicts, &services, &mut problems);
            problems
                .extend(services.problems().into_iter().map(|message| Problem::at(&case.name.span, message)));
        }
        problems
    }

    /// Runs a record, through all retry tiers if need be: simulated time goes on until it is due.
    async fn to_its_end(&self, record: &InRecord, services: &Services) -> Verdict {
        let mut past = Past::default();
        loop {
            let now = self.now + services.clock.elapsed();
            let verdict = run::process(self.pipeline, record, &past, services, now).await;
            past.attempts += verdict.attempts;
            let tiers = self.pipeline.companions_of(&record.topic).map_or(&[][..], |own| &own.tiers);
            let tier = verdict.parked.and_then(|tier| Some((tier, tiers.get(tier.checked_sub(1)?)?)));
            let Some((number, tier)) = tier else {
                return Verdict { attempts: past.attempts, ..verdict };
            };
            services.clock.sleep(tier.delay).await;
            (past.tier, past.answers) = (number, verdict.answers);
        }
    }

    /// The record that ingest would have written.
    fn record(&self, event: &EventConfig, at: usize, services: &Services) -> Result<InRecord, String> {
        let topic: Arc<str> = match (&event.topic, self.pipeline.topics.first()) {
            (Some(topic), _) => topic.value.as_str().into(),
            (None, Some(first)) => Arc::clone(first),
            (None, None) => return Err(String::from("the pipeline reads no topic")),
        };
        let body = self.body(event)?;
        let mut sources = self.plan.sources.iter().filter(|(_, source)| source.config.topic.value == *topic);
        let (source, draft) = match (sources.next(), &body) {
            (Some((name, source)), Some(body)) => (Some(name), drafted(source, event, body)?),
            _ => (
                None,
                Draft { payload: Bytes::new(), id: None, kind: None, subject: None, time: None, key: None },
            ),
        };
        let value = match (services.schemas.get(&*topic), body) {
            (Some(schema), Some(body)) => {
                let json = serde_json::from_slice(&body)
                    .map_err(|error| format!("the event is no JSON: {error}"))?;
                Some(
                    schema
                        .encode(&json)
                        .map_err(|error| format!("the event does not fit {topic}: {error}"))?,
                )
            }
            // A batch is one record for each of its events; a test gives one.
            (None, Some(_)) if !draft.payload.is_empty() => Some(draft.payload.clone()),
            (_, body) => body,
        };
        let headers = headers(event, source.map(String::as_str), &draft);
        let key = event.key.clone().or(draft.key).or(draft.id).map(Bytes::from);
        let offset = i64::try_from(at).unwrap_or(i64::MAX);
        Ok(InRecord {
            topic,
            partition: 0,
            offset,
            timestamp_ms: Some(self.now.timestamp_millis()),
            key,
            value,
            headers,
        })
    }

    fn body(&self, event: &EventConfig) -> Result<Option<Bytes>, String> {
        let bytes = match &event.body {
            BodyConfig::File(name) => self.fixture(&name.value)?,
            BodyConfig::Json(json) => Bytes::from(json.to_string()),
            BodyConfig::Text(text) => Bytes::from(text.clone()),
            BodyConfig::Tombstone => return Ok(None),
        };
        if event.set.is_empty() {
            return Ok(Some(bytes));
        }
        let mut value = values::from_json_bytes(&bytes)
            .map_err(|error| format!("`set` needs a body of JSON: {error}"))?;
        for (path, new) in &event.set {
            values::set_path(&mut value, &path.value, values::from_json(new.clone()));
        }
        values::to_json_bytes(&value).map(Some).map_err(|error| error.to_string())
    }

    fn fixture(&self, name: &str) -> Result<Bytes, String> {
        let path = std::path::Path::new(name);
        if !path.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            return Err(format!("`{name}` is no path below the project's folder"));
        }
        let path = self.project.root.join(path);
        let unreadable = |error: std::io::Error| format!("`{name}` cannot be read: {error}");
        if std::fs::metadata(&path).map_err(unreadable)?.len() > FIXTURE_BYTES_MAX {
            return Err(format!("`{name}` is larger than {FIXTURE_BYTES_MAX} bytes"));
        }
        std::fs::read(&path).map(Bytes::from).map_err(unreadable)
    }
}

/// What the connector reads from the body.
fn drafted(source: &PlannedSource, event: &EventConfig, body: &Bytes) -> Result<Draft, String> {
    let mut headers: Vec<(String, &[u8])> = vec![(String::from("content-type"), b"application/json")];
    headers.extend(event.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_bytes())));
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let request = Unverified { method: "POST", target: "/hooks/test", headers: &headers, body };
    let drafts = match &source.config.verify.scheme {
        Scheme::Stripe { .. } => stripe::normalise(&request),
        Scheme::HubSpot { .. } => hubspot::normalise(&request),
        // Their attributes are in headers; a test that gives none says `type` and `id` itself.
        Scheme::StandardWebhooks { .. } => Ok(standard_webhooks::normalise(&request).unwrap_or_default()),
        Scheme::GitHub => Ok(github::normalise(&request).unwrap_or_default()),
        Scheme::Hmac(_) | Scheme::ApiKey { .. } | Scheme::Basic | Scheme::None => Ok(Vec::new()),
    };
    let empty = Draft { payload: Bytes::new(), id: None, kind: None, subject: None, time: None, key: None };
    let is_text = matches!(event.body, BodyConfig::Text(_));
    let mut draft = match drafts {
        Ok(drafts) => drafts.into_iter().next().unwrap_or(empty),
        // What ingest would refuse may still reach the topic by other ways: a test of that is written as text.
        Err(_) if is_text => empty,
        Err(refusal) => return Err(format!("ingest would refuse this body: {refusal}")),
    };
    let Ok(json) = serde_json::from_slice(body) else { return Ok(draft) };
    let Extractors { id, kind, time, key } = source.extractors();
    let read = |extract: Option<Extract>| extract.and_then(|extract| extract(&json));
    draft.id = read(id).or(draft.id);
    draft.kind = read(kind).or(draft.kind);
    draft.key = read(key).or(draft.key);
    draft.time = read(time).and_then(|text| source::instant(&text)).or(draft.time);
    Ok(draft)
}

fn headers(event: &EventConfig, source: Option<&str>, draft: &Draft) -> Vec<Header> {
    let attributes = [
        ("ce_id", event.id.clone().or_else(|| draft.id.clone())),
        ("ce_source", event.source.clone().or_else(|| source.map(str::to_owned))),
        ("ce_type", event.kind.clone().or_else(|| draft.kind.clone()).or_else(|| source.map(str::to_owned))),
        ("ce_subject", event.subject.clone().or_else(|| draft.subject.clone())),
        ("ce_time", event.time.clone().or_else(|| draft.time.map(|time| time.to_rfc3339()))),
        ("ce_tenant", event.tenant.clone()),
    ];
    let mut headers: Vec<Header> =
        attributes.into_iter().filter_map(|(name, value)| Some(Header::of(name, value?))).collect();
    headers.extend(event.headers.iter().map(|(name, value)| Header {
        name: HeaderName::from(name.clone()),
        value: Some(Bytes::from(value.clone())),
    }));
    headers
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::project;
    use crate::ledger::Namespace;
    use crate::plan::compile::compile;
    use crate::yaml::lint::Lints;

    async fn reports(root: &Path) -> Vec<TestReport> {
        let mut lints = Lints::default();
        let project = project::load(root, &mut lints).unwrap();
        let plan = compile(&project, &Namespace::default(), &mut lints);
        let plan = plan.unwrap_or_else(|| panic!("{lints:?}"));
        let mut reports = Vec::new();
        for pipeline in &plan.pipelines {
            reports.extend(run_tests(&project, &plan, &pipeline.name, Utc::now()).await);
        }
        reports
    }

    #[tokio::test]
    async fn the_shipped_pipelines_pass_their_tests() {
        let reports = reports(Path::new(env!("CARGO_MANIFEST_DIR"))).await;
        assert!(reports.len() >= 6, "{}", reports.len());
        for report in reports {
            assert!(report.passed(), "{report:#?}");
        }
    }

    fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[tokio::test]
    async fn what_is_not_as_expected_is_said_with_its_place() {
        let pipeline = "input: {topics: [in]}\nstages:\n  - emit: {topic: out, key: .k}\n  - kpi: {fact: f, value: .n}\n\
            tests:\n  - name: a\n    events: [{json: {k: x, n: 1.5}}]\n    expect:\n      outcome: filtered\n      \
            records:\n        out:\n          - {key: y, value: {n: 2}}\n      facts: [{fact: f, value: 1}]\n  - name: b\n    \
            events: [{json: {k: x, n: 1.5}}]\n    expect:\n      records: {out: [{key: x, exactly: {k: x, n: 1.5}}]}\n      \
            facts: [{fact: f, value: 1.5}]\n";
        let folder = written(&[
            ("topics/in.yaml", "partitions: 1\n"),
            ("topics/out.yaml", "partitions: 1\n"),
            ("pipelines/p.yaml", pipeline),
        ]);
        let reports = reports(folder.path()).await;
        let said: Vec<String> = reports[0]
            .problems
            .iter()
            .map(|problem| format!("{} {}", problem.place, problem.message))
            .collect();
        assert_eq!(
            said,
            [
                "pipelines/p.yaml:9 outcome: expected filtered, got succeeded",
                "pipelines/p.yaml:12 out[0]: key: expected `y`, got `x`",
                "pipelines/p.yaml:12 out[0]: value.n: expected 2, got 1.5",
                "pipelines/p.yaml:13 fact 1: value: expected 1, got 1.5",
            ]
        );
        assert!(reports[1].passed(), "{:?}", reports[1]);
    }

    const CRM: &str = "target:\n  base_url: https://crm.example.com\n  calls:\n    \
        note: {method: POST, path: /notes}\n    charge: {method: POST, path: /charges}\n";

    /// Two calls, of which the second fails; the test's answers to it are `charge`.
    fn charging(on_error: &str, charge: &str, expect: &str) -> tempfile::TempDir {
        let pipeline = format!(
            "input: {{topics: [in]}}\nordering: key\nstages:\n  - id: note\n    http: {{connector: crm, call: note, body: .}}\n  \
             - id: charge\n    http: {{connector: crm, call: charge, body: .}}\n  \
             - map: '.note = %stages.note.body.id'\n  - emit: {{topic: out, key: .k}}\n\
             on_error: {on_error}\ntests:\n  - name: a\n    events: [{{json: {{k: x}}}}]\n    http:\n      \
             - {{connector: crm, call: note, respond: [{{json: {{id: 7}}}}]}}\n      \
             - {{connector: crm, call: charge, respond: [{charge}]}}\n    expect: {expect}\n"
        );
        written(&[
            ("topics/in.yaml", "partitions: 1\n"),
            ("topics/out.yaml", "partitions: 1\n"),
            ("connectors/crm.yaml", CRM),
            ("pipelines/p.yaml", &pipeline),
        ])
    }

    #[tokio::test]
    async fn a_record_comes_back_from_its_tiers_and_asks_only_for_what_is_missing() {
        let policy = "{retry: {attempts: 2}, tiers: [1m, 10m], then: dead_letter}";
        let answers =
            "{status: 503}, {status: 503}, {status: 500}, {status: 503}, {status: 502}, {status: 200}";
        let value = "{records: {out: [{key: x, value: {note: 7}}]}}";
        let passed = reports(charging(policy, answers, value).path()).await;
        assert!(passed[0].passed(), "{passed:?}");
        let never = answers.replace("200", "503");
        let letter = "{outcome: dead_lettered, stage: charge, error: transient}";
        let ended = reports(charging(policy, &never, letter).path()).await;
        assert!(ended[0].passed(), "{ended:?}");
        let refused = reports(charging(policy, "{status: 400}", "{outcome: dead_lettered}").path()).await;
        assert!(refused[0].passed(), "a permanent fault waits for nothing: {refused:?}");
    }
}
