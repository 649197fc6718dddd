//! How far each consumer group of a project is behind.

use std::collections::BTreeSet;

use anyhow::Context as _;

use crate::kafka::admin::{Admin, GroupPosition};
use crate::kafka::settings::Connection;
use crate::plan::Plan;
use crate::plan::pipeline::Group;

/// A consumer group and the topics it reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Id of the group.
    pub group: String,
    /// Its topics, sorted.
    pub topics: Vec<String>,
}

/// Every group of the project: those of its pipelines, and the projector's.
pub fn groups(plan: &Plan) -> Vec<Reading> {
    let mut groups: Vec<Reading> = plan.groups.iter().map(reading).collect();
    let own = [plan.namespace.executions_topic(), plan.namespace.kpi_facts_topic()];
    let tables = plan.tables.iter().map(|table| table.topic.to_string());
    let topics: BTreeSet<String> = own.iter().map(ToString::to_string).chain(tables).collect();
    groups.push(Reading {
        group: plan.namespace.name("project").to_string(),
        topics: topics.into_iter().collect(),
    });
    groups
}

/// A group of pipelines: its inputs, and the topics by which records come back to it.
pub fn reading(group: &Group) -> Reading {
    let companions = group.pipelines.iter().flat_map(|pipeline| &pipeline.companions);
    let companions = companions.flat_map(|own| own.topics());
    let topics: BTreeSet<String> = group.topics.iter().chain(companions).map(ToString::to_string).collect();
    Reading { group: group.id.to_string(), topics: topics.into_iter().collect() }
}

/// Where a group stands in each partition of its topics, sorted.
///
/// # Errors
/// When Kafka does not answer.
pub async fn positions(connection: &Connection, reading: &Reading) -> anyhow::Result<Vec<GroupPosition>> {
    let topics: Vec<&str> = reading.topics.iter().map(String::as_str).collect();
    let admin = Admin::new(connection).context("Kafka's client cannot be made")?;
    let positions = admin.positions(&reading.group, &topics).await;
    let mut positions =
        positions.with_context(|| format!("the position of group {} cannot be read", reading.group))?;
    positions.sort_by(|left, right| left.partition.cmp(&right.partition));
    Ok(positions)
}
