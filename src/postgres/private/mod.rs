//! A private Postgres cluster for development: real Postgres from the programs that are installed, as a child process
//! that goes when Millrace goes, however it goes.
//!
//! - The server runs in a folder of its own: a temporary one that is removed at the end, or one that is given and
//!   kept. A lock in the folder says that it is in use; temporary folders that a killed Millrace left behind are
//!   removed by the next one.
//! - Postgres refuses to run as root. Where Millrace is root, the server's programs run as an unprivileged user who
//!   owns the data.
//! - The only role that may connect is `millrace`, from this machine; it is no superuser, so that having no password
//!   gives nobody a way to files or programs.
//! - The kernel signals the server when the thread that started it ends (`PR_SET_PDEATHSIG`), so a thread of its own
//!   starts it, waits for its end, and lives as long as [`Cluster`] does.

mod child;
mod folder;
mod programs;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::postgres::private::child::Server;
use crate::postgres::private::folder::Home;
use crate::postgres::private::programs::{Programs, User};

/// How long the server may take to be ready; after a crash it reads its log first.
const START_MAX: Duration = Duration::from_secs(60);
/// How long it may take to stop before it is killed.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How often the server is looked at while it starts or stops.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often it is looked at while it runs; a stop is noticed at once.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// A free port may be taken by somebody else before the server has it; so often another is tried.
const PORT_TRIES: u32 = 5;
/// Role and database.
const NAME: &str = "millrace";

/// Where the cluster's files are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Folder {
    /// In the system's folder for temporary files; removed at the end. Nothing is written through to the disk.
    Temporary,
    /// In this folder, which is made when it is not there. The last commits may be lost when the machine fails, and
    /// nothing else.
    Kept(PathBuf),
}

/// Why there is no private cluster.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// No programs were found.
    #[error(
        "PostgreSQL's server programs (initdb, postgres) were found neither on the PATH nor where distributions put \
         them; install them (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; \
         macOS: brew install postgresql), or give a server that runs with --postgres URL"
    )]
    NoPrograms,
    /// The folder is of another major version.
    #[error(
        "the cluster in {folder} was made by PostgreSQL {made_by}, and that version is not installed (found: {found}); \
         install it, or begin anew with --reset"
    )]
    OtherVersion {
        /// The folder.
        folder: PathBuf,
        /// Its version.
        made_by: String,
        /// What is installed.
        found: String,
    },
    /// Another process has the folder.
    #[error("{folder} is in use by another Millrace; end that one, or give another folder")]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds something else.
    #[error("{folder} holds something that is no cluster of Millrace; give another folder")]
    Foreign {
        /// The folder.
        folder: PathBuf,
    },
    /// Millrace is root, and the user for Postgres cannot enter the folder.
    #[error(
        "Postgres does not run as root, and user {user}, whom it runs as instead, may not enter {blocked}; give a \
         folder that other users may enter, or run Millrace as an ordinary user"
    )]
    Closed {
        /// The user.
        user: String,
        /// The folder that stops the way.
        blocked: PathBuf,
    },
    /// Millrace is root, and there is no user to run Postgres as.
    #[error("Postgres does not run as root, and this system has neither a user `postgres` nor `nobody`")]
    NoUser,
    /// One of its programs failed.
    #[error("{program} failed ({status}); the end of what it wrote:\n{log}")]
    Failed {
        /// Program.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// It did not get ready.
    #[error("the server was not ready within {} s; the end of its log:\n{log}", START_MAX.as_secs())]
    Late {
        /// The last lines of its log.
        log: String,
    },
    /// The port that was asked for is taken.
    #[error("port {port} of 127.0.0.1 is taken; choose another for Postgres")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The system refuses something.
    #[error("cannot {what} {path}")]
    System {
        /// What was tried.
        what: &'static str,
        /// With which file or program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A server that runs until this is dropped, or until the process ends.
#[derive(Debug)]
pub struct Cluster {
    port: u16,
    version: String,
    took: Duration,
    ended: CancellationToken,
    /// Gone when the server is to stop.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a server that is ready says of itself.
struct Ready {
    port: u16,
    version: String,
}

impl Cluster {
    /// Makes the cluster where there is none, starts its server and waits until it is ready: about a second, or a
    /// fifth of one in a folder that was kept. `port` 0 takes a free one. Blocks.
    ///
    /// # Errors
    /// [`PrivateError`].
    pub fn start(folder: &Folder, port: u16) -> Result<Self, PrivateError> {
        let begun = Instant::now();
        let (tell, ready) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let ended = CancellationToken::new();
        let (own, token) = (folder.clone(), ended.clone());
        let thread = std::thread::Builder::new()
            .name(String::from("private postgres"))
            .spawn(move || live(&own, port, &tell, &stopped, &token))
            .map_err(|source| system("start a thread for", "postgres", source))?;
        // A thread that panics tells nothing.
        let told = ready.recv().unwrap_or(Err(PrivateError::Failed {
            program: "postgres",
            status: String::from("its thread broke"),
            log: String::new(),
        }));
        match told {
            Ok(Ready { port, version }) => {
                let took = begun.elapsed();
                Ok(Self { port, version, took, ended, stop: Some(stop), thread: Some(thread) })
            }
            Err(error) => {
                let _panicked = thread.join();
                Err(error)
            }
        }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("postgres://{NAME}@127.0.0.1:{}/{NAME}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// PostgreSQL's version, such as `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How long it took to start.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Cancelled when the server has ended, by itself or because it was stopped.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Removes the cluster that is kept in `folder`; nothing when there is none.
///
/// # Errors
/// [`PrivateError::Busy`], [`PrivateError::Foreign`], [`PrivateError::System`].
pub fn forget(folder: &std::path::Path) -> Result<(), PrivateError> {
    if !folder.exists() {
        return Ok(());
    }
    Home::kept(folder, None)?.forget()
}

/// The life of the server: start, tell, wait for the stop or the server's own end.
fn live(
    folder: &Folder,
    port: u16,
    tell: &mpsc::Sender<Result<Ready, PrivateError>>,
    stopped: &mpsc::Receiver<()>,
    ended: &CancellationToken,
) {
    match begin(folder, port) {
        Ok((ready, home, server)) => {
            // Whoever asked waits for this answer, or the process is ending.
            let _ = tell.send(Ok(ready));
            run(server, stopped);
            ended.cancel();
            drop(home);
        }
        Err(error) => {
            let _ = tell.send(Err(error));
        }
    }
}

fn begin(folder: &Folder, port: u16) -> Result<(Ready, Home, Server), PrivateError> {
    let user = User::for_server()?;
    let home = match folder {
        Folder::Temporary => Home::temporary(user.as_ref())?,
        Folder::Kept(path) => Home::kept(path, user.as_ref())?,
    };
    let programs = Programs::find(home.made_by()?.as_deref(), &home)?;
    if home.made_by()?.is_none() {
        child::initialise(&programs, &home, user.as_ref())?;
    }
    let wanted = port;
    let mut tries = 0;
    loop {
        let port = if wanted == 0 { free_port()? } else { wanted };
        let mut server = Server::spawn(&programs, &home, user.as_ref(), port)?;
        match server.wait_until_ready(START_MAX) {
            Ok(()) => return Ok((Ready { port, version: programs.version }, home, server)),
            Err(PrivateError::PortTaken { .. }) if wanted == 0 && tries < PORT_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Waits until the server is to stop, or stops by itself.
fn run(mut server: Server, stopped: &mpsc::Receiver<()>) {
    while stopped.recv_timeout(WATCH_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
        if server.has_ended() {
            tracing::error!(log = server.log(), "the private Postgres ended by itself");
            return;
        }
    }
    server.stop(STOP_MAX);
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16, PrivateError> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port()).map_err(|source| system("find a free port of", "127.0.0.1", source))
}

fn system(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> PrivateError {
    PrivateError::System { what, path: path.into(), source }
}
