//! The webhooks that the quickstart posts, and what must become of each.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::connectors::sender::Signing;
use crate::ledger::Outcome;
use crate::secrets::Secret;

/// What must become of one event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// Pipeline that takes it.
    pub pipeline: &'static str,
    /// How it ends there.
    pub outcome: Outcome,
}

/// One webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Connector it is posted to.
    pub connector: &'static str,
    /// Body.
    pub body: String,
    /// How it is signed.
    pub signing: Signing,
    /// HTTP status that must be answered.
    pub status: u16,
    /// What must become of its events, in their order; empty for one that is refused.
    pub events: Vec<Expected>,
}

/// Secrets of the connectors' sources, as the process itself knows them.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Stripe's signing secret.
    pub stripe: Secret,
    /// HubSpot's client secret.
    pub hubspot: Secret,
    /// Address that HubSpot believes it calls.
    pub public_base_url: String,
}

const PAYMENTS: &str = "stripe-payments";
const LEADS: &str = "leads-hubspot";

/// The webhooks of one run. `run` makes their ids new, so that a second run counts again.
pub fn all(secrets: &Secrets, run: &str, now: DateTime<Utc>) -> Vec<Webhook> {
    let stripe = Signing::Stripe(secrets.stripe.clone());
    let hubspot = Signing::HubSpot {
        secret: secrets.hubspot.clone(),
        public_base_url: secrets.public_base_url.clone(),
    };
    let payment = |number: u32, amount: Option<i64>, currency: &str, live: bool, outcome: Outcome| Webhook {
        connector: "stripe",
        body: payment_body(&format!("{run}_{number}"), amount, currency, live, now),
        signing: stripe.clone(),
        status: 200,
        events: vec![Expected { pipeline: PAYMENTS, outcome }],
    };
    let lead = Expected { pipeline: LEADS, outcome: Outcome::Succeeded };
    vec![
        payment(1, Some(4_200), "eur", true, Outcome::Succeeded),
        payment(2, Some(1_999), "usd", true, Outcome::Succeeded),
        payment(3, Some(10_850), "eur", true, Outcome::Succeeded),
        payment(4, Some(500), "eur", false, Outcome::Filtered),
        payment(5, None, "eur", true, Outcome::DeadLettered),
        Webhook {
            connector: "stripe",
            body: payment_body(&format!("{run}_6"), Some(1), "eur", true, now),
            signing: Signing::Stripe(Secret::new("whsec_somebody_else")),
            status: 401,
            events: Vec::new(),
        },
        Webhook {
            connector: "hubspot",
            body: contacts(now),
            signing: hubspot,
            status: 200,
            events: vec![lead, lead],
        },
    ]
}

/// A `payment_intent.succeeded` as Stripe writes it; without an amount it cannot be counted.
fn payment_body(id: &str, amount: Option<i64>, currency: &str, live: bool, now: DateTime<Utc>) -> String {
    json!({
        "id": format!("evt_{id}"),
        "object": "event",
        "api_version": "2026-06-24.dahlia",
        "created": now.timestamp(),
        "data": {"object": {
            "id": format!("pi_{id}"),
            "object": "payment_intent",
            "amount": amount,
            "amount_received": amount,
            "created": now.timestamp(),
            "currency": currency,
            "customer": "cus_quickstart",
            "livemode": live,
            "status": "succeeded",
        }},
        "livemode": live,
        "pending_webhooks": 1,
        "type": "payment_intent.succeeded",
    })
    .to_string()
}

/// Two contacts in one batch, as HubSpot sends them.
fn contacts(now: DateTime<Utc>) -> String {
    let contact = |number: i64, source: &str| {
        json!({
            "eventId": now.timestamp_micros() + number,
            "subscriptionId": 2_208_172,
            "portalId": 139_547_712,
            "appId": 1_160_452,
            "occurredAt": now.timestamp_millis(),
            "subscriptionType": "contact.creation",
            "attemptNumber": 0,
            "objectId": now.timestamp_millis() * 10 + number,
            "changeFlag": "CREATED",
            "changeSource": source,
        })
    };
    json!([contact(1, "FORM"), contact(2, "IMPORT")]).to_string()
}
