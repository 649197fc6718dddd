//! `/metrics`, `/health/live`, `/health/ready`.
//!
//! Live means that the process' loops turn; a broker or database that is away does not make it dead, for a restart
//! would not mend that. Ready means that the roles have joined their groups and poll.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// What a role says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Health {
    /// The role, such as `worker millrace.stripe-payments`.
    pub role: String,
    /// Whether its loop turned lately.
    pub live: bool,
    /// Whether it does its work: joined its group, polling, listening.
    pub ready: bool,
    /// Why not, or what it is doing.
    pub detail: String,
}

/// Asked at every health request; must not wait.
pub type HealthProbe = Arc<dyn Fn() -> Vec<Health> + Send + Sync>;

#[derive(Clone)]
struct Admin {
    metrics: Metrics,
    probe: HealthProbe,
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    probe: HealthProbe,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let admin = Admin { metrics, probe };
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(admin);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn scrape(State(admin): State<Admin>) -> impl IntoResponse {
    ([("content-type", "text/plain; version=0.0.4")], admin.metrics.render())
}

async fn live(State(admin): State<Admin>) -> impl IntoResponse {
    answer((admin.probe)(), |health| health.live)
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    answer((admin.probe)(), |health| health.ready)
}

fn answer(roles: Vec<Health>, good: fn(&Health) -> bool) -> impl IntoResponse {
    let status = if roles.iter().all(good) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(roles))
}
