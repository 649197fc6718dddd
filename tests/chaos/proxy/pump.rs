//! What both proxies share: the port, the connections, and a link that can be cut.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A lock whose owner cannot leave it in a broken state.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connections through one port.
pub struct Line {
    /// Where clients come in.
    pub port: u16,
    upstream: Mutex<Option<SocketAddr>>,
    open: Mutex<Vec<TcpStream>>,
    is_refusing: AtomicBool,
    is_closed: AtomicBool,
}

impl Line {
    /// Takes a free port; every connection is given to `serve`, on a thread of its own, with one to the server.
    pub fn open(serve: impl Fn(TcpStream, TcpStream) + Send + Sync + 'static) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let line = Arc::new(Self {
            port: listener.local_addr()?.port(),
            upstream: Mutex::new(None),
            open: Mutex::new(Vec::new()),
            is_refusing: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        });
        let (accepting, serve) = (Arc::clone(&line), Arc::new(serve));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.is_closed.load(Ordering::Acquire) {
                    return;
                }
                let Ok(client) = client else { continue };
                let (line, serve) = (Arc::clone(&accepting), Arc::clone(&serve));
                std::thread::spawn(move || {
                    // A server that is down: the client's connection ends, as it would without the proxy.
                    if let Some((client, server)) = line.connect(client) {
                        serve(client, server);
                    }
                });
            }
        });
        Ok(line)
    }

    fn connect(&self, client: TcpStream) -> Option<(TcpStream, TcpStream)> {
        if self.is_refusing.load(Ordering::Acquire) {
            return None;
        }
        let upstream = (*locked(&self.upstream))?;
        let server = TcpStream::connect_timeout(&upstream, CONNECT_TIMEOUT).ok()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true).ok()?;
            locked(&self.open).push(stream.try_clone().ok()?);
        }
        Some((client, server))
    }

    /// Says where the server is.
    pub fn lead_to(&self, port: u16) {
        *locked(&self.upstream) = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }

    /// Takes connections again.
    pub fn reopen(&self) {
        self.is_refusing.store(false, Ordering::Release);
    }

    /// Ends every connection; with `refuses` no other is taken until [`Self::reopen`].
    pub fn cut(&self, refuses: bool) {
        self.is_refusing.store(refuses, Ordering::Release);
        for stream in locked(&self.open).drain(..) {
            // Ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Ends the proxy.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.cut(true);
        // Wakes the thread that accepts.
        let _ =
            TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), CONNECT_TIMEOUT);
    }
}
