//! A server on the loopback interface for tests: plain TCP, so that it can also answer wrongly.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Answers one connection after another with the texts given, then closes; remembers what was asked.
pub(crate) struct Server {
    /// Host and port.
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// Starts it.
pub(crate) async fn server(answers: Vec<String>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let request = request(&mut stream).await;
            seen.lock().expect("not poisoned").push(request);
            if answer == "hang" {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            // A caller that has read enough closes first.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Server { address, requests }
}

/// Reads one request: head, and as much body as it announces.
async fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let read = stream.read(&mut buffer).await.expect("a request");
        text.extend_from_slice(&buffer[..read]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let announced = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= announced.unwrap_or(0_usize) {
                return whole;
            }
        }
        if read == 0 {
            return whole;
        }
    }
}

/// An answer as text; `headers` are whole lines.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

impl Server {
    /// What was asked, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}
