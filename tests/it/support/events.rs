//! Stripe-shaped events with an oracle: what must come out of them, computed without Millrace.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::support::dice::Dice;

/// 2026-11-20 00:00:00 UTC.
const BEGIN: i64 = 1_795_132_800;

/// One event to send, and what is expected of it.
#[derive(Clone, Debug)]
pub struct Payment {
    /// `ce_id`.
    pub id: String,
    /// Record key.
    pub customer: String,
    /// Number of this event among its customer's, from 0.
    pub seq: u64,
    /// Minor units.
    pub amount: i64,
    /// Upper case.
    pub currency: &'static str,
    /// Seconds since 1970.
    pub created: i64,
    /// Test mode is filtered.
    pub livemode: bool,
}

/// `count` events of `customers` customers; one in five is in test mode.
pub fn generate(seed: u64, count: usize, customers: u64) -> Vec<Payment> {
    let mut dice = Dice::new(seed);
    let mut next: HashMap<u64, u64> = HashMap::new();
    (0..count)
        .map(|number| {
            let customer = dice.roll(customers);
            let seq = next.entry(customer).or_default();
            *seq += 1;
            Payment {
                id: format!("evt_{seed}_{number}"),
                customer: format!("cus_{customer:05}"),
                seq: *seq - 1,
                amount: i64::try_from(dice.roll(100_000)).expect("small") + 1,
                currency: ["EUR", "USD", "GBP"][usize::try_from(dice.roll(3)).expect("small")],
                created: BEGIN + i64::try_from(dice.roll(48 * 3600)).expect("small"),
                livemode: dice.roll(5) != 0,
            }
        })
        .collect()
}

impl Payment {
    /// The webhook body, about 600 bytes, as Stripe writes a `payment_intent.succeeded`.
    pub fn body(&self) -> String {
        format!(
            concat!(
                r#"{{"id":"{id}","object":"event","api_version":"2025-03-31.basil","created":{created},"#,
                r#""data":{{"object":{{"id":"pi_{id}","object":"payment_intent","amount":{amount},"amount_capturable":0,"#,
                r#""amount_received":{amount},"capture_method":"automatic","client_secret":null,"confirmation_method":"automatic","#,
                r#""created":{created},"currency":"{currency}","customer":"{customer}","description":"Subscription creation","#,
                r#""latest_charge":"ch_{id}","livemode":{livemode},"metadata":{{"seq":{seq}}},"status":"succeeded"}}}},"#,
                r#""livemode":{livemode},"pending_webhooks":1,"request":{{"id":"req_{id}","idempotency_key":"key_{id}"}},"type":"payment_intent.succeeded"}}"#
            ),
            id = self.id,
            created = self.created,
            amount = self.amount,
            currency = self.currency.to_lowercase(),
            customer = self.customer,
            livemode = self.livemode,
            seq = self.seq,
        )
    }
}

/// Revenue per (hour's begin in seconds, currency): sum and count of live payments.
pub fn revenue_by_hour(payments: &[Payment]) -> BTreeMap<(i64, String), (i64, i64)> {
    let mut sums = BTreeMap::new();
    for payment in payments.iter().filter(|payment| payment.livemode) {
        let hour = payment.created - payment.created.rem_euclid(3600);
        let (sum, count) = sums.entry((hour, payment.currency.to_owned())).or_insert((0, 0));
        *sum += payment.amount;
        *count += 1;
    }
    sums
}

/// Writes the events to `topic` as ingest would: CloudEvents headers, key, vendor's bytes; all acknowledged.
pub fn produce(kafka: &str, topic: &str, payments: &[Payment]) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("enable.idempotence", "true")
        .set("linger.ms", "20")
        .set("partitioner", "murmur2_random")
        .create()
        .expect("a producer can be made");
    for payment in payments {
        let body = payment.body();
        let headers = OwnedHeaders::new()
            .insert(Header { key: "ce_specversion", value: Some("1.0") })
            .insert(Header { key: "ce_id", value: Some(&payment.id) })
            .insert(Header { key: "ce_source", value: Some("stripe") })
            .insert(Header { key: "ce_type", value: Some("payment_intent.succeeded") })
            .insert(Header { key: "content-type", value: Some("application/json") });
        let mut record = BaseRecord::to(topic).key(&payment.customer).payload(&body).headers(headers);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(
                error.rdkafka_error_code(),
                Some(rdkafka::types::RDKafkaErrorCode::QueueFull),
                "the record is taken"
            );
            std::thread::sleep(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(60)).expect("all records are acknowledged");
}
