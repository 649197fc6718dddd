//! Verbs that bring their own servers.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::cli::args::roles::MetricsArgs;

/// `quickstart`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Nothing needs to run: without --kafka a broker runs in this process, without --postgres a private cluster \
    of the PostgreSQL that is installed, without --registry the schemas in schemas/ are used. All of it ends with this \
    process. Secrets that the connectors name and nobody has set are made up.\n\n\
    Examples:\n  \
    millrace quickstart\n  \
    millrace quickstart --once                          end when everything has arrived\n  \
    millrace quickstart --kafka 127.0.0.1:9092          on a Kafka that runs already"
)]
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

/// `dev`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Runs every role of the project on servers that it brings: without --kafka a broker in this process, without \
    --postgres a private cluster of the PostgreSQL that is installed, without --registry the schemas in schemas/. A file \
    that is saved is used within about a second; one with mistakes is refused, and the former version goes on.\n\n\
    What is kept: topics and group positions are in memory and end with this process, and so do the tables that are \
    made of them. With --state the Postgres cluster stays, with the tables that you made in it yourself. Of a Kafka and \
    a Postgres that you name nothing is ever deleted, except by --reset what Millrace has made in that Postgres.\n\n\
    Secrets that the connectors name and nobody has set are made up for this process; real senders and destinations do \
    not know them.\n\n\
    Examples:\n  \
    millrace dev\n  \
    millrace dev --project shop --listen 127.0.0.1:8081\n  \
    millrace dev --state .millrace                     keep Postgres between runs\n  \
    millrace dev --state .millrace --reset             begin with an empty one\n  \
    millrace dev --output json                         a JSON object for everything that happens"
)]
pub struct DevArgs {
    /// Address of the webhook endpoint; port 0 takes a free one.
    #[arg(long, env = "MILLRACE_LISTEN", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// Address under which senders reach the endpoint, such as that of a tunnel; some of them sign it.
    #[arg(long, env = "MILLRACE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Folder in which the private Postgres cluster is kept between runs.
    #[arg(long, value_name = "DIR", conflicts_with = "postgres")]
    pub state: Option<PathBuf>,
    /// Forget what former runs left: the cluster in --state, or what Millrace made in the database that --postgres names.
    #[arg(long)]
    pub reset: bool,
    /// Port of the broker on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0, value_name = "PORT", conflicts_with = "kafka")]
    pub broker_port: u16,
    /// Port of the private Postgres on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0, value_name = "PORT", conflicts_with = "postgres")]
    pub postgres_port: u16,
    #[command(flatten)]
    /// Metrics.
    pub metrics: MetricsArgs,
}
