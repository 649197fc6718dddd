//! Every role of a project in one process, with a plan that can be replaced while the servers go on.
//!
//! Replacing is a restart of the roles and of nothing else: the endpoint stops taking requests, workers finish and
//! commit what they have begun, the projector ends; then all start with the new plan where the old ones stopped. The
//! listening socket stays open in between, so a webhook waits for the new endpoint instead of being refused. What was
//! not finished was not committed, and the new workers do it: nothing is lost, and with `exactly_once` nothing is
//! doubled.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::server::HealthProbe;
use crate::app::servers::Servers;
use crate::app::supervise::{self, Role};
use crate::app::{ingest, project, services, worker};
use crate::ingest::server::Answered;
use crate::plan::Plan;
use crate::schema::codec::Codec;
use crate::stages::destinations::Destinations;

/// Where webhooks come in.
pub struct Door {
    listen: SocketAddr,
    public_url: Option<String>,
    socket: Option<std::net::TcpListener>,
}

impl Door {
    /// To be opened at `listen` when a source needs it. Senders reach it at `public_url`, else where it listens.
    pub fn new(listen: SocketAddr, public_url: Option<String>) -> Self {
        Self { listen, public_url, socket: None }
    }

    /// Opens it.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn open(&mut self) -> anyhow::Result<()> {
        if self.socket.is_none() {
            let socket = std::net::TcpListener::bind(self.listen).with_context(|| {
                format!("cannot listen on {} for webhooks; choose another with --listen", self.listen)
            })?;
            socket.set_nonblocking(true)?;
            self.listen = socket.local_addr()?;
            self.socket = Some(socket);
        }
        Ok(())
    }

    /// Its address, such as `http://127.0.0.1:8080`; once it is open, with the port it has.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    fn public_url(&self) -> String {
        self.public_url.clone().unwrap_or_else(|| self.url())
    }

    fn listener(&mut self) -> anyhow::Result<TcpListener> {
        self.open()?;
        let socket = self.socket.as_ref().context("it was just opened")?;
        Ok(TcpListener::from_std(socket.try_clone()?)?)
    }
}

/// The roles.
pub struct Stack {
    servers: Servers,
    codec: Arc<Codec>,
    door: Door,
    answered: mpsc::Sender<Answered>,
    probes: Arc<Mutex<Vec<HealthOfRole>>>,
    running: Option<Running>,
}

type HealthOfRole = Arc<dyn Fn() -> crate::admin::server::Health + Send + Sync>;

struct Running {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Stack {
    /// Nothing runs yet. What the endpoint answers is told to `answered`.
    pub fn new(servers: Servers, codec: Arc<Codec>, door: Door, answered: mpsc::Sender<Answered>) -> Self {
        Self { servers, codec, door, answered, probes: Arc::default(), running: None }
    }

    /// How the roles that run at the time are doing.
    pub fn probe(&self) -> HealthProbe {
        let probes = Arc::clone(&self.probes);
        Arc::new(move || {
            let probes = probes.lock().unwrap_or_else(PoisonError::into_inner).clone();
            probes.iter().map(|probe| probe()).collect()
        })
    }

    /// Whether roles were started and have not ended.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Address of the endpoint.
    pub fn url(&self) -> String {
        self.door.url()
    }

    /// Servers and secrets that the next start uses.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Replaces the servers' addresses and secrets for the next start.
    pub fn set_servers(&mut self, servers: Servers) {
        self.servers = servers;
    }

    /// Whether roles could be started with `plan` and `servers`: secrets are there and fit. Starts nothing.
    ///
    /// # Errors
    /// What stands against it.
    pub fn check(&mut self, plan: &Plan, servers: &Servers) -> anyhow::Result<()> {
        if !plan.sources.is_empty() {
            self.door.open()?;
        }
        ingest::sources(plan, servers, Some(&self.door.public_url()))?;
        Destinations::new(&plan.targets, &servers.secrets)
            .context("a connector's `target:` cannot be used")?;
        Ok(())
    }

    /// Starts every role of `plan`.
    ///
    /// # Errors
    /// When a role cannot start; those that have are stopped.
    pub async fn start(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let (roles, failed) = self.roles(plan).await;
        let stop = CancellationToken::new();
        *self.probes.lock().unwrap_or_else(PoisonError::into_inner) =
            roles.iter().map(|role| Arc::clone(&role.health)).collect();
        let task = tokio::spawn(supervise::run(roles, stop.clone()));
        self.running = Some(Running { stop, task });
        match failed {
            None => Ok(()),
            Some(error) => {
                self.stop().await.context("roles that had been started before another could not")?;
                Err(error)
            }
        }
    }

    /// The roles that could be started, in the order in which they are stopped, and why the next could not.
    async fn roles(&mut self, plan: &Plan) -> (Vec<Role>, Option<anyhow::Error>) {
        let mut roles = Vec::new();
        let failed = self.add_roles(plan, &mut roles).await.err();
        (roles, failed)
    }

    async fn add_roles(&mut self, plan: &Plan, roles: &mut Vec<Role>) -> anyhow::Result<()> {
        let Self { servers, codec, door, answered, .. } = self;
        if !plan.sources.is_empty() {
            let listener = door.listener()?;
            let url = door.public_url();
            roles.push(ingest::role(plan, servers, listener, Some(&url), Some(answered.clone()))?);
        }
        let services = Arc::new(services::live(plan, servers, Arc::clone(codec)).await?);
        let shared = worker::Shared::new(plan, servers, services, plan.groups.len());
        for group in &plan.groups {
            roles.push(worker::role(&Arc::new(group.clone()), &shared)?);
        }
        roles.push(project::role(plan, servers, Arc::clone(codec))?);
        Ok(())
    }

    /// Ends the roles in order; nothing when none run.
    ///
    /// # Errors
    /// When one does not end well.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(Running { stop, task }) = self.running.take() else { return Ok(()) };
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        stop.cancel();
        task.await.context("a role broke")?
    }

    /// Waits until a role ends by itself, which ends the others; never returns while none run.
    pub async fn ended(&mut self) -> anyhow::Error {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let ended = (&mut running.task).await;
        self.running = None;
        match ended {
            Ok(Ok(())) => anyhow::anyhow!("the roles ended by themselves"),
            Ok(Err(error)) => error,
            Err(broken) => anyhow::Error::new(broken).context("a role broke"),
        }
    }
}
