//! Input of the benchmark: events shaped like Stripe's, about 600 bytes, made from a counter. Four of five are live.
//!
//! The sequence number and the send time sit at fixed places at the start of the payload, so that the
//! reader checks order and latency without parsing JSON.

use std::io::Write;

/// Number of different keys (customers).
pub const KEYS: u64 = 10_000;

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

/// Writes event number `seq`, sent at `sent_ns`, into `payload` and its key into `key`.
pub fn write(seq: u64, sent_ns: u64, key: &mut Vec<u8>, payload: &mut Vec<u8>) {
    let dice = dice(seq);
    let customer = customer(seq);
    let kind = kind(seq);
    let live = is_live(seq);
    let amount = dice % 1_000_000;
    let created = 1_700_000_000 + seq / 100;
    key.clear();
    payload.clear();
    let written = write!(key, "cus_{customer:014}").and_then(|()| {
        write!(
            payload,
            "{{\"seq\":\"{seq:012}\",\"sent_ns\":\"{sent_ns:020}\",\"id\":\"evt_{dice:020}\",\"object\":\"event\",\
             \"api_version\":\"2024-06-20\",\"created\":{created},\"type\":\"{kind}\",\"livemode\":{live},\
             \"pending_webhooks\":1,\"request\":{{\"id\":\"req_{dice:014x}\",\"idempotency_key\":\"{dice:032x}\"}},\
             \"data\":{{\"object\":{{\"id\":\"ch_{dice:020}\",\"object\":\"charge\",\"amount\":{amount},\
             \"amount_captured\":{amount},\"currency\":\"eur\",\"customer\":\"cus_{customer:014}\",\
             \"description\":\"Subscription renewal\",\"paid\":true,\"status\":\"succeeded\",\
             \"payment_method\":\"pm_{dice:020}\",\"receipt_email\":\"customer{customer}@example.com\",\
             \"metadata\":{{\"order_id\":\"{dice}\",\"tenant\":\"t{:03}\"}}}}}}}}",
            customer % 500
        )
    });
    written.expect("writing into a Vec cannot fail");
}

fn dice(seq: u64) -> u64 {
    seq.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 20
}

/// Number of the customer, who is the key.
pub fn customer(seq: u64) -> u64 {
    dice(seq) % KEYS
}

/// Whether a filter on `livemode` lets the event through.
pub fn is_live(seq: u64) -> bool {
    !seq.is_multiple_of(5)
}

/// Event type.
pub fn kind(seq: u64) -> &'static str {
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
