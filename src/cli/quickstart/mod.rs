//! `millrace quickstart`: every role in one process, signed webhooks posted at its own endpoint, each event's way as
//! it happens, and the KPI tables read back with SQL.

mod tables;
mod webhooks;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::Utc;
use tokio::sync::mpsc;

use crate::app::embedded::{self, Wanted};
use crate::app::follow::Following;
use crate::app::session::{Addresses, Session, Streams};
use crate::app::stack::Door;
use crate::app::{made_up, supervise};
use crate::cli::args::embedded::QuickstartArgs;
use crate::cli::args::{Common, Output};
use crate::cli::quickstart::webhooks::{Expected, Webhook};
use crate::cli::show::{self, Happening};
use crate::cli::{Exit, apply, check, ends, output, roles};
use crate::connectors::sender::Sender;
use crate::ingest::server::Answered;
use crate::ledger::{ExecutionResult, Outcome};
use crate::plan::Plan;
use crate::postgres::pool;
use crate::secrets::{Secret, Secrets};
use crate::telemetry::Metrics;

/// How long everything expected may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);
const NEEDED: [&str; 2] = ["stripe", "hubspot"];

/// Runs the quickstart.
///
/// # Errors
/// Whatever keeps it from showing what it shows.
pub fn run(common: &Common, arguments: &QuickstartArgs) -> anyhow::Result<Exit> {
    let begun = Instant::now();
    let loaded = check::load(&common.project, &check::namespace(common)?)?;
    let secrets = made_up::missing(&loaded.project, &Secrets::default());
    let (_, plan) = check::accepted(loaded)?;
    if let Some(missing) = NEEDED.iter().find(|name| !plan.sources.contains_key(**name)) {
        let message = format!(
            "the quickstart needs the project that Millrace ships: connectors/{missing}.yaml is not in {}; \
             run it in Millrace's own folder, or `millrace dev` for a project of yours",
            common.project.display()
        );
        return Err(ends(Exit::Refused, message));
    }
    let wanted = Wanted {
        named: apply::named(common, None)?,
        state: None,
        broker_port: 0,
        postgres_port: 0,
        instance: "quickstart",
    };
    let metrics = Metrics::install()?;
    roles::block_on(show(Setting { plan, secrets, wanted, begun }, metrics, common, arguments))
}

/// What is known before anything starts.
struct Setting {
    plan: Plan,
    secrets: Secrets,
    wanted: Wanted,
    begun: Instant,
}

async fn show(
    setting: Setting,
    metrics: Metrics,
    common: &Common,
    arguments: &QuickstartArgs,
) -> anyhow::Result<Exit> {
    let Setting { plan, secrets, wanted, begun } = setting;
    let shutdown = supervise::shutdown_on_signal()?;
    let mut door = Door::new(arguments.listen, None);
    // A port that is taken is said before anything is started.
    door.open()?;
    let start = async {
        let starting = embedded::begin(wanted)?;
        let servers = starting.servers().clone();
        let (streams, mut embedded) = tokio::try_join!(Streams::open(&plan, &servers), starting.finish())?;
        embedded.servers.secrets = secrets;
        let addresses = Addresses { door, metrics: arguments.metrics.metrics };
        Session::open(&plan, embedded, streams, addresses, metrics).await
    };
    let mut session = tokio::select! {
        session = start => session?,
        () = shutdown.cancelled() => return Ok(Exit::Done),
    };
    let is_text = common.output == Output::Text;
    if is_text {
        output::print(&addresses(&session))?;
    }
    let demonstration = Demonstration {
        plan: &plan,
        endpoint: session.stack.url(),
        secrets: session.embedded.servers.secrets.clone(),
        answered: &mut session.answered,
        results: &mut session.results,
        begun,
        output: common.output,
    };
    let postgres = session.embedded.servers.postgres_url()?.to_owned();
    let outcome = tokio::select! {
        outcome = demonstration.run(&postgres) => Some(outcome),
        () = shutdown.cancelled() => None,
        failed = session.stack.ended() => Some(Err(failed)),
    };
    if let (Some(Ok(_)), false) = (&outcome, arguments.once) {
        if is_text {
            print_next(&session)?;
        }
        let failed = show::events(&mut session, &plan, common.output, &shutdown).await;
        failed.context("the quickstart cannot go on")?;
    }
    let ended = session.close().await;
    match outcome {
        None => ended.map(|()| Exit::Done),
        Some(Err(error)) => Err(error),
        Some(Ok(exit)) => ended.map(|()| exit),
    }
}

fn addresses(session: &Session) -> String {
    let mut lines = session.embedded.lines.clone();
    let line = |name: &str, what: String| [name.to_owned(), what, String::new()];
    lines.push(line("ingest", format!("{}/hooks/<connector>", session.stack.url())));
    lines.push(line("metrics", format!("http://{}/metrics", session.metrics_at)));
    format!("{}\n", show::addresses(&lines))
}

fn print_next(session: &Session) -> anyhow::Result<()> {
    let key = session.embedded.servers.secrets.made_up().get("HELLO_API_KEY");
    let key = key.map(|key| String::from_utf8_lossy(key.expose()).into_owned());
    output::print(&format!(
        "\nPost your own:\n  curl -i {}/hooks/hello -H 'x-api-key: {}' -H 'content-type: application/json' \
         -d '{{\"name\": \"Ada\"}}'\nMetrics: http://{}/metrics   Stop with Ctrl-C.\n",
        session.stack.url(),
        key.as_deref().unwrap_or("$HELLO_API_KEY"),
        session.metrics_at,
    ))
}

/// Posts, waits, and tells whether everything came.
struct Demonstration<'a> {
    plan: &'a Plan,
    endpoint: String,
    secrets: Secrets,
    answered: &'a mut mpsc::Receiver<Answered>,
    results: &'a mut Following<ExecutionResult>,
    begun: Instant,
    output: Output,
}

impl Demonstration<'_> {
    async fn run(mut self, postgres: &str) -> anyhow::Result<Exit> {
        let pool = pool::lazy(postgres, "quickstart", 1)?;
        let facts_before = tables::facts(&pool).await?;
        let now = Utc::now();
        let run = format!("qs{}", now.timestamp_micros());
        let webhooks = webhooks::all(&self.secrets()?, &run, now);
        let sender = Sender::new(self.endpoint.clone())?;
        let mut waiting = HashMap::new();
        let mut good = true;
        let deadline = Instant::now() + PATIENCE;
        for webhook in &webhooks {
            good &= self.post(&sender, webhook, &mut waiting).await?;
        }
        let facts = webhooks
            .iter()
            .flat_map(|webhook| &webhook.events)
            .filter(|event| event.outcome == Outcome::Succeeded)
            .count();
        while !waiting.is_empty() {
            let Ok(result) = tokio::time::timeout_at(deadline.into(), self.results.next()).await else {
                break;
            };
            let result = result.context("the execution results ended")?;
            if let Some(expected) = waiting.remove(&result.event_id) {
                good &= print_result(&result, expected, self.output)?;
            }
        }
        let wanted = facts_before + i64::try_from(facts)?;
        let arrived =
            tables::until_facts(&pool, wanted, deadline.saturating_duration_since(Instant::now())).await?;
        tables::print(&pool, self.output).await?;
        let all_good = good && arrived && waiting.is_empty();
        self.print_verdict(all_good, &waiting)?;
        Ok(if all_good { Exit::Done } else { Exit::Failed })
    }

    fn print_verdict(&self, all_good: bool, missing: &HashMap<String, Expected>) -> anyhow::Result<()> {
        let seconds = self.begun.elapsed().as_secs_f64();
        if self.output == Output::Json {
            let missing: Vec<&String> = missing.keys().collect();
            return output::json_line(&serde_json::json!({
                "what": "verdict", "all_arrived": all_good, "missing": missing, "seconds": seconds,
            }));
        }
        for (id, expected) in missing {
            output::print(&format!("{id}   did not arrive: {} should have ended it\n", expected.pipeline))?;
        }
        let verdict =
            if all_good { "everything expected arrived" } else { "NOT everything expected arrived" };
        output::print(&format!("\n{verdict}, {seconds:.1} s after the start\n"))
    }

    fn secrets(&self) -> anyhow::Result<webhooks::Secrets> {
        Ok(webhooks::Secrets {
            stripe: self.secret("stripe")?,
            hubspot: self.secret("hubspot")?,
            public_base_url: self.endpoint.clone(),
        })
    }

    /// The first secret of a connector's source.
    fn secret(&self, connector: &str) -> anyhow::Result<Secret> {
        let source = self.plan.sources.get(connector).context("looked for at the start")?;
        let secret = source.config.verify.secrets.first().context("the connector names no secret")?;
        self.secrets.resolve(secret)?.context("the secret has no value")
    }

    /// Posts one webhook and prints what the endpoint made of it; its events are waited for from now on.
    async fn post(
        &mut self,
        sender: &Sender,
        webhook: &Webhook,
        waiting: &mut HashMap<String, Expected>,
    ) -> anyhow::Result<bool> {
        let answer = sender
            .post(webhook.connector, &webhook.body, &webhook.signing, Utc::now())
            .await
            .context("the endpoint does not answer")?;
        let is_refused = webhook.events.is_empty();
        let expected = webhook.events.iter().map(Some).chain(is_refused.then_some(None));
        for event in expected {
            let told =
                tokio::time::timeout(PATIENCE, self.answered.recv()).await?.context("the endpoint ended")?;
            if let (Some(accepted), Some(event)) = (&told.event, event) {
                waiting.insert(accepted.id.clone(), *event);
            }
            show::print(self.output, &Happening::answered(told, None))?;
        }
        let is_success = (200..300).contains(&answer.status);
        Ok(if is_refused { answer.status == webhook.status } else { is_success })
    }
}

fn print_result(result: &ExecutionResult, expected: Expected, output: Output) -> anyhow::Result<bool> {
    show::print(output, &Happening::ended(result))?;
    Ok(result.pipeline == expected.pipeline && result.outcome == expected.outcome)
}
