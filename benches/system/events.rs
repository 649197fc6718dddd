//! Input of the benchmark: events shaped like Stripe's, about 600 bytes, made from a counter. Four of five are live.
//!
//! The sequence number and the send time sit at fixed places at the start of the payload, so that the
//! reader checks order and latency without parsing JSON.

use std::io::Write;

/// Number of different keys (customers).
pub const KEYS: u64 = 10_000;
/// Bytes of an event that is neither shortened nor lengthened, about.
pub const BYTES: usize = 600;

const TYPES: [&str; 5] = [
    "charge.succeeded",
    "charge.failed",
    "invoice.paid",
    "customer.subscription.updated",
    "payment_intent.created",
];
/// `{"seq":"` and then 12 digits.
const SEQ_AT: usize = 8;
const SEQ_LEN: usize = 12;
/// `","sent_ns":"` and then 20 digits.
const SENT_AT: usize = SEQ_AT + SEQ_LEN + 13;
const SENT_LEN: usize = 20;

/// What the events of an input are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Different keys.
    pub keys: u64,
    /// Bytes of an event: below [`BYTES`] it has the fewest fields that the pipelines need (190 bytes), above it lists
    /// items until it is so long.
    pub bytes: usize,
    /// Different event types; 0 for those of Stripe.
    pub types: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { keys: KEYS, bytes: BYTES, types: 0 }
    }
}

impl Shape {
    /// Writes event number `seq`, sent at `sent_ns`, into `payload` and its key into `key`.
    pub fn write(self, seq: u64, sent_ns: u64, key: &mut Vec<u8>, payload: &mut Vec<u8>) {
        let (dice, customer, live) = (dice(seq), self.customer(seq), is_live(seq));
        key.clear();
        payload.clear();
        let written = write!(key, "cus_{customer:014}")
            .and_then(|()| write!(payload, "{{\"seq\":\"{seq:012}\",\"sent_ns\":\"{sent_ns:020}\","));
        let written = written.and_then(|()| match self.bytes {
            ..BYTES => write!(
                payload,
                "\"id\":\"evt_{dice:020}\",\"livemode\":{live},\
                 \"data\":{{\"object\":{{\"currency\":\"eur\",\"customer\":\"cus_{customer:014}\"}}}}}}"
            ),
            _ => self.write_whole(seq, payload),
        });
        written.expect("writing into a Vec cannot fail");
    }

    fn write_whole(self, seq: u64, payload: &mut Vec<u8>) -> std::io::Result<()> {
        let (dice, customer, live, kind) = (dice(seq), self.customer(seq), is_live(seq), kind(seq));
        let amount = dice % 1_000_000;
        let created = 1_700_000_000 + seq / 100;
        write!(
            payload,
            "\"id\":\"evt_{dice:020}\",\"object\":\"event\",\
             \"api_version\":\"2024-06-20\",\"created\":{created},\"type\":\"{kind}\",\"livemode\":{live},\
             \"pending_webhooks\":1,\"request\":{{\"id\":\"req_{dice:014x}\",\"idempotency_key\":\"{dice:032x}\"}},\
             \"data\":{{\"object\":{{\"id\":\"ch_{dice:020}\",\"object\":\"charge\",\"amount\":{amount},\
             \"amount_captured\":{amount},\"currency\":\"eur\",\"customer\":\"cus_{customer:014}\",\
             \"description\":\"Subscription renewal\",\"paid\":true,\"status\":\"succeeded\",\
             \"payment_method\":\"pm_{dice:020}\",\"receipt_email\":\"customer{customer}@example.com\",\
             \"metadata\":{{\"order_id\":\"{dice}\",\"tenant\":\"t{:03}\"}}",
            customer % 500
        )?;
        if self.bytes > BYTES {
            payload.extend_from_slice(b",\"lines\":[{}");
            let mut item = 0;
            while payload.len() < self.bytes {
                item += 1;
                write!(
                    payload,
                    ",{{\"id\":\"li_{dice:020}\",\"amount\":{item},\"currency\":\"eur\",\"description\":\"Item {item}\"}}"
                )?;
            }
            payload.push(b']');
        }
        payload.extend_from_slice(b"}}}");
        Ok(())
    }

    /// Number of the customer, who is the key.
    pub fn customer(self, seq: u64) -> u64 {
        dice(seq) % self.keys
    }

    /// Event type.
    pub fn kind(self, seq: u64) -> String {
        match self.types {
            0 => kind(seq).to_owned(),
            types => format!("bench.type-{}", dice(seq) % types as u64),
        }
    }
}

/// Writes event number `seq` of the usual shape.
pub fn write(seq: u64, sent_ns: u64, key: &mut Vec<u8>, payload: &mut Vec<u8>) {
    Shape::default().write(seq, sent_ns, key, payload);
}

fn dice(seq: u64) -> u64 {
    seq.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 20
}

/// Whether a filter on `livemode` lets the event through.
pub fn is_live(seq: u64) -> bool {
    !seq.is_multiple_of(5)
}

fn kind(seq: u64) -> &'static str {
    TYPES[(dice(seq) % 5) as usize]
}

/// Event id.
pub fn id(seq: u64) -> String {
    format!("evt_{:020}", dice(seq))
}

/// The sequence number of an event of ours; `None` when the bytes are not one.
pub fn seq(payload: &[u8]) -> Option<u64> {
    digits(payload, SEQ_AT, SEQ_LEN)
}

/// The send time (monotonic nanoseconds) of an event of ours.
pub fn sent_ns(payload: &[u8]) -> Option<u64> {
    digits(payload, SENT_AT, SENT_LEN)
}

fn digits(payload: &[u8], at: usize, len: usize) -> Option<u64> {
    std::str::from_utf8(payload.get(at..at + len)?).ok()?.parse().ok()
}
