//! What is wrong with the servers, and how to mend it.

use std::time::Duration;

use serde::Serialize;

use crate::app::apply::{self, Found, Targets};
use crate::app::changes::Action;
use crate::app::{lag, reach};
use crate::kafka::settings::Connection;
use crate::plan::Plan;
use crate::secrets::Secret;

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A group that is so far behind deserves a look.
const LAG_MAX: i64 = 10_000;
/// A clock that is so far off, in seconds, makes windows and signatures doubtful.
const SKEW_MAX: f64 = 2.0;

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Fine.
    Ok,
    /// Worth a look.
    Warn,
    /// Wrong.
    Fail,
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do; empty when nothing.
    pub help: String,
    /// Whether it failed because a server could not be reached.
    pub unreachable: bool,
}

impl Check {
    /// A check that ended with `status`.
    pub fn new(name: &str, status: Status, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status, detail: detail.into(), help: help.into(), unreachable: false }
    }

    /// A check that could not be made.
    fn failed(name: &str, error: &anyhow::Error) -> Self {
        let unreachable = error.chain().find_map(|cause| cause.downcast_ref::<reach::Unreachable>());
        let (detail, help) = match unreachable {
            Some(error) => {
                (format!("{} at {}: {}", error.server, error.address, error.reason), error.help.clone())
            }
            None => (crate::telemetry::logs::chain(error.as_ref()), String::new()),
        };
        Self { unreachable: unreachable.is_some(), ..Self::new(name, Status::Fail, detail, help) }
    }
}

/// Looks at every server of `targets`, and tells each check as it ends.
pub async fn run(plan: &Plan, targets: &Targets, tell: &mut impl FnMut(Check)) {
    match &targets.kafka {
        Some(connection) => kafka(plan, connection, targets, tell).await,
        None => {
            let help = "give --kafka HOST:PORT or MILLRACE_KAFKA";
            tell(Check::new("kafka", Status::Fail, "no Kafka is named", help));
        }
    }
    match &targets.registry {
        Some(_) => {
            let only = Targets { registry: targets.registry.clone(), ..Targets::default() };
            tell(differences("registry", plan, &only, "schemas are as the project says").await);
        }
        None => {
            let detail = "no registry is named; the project's own schemas are used";
            tell(Check::new("registry", Status::Ok, detail, ""));
        }
    }
    match &targets.postgres {
        Some(url) => postgres(plan, url, tell).await,
        None => {
            let help = "give --postgres URL or MILLRACE_POSTGRES; `millrace project` needs it";
            tell(Check::new("postgres", Status::Warn, "no Postgres is named", help));
        }
    }
}

async fn kafka(plan: &Plan, connection: &Connection, targets: &Targets, tell: &mut impl FnMut(Check)) {
    match reach::kafka(connection).await {
        Ok(cluster) => {
            let brokers: Vec<&str> = cluster.brokers.values().map(String::as_str).collect();
            let count =
                if brokers.len() == 1 { "1 broker".to_owned() } else { format!("{} brokers", brokers.len()) };
            let detail = format!("{count}: {}", brokers.join(", "));
            tell(Check::new("kafka", Status::Ok, detail, ""));
        }
        Err(error) => return tell(Check::failed("kafka", &error)),
    }
    let only = Targets { kafka: targets.kafka.clone(), ..Targets::default() };
    tell(differences("topics", plan, &only, "topics are as the project says").await);
    for reading in lag::groups(plan) {
        let name = format!("group {}", reading.group);
        let check = match in_time(lag::positions(connection, &reading)).await {
            Ok(positions) => {
                let lags: Vec<(bool, i64)> =
                    positions.iter().map(|position| (position.committed.is_some(), position.lag())).collect();
                group(&name, &lags)
            }
            Err(error) => Check::failed(&name, &error),
        };
        tell(check);
    }
}

/// What the lags of a group's partitions mean; each with whether anything was committed.
fn group(name: &str, lags: &[(bool, i64)]) -> Check {
    let lag: i64 = lags.iter().map(|(_, lag)| lag).sum();
    let has_begun = lags.iter().any(|(is_committed, _)| *is_committed);
    let detail = format!("{lag} behind in {} partitions", lags.len());
    match (has_begun, lag) {
        (false, 0) => Check::new(name, Status::Ok, "has read nothing yet, and nothing waits", ""),
        (false, lag) => {
            let detail = format!("has read nothing yet, and {lag} records wait");
            Check::new(name, Status::Warn, detail, "start its role: `millrace up`, `worker` or `project`")
        }
        (true, lag) if lag > LAG_MAX => {
            let help = "is its role running? `millrace lag` shows each partition, the role's log and metrics tell why";
            Check::new(name, Status::Warn, detail, help)
        }
        (true, _) => Check::new(name, Status::Ok, detail, ""),
    }
}

async fn postgres(plan: &Plan, url: &Secret, tell: &mut impl FnMut(Check)) {
    match reach::postgres(url).await {
        Ok((version, ahead)) => {
            tell(Check::new("postgres", Status::Ok, format!("version {version}"), ""));
            tell(clock(ahead));
        }
        Err(error) => return tell(Check::failed("postgres", &error)),
    }
    let only = Targets { postgres: Some(url.clone()), ..Targets::default() };
    tell(differences("tables", plan, &only, "tables and views are as the project says").await);
}

/// What it means that the clock of Postgres is `ahead` seconds ahead of ours.
fn clock(ahead: f64) -> Check {
    if ahead.abs() <= SKEW_MAX {
        return Check::new(
            "clock",
            Status::Ok,
            format!("{:.0} ms from that of Postgres", ahead.abs() * 1000.0),
            "",
        );
    }
    let word = if ahead > 0.0 { "behind" } else { "ahead of" };
    let detail = format!("{:.1} s {word} that of Postgres", ahead.abs());
    Check::new(
        "clock",
        Status::Warn,
        detail,
        "run NTP on both: signatures and KPI windows depend on the time",
    )
}

/// One check of all that `apply` would change on the servers of `targets`.
async fn differences(name: &str, plan: &Plan, targets: &Targets, fine: &str) -> Check {
    match in_time(apply::find(plan, targets)).await {
        Ok(found) => differing(name, &found, fine),
        Err(error) => Check::failed(name, &error),
    }
}

fn differing(name: &str, found: &Found, fine: &str) -> Check {
    let words = |actions: &[Action]| -> Vec<String> {
        let meant = found.changes.iter().filter(|change| actions.contains(&change.action));
        meant.map(|change| format!("{} {}", change.what, change.name)).collect()
    };
    let refused: Vec<String> =
        found.refused().map(|change| format!("{} {}: {}", change.what, change.name, change.detail)).collect();
    let (missing, changed) = (words(&[Action::Create]), words(&[Action::Change]));
    if !refused.is_empty() {
        return Check::new(name, Status::Fail, refused.join("; "), "`millrace plan` shows all differences");
    }
    if !missing.is_empty() {
        let detail = format!("missing: {}", missing.join(", "));
        return Check::new(name, Status::Fail, detail, "run `millrace apply`");
    }
    if !changed.is_empty() {
        let detail = format!("not as the project says: {}", changed.join(", "));
        return Check::new(
            name,
            Status::Warn,
            detail,
            "`millrace plan` shows it, `millrace apply` changes it",
        );
    }
    Check::new(name, Status::Ok, fine, "")
}

async fn in_time<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result,
        Err(_) => anyhow::bail!("no answer within {} s", PATIENCE.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::changes::Change;

    #[test]
    fn what_is_missing_fails_and_what_differs_warns() {
        let mut found = Found::default();
        assert_eq!(differing("topics", &found, "fine").status, Status::Ok);
        found.changes.push(Change::new("topic", "leads", Action::Change, "retention.ms: 1 -> 2"));
        assert_eq!(differing("topics", &found, "fine").status, Status::Warn);
        found.changes.push(Change::new("topic", "payments", Action::Create, "3 partitions"));
        let check = differing("topics", &found, "fine");
        assert_eq!((check.status, check.detail.as_str()), (Status::Fail, "missing: topic payments"));
        assert!(check.help.contains("millrace apply"));
        found.changes.push(Change::new("topic", "greetings", Action::Refuse, "has 5 partitions"));
        assert!(differing("topics", &found, "fine").detail.contains("has 5 partitions"));
    }

    #[test]
    fn a_group_that_never_began_is_told_from_one_that_is_slow() {
        assert_eq!(group("g", &[(false, 0)]).status, Status::Ok);
        assert!(group("g", &[(false, 3)]).detail.contains("3 records wait"));
        assert_eq!(group("g", &[(true, 5), (false, 0)]).status, Status::Ok);
        assert_eq!(group("g", &[(true, LAG_MAX + 1)]).status, Status::Warn);
    }

    #[test]
    fn a_clock_that_is_off_is_said() {
        assert_eq!(clock(-0.1).status, Status::Ok);
        assert_eq!(clock(30.0).detail, "30.0 s behind that of Postgres");
    }
}
