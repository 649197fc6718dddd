use std::time::Duration;

use crate::fault::FaultClass;
use crate::stages::bench::Bench;
use crate::stages::context::Next::{Continue, Filtered};

#[tokio::test]
async fn another_record_with_the_same_key_is_filtered_and_the_same_record_is_not() {
    let bench = Bench::new("{}", "[]");
    let stage = bench.compile("dedupe", "{key: .id, ttl: 1h}").expect("compiles");
    assert!(stage.needs_postgres());
    let a = r#"{"id": "a"}"#;
    for (offset, value, wanted) in [
        (1, a, Continue),
        (2, a, Filtered),
        (1, a, Continue),
        (3, r#"{"id": "b"}"#, Continue),
        (2, a, Filtered),
    ] {
        let (next, _) = bench.apply(&stage, (offset, value), ".").await.expect("known");
        assert_eq!(next, wanted, "{offset} {value}");
    }
    bench.services.clock.sleep(Duration::from_secs(3600)).await;
    let (next, _) = bench.apply(&stage, (2, a), ".").await.expect("known");
    assert_eq!(next, Continue, "the key's time is over");
    let (next, _) = bench.apply(&stage, (1, a), ".").await.expect("known");
    assert_eq!(next, Filtered, "it is the other's now");
}

#[tokio::test]
async fn a_null_key_is_permanent() {
    let bench = Bench::new("{}", "[]");
    let stage = bench.compile("dedupe", "{key: .id, ttl: 1h}").expect("compiles");
    let fault = bench.apply(&stage, (1, "{}"), ".").await.expect_err("null");
    assert_eq!(fault.class, FaultClass::Permanent);
    assert_eq!(bench.compile("dedupe", "{key: .id, ttl: 500ms}").expect_err("lints")[0].0, "out-of-range");
}
