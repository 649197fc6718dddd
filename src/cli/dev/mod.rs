//! `millrace dev`: an author's own project at work on servers that come with it. Files are watched; a change is taken
//! over while everything else goes on, and one with mistakes is refused.

mod examples;
mod notice;
mod reload;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::embedded::{self, Embedded, Wanted};
use crate::app::follow::{self, Following, KpiValue};
use crate::app::session::{self, Session, Streams};
use crate::app::stack::Door;
use crate::app::{made_up, reach, supervise};
use crate::cli::args::Common;
use crate::cli::args::embedded::DevArgs;
use crate::cli::check::{self, Loaded};
use crate::cli::dev::examples::Addresses;
use crate::cli::dev::notice::Notice;
use crate::cli::show::{self, Happening};
use crate::cli::{Exit, apply, ends, lint_output, roles};
use crate::config::project::Project;
use crate::ledger::Namespace;
use crate::plan::Plan;
use crate::postgres::private;
use crate::postgres::{pool, reach as postgres_reach};
use crate::project::forget;
use crate::secrets::Secrets;
use crate::telemetry::{Metrics, logs};

/// Runs `dev` until Ctrl-C or SIGTERM.
///
/// # Errors
/// When there is no project, a port is taken, or a server cannot be started.
pub fn run(common: &Common, arguments: &DevArgs) -> anyhow::Result<Exit> {
    let begun = Instant::now();
    let namespace = check::namespace(common)?;
    let first = watch::look(&common.project, &BTreeSet::new());
    let loaded = check::load(&common.project, &namespace)?;
    if loaded.lints.iter().any(|lint| lint.code == "empty-project") {
        return check::accepted(loaded).map(|_| Exit::Refused);
    }
    if arguments.reset {
        reset(common, arguments)?;
    }
    let metrics = Metrics::install()?;
    roles::block_on(async {
        let shutdown = supervise::shutdown_on_signal()?;
        let mut files = Files::new(common, &loaded.project, first);
        let begin = Begin { common, arguments, namespace, begun };
        let Some((project, plan)) = begin.until_good(loaded, &mut files, &shutdown).await? else {
            return Ok(Exit::Done);
        };
        let mut dev = tokio::select! {
            dev = begin.start(&project, plan, files, metrics) => dev?,
            () = shutdown.cancelled() => return Ok(Exit::Done),
        };
        let ended = dev.run(&shutdown).await;
        let Dev { session, kpis, .. } = dev;
        drop(kpis);
        let closed = session.close().await;
        ended.and(closed).map(|()| Exit::Done)
    })
}

/// What is forgotten before anything starts; the rest needs a server that runs.
fn reset(common: &Common, arguments: &DevArgs) -> anyhow::Result<()> {
    let named = apply::named(common, None)?;
    if named.kafka.is_some() {
        let message = "--reset would have to delete topics of the Kafka that you named, which Millrace never does; delete \
                       them with Kafka's own tools, or leave --kafka away";
        return Err(ends(Exit::Usage, message));
    }
    match &arguments.state {
        Some(folder) => {
            private::forget(&cluster_folder(folder)).context("the kept Postgres cannot be forgotten")
        }
        None => Ok(()),
    }
}

fn cluster_folder(state: &std::path::Path) -> PathBuf {
    state.join("postgres")
}

/// The files of the project, being watched by a task of their own, so that no change is missed while much happens.
pub struct Files {
    /// Files outside of the project's usual folders that it names.
    others: Arc<Mutex<BTreeSet<PathBuf>>>,
    changes: mpsc::Receiver<Vec<PathBuf>>,
}

impl Files {
    fn new(common: &Common, project: &Project, first: watch::Look) -> Self {
        let others = Arc::new(Mutex::new(named_files(project)));
        let (tell, changes) = mpsc::channel(1);
        tokio::spawn(watch::run(first, common.project.clone(), Arc::clone(&others), tell));
        Self { others, changes }
    }

    /// Waits for a change that is over.
    async fn changed(&mut self) -> anyhow::Result<Vec<PathBuf>> {
        self.changes.recv().await.context("the files cannot be watched any more")
    }

    /// Watches what `project` names from now on.
    fn follow(&mut self, project: &Project) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).extend(named_files(project));
    }
}

fn named_files(project: &Project) -> BTreeSet<PathBuf> {
    project.files.iter().map(|file| file.path.clone()).collect()
}

/// What is known before anything runs.
struct Begin<'a> {
    common: &'a Common,
    arguments: &'a DevArgs,
    namespace: Namespace,
    begun: Instant,
}

impl Begin<'_> {
    /// Waits until the project has no mistakes; `None` when it is to end before that.
    async fn until_good(
        &self,
        mut loaded: Loaded,
        files: &mut Files,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<(Project, Plan)>> {
        loop {
            files.follow(&loaded.project);
            if let Some(plan) = loaded.plan.take() {
                if !loaded.lints.is_empty() {
                    self.mistakes(&loaded, None)?;
                }
                return Ok(Some((loaded.project, plan)));
            }
            self.mistakes(&loaded, Some("nothing is started yet; mend it and save"))?;
            let changed = tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                changed = files.changed() => changed?,
            };
            Notice::Changed { files: &changed }.print(self.common.output)?;
            loaded = check::load(&self.common.project, &self.namespace)?;
        }
    }

    fn mistakes(&self, loaded: &Loaded, then: Option<&'static str>) -> anyhow::Result<()> {
        mistakes(loaded, then).print(self.common.output)
    }

    /// Starts servers and roles.
    async fn start(
        self,
        project: &Project,
        plan: Plan,
        files: Files,
        metrics: Metrics,
    ) -> anyhow::Result<Dev> {
        let Self { common, arguments, namespace, begun } = self;
        let mut door = Door::new(arguments.listen, arguments.public_url.clone());
        if !plan.sources.is_empty() {
            // A port that is taken is said before anything is started.
            door.open()?;
        }
        let wanted = Wanted {
            named: apply::named(common, None)?,
            state: arguments.state.as_deref().map(cluster_folder),
            broker_port: arguments.broker_port,
            postgres_port: arguments.postgres_port,
            instance: "dev",
        };
        let is_named = wanted.named.postgres.is_some();
        let starting = embedded::begin(wanted)?;
        let servers = starting.servers().clone();
        let (streams, mut embedded) = tokio::try_join!(Streams::open(&plan, &servers), starting.finish())?;
        embedded.servers.secrets = made_up::missing(project, &Secrets::default());
        forget_gone_topics(&plan, &embedded, is_named, arguments.reset).await?;
        let addresses = session::Addresses { door, metrics: arguments.metrics.metrics };
        let session = Session::open(&plan, embedded, streams, addresses, metrics).await?;
        let kafka = &session.embedded.servers.kafka;
        let kpis = follow::kpis(kafka, plan.namespace.kpis_topic()).await?;
        let dev = Dev { common: common.clone(), namespace, session, kpis, plan, files, is_refused: false };
        dev.print_started(project, arguments, begun)?;
        Ok(dev)
    }
}

/// A broker of our own begins without topics. What a database still holds of former ones is forgotten; in a database
/// that was named only when that was asked for.
async fn forget_gone_topics(
    plan: &Plan,
    embedded: &Embedded,
    is_named: bool,
    is_asked_for: bool,
) -> anyhow::Result<()> {
    if !embedded.has_broker {
        return Ok(());
    }
    let url = embedded.servers.postgres_url()?;
    let pool = pool::lazy(url, "dev", 1)?;
    if is_named {
        let address = embedded.servers.postgres.as_ref().context("it was named")?;
        reach::postgres(address).await?;
    }
    let group = plan.namespace.name("project");
    let positions = forget::positions(&pool, &group).await.context("the positions cannot be read")?;
    if positions > 0 && is_named && !is_asked_for {
        let place = postgres_reach::place(url).unwrap_or_default();
        let message = format!(
            "the database {place} follows {positions} partitions of another Kafka; the broker in this process begins without \
             topics, so their positions mean nothing to it. Name an empty database, or that Kafka with --kafka; or say \
             --reset to empty what Millrace has made there"
        );
        return Err(ends(Exit::Refused, message));
    }
    if positions > 0 || is_asked_for {
        forget::run(&pool, &plan.tables).await.context("what was made of topics cannot be forgotten")?;
    }
    pool.close().await;
    Ok(())
}

/// The notice of a project with mistakes or warnings.
fn mistakes<'a>(loaded: &'a Loaded, then: Option<&'static str>) -> Notice<'a> {
    let text = check::report(loaded, check::is_coloured_output());
    Notice::Mistakes { text, lints: lint_output::rows(&loaded.lints), then }
}

/// Everything at work.
pub struct Dev {
    common: Common,
    namespace: Namespace,
    session: Session,
    kpis: Following<KpiValue>,
    /// What runs.
    plan: Plan,
    files: Files,
    /// Whether the files are another version than the one that runs.
    is_refused: bool,
}

/// What the loop waits for.
enum Next {
    Happened(Happening),
    Changed(Vec<PathBuf>),
    Failed(anyhow::Error),
}

impl Dev {
    async fn run(&mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        loop {
            let Self { session, kpis, plan, files, .. } = self;
            let Session { stack, answered, results, embedded, .. } = session;
            let next = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = embedded.postgres_ended.cancelled() => anyhow::bail!("the private Postgres has ended"),
                failed = stack.ended() => Next::Failed(failed),
                changed = files.changed() => Next::Changed(changed?),
                Some(told) = answered.recv() => Next::Happened(Happening::answered(told, Some(plan))),
                Some(result) = results.next() => Next::Happened(Happening::ended(&result)),
                Some(value) = kpis.next() => Next::Happened(Happening::kpi(value)),
            };
            match next {
                Next::Happened(happening) => show::print(self.common.output, &happening)?,
                Next::Changed(changed) => self.reload(&changed).await?,
                Next::Failed(error) => {
                    let error = logs::chain(error.as_ref()).to_string();
                    Notice::Failed { error }.print(self.common.output)?;
                }
            }
        }
    }

    fn print_started(&self, project: &Project, arguments: &DevArgs, begun: Instant) -> anyhow::Result<()> {
        let Self { session, plan, common, .. } = self;
        let servers = &session.embedded.servers;
        let line = |name: &str, what: String| [name.to_owned(), what, String::new()];
        let mut addresses = session.embedded.lines.clone();
        if !plan.sources.is_empty() {
            addresses.push(line("ingest", format!("{}/hooks/<connector>", session.stack.url())));
        }
        addresses.push(line("metrics", format!("http://{}/metrics", session.metrics_at)));
        addresses.push(line("state", state(&session.embedded, arguments)));
        let place = Addresses {
            endpoint: &session.stack.url(),
            kafka: &servers.kafka.brokers,
            folder: &common.project,
            secrets: &servers.secrets,
        };
        let notice = Notice::Started {
            addresses,
            endpoint: session.stack.url(),
            kafka: servers.kafka.brokers.clone(),
            postgres: servers.postgres_url().ok().and_then(postgres_reach::place).unwrap_or_default(),
            metrics: format!("http://{}/metrics", session.metrics_at),
            made_up: servers.secrets.made_up().keys().cloned().collect(),
            examples: examples::of(project, plan, place),
            seconds: notice::seconds(begun.elapsed()),
        };
        notice.print(common.output)
    }
}

/// What of all this is still there after the end.
fn state(embedded: &Embedded, arguments: &DevArgs) -> String {
    let topics =
        if embedded.has_broker { "topics end with this process" } else { "topics stay in your Kafka" };
    let tables = match (&arguments.state, embedded.has_cluster) {
        (Some(folder), _) => format!("Postgres is kept in {}", cluster_folder(folder).display()),
        (None, true) => String::from("Postgres ends with this process (--state DIR keeps it)"),
        (None, false) => String::from("tables stay in your Postgres"),
    };
    format!("{topics}; {tables}")
}
