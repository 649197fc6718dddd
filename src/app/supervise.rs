//! Runs roles side by side, serves their health, and stops them in order.
//!
//! Stopping goes with the flow: first nothing new comes in, then workers finish what they have begun, last the
//! projector. A role that ends by itself ends the process: an orchestrator starts it again, and half a process
//! would look alive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::server::{self, Health, HealthProbe};
use crate::telemetry::Metrics;

/// How long one role may take to stop before the next is told to.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A running role.
pub struct Role {
    /// Name, for logs.
    pub name: String,
    /// Tells it to finish and end.
    pub stop: CancellationToken,
    /// Its end.
    pub ended: BoxFuture<'static, anyhow::Result<()>>,
    /// How it is doing; must not wait.
    pub health: Arc<dyn Fn() -> Health + Send + Sync>,
}

/// Runs `roles` until `shutdown`, or until one of them ends by itself. Roles are stopped in the order given.
///
/// # Errors
/// When a role ends by itself, fails while stopping, or does not stop in time.
pub async fn run(roles: Vec<Role>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for role in roles {
        let Role { name, stop, ended, health: _ } = role;
        running.push((name, stop, tokio::spawn(ended)));
    }
    let failed = tokio::select! {
        () = shutdown.cancelled() => None,
        ended = first_end(&mut running) => {
            tracing::error!(error = crate::telemetry::logs::chain(ended.as_ref()), "a role ended; stopping the others");
            Some(ended)
        }
    };
    let mut first_error = failed;
    for (name, stop, task) in running {
        stop.cancel();
        match tokio::time::timeout(STOP_PATIENCE, task).await {
            Ok(Ok(Ok(()))) => tracing::info!(role = name, "stopped"),
            Ok(Ok(Err(error))) => first_error = first_error.or(Some(error.context(format!("{name} failed")))),
            Ok(Err(error)) => {
                first_error =
                    first_error.or(Some(anyhow::Error::new(error).context(format!("{name} broke"))));
            }
            Err(_) => {
                let error = anyhow::anyhow!("{name} did not stop within {STOP_PATIENCE:?}");
                first_error = first_error.or(Some(error));
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

type Task = tokio::task::JoinHandle<anyhow::Result<()>>;

/// The first role that ends by itself; it is taken off the list. Its reason is the process' reason to end.
async fn first_end(running: &mut Vec<(String, CancellationToken, Task)>) -> anyhow::Error {
    let (result, at, _) = futures_util::future::select_all(running.iter_mut().map(|(_, _, task)| task)).await;
    let (name, _, _) = running.remove(at);
    match result {
        Ok(Ok(())) => anyhow::anyhow!("{name} ended by itself"),
        Ok(Err(error)) => error.context(format!("{name} failed")),
        Err(error) => anyhow::Error::new(error).context(format!("{name} broke")),
    }
}

/// Serves metrics and the health of `roles` at `address` until `shutdown`; gives the address it listens on.
///
/// # Errors
/// When the address is taken.
pub async fn serve_health(
    address: SocketAddr,
    metrics: Metrics,
    roles: &[Role],
    shutdown: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let probes: Vec<_> = roles.iter().map(|role| Arc::clone(&role.health)).collect();
    let probe: HealthProbe = Arc::new(move || probes.iter().map(|probe| probe()).collect());
    serve_probe(address, metrics, probe, shutdown).await
}

/// Serves metrics and what `probe` tells at `address` until `shutdown`; gives the address it listens on.
///
/// # Errors
/// When the address is taken.
pub async fn serve_probe(
    address: SocketAddr,
    metrics: Metrics,
    probe: HealthProbe,
    shutdown: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for metrics; choose another with --metrics"))?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = server::serve(listener, metrics, probe, shutdown).await {
            tracing::error!(%error, "metrics and health are no longer served");
        }
    });
    Ok(address)
}

/// Cancelled at SIGTERM or Ctrl-C; a second one ends the process at once, which loses nothing.
///
/// # Errors
/// When the system takes no signal handlers.
pub fn shutdown_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        next().await;
        tracing::info!("stopping; a second signal ends at once");
        token.cancel();
        next().await;
        tracing::warn!("ended by a second signal; unfinished work is done again after the restart");
        std::process::abort();
    });
    Ok(shutdown)
}
