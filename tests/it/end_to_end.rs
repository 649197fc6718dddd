//! The main job end to end: 100,000 events, two workers, one projector, `kill -9` of a worker in the middle; and the
//! same through the webhook endpoint. Nothing lost, nothing twice, in key order, to the cent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use apache_avro::types::Value;
use sqlx::Row as _;

use crate::support::events::{self, Payment};
use crate::support::millrace::Running;
use crate::support::readback::{self, Back};
use crate::support::scenario::Scenario;
use crate::support::servers;

const SECRET: &str = "whsec_end_to_end";
/// How long the projector may need to reach the end after the last event was sent.
const PATIENCE: Duration = Duration::from_secs(180);

async fn applied(prefix: &str) -> Scenario {
    let scenario = Scenario::new(prefix, SECRET).await;
    scenario.millrace.run_ok(&["check"]);
    scenario.millrace.run_ok(&["apply", "--yes"]);
    scenario
}

impl Scenario {
    fn worker(&self, instance: &str) -> Running {
        self.millrace.start(
            &format!("worker-{instance}"),
            &["worker", "--instance", instance, "--metrics", "127.0.0.1:0", "--session-timeout", "6s"],
        )
    }

    fn projector(&self) -> Running {
        self.millrace.start("project", &["project", "--metrics", "127.0.0.1:0", "--session-timeout", "6s"])
    }

    async fn executions(&self) -> i64 {
        sqlx::query_scalar("select count(*) from executions")
            .fetch_one(&self.database.pool)
            .await
            .expect("the table is there")
    }

    /// Where events were last seen, for the message of a test that fails.
    async fn found(&self) -> String {
        let kafka = servers::kafka();
        let in_topic = |name: &str| readback::read_all(&kafka, &format!("{}.{name}", self.name));
        let events = in_topic("events");
        let results = in_topic("executions");
        let executions: HashSet<(i32, i64)> = sqlx::query("select partition, \"offset\" from executions")
            .fetch_all(&self.database.pool)
            .await
            .expect("the table is there")
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        let missing: Vec<_> = events
            .iter()
            .map(|event| (event.partition, event.offset))
            .filter(|place| !executions.contains(place))
            .collect();
        let positions: Vec<(String, i32, i64, i64)> = sqlx::query_as(
            "select topic, partition, next_offset, epoch from projector_positions order by 1, 2",
        )
        .fetch_all(&self.database.pool)
        .await
        .expect("the table is there");
        format!(
            "{} events and {} results in Kafka; without an execution: {missing:?}; positions: {positions:?}",
            events.len(),
            results.len()
        )
    }

    /// Waits until `wanted` executions are in Postgres; every role must stay alive meanwhile.
    async fn until_executions(&self, wanted: usize, roles: &mut [&mut Running]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let count = self.executions().await;
            if usize::try_from(count).expect("a count") >= wanted {
                return;
            }
            for role in roles.iter_mut() {
                role.assert_alive();
            }
            if Instant::now() >= deadline {
                let logs: Vec<String> = roles.iter().map(|role| role.log_text()).collect();
                let found = self.found().await;
                panic!("{count} of {wanted} executions; {found}\n{}", logs.join("\n---\n"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_loses_nothing_and_repeats_nothing() {
    let scenario = applied("kill").await;
    let payments = events::generate(7, servers::amount(100_000, 3_000), 5_000);
    let topic = format!("{}.events", scenario.name);
    let mut projector = scenario.projector();
    let mut first = scenario.worker("a");
    let mut second = scenario.worker("b");
    let half = payments.len() / 2;
    events::produce(&servers::kafka(), &topic, &payments[..half]);
    scenario.until_executions(half / 10, &mut [&mut projector, &mut first, &mut second]).await;
    // The backlog of the second half is being worked on when the worker is struck.
    events::produce(&servers::kafka(), &topic, &payments[half..]);
    first.kill();
    scenario.until_executions(payments.len(), &mut [&mut projector, &mut second]).await;
    assert_everything(&scenario, &payments).await;
    assert!(second.terminate(Duration::from_secs(30)), "the worker drains and ends: {}", second.log_text());
    assert!(projector.terminate(Duration::from_secs(30)), "the projector ends: {}", projector.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn posted_webhooks_arrive_once_though_a_worker_is_killed() {
    let scenario = applied("hook").await;
    let payments = events::generate(11, servers::amount(5_000, 600), 400);
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut ingest =
        scenario.millrace.start("ingest", &["ingest", "--listen", &listen, "--metrics", "127.0.0.1:0"]);
    let mut projector = scenario.projector();
    let mut first = scenario.worker("a");
    let mut second = scenario.worker("b");
    let half = payments.len() / 2;
    post_all(&listen, &payments[..half]).await;
    first.kill();
    post_all(&listen, &payments[half..]).await;
    scenario.until_executions(payments.len(), &mut [&mut ingest, &mut projector, &mut second]).await;
    assert_everything(&scenario, &payments).await;
    for mut role in [ingest, second, projector] {
        assert!(role.terminate(Duration::from_secs(30)), "every role ends by itself: {}", role.log_text());
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// Posts the events over eight connections; the events of one customer go over one of them, in order. A 503 is sent
/// again, as Stripe would.
async fn post_all(listen: &str, payments: &[Payment]) {
    let mut lanes: Vec<Vec<Payment>> = vec![Vec::new(); 8];
    for payment in payments {
        let number: usize = payment.customer[4..].parse().expect("a customer's number");
        lanes[number % 8].push(payment.clone());
    }
    millrace::tls::provide();
    let url = format!("http://{listen}/hooks/stripe");
    let client = reqwest::Client::new();
    let post = |lane| tokio::spawn(post_lane(client.clone(), url.clone(), lane));
    let tasks: Vec<_> = lanes.into_iter().map(post).collect();
    for task in tasks {
        task.await.expect("the lane is posted");
    }
}

async fn post_lane(client: reqwest::Client, url: String, lane: Vec<Payment>) {
    for payment in lane {
        let body = payment.body();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = client
                .post(&url)
                .header("stripe-signature", stripe_signature(&body))
                .header("content-type", "application/json")
                .body(body.clone())
                .send()
                .await;
            match answer {
                Ok(answer) if answer.status().is_success() => break,
                Ok(answer) if answer.status() != 503 => panic!("{}: {}", payment.id, answer.status()),
                Ok(_) | Err(_) => {}
            }
            assert!(Instant::now() < deadline, "{} is not accepted", payment.id);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn stripe_signature(body: &str) -> String {
    use hmac::{KeyInit as _, Mac as _};
    let now = chrono::Utc::now().timestamp();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key length");
    mac.update(format!("{now}.{body}").as_bytes());
    format!("t={now},v1={}", hex::encode(mac.finalize().into_bytes()))
}

/// Every event exactly once in the output, in key order; the ledger balanced; the tables and the KPI equal to the
/// oracle, to the cent.
async fn assert_everything(scenario: &Scenario, payments: &[Payment]) {
    let kafka = servers::kafka();
    let live: HashMap<String, &Payment> = payments
        .iter()
        .filter(|payment| payment.livemode)
        .map(|payment| (format!("pi_{}", payment.id), payment))
        .collect();
    assert_output(
        &readback::read_all(&kafka, &format!("{}.payments", scenario.name)),
        &live,
        &scenario.millrace.project,
    );
    assert_ledger(scenario, payments, live.len()).await;
    assert_kpi(scenario, payments).await;
}

fn assert_output(records: &[Back], live: &HashMap<String, &Payment>, folder: &Path) {
    let schema = std::fs::read_to_string(folder.join("schemas/payment.avsc")).expect("the schema is there");
    let schema = apache_avro::Schema::parse_str(&schema).expect("the schema parses");
    let mut seen = HashSet::new();
    let mut last_seq: HashMap<String, i64> = HashMap::new();
    for record in records {
        let sources = record.headers.iter().filter(|(name, _)| name == "millrace.source").count();
        assert_eq!(sources, 1, "every output says once where it comes from");
        let value = record.value.as_deref().expect("no tombstone");
        assert_eq!(value[0], 0, "Confluent framing");
        let decoded = read_datum(&schema, &value[5..]);
        let Value::Record(fields) = decoded else { panic!("a record") };
        let fields: HashMap<String, Value> = fields.into_iter().collect();
        let Value::String(id) = &fields["payment_id"] else { panic!("an id") };
        let (Value::Long(seq), Value::Long(amount)) = (&fields["seq"], &fields["amount"]) else {
            panic!("numbers")
        };
        let payment = live.get(id).unwrap_or_else(|| panic!("{id} was never sent"));
        assert!(seen.insert(id.clone()), "{id} is there twice");
        assert_eq!((*seq, *amount), (i64::try_from(payment.seq).expect("small"), payment.amount), "{id}");
        assert_eq!(record.key.as_deref(), Some(payment.customer.as_bytes()), "{id}");
        if let Some(before) = last_seq.insert(payment.customer.clone(), *seq) {
            assert!(before < *seq, "{}: {before} stands before {seq}", payment.customer);
        }
    }
    assert_eq!(seen.len(), live.len(), "every live payment is in the output");
}

fn read_datum(schema: &apache_avro::Schema, mut datum: &[u8]) -> Value {
    apache_avro::reader::datum::GenericDatumReader::builder(schema)
        .build()
        .and_then(|reader| reader.read_value(&mut datum))
        .expect("a payment")
}

async fn assert_ledger(scenario: &Scenario, payments: &[Payment], live: usize) {
    let pool = &scenario.database.pool;
    let rows = sqlx::query(
        "select outcome, count(*) as n, count(distinct event_id) as events from executions group by 1",
    )
    .fetch_all(pool)
    .await
    .expect("the table is there");
    let outcomes: BTreeMap<String, (i64, i64)> =
        rows.iter().map(|row| (row.get("outcome"), (row.get("n"), row.get("events")))).collect();
    let live = i64::try_from(live).expect("small");
    let filtered = i64::try_from(payments.len()).expect("small") - live;
    let expected = BTreeMap::from([
        (String::from("succeeded"), (live, live)),
        (String::from("filtered"), (filtered, filtered)),
    ]);
    assert_eq!(outcomes, expected, "ingested = succeeded + filtered + dead-lettered");
    let results = readback::read_all(&servers::kafka(), &format!("{}.executions", scenario.name));
    assert_eq!(results.len(), payments.len(), "one execution result per event in the topic");
    // The projector folds tables after executions of the same transaction; give it a moment to reach the end.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (count, total): (i64, i64) =
            sqlx::query_as("select count(*), coalesce(sum(amount), 0)::bigint from payments")
                .fetch_one(pool)
                .await
                .expect("the table is there");
        let sum: i64 = payments.iter().filter(|payment| payment.livemode).map(|payment| payment.amount).sum();
        if (count, total) == (live, sum) {
            return;
        }
        assert!(Instant::now() < deadline, "table payments: {count} rows of {live}, {total} of {sum}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn assert_kpi(scenario: &Scenario, payments: &[Payment]) {
    let oracle = events::revenue_by_hour(payments);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let rows = sqlx::query(
            "select extract(epoch from window_start)::bigint as hour, currency, value::text as value, events::bigint as events \
             from kpi_revenue_1h",
        )
        .fetch_all(&scenario.database.pool)
        .await
        .expect("the view is there");
        let mut table = BTreeMap::new();
        for row in rows {
            let value: String = row.get("value");
            let value: rust_decimal::Decimal = value.parse().expect("a number");
            let cents: i64 = value.normalize().to_string().parse().expect("whole cents");
            table.insert(
                (row.get::<i64, _>("hour"), row.get::<String, _>("currency")),
                (cents, row.get::<i64, _>("events")),
            );
        }
        if table == oracle {
            return;
        }
        assert!(Instant::now() < deadline, "the KPI table differs from the oracle:\n{table:?}\n{oracle:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
