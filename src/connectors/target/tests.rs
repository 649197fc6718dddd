use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::connectors::auth::AuthConfig;
use crate::connectors::call::{BodyFormat, CallMethod, StatusPattern};
use crate::connectors::target::TargetConfig;
use crate::yaml::lint::{Lints, SourceFile};
use crate::yaml::node::parse;

fn decode(text: &str) -> (Option<TargetConfig>, Vec<(&'static str, usize)>) {
    let file = Arc::new(SourceFile { path: PathBuf::from("connectors/a.yaml"), text: text.to_owned() });
    let mut lints = Lints::default();
    let node = parse(&file, &mut lints).expect("YAML");
    let target = TargetConfig::decode(&node, &mut lints);
    let found = lints.0.iter().map(|lint| (lint.code, lint.span.line_column().0)).collect();
    (target, found)
}

#[test]
fn a_whole_target_is_read() {
    let (target, lints) = decode(
        r#"base_url: https://api.stripe.com
auth: {bearer: {env: STRIPE_API_KEY}}
headers: {Stripe-Version: 2026-01-01}
idempotency_header: Idempotency-Key
limits: {rate: 100/s, concurrency: 50, timeout: 10s, response: 2MiB}
breaker: {failures: 3, cooldown: 30s}
retry: {statuses: [409, 429, "5xx"]}
calls:
  list_charges: {method: GET, path: /v1/charges, query: [limit]}
  update_customer:
    method: POST
    path: "/v1/customers/{id}"
    format: form
    timeout: 3s
    response: {success: [200], require: {/object: customer}}
"#,
    );
    assert_eq!(lints, []);
    let target = target.expect("a target");
    assert!(matches!(target.auth, AuthConfig::Bearer(_)));
    assert_eq!(target.headers, [(String::from("stripe-version"), String::from("2026-01-01"))]);
    assert_eq!(target.limits.response_bytes_max, 2 << 20);
    assert_eq!(target.breaker.failures.get(), 3);
    let five = StatusPattern::Class(5);
    assert_eq!(target.retry_statuses, [StatusPattern::Exact(409), StatusPattern::Exact(429), five]);
    let call = &target.calls["update_customer"];
    assert_eq!((call.method, call.format), (CallMethod::Post, BodyFormat::Form));
    assert_eq!(call.timeout, Some(Duration::from_secs(3)));
    assert_eq!(call.path.parameters().collect::<Vec<_>>(), ["id"]);
    assert_eq!(call.require, [(String::from("/object"), "customer".into())]);
    assert_eq!(target.calls["list_charges"].query, ["limit"]);
}

#[test]
fn mistakes_are_all_reported_at_their_lines() {
    let (_, lints) = decode(
        "base_url: ftp://a.test\nauth: {bearer: abc}\nheaders: {Authorization: x}\nlimits: {timeout: 20m}\nretry: {statuses: [99, 6xx]}\ncalls:\n  a: {method: FETCH, path: '/{'}\n  b: {method: GET, response: {require: {status: ok}}}\nbraeker: {}\n",
    );
    assert_eq!(
        lints,
        [
            ("bad-url", 1),
            ("literal-secret", 2),
            ("literal-secret", 3),
            ("out-of-range", 4),
            ("bad-status", 5),
            ("bad-status", 5),
            ("unknown-word", 7),
            ("bad-path", 7),
            ("bad-pointer", 8),
            ("unknown-key", 9),
        ]
    );
}

#[test]
fn credentials_do_not_travel_unencrypted() {
    let target = |url: &str, more: &str| decode(&format!("base_url: {url}\n{more}calls: {{}}\n"));
    let key = "auth: {header: {name: X-Key, value: {env: KEY}}}\n";
    assert_eq!(target("http://a.test", key).1, [("plain-http", 1)]);
    assert_eq!(target("http://a.test", &format!("{key}allow_plain_http: true\n")).1, []);
    assert_eq!(target("http://a.test", "").1, []);
    for local in ["http://127.0.0.1:9", "http://localhost:9", "\"http://[::1]:9\""] {
        assert_eq!(target(local, key).1, [], "{local}");
    }
    assert_eq!(target("http://127.0.0.1.evil.test", key).1, [("plain-http", 1)]);
    assert_eq!(target("https://user:pass@a.test", "").1, [("bad-url", 1)]);
}

#[test]
fn auth_names_one_way() {
    let auth = |auth: &str| decode(&format!("base_url: https://a.test\nauth: {auth}\ncalls: {{}}\n"));
    assert_eq!(auth("{}").1, [("bad-auth", 2)]);
    assert_eq!(auth("{bearer: {env: A}, query: {name: k, value: {env: B}}}").1, [("bad-auth", 2)]);
    for good in [
        "{basic: {username: a@b.co, password: {env: A}}}",
        "{basic: {username: {env: U}, password: {env: A}}}",
        "{query: {name: key, value: {env: A}}}",
        "{oauth2: {token_url: 'https://a.test/token', client_id: {env: I}, client_secret: {env: S}, scope: x}}",
    ] {
        assert_eq!(auth(good).1, [], "{good}");
    }
}
