//! A project of its own, with its own names in Kafka and its own database.

use crate::support::millrace::{Addresses, Millrace};
use crate::support::{project, servers};

/// What a scenario works with. Each file of scenarios adds the words it needs.
pub struct Scenario {
    /// First word of all its names.
    pub name: String,
    /// How the binary is called.
    pub millrace: Millrace,
    /// Its database.
    pub database: servers::Database,
    /// Its project's folder; removed with it.
    pub folder: tempfile::TempDir,
}

impl Scenario {
    /// The payments project, under a name that nobody else uses. `secret` signs its webhooks.
    pub async fn new(prefix: &str, secret: &str) -> Self {
        let name = servers::unique(prefix);
        let folder = tempfile::tempdir().expect("a temporary folder");
        project::write_payments(folder.path(), &name);
        let database = servers::database(&name).await;
        let addresses = Addresses {
            kafka: servers::kafka(),
            registry: servers::registry(),
            postgres: Some(database.url.clone()),
        };
        let mut millrace = Millrace::new(folder.path(), &name, &addresses);
        millrace.environment.push((String::from("STRIPE_WEBHOOK_SECRET"), secret.to_owned()));
        Self { name, millrace, database, folder }
    }
}
