use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connectors::http::CallInputs;
use crate::connectors::http::loopback::{Server, answer, server};
use crate::connectors::target::TargetConfig;
use crate::fault::FaultClass;
use crate::secrets::Secrets;
use crate::stages::clock::Clock;
use crate::stages::destinations::Destinations;
use crate::yaml::lint::{Lints, SourceFile};
use crate::yaml::node::parse;

fn destinations(server: &Server, more: &str) -> Destinations {
    let text = format!(
        "base_url: http://{}\n{more}\ncalls: {{note: {{method: POST, path: /notes}}}}\n",
        server.address
    );
    let file = Arc::new(SourceFile { path: "connectors/crm.yaml".into(), text });
    let mut lints = Lints::default();
    let node = parse(&file, &mut lints).expect("YAML");
    let config = TargetConfig::decode(&node, &mut lints).expect("a target");
    assert!(lints.0.is_empty(), "{:?}", lints.0);
    let targets = BTreeMap::from([(String::from("crm"), Arc::new(config))]);
    Destinations::new(&targets, &Secrets::default()).expect("no secrets")
}

fn inputs() -> CallInputs {
    CallInputs { idempotency_key: String::from("k"), ..CallInputs::default() }
}

#[tokio::test]
async fn the_circuit_opens_and_one_probe_closes_it() {
    let bad = answer("500 Oh", "", "");
    let good = answer("200 OK", "", "{}");
    let server = server(vec![bad.clone(), bad.clone(), good.clone(), good]).await;
    let destinations = destinations(&server, "breaker: {failures: 2, cooldown: 200ms}");
    let clock = Clock::wall();
    let inputs = inputs();
    let call = || destinations.call("crm", "note", &inputs, &clock);
    for _ in 0..2 {
        assert_eq!(call().await.expect_err("500").class, FaultClass::Transient);
    }
    let fault = call().await.expect_err("open");
    let FaultClass::Throttled { after: Some(wait) } = fault.class else { panic!("{fault}") };
    assert!(wait <= Duration::from_millis(200) && fault.message.contains("circuit is open"), "{fault}");
    assert_eq!(server.requests().len(), 2, "nothing is sent while the circuit is open");
    tokio::time::sleep(wait).await;
    assert!(call().await.is_ok());
    assert!(call().await.is_ok());
}

#[tokio::test]
async fn one_that_is_asked_to_wait_makes_all_wait() {
    let server = server(vec![answer("429 Slow", "Retry-After: 2\r\n", "")]).await;
    let destinations = destinations(&server, "");
    let clock = Clock::wall();
    for _ in 0..3 {
        let fault = destinations.call("crm", "note", &inputs(), &clock).await.expect_err("429");
        assert!(
            matches!(fault.class, FaultClass::Throttled { after: Some(wait) } if wait > Duration::from_secs(1))
        );
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn refusals_do_not_open_the_circuit() {
    let server = server(vec![answer("404 No", "", ""); 6]).await;
    let destinations = destinations(&server, "breaker: {failures: 2, cooldown: 1m}");
    let clock = Clock::wall();
    for _ in 0..6 {
        let fault = destinations.call("crm", "note", &inputs(), &clock).await.expect_err("404");
        assert_eq!(fault.class, FaultClass::Permanent);
    }
}

#[tokio::test]
async fn a_probe_that_is_given_up_does_not_close_the_way_for_ever() {
    let server = server(vec![answer("500 Oh", "", ""), String::from("hang")]).await;
    let destinations = destinations(&server, "breaker: {failures: 1, cooldown: 50ms}");
    let clock = Clock::wall();
    assert!(destinations.call("crm", "note", &inputs(), &clock).await.is_err());
    tokio::time::sleep(Duration::from_millis(60)).await;
    let inputs = inputs();
    let probe = destinations.call("crm", "note", &inputs, &clock);
    assert!(tokio::time::timeout(Duration::from_millis(100), probe).await.is_err(), "it hangs");
    assert_eq!(server.requests().len(), 2);
    let next =
        tokio::time::timeout(Duration::from_millis(50), destinations.call("crm", "note", &inputs, &clock));
    assert!(next.await.is_err(), "the next one is sent, and hangs too");
}

#[tokio::test]
async fn the_rate_of_a_destination_is_kept() {
    let server = server(vec![answer("200 OK", "", "{}"); 8]).await;
    let destinations = destinations(&server, "limits: {rate: 20/s}");
    let clock = Clock::wall();
    let started = Instant::now();
    for _ in 0..8 {
        destinations.call("crm", "note", &inputs(), &clock).await.expect("done");
    }
    // Two at once, then one every 50 ms.
    assert!(started.elapsed() >= Duration::from_millis(290), "{:?}", started.elapsed());
}
