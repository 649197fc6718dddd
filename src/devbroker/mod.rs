//! A Kafka broker in process, for development and tests only: in memory, on loopback, gone when it is dropped.
//!
//! It speaks Kafka's protocol to any client: topics, groups (classic protocol), idempotent and transactional
//! producers, readers of committed records. It is never the proof of a guarantee: the scenario suite runs on it and on
//! Apache Kafka, and a difference between the two is a bug in it.

mod faults;
mod group;
mod groups;
mod partition;
mod records;
mod server;
mod state;
mod topics;
mod transactions;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

pub use faults::{Action, Fault, Faults, When};
pub use kafka_protocol::messages::ApiKey as Api;
use server::Shared;
use state::State;

/// Threads that serve connections.
const WORKERS: usize = 2;
/// How often time-outs are looked for.
const TICK: Duration = Duration::from_millis(20);

/// What a broker is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Bytes of record batches that a partition keeps; beyond it the oldest are deleted, which is logged and counted
    /// ([`Broker::deleted_records`]). A topic's own `retention.bytes` may ask for less.
    pub partition_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { port: 0, partition_bytes_max: 256 << 20 }
    }
}

/// A running broker; dropping it stops it and frees all that it kept. Works from synchronous and asynchronous callers,
/// on threads of its own.
pub struct Broker {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts a broker on 127.0.0.1. It accepts connections when this returns.
    ///
    /// # Errors
    /// When the port is taken, or the system gives no thread.
    pub fn start(settings: Settings) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("devbroker")
            .enable_all()
            .build()?;
        let context = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        drop(context);
        let state = State { settings: Settings { port: address.port(), ..settings }, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), faults: Faults::default() });
        let (stop, stopped) = mpsc::channel();
        let served = shared.clone();
        // A thread of its own owns the runtime: one that is dropped inside another panics.
        let thread = std::thread::Builder::new().name("devbroker-main".to_owned()).spawn(move || {
            runtime.spawn(accept(listener, served.clone()));
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                served.state().tick(Instant::now());
            }
        })?;
        tracing::info!(%address, "development broker: in memory, for development only");
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens: 127.0.0.1 and the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Faults on order, for tests.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Records that retention has deleted since the start, over all partitions. The first of each topic is logged too.
    pub fn deleted_records(&self) -> u64 {
        self.shared.state().deleted
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Serves connections; they end with the runtime.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => drop(tokio::spawn(server::serve(stream, peer, shared.clone()))),
            Err(error) => {
                // Mostly too many open files: others may close theirs.
                tracing::warn!(%error, "a connection to the development broker could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
