//! For each source of a project a command that gives it an event: `curl` where a header proves who calls, `millrace
//! send` where the body is signed.

use std::path::Path;

use crate::config::project::Project;
use crate::config::test_case::{BodyConfig, EventConfig};
use crate::connectors::verify::Scheme;
use crate::plan::Plan;
use crate::plan::sources::PlannedSource;
use crate::secrets::{Place, SecretRef, Secrets};

/// Longest body that is shown; one that is longer is replaced by a short one.
const BODY_CHARACTERS_MAX: usize = 200;

/// What the commands have to name.
#[derive(Clone, Copy, Debug)]
pub struct Addresses<'a> {
    /// The endpoint.
    pub endpoint: &'a str,
    /// Kafka.
    pub kafka: &'a str,
    /// Folder of the project, as it was typed.
    pub folder: &'a Path,
    /// Secrets, some of them made up.
    pub secrets: &'a Secrets,
}

/// A command for each source: name of the connector, command.
pub fn of(project: &Project, plan: &Plan, addresses: Addresses<'_>) -> Vec<(String, String)> {
    let example = |(name, source): (&String, &PlannedSource)| {
        let topic = source.config.topic.value.as_str();
        let event = example_event(project, topic);
        (name.clone(), command(name, source, event, &types(plan, topic), addresses))
    };
    plan.sources.iter().map(example).collect()
}

fn command(
    connector: &str,
    source: &PlannedSource,
    event: Option<&EventConfig>,
    kind: &str,
    addresses: Addresses<'_>,
) -> String {
    let secret = source.config.verify.secrets.first().map(|secret| shell_secret(secret, addresses.secrets));
    let secret = secret.unwrap_or_default();
    let proof = match &source.config.verify.scheme {
        Scheme::ApiKey { header, prefix } => format!(" -H \"{header}: {prefix}{secret}\""),
        Scheme::Basic => format!(" -u \"{secret}\""),
        Scheme::None => String::new(),
        Scheme::Stripe { .. }
        | Scheme::HubSpot { .. }
        | Scheme::StandardWebhooks { .. }
        | Scheme::GitHub
        | Scheme::Hmac(_) => return send(&source.config.topic.value, event, kind, addresses),
    };
    let Addresses { endpoint, folder, .. } = addresses;
    let body = match body(event, folder) {
        Body::File(path) => format!("-d {}", quoted(&format!("@{path}"))),
        Body::Text(text) => format!("-d {}", quoted(&text)),
    };
    format!("curl -i {endpoint}/hooks/{connector}{proof} -H 'content-type: application/json' {body}")
}

fn send(topic: &str, event: Option<&EventConfig>, kind: &str, addresses: Addresses<'_>) -> String {
    let Addresses { kafka, folder, .. } = addresses;
    let mut command = format!("millrace send {topic} --kafka {kafka}");
    if folder != Path::new(".") {
        command.push_str(&format!(" --project {}", quoted(&folder.display().to_string())));
    }
    let kind = event.and_then(|event| event.kind.as_deref()).unwrap_or(kind);
    if !kind.is_empty() {
        command.push_str(&format!(" --type {}", quoted(kind)));
    }
    if let Some(key) = event.and_then(|event| event.key.as_deref()) {
        command.push_str(&format!(" --key {}", quoted(key)));
    }
    command.push_str(&match body(event, folder) {
        Body::File(path) => format!(" --file {}", quoted(&path)),
        Body::Text(text) => format!(" --json {}", quoted(&text)),
    });
    command
}

enum Body {
    File(String),
    Text(String),
}

fn body(event: Option<&EventConfig>, folder: &Path) -> Body {
    match event.map(|event| &event.body) {
        Some(BodyConfig::File(path)) => Body::File(folder.join(&path.value).display().to_string()),
        Some(BodyConfig::Json(json)) if json.to_string().len() <= BODY_CHARACTERS_MAX => {
            Body::Text(json.to_string())
        }
        _ => Body::Text(String::from("{\"id\": \"1\"}")),
    }
}

/// The first event of the tests of a pipeline that reads `topic`: what its author thinks of as usual.
fn example_event<'a>(project: &'a Project, topic: &str) -> Option<&'a EventConfig> {
    let reads = |event: &EventConfig, first: Option<&str>| match &event.topic {
        Some(own) => own.value == topic,
        None => first == Some(topic),
    };
    project.pipelines.values().find_map(|pipeline| {
        let first = pipeline.value.input.topics.first().map(|topic| topic.value.as_str());
        pipeline.value.tests.iter().flat_map(|test| &test.events).find(|event| reads(event, first))
    })
}

/// A type that a pipeline takes from `topic`; nothing when all are taken.
fn types(plan: &Plan, topic: &str) -> String {
    use crate::plan::pipeline::TypePattern;
    let readers = plan.pipelines.iter().filter(|pipeline| pipeline.topics.iter().any(|own| &**own == topic));
    let named = readers.flat_map(|pipeline| &pipeline.types).map(|pattern| match pattern {
        TypePattern::Exact(exact) => exact.to_string(),
        TypePattern::Prefix(prefix) => format!("{prefix}example"),
    });
    named.into_iter().next().unwrap_or_default()
}

/// A secret within double quotes: its value when it was made up, else where the shell finds it.
fn shell_secret(reference: &SecretRef, secrets: &Secrets) -> String {
    match (secrets.made_up_for(reference), &reference.place) {
        (Some(made_up), _) => String::from_utf8_lossy(made_up.expose()).into_owned(),
        (None, Place::Env(name)) => format!("${name}"),
        (None, Place::File(path)) => format!("$(cat {})", path.display()),
    }
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::project;
    use crate::ledger::Namespace;
    use crate::plan::compile::compile;
    use crate::secrets::Secret;
    use crate::yaml::lint::Lints;

    #[test]
    fn a_command_for_each_source() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be written");
            std::fs::write(path, text).expect("the folder can be written");
        };
        let source =
            |verify: &str, topic: &str| format!("source:\n  verify: {{{verify}}}\n  topic: {topic}\n");
        write(
            "connectors/door.yaml",
            &source("scheme: api-key, secrets: [{env: MILLRACE_TEST_DOOR}]", "events.door"),
        );
        write("connectors/shop.yaml", &source("scheme: github, secrets: [{env: PATH}]", "events.shop"));
        write("connectors/till.yaml", &source("scheme: basic, secrets: [{env: PATH}]", "events.door"));
        for topic in ["events.door", "events.shop"] {
            write(&format!("topics/{topic}.yaml"), "partitions: 1\nvalue: {format: json}\n");
        }
        write("fixtures/order.json", "{}");
        write(
            "pipelines/orders.yaml",
            "input: {topics: [events.shop], types: [order.made]}\nstages: [{id: all, filter: true}]\n\
             tests:\n  - {name: one, events: [{file: fixtures/order.json, key: it's}], expect: {outcome: succeeded}}\n",
        );
        write(
            "pipelines/rings.yaml",
            "input: {topics: [events.door]}\nstages: [{id: all, filter: true}]\n\
             tests:\n  - {name: one, events: [{json: {who: Ada}}], expect: {outcome: succeeded}}\n",
        );
        let mut lints = Lints::default();
        let project = project::load(root.path(), &mut lints).expect("the folder can be read");
        let plan = compile(&project, &Namespace::default(), &mut lints);
        let plan = plan.unwrap_or_else(|| panic!("{:?}", lints.0));
        let made_up = BTreeMap::from([(String::from("MILLRACE_TEST_DOOR"), Secret::new("s3"))]);
        let secrets = Secrets::with_made_up(made_up);
        let addresses = Addresses {
            endpoint: "http://127.0.0.1:8080",
            kafka: "127.0.0.1:9092",
            folder: Path::new("my shop"),
            secrets: &secrets,
        };
        let commands: Vec<String> =
            of(&project, &plan, addresses).into_iter().map(|(_, command)| command).collect();
        expect_test::expect![[r#"
            curl -i http://127.0.0.1:8080/hooks/door -H "x-api-key: s3" -H 'content-type: application/json' -d '{"who":"Ada"}'
            millrace send events.shop --kafka 127.0.0.1:9092 --project 'my shop' --type order.made --key 'it'\''s' --file 'my shop/fixtures/order.json'
            curl -i http://127.0.0.1:8080/hooks/till -u "$PATH" -H 'content-type: application/json' -d '{"who":"Ada"}'
        "#]]
        .assert_eq(&format!("{}\n", commands.join("\n")));
    }
}
