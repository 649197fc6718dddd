//! `millrace health`: asks a running role whether it is ready, for container health checks.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::cli::{Exit, ends, output};

const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Asks `/health/ready` at `address`; prints the answer.
///
/// # Errors
/// When nothing answers there.
pub fn run(address: SocketAddr) -> anyhow::Result<Exit> {
    let answer = ask(address).map_err(|error| {
        ends(
            Exit::Unreachable,
            format!("no role answers at {address}: {error}; is it running with --metrics {address}?"),
        )
    })?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    output::print(&format!("{body}\n"))?;
    let is_ready = answer.split(' ').nth(1) == Some("200");
    Ok(if is_ready { Exit::Done } else { Exit::Failed })
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(b"GET /health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    connection.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
