//! Verbs that bring their own servers.

use std::net::SocketAddr;

use clap::Args;

use crate::cli::args::roles::MetricsArgs;

/// `quickstart`.
#[derive(Clone, Debug, Args)]
pub struct QuickstartArgs {
    /// End when everything expected has arrived; the exit code says whether it did.
    #[arg(long)]
    pub once: bool,
    /// Address of the webhook endpoint; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    #[command(flatten)]
    /// Metrics.
    pub metrics: MetricsArgs,
}
