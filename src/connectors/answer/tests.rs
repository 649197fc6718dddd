use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use crate::connectors::answer::{classify, excerpt, wait_asked_for};
use crate::connectors::call::StatusPattern;
use crate::fault::FaultClass::{self, Permanent, Throttled, Transient};

fn now() -> DateTime<Utc> {
    "1994-11-06T08:49:37Z".parse().expect("a time")
}

fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn class(status: u16, pairs: &[(&str, &str)], listed: &[StatusPattern]) -> FaultClass {
    classify(status, &headers(pairs), listed, now())
}

fn wait(pairs: &[(&str, &str)]) -> Option<u64> {
    let wait = wait_asked_for(&headers(pairs), now());
    wait.map(|wait| u64::try_from(wait.as_millis()).expect("at most an hour"))
}

#[test]
fn statuses_are_sorted_as_the_table_says() {
    for status in [408, 425, 500, 502, 503, 504, 521, 599] {
        assert_eq!(class(status, &[], &[]), Transient, "{status}");
    }
    for status in [301, 304, 400, 401, 403, 404, 409, 410, 422, 423, 501, 505] {
        assert_eq!(class(status, &[], &[]), Permanent, "{status}");
    }
    let two = Some(Duration::from_secs(2));
    assert_eq!(class(429, &[], &[]), Throttled { after: None });
    assert_eq!(class(429, &[("retry-after", "2")], &[]), Throttled { after: two });
    assert_eq!(class(503, &[("retry-after", "2")], &[]), Throttled { after: two });
    assert_eq!(class(500, &[("retry-after", "2")], &[]), Transient);
}

#[test]
fn listed_statuses_are_retried_too() {
    let listed = [StatusPattern::Exact(409), StatusPattern::Exact(477), StatusPattern::Exact(501)];
    assert_eq!(class(409, &[], &listed), Transient);
    assert_eq!(class(501, &[], &listed), Transient);
    assert_eq!(class(422, &[], &listed), Permanent);
    let three = Some(Duration::from_secs(3));
    assert_eq!(class(477, &[("retry-after", "3")], &listed), Throttled { after: three });
    assert_eq!(class(418, &[], &[StatusPattern::Class(4)]), Transient);
}

#[test]
fn a_destination_that_knows_better_is_believed() {
    assert_eq!(class(500, &[("stripe-should-retry", "false")], &[]), Permanent);
    assert_eq!(class(409, &[("stripe-should-retry", "true")], &[]), Transient);
    assert_eq!(class(429, &[("x-should-retry", "true")], &[]), Throttled { after: None });
    assert_eq!(class(500, &[("x-should-retry", "perhaps")], &[]), Transient);
}

#[test]
fn waits_are_read_in_every_unit() {
    assert_eq!(wait(&[]), None);
    assert_eq!(wait(&[("retry-after", "120")]), Some(120_000));
    assert_eq!(wait(&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")]), Some(30_000));
    assert_eq!(wait(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(1));
    assert_eq!(wait(&[("retry-after-ms", "1500"), ("retry-after", "2")]), Some(1_500));
    assert_eq!(wait(&[("x-ratelimit-reset-after", "0.25")]), Some(250));
    assert_eq!(wait(&[("x-ratelimit-reset", "7")]), Some(7_000));
    assert_eq!(wait(&[("x-ratelimit-reset", "1994-11-06T08:49:40Z")]), Some(3_000));
    let later: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("a time");
    for text in ["1767225610", "1767225610000"] {
        let wait = wait_asked_for(&headers(&[("x-ratelimit-reset", text)]), later);
        assert_eq!(wait, Some(Duration::from_secs(10)), "{text}");
    }
    assert_eq!(wait(&[("retry-after", "99999999")]), Some(3_600_000));
    for text in ["-3", "soon", "", "1e9", "NaN", "inf", "1.2.3"] {
        assert_eq!(wait(&[("retry-after", text)]), None, "{text:?}");
    }
}

#[test]
fn an_excerpt_is_one_bounded_line_without_credentials() {
    let hide = |text: &str| text.replace("sk_live_secret", "***");
    assert_eq!(excerpt(b" \n ", hide), "");
    assert_eq!(excerpt(b"{\n  \"error\": \"no\"\r\n}", hide), ": { \"error\": \"no\" }");
    let long = format!("{}sk_live_secret", "é".repeat(250));
    let shown = excerpt(long.as_bytes(), hide);
    assert!(!shown.contains("sk_") && shown.contains("***"), "{shown}");
    assert!(excerpt("ü".repeat(600).as_bytes(), hide).len() < 520);
}

proptest! {
    #[test]
    fn no_header_makes_a_wait_outside_its_bounds(name in "(retry-after(-ms)?|x-ratelimit-reset(-after)?)", value in any::<String>()) {
        if let Some(wait) = wait_asked_for(&headers(&[(&name, &value)]), now()) {
            prop_assert!(wait >= Duration::from_millis(1) && wait <= Duration::from_secs(3600));
        }
    }

    #[test]
    fn numbers_are_waits(value in 0_u64..4_000_000_000_000) {
        for name in ["retry-after", "x-ratelimit-reset", "retry-after-ms"] {
            prop_assert!(wait_asked_for(&headers(&[(name, &value.to_string())]), now()).is_some(), "{name} {value}");
        }
    }
}
