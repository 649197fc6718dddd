//! Load of signed Stripe webhooks over connections that are kept, from tasks of this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use ring::hmac;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::events;
use crate::measure;
use crate::raw::Outcome;

/// Signing secret of all webhooks here.
pub const SECRET: &str = "whsec_benchmark";
/// Name of the connector.
pub const CONNECTOR: &str = "stripe";

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub address: SocketAddr,
    pub connections: u64,
    pub requests: u64,
    /// Requests a second over all connections; `None` is as many as are answered.
    pub per_s: Option<u64>,
}

/// When each request was due and answered, in monotonic nanoseconds. Without a rate a request is due when it is sent.
pub struct Times {
    due: Vec<AtomicU64>,
    answered: Vec<AtomicU64>,
}

impl Times {
    pub fn new(requests: u64) -> Times {
        let zeros = || (0..requests).map(|_| AtomicU64::new(0)).collect();
        Times { due: zeros(), answered: zeros() }
    }

    pub fn due_ns(&self, seq: u64) -> u64 {
        self.due[seq as usize].load(Ordering::Relaxed)
    }

    pub fn answered_ns(&self, seq: u64) -> u64 {
        self.answered[seq as usize].load(Ordering::Relaxed)
    }

    /// Milliseconds from due to answered, of requests from number `first` on.
    pub fn latencies_ms(&self, first: u64) -> Vec<f64> {
        let all = (first..self.due.len() as u64).filter(|seq| self.answered_ns(*seq) > 0);
        all.map(|seq| self.answered_ns(seq).saturating_sub(self.due_ns(seq)) as f64 / 1e6).collect()
    }
}

/// Sends everything. Each request has to be answered with 200.
pub async fn send(load: Load, times: Arc<Times>) -> Outcome<()> {
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now() + Duration::from_millis(50);
    let tasks: Vec<_> = (0..load.connections)
        .map(|number| {
            tokio::spawn(connection(load, number, (started, Arc::clone(&next)), Arc::clone(&times)))
        })
        .collect();
    for task in tasks {
        task.await.map_err(|e| e.to_string())??;
    }
    Ok(())
}

async fn connection(
    load: Load,
    number: u64,
    (started, next): (Instant, Arc<AtomicU64>),
    times: Arc<Times>,
) -> Outcome<()> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let mut open = None;
    let mut round = 0;
    loop {
        let seq = match load.per_s {
            Some(_) => round * load.connections + number,
            None => next.fetch_add(1, Ordering::Relaxed),
        };
        round += 1;
        if seq >= load.requests {
            return Ok(());
        }
        let due_ns = match load.per_s {
            Some(per_s) => {
                let due = started + Duration::from_nanos(seq * 1_000_000_000 / per_s);
                sleep_until(due).await;
                measure::monotonic_ns() - due.elapsed().as_nanos() as u64
            }
            None => measure::monotonic_ns(),
        };
        times.due[seq as usize].store(due_ns, Ordering::Relaxed);
        let mut sender = match open.take() {
            Some(sender) => sender,
            None => connect(load.address).await?,
        };
        let is_last = request(&mut sender, signed(&key, seq, due_ns)?).await?;
        times.answered[seq as usize].store(measure::monotonic_ns(), Ordering::Relaxed);
        open = (!is_last).then_some(sender);
    }
}

async fn connect(address: SocketAddr) -> Outcome<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends one request; true when the connection ends with its answer.
async fn request(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Outcome<bool> {
    sender.ready().await.map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status();
    let is_last = answer.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
    let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    if status.as_u16() != 200 {
        return Err(format!("answered {status}: {}", String::from_utf8_lossy(&body)));
    }
    Ok(is_last)
}

fn signed(key: &hmac::Key, seq: u64, due_ns: u64) -> Outcome<Request<Full<Bytes>>> {
    let (mut customer, mut body) = (Vec::new(), Vec::new());
    events::write(seq, due_ns, &mut customer, &mut body);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{now}.").as_bytes());
    context.update(&body);
    let signature = format!("t={now},v1={}", hex::encode(context.sign()));
    Request::post(format!("/hooks/{CONNECTOR}"))
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .header(header::USER_AGENT, "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
        .header("stripe-signature", signature)
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())
}

/// A runtime for the load.
pub fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
}
