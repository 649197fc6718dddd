//! Topics that were named on the command line, and reading them.

use std::time::Duration;

use crate::app::reach;
use crate::app::values::Values;
use crate::cli::args::Common;
use crate::cli::{Exit, check, ends, roles};
use crate::kafka::settings::Connection;
use crate::kafka::tail::{Begin, End, Tail};
use crate::plan::Plan;
use crate::record::InRecord;
use crate::yaml::lint::nearest;

/// How long a read waits before it looks whether the end is reached.
const WAIT: Duration = Duration::from_millis(500);

/// A reachable Kafka that has the topic `name`.
///
/// # Errors
/// When Kafka cannot be reached, or has no such topic.
pub fn existing(common: &Common, name: &str) -> anyhow::Result<Connection> {
    let connection = roles::connection(common)?;
    let cluster = roles::block_on(reach::kafka(&connection))?;
    if cluster.topics.contains_key(name) {
        return Ok(connection);
    }
    let help = match nearest(name, cluster.topics.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`millrace apply` creates the topics of the project".to_owned(),
    };
    Err(ends(Exit::Usage, format!("there is no topic `{name}` in the cluster; {help}")))
}

/// The project's plan, when there is one without errors: verbs that only read do not need it.
pub fn plan_if_any(common: &Common) -> Option<Plan> {
    let namespace = check::namespace(common).ok()?;
    check::load(&common.project, &namespace).ok()?.plan
}

/// Reads values of this project.
///
/// # Errors
/// When no client of the registry can be made.
pub fn values(common: &Common, plan: Option<&Plan>) -> anyhow::Result<Values> {
    Values::new(plan, common.registry.as_deref().filter(|url| !url.is_empty()))
}

/// Every record that is in `topic` now, from the oldest on; nothing when there is no such topic.
///
/// # Errors
/// When Kafka cannot be read.
pub fn scan(connection: &Connection, topic: &str, mut take: impl FnMut(InRecord)) -> anyhow::Result<()> {
    let mut tail = Tail::open(connection, topic, Begin::Oldest, End::AsOfNow)?;
    let mut records = Vec::new();
    while tail.read(WAIT, &mut records)? {
        records.drain(..).for_each(&mut take);
    }
    Ok(())
}

/// The first record of `topic` from `begin` on that is there now.
///
/// # Errors
/// When Kafka cannot be read.
pub fn first(connection: &Connection, topic: &str, begin: Begin) -> anyhow::Result<Option<InRecord>> {
    let mut tail = Tail::open(connection, topic, begin, End::AsOfNow)?;
    let mut records = Vec::new();
    while records.is_empty() && tail.read(WAIT, &mut records)? {}
    Ok(records.into_iter().next())
}
