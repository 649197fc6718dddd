//! A broker that writes fewer records within the delivery time-out than are ready for it.

use std::time::Duration;

use millrace::devbroker::{Action, Api, Settings, When};
use millrace::engine::sender::SenderSettings;
use millrace::engine::settings::WorkerSettings;
use millrace::kafka::settings::{Connection, ConsumerSettings, ProducerSettings, TransactionSettings};
use millrace::secrets::Secret;
use rdkafka::producer::Producer as _;

use super::clients::{PATIENCE, broker, producer, read, send, topic};
use crate::copying::{Instance, Scenario};

const RECORDS: usize = 400;

/// All of them at once take two seconds, of which there is one.
async fn writes_all(is_exactly_once: bool) {
    let (broker, kafka) = broker(Settings::default());
    let input = topic(&kafka, "slow-in", 1, &[]).await;
    let output = topic(&kafka, "slow-out", 1, &[]).await;
    let sending = producer(&kafka, None);
    (0..RECORDS).for_each(|number| send(&sending, &input, &number.to_string()));
    sending.flush(PATIENCE).expect("written");

    let slow = broker.faults().set(Api::Produce, When::Always, Action::Delay(Duration::from_millis(5)));
    let connection = Connection::plain(&kafka, "test");
    let mut one_by_one = connection.clone();
    one_by_one.extra.insert("batch.num.messages".to_owned(), Secret::new("1"));
    let mut plain = ProducerSettings::new(one_by_one);
    plain.delivery_timeout = Duration::from_secs(1);
    let scenario = Scenario { group: format!("{input}.group"), input, output };
    let sender = if is_exactly_once {
        SenderSettings::Transactions(TransactionSettings::new(plain, scenario.group.clone()))
    } else {
        SenderSettings::Plain(plain)
    };
    let consumer = ConsumerSettings::new(connection, &scenario.group, vec![scenario.input.clone()]);
    let mut settings = WorkerSettings::new(consumer, sender);
    settings.is_cpu_only = true;
    let mut instance = Instance::start(settings, scenario.copy());
    let is_done = |values: &[String]| (0..RECORDS).all(|number| values.contains(&number.to_string()));
    let aborted = tokio::time::timeout(PATIENCE, async {
        loop {
            let values = tokio::task::block_in_place(|| read(&kafka, &scenario.output, "read_committed"));
            if is_done(&values) {
                if is_exactly_once {
                    assert_eq!(values.len(), RECORDS);
                }
                return instance.running.status.borrow_and_update().counts.aborted;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let aborted = aborted.await.expect("all is written in the end");
    assert!(aborted > 0, "all at once was too much");
    drop(slow);
    instance.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_for_one_transaction_goes_into_several() {
    writes_all(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_for_one_batch_goes_into_several() {
    writes_all(false).await;
}
