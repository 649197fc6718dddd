//! A proxy that knows no protocol: it can end connections, refuse them, and end one when certain bytes pass.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use super::pump::{Line, locked};

/// Ends a connection whose client sends certain bytes.
#[derive(Clone, Debug)]
pub struct Wire {
    /// The bytes. They must come in one piece, as short statements do.
    pub bytes: &'static [u8],
    /// So often.
    pub times: u32,
    /// Whether the server gets them, and answers, before the connection ends: done, and nobody was told.
    pub is_done: bool,
}

#[derive(Default)]
struct State {
    wire: Option<Wire>,
    tripped: u32,
}

/// The proxy of one server.
pub struct PlainProxy {
    line: Arc<Line>,
    state: Arc<Mutex<State>>,
}

impl PlainProxy {
    /// A proxy with a port of its own, leading to `port`.
    pub fn open(port: u16) -> io::Result<Self> {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let line = Line::open(move |client, server| serve(&shared, client, server))?;
        line.lead_to(port);
        Ok(Self { line, state })
    }

    /// Connections through it.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Lays a wire.
    pub fn lay(&self, wire: Wire) {
        locked(&self.state).wire = Some(wire);
    }

    /// Takes it away.
    pub fn heal(&self) {
        locked(&self.state).wire = None;
        self.line.reopen();
    }

    /// How often it was tripped over.
    pub fn tripped(&self) -> u32 {
        locked(&self.state).tripped
    }
}

impl Drop for PlainProxy {
    fn drop(&mut self) {
        self.line.close();
    }
}

fn serve(state: &Arc<Mutex<State>>, client: TcpStream, server: TcpStream) {
    let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { return };
    let is_cut: Arc<Mutex<bool>> = Arc::default();
    let down = {
        let is_cut = Arc::clone(&is_cut);
        std::thread::spawn(move || bring_back(&is_cut, from_server, to_client))
    };
    // Either end may have gone; the other goes, too.
    let _ = bring_forth(state, &is_cut, &client, &server);
    if !*locked(&is_cut) {
        let _ = server.shutdown(Shutdown::Both);
    }
    let _ = down.join();
}

fn bring_forth(
    state: &Mutex<State>,
    is_cut: &Mutex<bool>,
    mut client: &TcpStream,
    mut server: &TcpStream,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let bytes = &buffer[..count];
        match trips(state, bytes) {
            Some(Wire { is_done: true, .. }) => {
                *locked(is_cut) = true;
                server.write_all(bytes)?;
                // The way back ends the client's connection when the answer comes.
                return Ok(());
            }
            Some(_) => return client.shutdown(Shutdown::Both),
            None => server.write_all(bytes)?,
        }
    }
}

fn trips(state: &Mutex<State>, bytes: &[u8]) -> Option<Wire> {
    let mut state = locked(state);
    let wire = state.wire.as_mut().filter(|wire| wire.times > 0)?;
    if !bytes.windows(wire.bytes.len()).any(|window| window == wire.bytes) {
        return None;
    }
    wire.times -= 1;
    let wire = wire.clone();
    state.tripped += 1;
    Some(wire)
}

fn bring_back(is_cut: &Mutex<bool>, mut server: TcpStream, mut client: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = server.read(&mut buffer) {
        if count == 0 || *locked(is_cut) || client.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    for stream in [&client, &server] {
        // Ended already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
