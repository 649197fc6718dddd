//! Differences between the project and the servers, in words. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use crate::kafka::admin::{self, Difference, Existing, Wanted};
use crate::plan::topics::Role;
use crate::schema::registry::Standing;

/// What is to be done about a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Something is made that is not there.
    Create,
    /// Something that is there is changed.
    Change,
    /// It cannot be done from here.
    Refuse,
}

/// A difference.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Change {
    /// `topic`, `schema`, `migration`, `table`, `kpi`, `view`.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// What is to be done.
    pub action: Action,
    /// What exactly, and what follows from it.
    pub detail: String,
}

impl Change {
    /// A difference in words.
    pub fn new(what: &'static str, name: &str, action: Action, detail: &str) -> Self {
        Self { what, name: name.to_owned(), action, detail: detail.to_owned() }
    }

    /// The sign before its line.
    pub fn sign(&self) -> char {
        match self.action {
            Action::Create => '+',
            Action::Change => '~',
            Action::Refuse => '!',
        }
    }
}

/// What is to be done about one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicChange {
    /// As it should be.
    pub wanted: Wanted,
    /// Whether it is to be created.
    pub is_missing: bool,
    /// Partitions it has, when it gets more.
    pub grows_from: Option<i32>,
    /// Settings to change: name, value it has, value it should have.
    pub settings: Vec<(String, Option<String>, String)>,
    /// Partitions it has, when it has more than a file in `topics/` says.
    pub shrinks_from: Option<i32>,
}

/// Holds a topic against what the cluster has.
pub fn topic(wanted: Wanted, role: Role, existing: Option<&Existing>) -> TopicChange {
    let mut change =
        TopicChange { wanted, is_missing: false, grows_from: None, settings: Vec::new(), shrinks_from: None };
    for difference in admin::compare(&change.wanted, existing) {
        match difference {
            Difference::Missing => change.is_missing = true,
            Difference::FewerPartitions { is, wanted: _ } => change.grows_from = Some(is),
            Difference::Setting { name, is, wanted } => change.settings.push((name, is, wanted)),
        }
    }
    let has = existing.map_or(0, |existing| existing.partitions);
    // Nobody writes down how many partitions Millrace's own topics have; more than its default is somebody's choice.
    if role == Role::Declared && has > change.wanted.partitions {
        change.shrinks_from = Some(has);
    }
    change
}

impl TopicChange {
    /// Whether the topic is as it should be.
    pub fn is_empty(&self) -> bool {
        let Self { wanted: _, is_missing, grows_from, settings, shrinks_from } = self;
        !is_missing && grows_from.is_none() && settings.is_empty() && shrinks_from.is_none()
    }

    /// In words.
    pub fn lines(&self) -> Vec<Change> {
        let Self { wanted, is_missing, grows_from, settings, shrinks_from } = self;
        let name = &wanted.name;
        if *is_missing {
            let mut detail = count(wanted.partitions);
            for (key, value) in &wanted.settings {
                _ = write!(detail, ", {key}={value}");
            }
            return vec![Change::new("topic", name, Action::Create, &detail)];
        }
        let mut lines = Vec::new();
        if let Some(has) = shrinks_from {
            let detail = format!(
                "has {}, topics/{name}.yaml says {}: Kafka cannot take partitions away; \
                 write `partitions: {has}`, or use a topic of another name",
                count(*has),
                wanted.partitions
            );
            lines.push(Change::new("topic", name, Action::Refuse, &detail));
        }
        if let Some(has) = grows_from {
            let detail = format!(
                "partitions: {has} -> {}; keys move to other partitions, so records of one key from before and after \
                 are not in order",
                wanted.partitions
            );
            lines.push(Change::new("topic", name, Action::Change, &detail));
        }
        for (key, is, wanted) in settings {
            let detail = format!("{key}: {} -> {wanted}", is.as_deref().unwrap_or("(unknown)"));
            lines.push(Change::new("topic", name, Action::Change, &detail));
        }
        lines
    }
}

fn count(partitions: i32) -> String {
    if partitions == 1 { "1 partition".to_owned() } else { format!("{partitions} partitions") }
}

/// What is to be done about a schema.
pub fn schema(subject: &str, standing: Standing) -> Option<Change> {
    let (action, detail) = match standing {
        Standing::Same => return None,
        Standing::Missing => (Action::Create, "first version"),
        Standing::Newer => (Action::Change, "new version"),
        Standing::Incompatible => (
            Action::Refuse,
            "the registry would refuse it: records of earlier versions could not be read with it; \
             give new fields a default and keep the types of the others, or use a topic of another name",
        ),
    };
    Some(Change::new("schema", subject, action, detail))
}

/// What a statement does to a table.
pub fn table(statement: &str) -> Change {
    let mut quoted = statement.split('"');
    let name = quoted.nth(1).unwrap_or("-");
    let rest = || statement.split_once(&format!("\"{name}\" ")).map_or(statement, |(_, rest)| rest).trim();
    if statement.starts_with("create table") {
        Change::new("table", name, Action::Create, "kept of its topic")
    } else {
        Change::new("table", name, Action::Change, rest())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn wanted(partitions: i32) -> Wanted {
        let settings = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
        Wanted { name: "leads".to_owned(), partitions, settings }
    }

    fn existing(partitions: i32, retention: &str) -> Existing {
        let settings = BTreeMap::from([("retention.ms".to_owned(), retention.to_owned())]);
        Existing { partitions, replication: 1, settings }
    }

    fn text(change: &TopicChange) -> Vec<String> {
        let line = |line: &Change| format!("{} {} {}", line.sign(), line.name, line.detail);
        change.lines().iter().map(line).collect()
    }

    #[test]
    fn a_topic_that_is_as_it_should_be_is_no_change() {
        let change = topic(wanted(3), Role::Declared, Some(&existing(3, "1000")));
        assert!(change.is_empty() && change.lines().is_empty());
    }

    #[test]
    fn a_missing_topic_is_created_with_all_that_matters() {
        let change = topic(wanted(3), Role::Declared, None);
        assert_eq!(text(&change), ["+ leads 3 partitions, retention.ms=1000"]);
    }

    #[test]
    fn growth_and_settings_are_changed_and_what_growth_means_is_said() {
        let change = topic(wanted(6), Role::Declared, Some(&existing(3, "50")));
        let lines = text(&change);
        assert!(lines[0].starts_with("~ leads partitions: 3 -> 6; keys move"), "{lines:?}");
        assert_eq!(lines[1], "~ leads retention.ms: 50 -> 1000");
    }

    #[test]
    fn fewer_partitions_are_refused_for_declared_topics_only() {
        let change = topic(wanted(3), Role::Declared, Some(&existing(12, "1000")));
        assert_eq!(change.lines()[0].action, Action::Refuse);
        assert!(text(&change)[0].contains("write `partitions: 12`"));
        assert!(topic(wanted(3), Role::DeadLetter, Some(&existing(12, "1000"))).is_empty());
    }

    #[test]
    fn statements_are_told_by_table() {
        let create = table("create table \"leads\" (\n    \"id\" text not null)");
        assert_eq!((create.name.as_str(), create.action), ("leads", Action::Create));
        let alter = table("alter table \"leads\" add column \"note\" text");
        assert_eq!((alter.action, alter.detail.as_str()), (Action::Change, "add column \"note\" text"));
    }
}
