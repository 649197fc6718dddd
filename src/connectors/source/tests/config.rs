//! What `source:` takes, and that every mistake is said with its place.

use std::time::Duration;

use expect_test::expect;

use crate::connectors::source::tests::decode;
use crate::connectors::verify::Scheme;

fn complaints(yaml: &str) -> String {
    let (config, lints) = decode(yaml);
    assert!(config.is_none() || lints.has_errors() || lints.0.is_empty());
    let lines: Vec<String> = lints
        .0
        .iter()
        .map(|lint| format!("{} {} {} | {}\n", lint.span, lint.code, lint.message, lint.help))
        .collect();
    lines.concat()
}

#[test]
fn the_documented_sources_are_read() {
    let (config, lints) = decode(
        r"
verify:
  scheme: stripe
  secrets: [{env: STRIPE_WEBHOOK_SECRET}, {env: STRIPE_WEBHOOK_SECRET_OLD, optional: true}]
  tolerance: 4m
topic: events.stripe
key: .data.object.customer || .data.object.id
limits: {body: 2MiB, rate: 2000/s, deadline: 10s, concurrency: 7}
",
    );
    assert!(lints.0.is_empty(), "{lints:?}");
    let config = config.unwrap();
    assert_eq!(config.verify.scheme, Scheme::Stripe { tolerance: Duration::from_secs(240) });
    assert_eq!(config.verify.secrets.len(), 2);
    assert_eq!(config.topic.value, "events.stripe");
    assert_eq!(
        config.expressions.key.unwrap().expression(),
        Some(".data.object.customer || .data.object.id")
    );
    let limits = config.limits;
    assert_eq!((limits.body_bytes_max, limits.concurrency_max), (2 << 20, 7));
    assert_eq!((limits.rate.unwrap().count.get(), limits.deadline), (2000, Duration::from_secs(10)));

    let (config, lints) = decode(
        r#"
verify: {scheme: hmac, header: X-Signature, algorithm: sha256, encoding: hex, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp_header: X-Timestamp, tolerance: 5m, secrets: [{env: CRM_SECRET}]}
event: {id: .uuid, type: '"crm." + string!(.kind)', time: .at, key: .contact.id}
topic: events.crm
"#,
    );
    assert!(lints.0.is_empty(), "{lints:?}");
    let config = config.unwrap();
    let Scheme::Hmac(hmac) = &config.verify.scheme else { panic!("{:?}", config.verify.scheme) };
    assert_eq!(hmac.timestamp.as_ref().unwrap().header, "x-timestamp");
    assert_eq!(hmac.signed.len(), 3);
    assert!(config.expressions.id.is_some() && config.expressions.key.is_some());
    assert_eq!(config.limits.deadline, Duration::from_secs(20));
}

#[test]
fn every_mistake_has_its_place() {
    expect![[r#"
        connectors/a.yaml:2:36 literal-secret a secret is given by reference | write {env: NAME} or {file: PATH}
        connectors/a.yaml:2:47 bad-secret a secret names one place | write {env: NAME} or {file: PATH}
        connectors/a.yaml:2:78 bad-unit `5` is not a duration | a duration has a unit: 500ms, 2s, 5m, 1h, 30d
        connectors/a.yaml:2:81 unknown-key there is no key `header` here | known here: scheme, secrets, public_base_url, tolerance
        connectors/a.yaml:3:8 bad-topic `events/stripe` is no topic name | letters, digits, dots and dashes, such as events.stripe
        connectors/a.yaml:4:6 wrong-type expected an expression, found a mapping | write a VRL expression such as .amount > 100
        connectors/a.yaml:6:16 out-of-range the body limit is out of range | from 1B to 16MiB
        connectors/a.yaml:6:33 out-of-range the deadline is out of range | from 100ms to 60s
        connectors/a.yaml:6:69 out-of-range 0 is out of range | a whole number from 1 to 10000
        connectors/a.yaml:6:43 bad-unit `5` is not a rate | a rate is a count per unit: 100/s, 600/m, 1000/h
        connectors/a.yaml:6:46 unknown-key there is no key `burst` here | known here: body, deadline, concurrency, rate
        connectors/a.yaml:7:1 unknown-key there is no key `retry` here | known here: verify, topic, key, event, limits
    "#]]
    .assert_eq(&complaints(
        r"
verify: {scheme: stripe, secrets: [whsec_abc, {env: A, file: b}], tolerance: 5, header: X}
topic: events/stripe
key: {a: 1}
event: {id: .id}
limits: {body: 32MiB, deadline: 2m, rate: 5, burst: 2, concurrency: 0}
retry: 1
",
    ));
    expect![[r#"
        connectors/a.yaml:1:18 scheme-not-built scheme `slack` is not built yet | there is stripe, hubspot, standard-webhooks, github, hmac, api-key, basic, none; `hmac` may do
        connectors/a.yaml:1:35 literal-secret a secret is given by reference | write {env: NAME} or {file: PATH}
    "#]]
    .assert_eq(&complaints("verify: {scheme: slack, secrets: [abc]}\ntopic: a\n"));
    expect![[r#"
        connectors/a.yaml:1:18 unknown-word `strpe` is not one of stripe, hubspot, standard-webhooks, github, hmac, api-key, basic, none | did you mean `stripe`?
        connectors/a.yaml:1:1 missing-key `topic` is missing | add `topic: ...`
    "#]]
    .assert_eq(&complaints("verify: {scheme: strpe}\n"));
    expect![[r#"
        connectors/a.yaml:1:9 no-secrets this scheme needs a secret | add `secrets: [{env: NAME}]`
    "#]]
    .assert_eq(&complaints("verify: {scheme: github}\ntopic: a\n"));
    expect![[r#"
        connectors/a.yaml:1:33 needless-secrets scheme `none` checks nothing, so its secrets are not used | remove `secrets`, or choose a scheme that checks them
        connectors/a.yaml:3:14 duplicate-key the key is written twice | remove one of the two
    "#]]
    .assert_eq(&complaints(
        "verify: {scheme: none, secrets: [{env: A}]}\ntopic: a\nevent: {key: .a}\nkey: .b\n",
    ));
    expect![[r#"
        connectors/a.yaml:1:73 bad-url `example.com` is no base address | such as https://hooks.example.com, without query and password
        connectors/a.yaml:1:51 unknown-word `v4` is not one of v3, v2, v1 | known here: v3, v2, v1
        connectors/a.yaml:1:36 no-secrets this scheme needs a secret | add `secrets: [{env: NAME}]`
    "#]]
    .assert_eq(&complaints(
        "verify: {scheme: hubspot, secrets: [], versions: [v4], public_base_url: example.com}\ntopic: a\n",
    ));
    expect![[r#"
        connectors/a.yaml:1:9 missing-key `header` is missing | add `header: ...`
        connectors/a.yaml:1:56 unknown-word `md5` is not one of sha256, sha512, sha1 | known here: sha256, sha512, sha1
        connectors/a.yaml:1:86 wrong-type expected text, found a list | put it in quotes if text is meant
        connectors/a.yaml:1:69 unsigned-body `signed` does not hold {body} | {body}, {timestamp}, {method} and {url} are filled in
    "#]]
    .assert_eq(&complaints(
        "verify: {scheme: hmac, secrets: [{env: A}], algorithm: md5, signed: \"{bdy}\", prefix: [1]}\ntopic: a\n",
    ));
    expect![[r#"
        connectors/a.yaml:1:92 out-of-range the tolerance is out of range | from 1s to 24h
        connectors/a.yaml:1:53 bad-header-name `x s` is no header name | letters, digits and dashes, such as X-Signature
        connectors/a.yaml:1:76 unsigned-timestamp `timestamp_header` and `{timestamp}` in `signed` go together | a time that is not signed proves nothing: write both or neither
    "#]]
    .assert_eq(&complaints(
        "verify: {scheme: hmac, secrets: [{env: A}], header: X S, timestamp_header: X-T, tolerance: 2d}\ntopic: a\n",
    ));
}

#[test]
fn an_open_door_is_a_warning() {
    let (config, lints) = decode("verify: {scheme: none}\ntopic: a\n");
    assert!(config.is_some() && !lints.has_errors());
    assert_eq!(lints.0.first().map(|lint| lint.code), Some("unverified-source"));
}
