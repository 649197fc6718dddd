//! What happens to events, line by line, as `quickstart` and `dev` show it: text for people, a JSON object a line for
//! programs.

use serde::Serialize;

use tokio_util::sync::CancellationToken;

use crate::app::follow::KpiValue;
use crate::app::session::Session;
use crate::cli::args::Output;
use crate::cli::output;
use crate::ingest::server::{Accepted, Answered};
use crate::ledger::{ExecutionResult, Outcome};
use crate::plan::Plan;

/// Something that happened.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Happening {
    /// The endpoint took an event.
    Accepted {
        /// `ce_id`.
        id: String,
        /// Connector.
        connector: String,
        /// `ce_type`.
        #[serde(rename = "type")]
        kind: String,
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// Whether a pipeline takes it; `None` when nobody looked.
        is_taken: Option<bool>,
    },
    /// The endpoint refused a request.
    Refused {
        /// Connector.
        connector: String,
        /// HTTP status.
        status: u16,
        /// Why, in one word.
        reason: &'static str,
    },
    /// A pipeline is done with an event.
    Ended {
        /// `ce_id`.
        id: String,
        /// Pipeline.
        pipeline: String,
        /// How it ended.
        outcome: &'static str,
        /// From the first stage's begin to the verdict.
        duration_us: i64,
        /// Stage at which it was filtered or failed.
        stage: Option<String>,
        /// What happened; of an expression with file and line.
        error: Option<String>,
        /// Records written to output topics.
        records_out: i32,
    },
    /// The value of a KPI has changed.
    Kpi {
        /// KPI.
        kpi: String,
        /// Size of the window.
        window: String,
        /// Begin of the window.
        window_start: String,
        /// Dimensions.
        dimensions: std::collections::BTreeMap<String, serde_json::Value>,
        /// Value.
        value: String,
        /// Facts that it is made of.
        events: i64,
    },
}

impl Happening {
    /// What the endpoint answered. With a `plan`, whether one of its pipelines takes the event.
    pub fn answered(answered: Answered, plan: Option<&Plan>) -> Self {
        let Answered { connector, status, reason, event } = answered;
        let Some(Accepted { id, kind, topic, delivered }) = event else {
            return Self::Refused { connector, status, reason };
        };
        let takes = |plan: &Plan| plan.pipelines.iter().any(|pipeline| pipeline.takes(&topic, &kind));
        Self::Accepted {
            is_taken: plan.map(takes),
            id,
            connector,
            kind,
            topic: topic.to_string(),
            partition: delivered.partition,
            offset: delivered.offset,
        }
    }

    /// How an event ended.
    pub fn ended(result: &ExecutionResult) -> Self {
        Self::Ended {
            id: result.event_id.clone(),
            pipeline: result.pipeline.clone(),
            outcome: result.outcome.name(),
            duration_us: result.duration_us,
            stage: result.stage.clone(),
            error: result.error.clone(),
            records_out: result.records_out,
        }
    }

    /// A KPI's new value.
    pub fn kpi(value: KpiValue) -> Self {
        let KpiValue { kpi, window, window_start, dimensions, value, events } = value;
        Self::Kpi { kpi, window, window_start, dimensions, value, events }
    }

    /// On one line, for people.
    pub fn line(&self) -> String {
        match self {
            Self::Accepted { id, connector, kind, is_taken, topic, .. } => {
                let kind = if kind.is_empty() { "(no type)" } else { kind };
                let taken = match is_taken {
                    Some(false) => format!("   no pipeline takes this type from {topic}"),
                    Some(true) | None => String::new(),
                };
                format!("{id:<28} {connector:<9} {kind:<26} accepted{taken}")
            }
            Self::Refused { connector, status, reason } => {
                format!("{:<28} {connector:<9} {:<26} {status} {reason}", "-", "-")
            }
            Self::Ended { id, pipeline, outcome, duration_us, stage, error, records_out } => {
                let stage = stage.as_deref().map(|stage| format!("at `{stage}`")).unwrap_or_default();
                let detail = match (error, *outcome) {
                    (Some(error), _) => format!("{stage}: {error}"),
                    (None, outcome) if outcome == Outcome::Succeeded.name() => records(*records_out),
                    (None, _) => stage,
                };
                let milliseconds = *duration_us as f64 / 1000.0;
                format!("{id:<28} {pipeline:<16} {outcome:<14} {milliseconds:>7.1} ms   {detail}")
            }
            Self::Kpi { kpi, window, window_start, dimensions, value, events } => {
                let dimensions: Vec<String> = dimensions
                    .iter()
                    .map(|(name, value)| match value {
                        serde_json::Value::String(text) => format!("{name}={text}"),
                        other => format!("{name}={other}"),
                    })
                    .collect();
                let facts = if *events == 1 { "1 fact".to_owned() } else { format!("{events} facts") };
                let place = format!("{kpi} {window} from {window_start}");
                format!("{:<28} {place}   {}   {value}   of {facts}", "kpi", dimensions.join(" "))
            }
        }
    }
}

/// Prints what happened.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(output: Output, happening: &Happening) -> anyhow::Result<()> {
    match output {
        Output::Text => output::print(&format!("{}\n", happening.line())),
        Output::Json => output::json_line(happening),
    }
}

/// Prints what happens until `shutdown`.
///
/// # Errors
/// When a role or a server ends by itself, or standard output cannot be written.
pub async fn events(
    session: &mut Session,
    plan: &Plan,
    output: Output,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let Session { stack, answered, results, embedded, .. } = session;
    loop {
        let happening = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            failed = stack.ended() => return Err(failed),
            () = embedded.postgres_ended.cancelled() => anyhow::bail!("the private Postgres has ended"),
            Some(told) = answered.recv() => Happening::answered(told, Some(plan)),
            Some(result) = results.next() => Happening::ended(&result),
        };
        print(output, &happening)?;
    }
}

/// The addresses of everything, a line each: name, what and where, how long it took.
pub fn addresses(lines: &[[String; 3]]) -> String {
    let width = lines.iter().map(|[_, what, _]| what.chars().count()).max().unwrap_or(0);
    let line = |[name, what, took]: &[String; 3]| {
        format!("{}\n", format!("{name:<10} {what:<width$}   {took}").trim_end())
    };
    lines.iter().map(line).collect()
}

fn records(count: i32) -> String {
    if count == 1 { String::from("1 record") } else { format!("{count} records") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kafka::producer::Delivered;

    #[test]
    fn lines_stand_under_each_other() {
        let accepted = |is_taken| Happening::Accepted {
            id: String::from("evt_1"),
            connector: String::from("stripe"),
            kind: String::from("payment_intent.succeeded"),
            topic: String::from("events.stripe"),
            partition: 3,
            offset: 7,
            is_taken,
        };
        let ended = |outcome: Outcome, stage: Option<&str>, error: Option<&str>| Happening::Ended {
            id: String::from("evt_1"),
            pipeline: String::from("stripe-payments"),
            outcome: outcome.name(),
            duration_us: 1_240,
            stage: stage.map(str::to_owned),
            error: error.map(str::to_owned),
            records_out: 1,
        };
        let answered =
            Answered { connector: String::from("stripe"), status: 401, reason: "bad_signature", event: None };
        let kpi = KpiValue {
            kpi: String::from("revenue"),
            window: String::from("1h"),
            window_start: String::from("2026-11-24T01:00:00Z"),
            dimensions: [(String::from("currency"), "EUR".into())].into(),
            value: String::from("15050"),
            events: 2,
        };
        let all = [
            accepted(Some(true)),
            accepted(Some(false)),
            Happening::answered(answered, None),
            ended(Outcome::Succeeded, None, None),
            ended(Outcome::Filtered, Some("live"), None),
            ended(Outcome::DeadLettered, Some("payment"), Some("pipelines/p.yaml:17: expected integer")),
            Happening::kpi(kpi),
        ];
        let lines: Vec<String> = all.iter().map(Happening::line).collect();
        expect_test::expect![[r#"
            evt_1                        stripe    payment_intent.succeeded   accepted
            evt_1                        stripe    payment_intent.succeeded   accepted   no pipeline takes this type from events.stripe
            -                            stripe    -                          401 bad_signature
            evt_1                        stripe-payments  succeeded          1.2 ms   1 record
            evt_1                        stripe-payments  filtered           1.2 ms   at `live`
            evt_1                        stripe-payments  dead_lettered      1.2 ms   at `payment`: pipelines/p.yaml:17: expected integer
            kpi                          revenue 1h from 2026-11-24T01:00:00Z   currency=EUR   15050   of 2 facts
        "#]]
        .assert_eq(&format!("{}\n", lines.join("\n")));
    }

    #[test]
    fn programs_get_the_same_with_names() {
        let accepted = Answered {
            connector: String::from("hello"),
            status: 200,
            reason: "",
            event: Some(Accepted {
                id: String::from("e1"),
                kind: String::from("said"),
                topic: Arc::from("events.hello"),
                delivered: Delivered { partition: 0, offset: 1 },
            }),
        };
        let json = serde_json::to_value(Happening::answered(accepted, None)).expect("JSON");
        assert_eq!(
            (&json["what"], &json["id"], &json["type"]),
            (&"accepted".into(), &"e1".into(), &"said".into())
        );
    }
}
