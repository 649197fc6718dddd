//! Taking over a change of the project's files. Everything that can be looked at is looked at before the roles that run
//! are touched; what is found wrong leaves them as they are.

use std::path::PathBuf;
use std::time::Instant;

use chrono::Utc;

use crate::app::apply::{self, Found, Targets};
use crate::app::made_up;
use crate::app::servers::Servers;
use crate::cli::check;
use crate::cli::dev::notice::{self, Notice};
use crate::cli::dev::{Dev, mistakes};
use crate::config::project::Project;
use crate::engine::offline;
use crate::plan::Plan;
use crate::telemetry::logs;

/// What follows on a refusal.
const GOES_ON: &str = "the former version goes on";
const NOTHING_RUNS: &str = "nothing runs until it is mended";

/// A version that may be started.
struct Version {
    project: Project,
    plan: Plan,
    servers: Servers,
    found: Found,
}

impl Dev {
    /// Takes the change over, or says why not.
    ///
    /// # Errors
    /// When the project's folder is gone, or standard output cannot be written.
    pub(super) async fn reload(&mut self, changed: &[PathBuf]) -> anyhow::Result<()> {
        let begun = Instant::now();
        let output = self.common.output;
        Notice::Changed { files: changed }.print(output)?;
        let mut loaded = check::load(&self.common.project, &self.namespace)?;
        self.files.follow(&loaded.project);
        let then = if self.session.stack.is_running() { GOES_ON } else { NOTHING_RUNS };
        let Some(plan) = loaded.plan.take() else {
            self.is_refused = true;
            return mistakes(&loaded, Some(then)).print(output);
        };
        if !loaded.lints.is_empty() {
            mistakes(&loaded, None).print(output)?;
        }
        if plan.config_hash == self.plan.config_hash && self.session.stack.is_running() {
            let is_mended = std::mem::take(&mut self.is_refused);
            self.test(&loaded.project, &plan).await?;
            return Notice::Unchanged { is_mended }.print(output);
        }
        match self.prepare(loaded.project, plan).await {
            Ok(version) => self.take_over(version, begun).await,
            Err(error) => {
                self.is_refused = true;
                let reason = logs::chain(error.as_ref()).to_string();
                Notice::Refused { reason, then }.print(output)
            }
        }
    }

    /// Looks at what the new version needs: secrets, and what has to change on the servers.
    async fn prepare(&mut self, project: Project, plan: Plan) -> anyhow::Result<Version> {
        let mut servers = self.session.stack.servers().clone();
        servers.secrets = made_up::missing(&project, &servers.secrets);
        self.session.stack.check(&plan, &servers)?;
        let found = apply::find(&plan, &Targets::of(&servers)).await?;
        let refused: Vec<String> = found
            .refused()
            .map(|change| format!("{} {}: {}", change.what, change.name, change.detail))
            .collect();
        let again = match (self.session.embedded.has_broker, self.session.embedded.is_kept) {
            (true, false) => "end with Ctrl-C and start again, which begins with new topics and tables",
            (true, true) => {
                "end with Ctrl-C and start again with --reset, which begins with new topics and tables"
            }
            (false, _) => "change it back, or delete it on the server that you named and start again",
        };
        anyhow::ensure!(
            refused.is_empty(),
            "this cannot be changed while it is in use: {}; {again}",
            refused.join("; ")
        );
        Ok(Version { project, plan, servers, found })
    }

    /// Replaces what runs. When the new version cannot be started after all, the former one is again.
    async fn take_over(&mut self, version: Version, begun: Instant) -> anyhow::Result<()> {
        let Version { project, plan, servers, found } = version;
        let output = self.common.output;
        let known = self.session.stack.servers().clone();
        let made_up: Vec<String> = servers
            .secrets
            .made_up()
            .keys()
            .filter(|name| !known.secrets.made_up().contains_key(*name))
            .cloned()
            .collect();
        match self.replace(&plan, &servers, &found).await {
            Ok(()) => {
                self.plan = plan;
                let is_mended = std::mem::take(&mut self.is_refused);
                let seconds = notice::seconds(begun.elapsed());
                self.test(&project, &self.plan).await?;
                Notice::Reloaded { is_mended, made_up, changes: &found.changes, seconds }.print(output)
            }
            Err(error) => {
                self.is_refused = true;
                let reason = logs::chain(error.as_ref()).to_string();
                self.session.stack.set_servers(known);
                let then = match self.session.stack.start(&self.plan).await {
                    Ok(()) => GOES_ON,
                    Err(error) => {
                        tracing::error!(
                            error = logs::chain(error.as_ref()),
                            "the former version does not start"
                        );
                        NOTHING_RUNS
                    }
                };
                Notice::Refused { reason, then }.print(output)
            }
        }
    }

    async fn replace(&mut self, plan: &Plan, servers: &Servers, found: &Found) -> anyhow::Result<()> {
        apply::carry_out(plan, &Targets::of(servers), found).await?;
        if let Err(error) = self.session.stack.stop().await {
            // What it did not finish was not committed, and is done again.
            tracing::warn!(error = logs::chain(error.as_ref()), "the former version did not end well");
        }
        self.session.stack.set_servers(servers.clone());
        self.session.stack.start(plan).await
    }

    /// Runs the tests in the pipelines; they say nothing about what runs, and stop nothing.
    async fn test(&self, project: &Project, plan: &Plan) -> anyhow::Result<()> {
        let mut passed = 0;
        let mut failed = Vec::new();
        for pipeline in &plan.pipelines {
            for report in offline::run_tests(project, plan, &pipeline.name, Utc::now()).await {
                if report.passed() {
                    passed += 1;
                    continue;
                }
                let problem = |problem: &offline::Problem| format!("{} ({})", problem.message, problem.place);
                let problems: Vec<String> = report.problems.iter().map(problem).collect();
                failed.push(format!("{}: {}: {}", report.pipeline, report.name, problems.join("; ")));
            }
        }
        if passed + failed.len() == 0 {
            return Ok(());
        }
        Notice::Tests { passed, failed }.print(self.common.output)
    }
}
