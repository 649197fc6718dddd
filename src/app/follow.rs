//! Follows what roles write, as it is committed: execution results, values of KPIs.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::kafka::settings::Connection;
use crate::kafka::tail::{Begin, End, Tail};
use crate::ledger::ExecutionResult;
use crate::record::InRecord;
use crate::schema::codec::Codec;
use crate::telemetry::logs;

const POLL: Duration = Duration::from_millis(100);
/// What waits for a slow reader; reading waits then.
const WAITING_MAX: usize = 1000;

/// What is told as it is written. Dropping it ends the reading, and waits for that: no client is left behind.
pub struct Following<T> {
    told: Option<mpsc::Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T> Following<T> {
    /// The next value; `None` when reading has failed.
    pub async fn next(&mut self) -> Option<T> {
        self.told.as_mut()?.recv().await
    }
}

impl<T> Drop for Following<T> {
    fn drop(&mut self) {
        self.told = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Execution results that are written from now on.
///
/// # Errors
/// When the topic cannot be read.
pub async fn executions(
    kafka: &Connection,
    topic: Arc<str>,
    codec: Arc<Codec>,
) -> anyhow::Result<Following<ExecutionResult>> {
    follow(kafka, topic, move |record| {
        codec
            .read_execution(record.value.as_deref().unwrap_or_default())
            .map_err(|error| {
                tracing::error!(%error, offset = record.offset, "an execution result is not readable");
            })
            .ok()
    })
    .await
}

/// A value of a KPI that has changed, as far as people are shown it.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct KpiValue {
    /// KPI.
    pub kpi: String,
    /// Size of its window, such as `1h`.
    pub window: String,
    /// Begin of the window, RFC 3339.
    pub window_start: String,
    /// Dimensions, by name.
    pub dimensions: std::collections::BTreeMap<String, serde_json::Value>,
    /// Its value: a decimal number.
    pub value: String,
    /// Facts that it is made of.
    pub events: i64,
}

/// Values of KPIs that change from now on.
///
/// # Errors
/// When the topic cannot be read.
pub async fn kpis(kafka: &Connection, topic: Arc<str>) -> anyhow::Result<Following<KpiValue>> {
    follow(kafka, topic, |record| serde_json::from_slice(record.value.as_deref()?).ok()).await
}

async fn follow<T: Send + 'static>(
    kafka: &Connection,
    topic: Arc<str>,
    read: impl Fn(&InRecord) -> Option<T> + Send + 'static,
) -> anyhow::Result<Following<T>> {
    let (kafka, name) = (kafka.clone(), Arc::clone(&topic));
    let tail = tokio::task::spawn_blocking(move || Tail::open(&kafka, &name, Begin::Newest, End::Never))
        .await?
        .with_context(|| format!("topic {topic} cannot be followed"))?;
    let (tell, told) = mpsc::channel(WAITING_MAX);
    let name = format!("follow {topic}");
    let thread = std::thread::Builder::new().name(name).spawn(move || run(tail, &read, &tell))?;
    Ok(Following { told: Some(told), thread: Some(thread) })
}

/// Reads until nobody listens any more.
fn run<T>(mut tail: Tail, read: &impl Fn(&InRecord) -> Option<T>, tell: &mpsc::Sender<T>) {
    let mut records = Vec::new();
    while !tell.is_closed() {
        if let Err(error) = tail.read(POLL, &mut records) {
            tracing::error!(error = logs::chain(&error), "following ends");
            return;
        }
        for record in records.drain(..) {
            if let Some(value) = read(&record) {
                // Nobody listens any more: the loop ends.
                let _ = tell.blocking_send(value);
            }
        }
    }
}
