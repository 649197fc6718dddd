//! Brings servers to what the project says: topics, schemas, tables and views. First everything is looked at, then
//! what is missing is done; nothing is ever deleted.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::app::changes::{self, Action, Change, TopicChange};
use crate::app::reach;
use crate::app::servers::Servers;
use crate::kafka::admin::{Admin, Wanted};
use crate::kafka::settings::Connection;
use crate::kafka::tail;
use crate::plan::Plan;
use crate::plan::topics::{Role, TopicSpec};
use crate::postgres::{migrate, pool};
use crate::project;
use crate::project::apply::ApplyError;
use crate::schema::error::SchemaError;
use crate::schema::ledger::{EXECUTION_SCHEMA, KPI_FACT_SCHEMA};
use crate::schema::registry::{Registry, Standing};
use crate::secrets::Secret;
use crate::stages::context::ValueFormat;

/// How long Kafka may take until topics that it has just created can be written.
const SETTLE_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Servers that are to be brought in line; those that are not named are left out.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Kafka.
    pub kafka: Option<Connection>,
    /// Schema registry.
    pub registry: Option<String>,
    /// Postgres.
    pub postgres: Option<Secret>,
    /// Copies of each partition of a new topic; `None` takes the broker's default.
    pub replication: Option<i32>,
}

/// What differs between the project and the servers.
#[derive(Debug, Default)]
pub struct Found {
    topics: Vec<TopicChange>,
    schemas: Vec<(String, String)>,
    needs_postgres: bool,
    /// Every difference, in the order in which it is dealt with.
    pub changes: Vec<Change>,
    /// What was not looked at, and why.
    pub left_out: Vec<String>,
}

impl Found {
    /// Whether the servers are as the project says.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Differences that cannot be mended from here.
    pub fn refused(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.action == Action::Refuse)
    }
}

impl Targets {
    /// Everything that a process works with.
    pub fn of(servers: &Servers) -> Self {
        let Servers {
            kafka,
            registry,
            postgres,
            session_timeout: _,
            instance: _,
            is_static: _,
            memory_budget_bytes: _,
            secrets: _,
        } = servers;
        Self {
            kafka: Some(kafka.clone()),
            registry: registry.clone(),
            postgres: postgres.clone(),
            replication: None,
        }
    }
}

/// Brings the named servers in line, and gives what was done.
///
/// # Errors
/// When something cannot become what the project says (nothing is changed then), or a server fails.
pub async fn bring(plan: &Plan, targets: &Targets) -> anyhow::Result<Vec<Change>> {
    let found = find(plan, targets).await?;
    carry_out(plan, targets, &found).await?;
    Ok(found.changes)
}

/// Looks for differences; changes nothing.
///
/// # Errors
/// When a server cannot be reached or does not answer the questions.
pub async fn find(plan: &Plan, targets: &Targets) -> anyhow::Result<Found> {
    let mut found = Found::default();
    match &targets.kafka {
        Some(connection) => find_topics(plan, connection, &mut found).await?,
        None => found.left_out.push("topics: no Kafka is named (--kafka or MILLRACE_KAFKA)".to_owned()),
    }
    match &targets.registry {
        Some(url) => find_schemas(plan, url, &mut found).await?,
        None => found.left_out.push(
            "schemas: no registry is named (--registry or MILLRACE_REGISTRY); \
             the project's own schemas are used as they are"
                .to_owned(),
        ),
    }
    match &targets.postgres {
        Some(url) => find_tables(plan, url, &mut found).await?,
        None => found
            .left_out
            .push("tables and views: no Postgres is named (--postgres or MILLRACE_POSTGRES)".to_owned()),
    }
    Ok(found)
}

/// Does what [`find`] found.
///
/// # Errors
/// When something is refused (nothing is changed then), or a server fails; what was done before stays, and running
/// it again goes on from there.
pub async fn carry_out(plan: &Plan, targets: &Targets, found: &Found) -> anyhow::Result<()> {
    let refused: Vec<String> =
        found.refused().map(|change| format!("{} {}: {}", change.what, change.name, change.detail)).collect();
    anyhow::ensure!(refused.is_empty(), "nothing was changed: {}", refused.join("; "));
    if let (Some(connection), false) = (&targets.kafka, found.topics.is_empty()) {
        change_topics(connection, targets.replication, &found.topics).await?;
    }
    if let (Some(url), false) = (&targets.registry, found.schemas.is_empty()) {
        let registry = Registry::new(url)?;
        for (subject, schema) in &found.schemas {
            let registered = registry.register(subject, schema).await;
            registered.with_context(|| format!("the schema of subject {subject} cannot be registered"))?;
        }
    }
    if let (Some(url), true) = (&targets.postgres, found.needs_postgres) {
        let pool = pool::lazy(reach::address(url)?, "apply", 1)?;
        migrate::run(&pool).await.context("the database cannot be migrated")?;
        project::apply::run(&pool, &plan.kpis, &plan.tables)
            .await
            .context("the database cannot follow the project; nothing of its tables was changed")?;
        pool.close().await;
    }
    Ok(())
}

/// A topic as Kafka's administration wants it.
pub fn wanted(topic: &TopicSpec) -> Wanted {
    Wanted {
        name: topic.name.to_string(),
        partitions: i32::try_from(topic.partitions.get()).unwrap_or(i32::MAX),
        settings: topic.settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
    }
}

/// Subjects and schemas of all topics with Avro values, the ledger's among them.
pub fn subjects(plan: &Plan) -> Vec<(String, String)> {
    let own = |topic: &TopicSpec| match (&topic.value, topic.role) {
        (ValueFormat::Avro { schema }, _) => Some(schema.to_string()),
        (_, Role::Executions) => Some(EXECUTION_SCHEMA.to_owned()),
        (_, Role::KpiFacts) => Some(KPI_FACT_SCHEMA.to_owned()),
        _ => None,
    };
    plan.topics.iter().filter_map(|topic| Some((format!("{}-value", topic.name), own(topic)?))).collect()
}

async fn find_topics(plan: &Plan, connection: &Connection, found: &mut Found) -> anyhow::Result<()> {
    reach::kafka(connection).await?;
    let names: Vec<&str> = plan.topics.iter().map(|topic| &*topic.name).collect();
    let existing =
        Admin::new(connection)?.describe(&names).await.context("the topics cannot be looked at")?;
    for topic in &plan.topics {
        let mut wanted = wanted(topic);
        if let Some(mirrored) = topic.mirrors.as_deref().and_then(|mirrored| existing.get(mirrored)) {
            // Also when somebody has given the input more partitions than its file says.
            wanted.partitions = wanted.partitions.max(mirrored.partitions);
        }
        let change = changes::topic(wanted, topic.role, existing.get(&*topic.name));
        found.changes.extend(change.lines());
        if !change.is_empty() {
            found.topics.push(change);
        }
    }
    Ok(())
}

async fn find_schemas(plan: &Plan, url: &str, found: &mut Found) -> anyhow::Result<()> {
    let registry = Registry::new(url)?;
    for (subject, schema) in subjects(plan) {
        let standing = registry.standing(&subject, &schema).await.map_err(|error| match error {
            SchemaError::Unavailable { message } => anyhow::Error::new(reach::registry(url, message)),
            other => anyhow::Error::new(other).context(format!("subject {subject} cannot be looked at")),
        })?;
        if let Some(change) = changes::schema(&subject, standing) {
            found.changes.push(change);
        }
        if matches!(standing, Standing::Missing | Standing::Newer) {
            found.schemas.push((subject, schema));
        }
    }
    Ok(())
}

async fn find_tables(plan: &Plan, url: &Secret, found: &mut Found) -> anyhow::Result<()> {
    reach::postgres(url).await?;
    let pool = pool::lazy(reach::address(url)?, "apply", 1)?;
    let before = found.changes.len();
    for migration in migrate::pending(&pool).await.context("the migrations cannot be looked at")? {
        found.changes.push(Change::new("migration", &migration, Action::Create, "not run yet"));
    }
    match project::apply::preview(&pool, &plan.tables).await {
        Ok(statements) => found.changes.extend(statements.iter().map(|statement| changes::table(statement))),
        Err(ApplyError::Refused(error)) => {
            found.changes.push(Change::new("table", "-", Action::Refuse, &error.to_string()));
        }
        Err(error) => return Err(anyhow::Error::new(error).context("the tables cannot be looked at")),
    }
    match project::inspect::changed_definitions(&pool, &plan.kpis).await {
        Ok(changed) => {
            let kpi = |(name, detail): &(String, String)| Change::new("kpi", name, Action::Change, detail);
            found.changes.extend(changed.iter().map(kpi));
        }
        // Said below, with the views.
        Err(ApplyError::Refused(_)) => {}
        Err(error) => return Err(anyhow::Error::new(error).context("the KPIs cannot be looked at")),
    }
    match project::inspect::missing_views(&pool, &plan.kpis).await {
        Ok(views) => {
            let view = |view: &String| Change::new("view", view, Action::Create, "of a KPI");
            found.changes.extend(views.iter().map(view));
        }
        Err(ApplyError::Refused(error)) => {
            found.changes.push(Change::new("view", "-", Action::Refuse, &error.to_string()));
        }
        Err(error) => return Err(anyhow::Error::new(error).context("the views cannot be looked at")),
    }
    pool.close().await;
    found.needs_postgres = found.changes.len() > before;
    Ok(())
}

async fn change_topics(
    connection: &Connection,
    replication: Option<i32>,
    topics: &[TopicChange],
) -> anyhow::Result<()> {
    let admin = Admin::new(connection)?;
    let new: Vec<Wanted> =
        topics.iter().filter(|topic| topic.is_missing).map(|topic| topic.wanted.clone()).collect();
    admin.create(&new, replication).await?;
    for topic in topics.iter().filter(|topic| !topic.is_missing) {
        if topic.grows_from.is_some() {
            admin.grow(&topic.wanted.name, topic.wanted.partitions).await?;
        }
        let values: BTreeMap<String, String> =
            topic.settings.iter().map(|(name, _, wanted)| (name.clone(), wanted.clone())).collect();
        if !values.is_empty() {
            admin.set(&topic.wanted.name, &values).await?;
        }
    }
    settle(&admin, connection, topics).await
}

/// Brokers learn of new topics one after the other, and leaders that they are; who comes next should find both.
async fn settle(admin: &Admin, connection: &Connection, topics: &[TopicChange]) -> anyhow::Result<()> {
    let wait = async {
        loop {
            let cluster = admin.cluster().await?;
            let is_there = |topic: &TopicChange| {
                cluster.topics.get(&topic.wanted.name).is_some_and(|is| *is >= topic.wanted.partitions)
            };
            if topics.iter().all(is_there) && are_led(connection, topics).await? {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(SETTLE_MAX, wait).await {
        Ok(settled) => settled,
        Err(_) => anyhow::bail!(
            "Kafka has not made the new topics ready within {} s; look at its log, then run `millrace apply` again",
            SETTLE_MAX.as_secs()
        ),
    }
}

async fn are_led(connection: &Connection, topics: &[TopicChange]) -> anyhow::Result<bool> {
    let connection = connection.clone();
    let names: Vec<(String, i32)> =
        topics.iter().map(|topic| (topic.wanted.name.to_string(), topic.wanted.partitions)).collect();
    Ok(tokio::task::spawn_blocking(move || tail::are_led(&connection, &names)).await??)
}
