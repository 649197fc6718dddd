//! The webhook endpoint against real Kafka: what it takes, what it refuses, and who cannot bring it down.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use hmac::{Hmac, KeyInit as _, Mac as _};
use millrace::connectors::source::{Extractors, Source, SourceConfig};
use millrace::connectors::verify::Surroundings;
use millrace::ingest::limits::IngestSettings;
use millrace::ingest::server::{self, Answered, Endpoint, ServeError};
use millrace::kafka::producer::Producer;
use millrace::kafka::settings::{Connection, ProducerSettings};
use millrace::secrets::Secret;
use millrace::yaml::lint::{Lints, SourceFile};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::readback::{self, Back};
use crate::support::servers;

const SECRET: &str = "whsec_it";
const PUBLIC_URL: &str = "https://hooks.example.com";

/// A running endpoint with sources `stripe` and `hubspot`.
struct Running {
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
    events: mpsc::Receiver<Answered>,
    topic: String,
}

fn source(name: &str, yaml: &str) -> (String, Source) {
    let file = Arc::new(SourceFile { path: "connectors/it.yaml".into(), text: yaml.to_owned() });
    let mut lints = Lints::default();
    let node = millrace::yaml::node::parse(&file, &mut lints).expect("the connector is YAML");
    let config = SourceConfig::decode(&node, &mut lints);
    assert!(!lints.has_errors(), "{lints:?}");
    let surroundings =
        Surroundings { secrets: &|_| Ok(Some(Secret::new(SECRET))), public_base_url: Some(PUBLIC_URL) };
    let source = Source::build(name, &config.expect("no errors"), Extractors::default(), &surroundings);
    (name.to_owned(), source.expect("the secret is there"))
}

/// Starts an endpoint whose events go to `topic` at `kafka`; `limits` is the source's own.
async fn start(kafka: &str, topic: &str, limits: &str, settings: IngestSettings) -> Running {
    let yaml = |scheme: &str| {
        format!("verify: {{scheme: {scheme}, secrets: [{{env: A}}]}}\ntopic: {topic}\nlimits: {limits}\n")
    };
    let sources = vec![source("stripe", &yaml("stripe")), source("hubspot", &yaml("hubspot"))];
    let producer = Producer::start(ProducerSettings::new(Connection::plain(kafka, "it"))).expect("settings");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let (sender, events) = mpsc::channel(1000);
    let shutdown = CancellationToken::new();
    let endpoint = Endpoint { settings, sources, producer, events: Some(sender) };
    let task = tokio::spawn(server::serve(endpoint, listener, shutdown.clone()));
    Running { address, shutdown, task, events, topic: topic.to_owned() }
}

async fn started(prefix: &str, limits: &str, settings: IngestSettings) -> Running {
    let topic = servers::unique(prefix);
    servers::create_topics(&[(&topic, 3)]).await;
    start(&servers::kafka(), &topic, limits, settings).await
}

impl Running {
    /// Stops the endpoint and reads what is in its topic.
    async fn stop(self) -> Vec<Back> {
        self.shutdown.cancel();
        self.task.await.expect("the endpoint does not panic").expect("it ends well");
        let topic = self.topic;
        tokio::task::spawn_blocking(move || readback::read_all(&servers::kafka(), &topic))
            .await
            .expect("the topic can be read")
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("the endpoint listens");
        send(&mut stream, path, headers, body).await;
        answer(&mut stream).await
    }

    async fn post_stripe(&self, body: &[u8]) -> Answer {
        self.post("/hooks/stripe", &[("stripe-signature", &stripe_signature(body))], body).await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

async fn send(stream: &mut TcpStream, path: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut head = format!("POST {path} HTTP/1.1\r\nhost: it\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.expect("the endpoint reads");
    // A refused body may not be read to its end.
    let _ = stream.write_all(body).await;
}

/// Reads one answer with a `content-length`.
async fn answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        let read = stream.read_buf(&mut bytes).await.expect("the endpoint answers");
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    let mut answer = Answer { status, head, body: String::new() };
    let length: usize = answer.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        assert!(stream.read_buf(&mut bytes).await.expect("the endpoint answers") > 0);
    }
    answer.body = String::from_utf8_lossy(&bytes[end..end + length]).into_owned();
    answer
}

fn mac(parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

fn stripe_signature(body: &[u8]) -> String {
    let now = Utc::now().timestamp().to_string();
    format!("t={now},v1={}", hex::encode(mac(&[now.as_bytes(), b".", body])))
}

fn stripe_body(number: usize) -> String {
    format!(
        r#"{{ "id":"evt_{number}", "object":"event","created":1700000000,"type":"charge.succeeded", "data":{{"object":{{"id":"ch_{number}","customer":"cus_{}"}}}}, "livemode":true}}"#,
        number % 7
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_event_lands_with_its_own_bytes() {
    let mut endpoint = started("ingest-signed", "{}", IngestSettings::default()).await;
    let body = "{\"id\":\"evt_1\",\n  \"type\":\"charge.succeeded\",\"created\":1700000000,\"data\":{\"object\":{\"id\":\"ch_1\",\"customer\":\"cus_é\"}}} ";
    let good = endpoint.post_stripe(body.as_bytes()).await;
    assert_eq!((good.status, good.body.as_str()), (200, r#"{"accepted":1}"#));
    let of_another = stripe_signature(b"{}");
    let forged = endpoint.post("/hooks/stripe", &[("stripe-signature", &of_another)], body.as_bytes()).await;
    assert_eq!(forged.status, 401);
    assert!(forged.body.contains("\"bad_signature\"") && !forged.body.contains("evt_1"), "{forged:?}");
    let unsigned = endpoint.post("/hooks/stripe", &[], body.as_bytes()).await;
    assert_eq!(unsigned.status, 401);
    let nonsense = endpoint.post_stripe(b"{\"id\":").await;
    assert_eq!(nonsense.status, 400);
    let seen = endpoint.events.recv().await.expect("the first answer");
    assert_eq!((seen.connector.as_str(), seen.status), ("stripe", 200));
    let event = seen.event.expect("an event");
    assert_eq!((event.id.as_str(), event.kind.as_str()), ("evt_1", "charge.succeeded"));
    let refused = endpoint.events.recv().await.expect("the second answer");
    assert_eq!((refused.status, refused.reason), (401, "bad_signature"));
    let records = endpoint.stop().await;
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.value.as_deref(), Some(body.as_bytes()));
    assert_eq!(record.key.as_deref(), Some("cus_é".as_bytes()));
    assert_eq!((record.partition, record.offset), (event.delivered.partition, event.delivered.offset));
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", "evt_1"),
        ("ce_source", "stripe"),
        ("ce_type", "charge.succeeded"),
        ("ce_subject", "ch_1"),
        ("ce_time", "2023-11-14T22:13:20Z"),
        ("content-type", "application/json"),
    ];
    for (name, value) in headers {
        assert_eq!(record.header(name), Some(value), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_becomes_one_record_each() {
    let endpoint = started("ingest-batch", "{}", IngestSettings::default()).await;
    let element = |number: u64| {
        format!(
            r#"{{"eventId": {number},"portalId":9007199254740993,"occurredAt":1564113600000,"subscriptionType":"contact.creation","objectId":{}}}"#,
            number % 3
        )
    };
    let elements: Vec<String> = (0..100).map(element).collect();
    let body = format!("[{}]", elements.join(" ,\n"));
    let now = Utc::now().timestamp_millis().to_string();
    let uri = format!("{PUBLIC_URL}/hooks/hubspot?src=a:b");
    let signature = mac(&[b"POST", uri.as_bytes(), body.as_bytes(), now.as_bytes()]);
    let signature = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, signature);
    let headers =
        [("X-HubSpot-Signature-v3", signature.as_str()), ("X-HubSpot-Request-Timestamp", now.as_str())];
    let answer = endpoint.post("/hooks/hubspot?src=a%3Ab", &headers, body.as_bytes()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"accepted":100}"#));
    let records = endpoint.stop().await;
    assert_eq!(records.len(), 100);
    for object in 0..3 {
        let key = format!("9007199254740993:{object}");
        let of_key = records.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes()));
        let values: Vec<&[u8]> = of_key.map(|record| record.value.as_deref().expect("a value")).collect();
        let sent: Vec<&[u8]> =
            elements.iter().skip(object).step_by(3).map(|element| element.as_bytes()).collect();
        assert_eq!(values, sent, "in the order of the batch");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_senders_at_once() {
    let endpoint = Arc::new(started("ingest-parallel", "{}", IngestSettings::default()).await);
    let senders: Vec<_> = (0..100)
        .map(|sender| {
            let endpoint = Arc::clone(&endpoint);
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
                for number in sender * 10..sender * 10 + 10 {
                    let body = stripe_body(number);
                    let signature = stripe_signature(body.as_bytes());
                    send(&mut stream, "/hooks/stripe", &[("stripe-signature", &signature)], body.as_bytes())
                        .await;
                    assert_eq!(answer(&mut stream).await.status, 200);
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.expect("every request is taken");
    }
    let endpoint = Arc::into_inner(endpoint).expect("all senders are done");
    let records = endpoint.stop().await;
    let mut ids: Vec<&str> = records.iter().map(|record| record.header("ce_id").expect("an id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((records.len(), ids.len()), (1000, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_the_answer_is_503_in_time() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let kafka = closed.local_addr().expect("a bound socket").to_string();
    drop(closed);
    let settings = IngestSettings { drain_max: Duration::from_secs(1), ..IngestSettings::default() };
    let endpoint = start(&kafka, "nowhere", "{deadline: 1s}", settings).await;
    let begin = Instant::now();
    let answer = endpoint.post_stripe(stripe_body(1).as_bytes()).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    endpoint.shutdown.cancel();
    let end = endpoint.task.await.expect("no panic");
    assert!(matches!(end, Err(ServeError::Unflushed(1))), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_not_success() {
    let topic = servers::unique("ingest-absent");
    let endpoint = start(&servers::kafka(), &topic, "{deadline: 10s}", IngestSettings::default()).await;
    let answer = endpoint.post_stripe(stripe_body(1).as_bytes()).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    endpoint.shutdown.cancel();
    endpoint.task.await.expect("no panic").expect("nothing is left over");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_answer_with_their_own_status() {
    let endpoint =
        started("ingest-limits", "{body: 4KiB, rate: 2/h, concurrency: 5}", IngestSettings::default()).await;
    let large = vec![b'x'; 5000];
    assert_eq!(endpoint.post_stripe(&large).await.status, 413);
    let mut chunked = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
    let head = "POST /hooks/stripe HTTP/1.1\r\nhost: it\r\ntransfer-encoding: chunked\r\n\r\n";
    chunked.write_all(head.as_bytes()).await.expect("the endpoint reads");
    for _ in 0..5 {
        let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
        chunked.write_all(chunk.as_bytes()).await.expect("the endpoint reads");
    }
    chunked.write_all(b"0\r\n\r\n").await.expect("the endpoint reads");
    assert_eq!(answer(&mut chunked).await.status, 413);
    assert_eq!(endpoint.post("/hooks/nobody", &[], b"{}").await.status, 404);
    assert_eq!(endpoint.post("/", &[], b"{}").await.status, 404);
    assert_eq!(endpoint.post("/hooks/stripe", &[("content-encoding", "gzip")], b"{}").await.status, 415);
    let form = b"a=b";
    let signature = stripe_signature(form);
    let headers =
        [("stripe-signature", signature.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(endpoint.post("/hooks/stripe", &headers, form).await.status, 415);
    let mut get = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
    get.write_all(b"GET /hooks/stripe HTTP/1.1\r\nhost: it\r\n\r\n").await.expect("the endpoint reads");
    let get = answer(&mut get).await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    // Forgeries do not count against the rate; the form above was signed and did.
    for _ in 0..5 {
        assert_eq!(
            endpoint.post("/hooks/stripe", &[("stripe-signature", "t=1,v1=00")], b"{}").await.status,
            401
        );
    }
    assert_eq!(endpoint.post_stripe(stripe_body(1).as_bytes()).await.status, 200);
    let over = endpoint.post_stripe(stripe_body(2).as_bytes()).await;
    assert_eq!(over.status, 429, "{over:?}");
    let wait: u64 = over.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((1..=1800).contains(&wait), "{wait}");
    assert_eq!(endpoint.stop().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_oversized_clients_are_cut() {
    let settings = IngestSettings {
        header_read_timeout: Duration::from_secs(1),
        body_read_timeout: Duration::from_secs(1),
        connections_max: 4,
        requests_per_connection_max: 2,
        ..IngestSettings::default()
    };
    let endpoint = started("ingest-slow", "{}", settings).await;
    // Four clients that would send their heads for 20 seconds take all connections; all are cut.
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
        slow.push(tokio::spawn(async move {
            let begin = Instant::now();
            let head = format!("POST /hooks/stripe HTTP/1.1\r\nx-slow: {}", "x".repeat(400));
            for byte in head.into_bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            begin.elapsed()
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begin = Instant::now();
    assert_eq!(endpoint.post_stripe(stripe_body(1).as_bytes()).await.status, 200);
    assert!(begin.elapsed() < Duration::from_secs(10), "waited {:?} for slow clients", begin.elapsed());
    for client in slow {
        let elapsed = client.await.expect("the client ends");
        assert!(elapsed < Duration::from_secs(10), "was let be slow for {elapsed:?}");
    }
    let mut stalled = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
    let head = "POST /hooks/stripe HTTP/1.1\r\nhost: it\r\ncontent-length: 100\r\n\r\n{";
    stalled.write_all(head.as_bytes()).await.expect("the endpoint reads");
    assert_eq!(answer(&mut stalled).await.status, 408);
    let mut wide = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
    let many: String = (0..100).map(|number| format!("x-{number}: a\r\n")).collect();
    let head = format!("POST /hooks/stripe HTTP/1.1\r\nhost: it\r\n{many}\r\n");
    wide.write_all(head.as_bytes()).await.expect("the endpoint reads");
    assert_eq!(answer(&mut wide).await.status, 431);
    let mut long = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
    let head = format!("POST /hooks/stripe HTTP/1.1\r\nhost: it\r\nx: {}\r\n\r\n", "a".repeat(64 * 1024));
    let _ = long.write_all(head.as_bytes()).await;
    assert_eq!(answer(&mut long).await.status, 431);
    let mut reused = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
    for (number, connection) in [(2, None), (3, Some("close"))] {
        let body = stripe_body(number);
        let signature = stripe_signature(body.as_bytes());
        send(&mut reused, "/hooks/stripe", &[("stripe-signature", &signature)], body.as_bytes()).await;
        let answer = answer(&mut reused).await;
        assert_eq!((answer.status, answer.header("connection")), (200, connection));
    }
    assert_eq!(endpoint.stop().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_share_a_bounded_memory() {
    let settings = IngestSettings { body_bytes_in_flight_max: 600, ..IngestSettings::default() };
    let endpoint = started("ingest-memory", "{}", settings).await;
    let mut holding = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
    let head =
        format!("POST /hooks/stripe HTTP/1.1\r\nhost: it\r\ncontent-length: 1000\r\n\r\n{}", "x".repeat(500));
    holding.write_all(head.as_bytes()).await.expect("the endpoint reads");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let full = endpoint.post_stripe(stripe_body(1).as_bytes()).await;
    assert_eq!((full.status, full.header("retry-after")), (503, Some("1")), "{full:?}");
    drop(holding);
    let begin = Instant::now();
    while endpoint.post_stripe(stripe_body(1).as_bytes()).await.status != 200 {
        assert!(begin.elapsed() < Duration::from_secs(10), "the share of a broken request is given back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(endpoint.stop().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_runs() {
    let endpoint = started("ingest-stop", "{}", IngestSettings::default()).await;
    let body = stripe_body(1);
    let signature = stripe_signature(body.as_bytes());
    let mut stream = TcpStream::connect(endpoint.address).await.expect("the endpoint listens");
    let head = format!(
        "POST /hooks/stripe HTTP/1.1\r\nhost: it\r\nstripe-signature: {signature}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("the endpoint reads");
    tokio::time::sleep(Duration::from_millis(200)).await;
    endpoint.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(TcpStream::connect(endpoint.address).await.is_err(), "nobody new is taken");
    stream.write_all(body.as_bytes()).await.expect("the running request is still read");
    assert_eq!(answer(&mut stream).await.status, 200);
    assert_eq!(endpoint.stop().await.len(), 1);
}
