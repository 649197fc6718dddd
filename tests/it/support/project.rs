//! A project folder for one scenario, with topics of its own.

use std::path::Path;

/// Writes the project: a Stripe connector, one pipeline that stores live payments and counts revenue, one KPI.
pub fn write_payments(folder: &Path, name: &str) {
    let file = |path: &str, text: String| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a path in the folder"))
            .expect("the folder can be written");
        std::fs::write(path, text).expect("the folder can be written");
    };
    file(
        "connectors/stripe.yaml",
        format!(
            "description: Stripe events in\nsource:\n  verify: {{scheme: stripe, secrets: [{{env: STRIPE_WEBHOOK_SECRET}}]}}\n  topic: {name}.events\n  limits: {{rate: 100000/s}}\n"
        ),
    );
    file(
        &format!("topics/{name}.events.yaml"),
        String::from("partitions: 12\nretention: 7d\nvalue: {format: json}\n"),
    );
    file(
        &format!("topics/{name}.payments.yaml"),
        String::from(
            "partitions: 12\nretention: 30d\nkey: customer\nvalue: {format: avro, schema: schemas/payment.avsc}\n\
             table: {name: payments, primary_key: [payment_id], on_conflict: newest}\n",
        ),
    );
    file(
        "schemas/payment.avsc",
        String::from(
            r#"{"type":"record","name":"Payment","namespace":"millrace.tests","fields":[
  {"name":"payment_id","type":"string"},
  {"name":"customer","type":"string"},
  {"name":"seq","type":"long"},
  {"name":"amount","type":"long"},
  {"name":"currency","type":"string"},
  {"name":"paid_at","type":{"type":"long","logicalType":"timestamp-micros"}}
]}
"#,
        ),
    );
    file(
        &format!("pipelines/{name}.yaml"),
        format!(
            r#"description: Every live payment becomes a row and a revenue fact
input:
  topics: [{name}.events]
  types: [payment_intent.succeeded]
stages:
  - id: live
    filter: .livemode == true
  - id: payment
    map: |
      intent = object!(.data.object)
      . = {{
        "payment_id": intent.id,
        "customer": intent.customer,
        "seq": int!(intent.metadata.seq),
        "amount": int!(intent.amount),
        "currency": upcase(string!(intent.currency)),
        "paid_at": from_unix_timestamp!(int!(intent.created)),
      }}
  - id: store
    emit: {{topic: {name}.payments, key: .customer}}
  - id: revenue
    kpi: {{fact: payment, value: .amount, time: .paid_at, dimensions: {{currency: .currency}}}}
"#
        ),
    );
    file(
        "kpis/revenue.yaml",
        String::from(
            "fact: payment\naggregate: sum\nwindows: [1h, 1d]\ndimensions: [currency]\ntime_zone: UTC\nlateness: 2d\n",
        ),
    );
}
