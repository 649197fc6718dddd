//! `millrace quickstart`: every role in one process, signed webhooks posted at its own endpoint, each event's way as
//! it happens, and the KPI tables read back with SQL.

mod results;
mod webhooks;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::servers::Servers;
use crate::app::{self, supervise};
use crate::cli::args::Common;
use crate::cli::args::embedded::QuickstartArgs;
use crate::cli::quickstart::webhooks::{Expected, Webhook};
use crate::cli::{Exit, check, ends, output, roles};
use crate::connectors::sender::Sender;
use crate::ingest::server::Answered;
use crate::ledger::{ExecutionResult, Outcome};
use crate::plan::Plan;
use crate::postgres::{pool, reach};
use crate::secrets::{Place, Secret, SecretRef};
use crate::telemetry::Metrics;

/// How long everything expected may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const NEEDED: [&str; 2] = ["stripe", "hubspot"];

/// Runs the quickstart.
///
/// # Errors
/// Whatever keeps it from showing what it shows.
pub fn run(common: &Common, arguments: &QuickstartArgs) -> anyhow::Result<Exit> {
    let loaded = check::load(&common.project, &check::namespace(common)?)?;
    set_missing_secrets(loaded.project.connectors.values().flat_map(|thing| SecretRef::all_in(&thing.node)));
    let (_, plan) = check::accepted(loaded)?;
    if let Some(missing) = NEEDED.iter().find(|name| !plan.sources.contains_key(**name)) {
        let message = format!(
            "the quickstart needs the project that Millrace ships: connectors/{missing}.yaml is not in {}; \
             run it in Millrace's own folder, or `millrace up` for a project of yours",
            common.project.display()
        );
        return Err(ends(Exit::Refused, message));
    }
    let servers = roles::servers(common, "quickstart", SESSION_TIMEOUT)?;
    let metrics = Metrics::install()?;
    roles::runtime()?.block_on(show(plan, servers, metrics, arguments))
}

/// Secrets that the connectors name and nobody set get a value for this process alone.
fn set_missing_secrets<S>(secrets: impl Iterator<Item = (SecretRef, S)>) {
    for (secret, _) in secrets {
        let SecretRef { place: Place::Env(name), optional: false } = secret else { continue };
        if std::env::var_os(&name).is_none() {
            let value = made_up_secret();
            // SAFETY: called before the runtime and any client starts, so no other thread reads the environment.
            unsafe { std::env::set_var(&name, value) };
        }
    }
}

/// A secret that fits every scheme: Standard Webhooks wants base64 after its prefix, the others take any text.
fn made_up_secret() -> String {
    let random = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
    format!("whsec_{}", STANDARD.encode(random))
}

async fn show(
    plan: Plan,
    servers: Servers,
    metrics: Metrics,
    arguments: &QuickstartArgs,
) -> anyhow::Result<Exit> {
    let begun = Instant::now();
    let shutdown = supervise::shutdown_on_signal()?;
    app::apply::apply(&plan, &servers).await?;
    let listener = roles::listen(arguments.listen).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let (tell, answered) = mpsc::channel(1000);
    let mut all = vec![app::ingest::role(&plan, &servers, listener, Some(&endpoint), Some(tell))?];
    let codec = servers.codec(&plan.namespace).await?;
    all.extend(roles::workers(&plan, &servers, &[], Arc::clone(&codec)).await?);
    all.push(app::project::role(&plan, &servers, Arc::clone(&codec))?);
    let admin = CancellationToken::new();
    let metrics_at = supervise::serve_health(arguments.metrics.metrics, metrics, &all, admin.clone()).await?;
    print_addresses(&servers, &endpoint, &metrics_at.to_string())?;
    let results = results::follow(servers.kafka.clone(), plan.namespace.executions_topic(), codec).await?;
    let stop = CancellationToken::new();
    let mut running = tokio::spawn(supervise::run(all, stop.clone()));
    let demonstration = Demonstration { plan: &plan, endpoint: &endpoint, answered, results, begun };
    let outcome = tokio::select! {
        outcome = demonstration.run(servers.postgres_url()?) => Some(outcome),
        () = shutdown.cancelled() => None,
        ended = &mut running => return ended?.map(|()| Exit::Failed),
    };
    if let (Some(Ok(_)), false) = (&outcome, arguments.once) {
        print_next(&endpoint, &metrics_at.to_string())?;
        tokio::select! {
            () = shutdown.cancelled() => {}
            ended = &mut running => return ended?.map(|()| Exit::Failed),
        }
    }
    stop.cancel();
    let ended = running.await?;
    admin.cancel();
    match outcome {
        None => ended.map(|()| Exit::Done),
        Some(Err(error)) => Err(error),
        Some(Ok(exit)) => ended.map(|()| exit),
    }
}

fn print_addresses(servers: &Servers, endpoint: &str, metrics_at: &str) -> anyhow::Result<()> {
    let registry = servers.registry.as_deref().unwrap_or("none; the schemas of the project are used");
    output::print(&format!(
        "kafka      {}\nregistry   {registry}\npostgres   {}\ningest     {endpoint}/hooks/<connector>\nmetrics    http://{metrics_at}/metrics\n\n",
        servers.kafka.brokers,
        reach::place(servers.postgres_url()?).unwrap_or_default(),
    ))
}

fn print_next(endpoint: &str, metrics_at: &str) -> anyhow::Result<()> {
    let key = std::env::var("HELLO_API_KEY").unwrap_or_default();
    output::print(&format!(
        "\nPost your own:\n  curl -i {endpoint}/hooks/hello -H 'x-api-key: {key}' -H 'content-type: application/json' \
         -d '{{\"name\": \"Ada\"}}'\nMetrics: http://{metrics_at}/metrics   Stop with Ctrl-C.\n"
    ))
}

/// Posts, waits, and tells whether everything came.
struct Demonstration<'a> {
    plan: &'a Plan,
    endpoint: &'a str,
    answered: mpsc::Receiver<Answered>,
    results: mpsc::Receiver<ExecutionResult>,
    begun: Instant,
}

impl Demonstration<'_> {
    async fn run(mut self, postgres: &str) -> anyhow::Result<Exit> {
        let pool = pool::lazy(postgres, "quickstart", 1)?;
        let facts_before = results::facts(&pool).await?;
        let now = Utc::now();
        let run = format!("qs{}", now.timestamp_micros());
        let webhooks = webhooks::all(&self.secrets()?, &run, now);
        let sender = Sender::new(self.endpoint.to_owned())?;
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
            let Ok(result) = tokio::time::timeout_at(deadline.into(), self.results.recv()).await else {
                break;
            };
            let result = result.context("the execution results ended")?;
            if let Some(expected) = waiting.remove(&result.event_id) {
                good &= print_result(&result, expected)?;
            }
        }
        for (id, expected) in &waiting {
            output::print(&format!("{id}   did not arrive: {} should have ended it\n", expected.pipeline))?;
        }
        let wanted = facts_before + i64::try_from(facts)?;
        let arrived =
            results::until_facts(&pool, wanted, deadline.saturating_duration_since(Instant::now())).await?;
        results::print_tables(&pool).await?;
        let all_good = good && arrived && waiting.is_empty();
        let verdict =
            if all_good { "everything expected arrived" } else { "NOT everything expected arrived" };
        output::print(&format!(
            "\n{verdict}, {:.1} s after the start\n",
            self.begun.elapsed().as_secs_f64()
        ))?;
        Ok(if all_good { Exit::Done } else { Exit::Failed })
    }

    fn secrets(&self) -> anyhow::Result<webhooks::Secrets> {
        Ok(webhooks::Secrets {
            stripe: self.secret("stripe")?,
            hubspot: self.secret("hubspot")?,
            public_base_url: self.endpoint.to_owned(),
        })
    }

    /// The first secret of a connector's source.
    fn secret(&self, connector: &str) -> anyhow::Result<Secret> {
        let source = self.plan.sources.get(connector).context("looked for at the start")?;
        let secret = source.config.verify.secrets.first().context("the connector names no secret")?;
        secret.resolve()?.context("the secret has no value")
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
            let Answered { connector, status, reason, event: accepted } = told;
            match (&accepted, event) {
                (Some(accepted), Some(event)) => {
                    output::print(&format!(
                        "{:<28} {connector:<9} {:<26} accepted\n",
                        accepted.id, accepted.kind
                    ))?;
                    waiting.insert(accepted.id.clone(), *event);
                }
                _ => output::print(&format!("{:<28} {connector:<9} {:<26} {status} {reason}\n", "-", "-"))?,
            }
        }
        let is_success = (200..300).contains(&answer.status);
        Ok(if is_refused { answer.status == webhook.status } else { is_success })
    }
}

fn print_result(result: &ExecutionResult, expected: Expected) -> anyhow::Result<bool> {
    let stage = result.stage.as_deref().map(|stage| format!("at `{stage}`")).unwrap_or_default();
    let detail = match (&result.error, result.outcome) {
        (Some(error), _) => format!("{stage}: {error}"),
        (None, Outcome::Succeeded) => format!("{} records", result.records_out),
        (None, _) => stage,
    };
    let milliseconds = result.duration_us as f64 / 1000.0;
    output::print(&format!(
        "{:<28} {:<16} {:<14} {milliseconds:>7.1} ms   {detail}\n",
        result.event_id,
        result.pipeline,
        result.outcome.name(),
    ))?;
    Ok(result.pipeline == expected.pipeline && result.outcome == expected.outcome)
}
