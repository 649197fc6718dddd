//! Values for secrets that a project names and nobody has set, for one process on one machine: so that a project can be
//! tried before its accounts exist. Real senders and destinations do not know them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::connector::Connector;
use crate::config::project::{Project, Thing};
use crate::connectors::target::BaseUrl;
use crate::connectors::verify::Scheme;
use crate::secrets::{Place, Secret, SecretRef, Secrets};

/// A value for each secret that `project` needs and this environment does not have; those of `before` are kept.
/// Addresses are not made up: a call must not go to a place that nobody named.
pub fn missing(project: &Project, before: &Secrets) -> Secrets {
    let mut values = BTreeMap::new();
    for connector in project.connectors.values() {
        for name in needed(connector) {
            if std::env::var_os(&name).is_some() {
                continue;
            }
            let known = before.made_up().get(&name).cloned();
            values.insert(name, known.unwrap_or_else(|| value(connector)));
        }
    }
    Secrets::with_made_up(values)
}

/// Environment variables without which the connector cannot be used.
fn needed(connector: &Thing<Connector>) -> Vec<String> {
    let base_url = connector.value.target.as_ref().map(|target| &target.base_url);
    let is_address = |secret: &SecretRef| matches!(base_url, Some(BaseUrl::Reference(url)) if url == secret);
    let secrets = SecretRef::all_in(&connector.node).into_iter().map(|(secret, _)| secret);
    secrets
        .filter(|secret| !secret.optional && !is_address(secret))
        .filter_map(|secret| match secret.place {
            Place::Env(name) => Some(name),
            Place::File(_) => None,
        })
        .collect()
}

/// Fits every scheme: Standard Webhooks wants base64 after its prefix, Basic a user and a password, others any text.
fn value(connector: &Thing<Connector>) -> Secret {
    let random = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
    let is_basic =
        connector.value.source.as_ref().is_some_and(|source| source.verify.scheme == Scheme::Basic);
    Secret::new(if is_basic {
        format!("dev:{}", hex::encode(random))
    } else {
        format!("whsec_{}", STANDARD.encode(random))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::project;
    use crate::yaml::lint::Lints;

    fn project(connectors: &[(&str, &str)]) -> Project {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("connectors")).expect("the folder can be written");
        for (name, text) in connectors {
            let path = folder.path().join(format!("connectors/{name}.yaml"));
            std::fs::write(path, text).expect("the folder can be written");
        }
        let mut lints = Lints::default();
        let project = project::load(folder.path(), &mut lints).expect("the folder can be read");
        assert!(lints.0.is_empty(), "{:?}", lints.0);
        project
    }

    #[test]
    fn what_is_needed_and_not_set_is_made_up() {
        let project = project(&[
            (
                "door",
                "source: {verify: {scheme: basic, secrets: [{env: MILLRACE_TEST_DOOR}]}, topic: events.door}\n",
            ),
            (
                "crm",
                "source:\n  verify: {scheme: github, secrets: [{env: MILLRACE_TEST_HUB}, {env: MILLRACE_TEST_OLD, optional: true}]}\n  topic: events.crm\n\
                 target:\n  base_url: {env: MILLRACE_TEST_URL}\n  auth: {bearer: {env: PATH}}\n  calls: {}\n",
            ),
        ]);
        let secrets = missing(&project, &Secrets::default());
        let names: Vec<_> = secrets.made_up().keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["MILLRACE_TEST_DOOR", "MILLRACE_TEST_HUB"],
            "no address, nothing optional, nothing set"
        );
        let door = secrets.made_up()["MILLRACE_TEST_DOOR"].expose();
        assert!(door.starts_with(b"dev:"), "a user and a password");
        assert_eq!(missing(&project, &secrets).made_up(), secrets.made_up(), "a reload changes none");
    }
}
