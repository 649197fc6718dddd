//! A proxy before Postgres that breaks connections at COMMIT.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Where a connection breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Postgres never hears of the COMMIT.
    BeforeCommit,
    /// Postgres commits; its answer is lost.
    AfterCommit,
}

/// A COMMIT as sqlx sends it: a simple query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
/// How Postgres says that it has committed.
const COMMITTED: &[u8] = b"C\0\0\0\x0bCOMMIT\0";

#[derive(Default)]
struct State {
    /// Every so many COMMITs one is cut; 0 for none.
    every: AtomicUsize,
    is_after: AtomicUsize,
    commits: AtomicUsize,
    cuts: AtomicUsize,
}

/// The proxy; ends when dropped.
pub struct PostgresProxy {
    port: u16,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl PostgresProxy {
    /// Before the Postgres at `url`.
    pub async fn start(url: &str) -> Self {
        let (_, rest) = url.split_once('@').expect("the address names a user");
        let (server, _) = rest.split_once('/').expect("the address names a database");
        let server = server.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.expect("Postgres answers");
                tokio::spawn(relay(client, server, Arc::clone(&shared)));
            }
        });
        Self { port, state, accepting }
    }

    /// `url` by way of this proxy.
    pub fn url(&self, url: &str) -> String {
        let (user, rest) = url.split_once('@').expect("the address names a user");
        let (_, database) = rest.split_once('/').expect("the address names a database");
        format!("{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Cuts every so many-th COMMIT from now on; 0: none.
    pub fn cut_every(&self, cut: Cut, every: usize) {
        self.state.is_after.store(usize::from(cut == Cut::AfterCommit), Ordering::SeqCst);
        self.state.every.store(every, Ordering::SeqCst);
    }

    /// Connections cut so far.
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }
}

/// Relays until one side ends, or a COMMIT is to be cut: both ends are closed then.
async fn relay(client: TcpStream, server: TcpStream, state: Arc<State>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut asked = vec![0; 64 << 10];
    let mut answered = vec![0; 64 << 10];
    loop {
        tokio::select! {
            read = from_client.read(&mut asked) => {
                let Ok(1..) = read else { return };
                let bytes = &asked[..read.unwrap_or(0)];
                if has(bytes, COMMIT) && is_cut(&state) {
                    if state.is_after.load(Ordering::SeqCst) == 1 {
                        committed(&mut to_server, &mut from_server, bytes).await;
                    }
                    state.cuts.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if to_server.write_all(bytes).await.is_err() { return }
            }
            read = from_server.read(&mut answered) => {
                let Ok(1..) = read else { return };
                if to_client.write_all(&answered[..read.unwrap_or(0)]).await.is_err() { return }
            }
        }
    }
}

/// Sends a COMMIT and waits until Postgres has done it.
async fn committed(to_server: &mut OwnedWriteHalf, from_server: &mut OwnedReadHalf, commit: &[u8]) {
    to_server.write_all(commit).await.expect("Postgres takes it");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !has(&answer, COMMITTED) {
        let read = from_server.read(&mut buffer).await.expect("Postgres answers");
        assert!(read > 0, "Postgres answers a COMMIT");
        answer.extend_from_slice(&buffer[..read]);
    }
}

fn is_cut(state: &State) -> bool {
    let every = state.every.load(Ordering::SeqCst);
    every > 0 && state.commits.fetch_add(1, Ordering::SeqCst) % every == every - 1
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
