//! Vectors were computed with the vendors' own libraries, or stand in their documents.

mod bodies;
mod config;
mod forgery;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::connectors::hubspot::decode_signed_characters;
use crate::connectors::request::{Refusal, Unverified};
use crate::connectors::signature::{Algorithm, MacKey};
use crate::connectors::source::{Extractors, Source, SourceConfig};
use crate::connectors::verify::{BuildError, Surroundings};
use crate::event::Event;
use crate::secrets::{Place, Secret, SecretError, SecretRef};
use crate::yaml::lint::{Lints, SourceFile};
use crate::yaml::node::parse;

const STRIPE: &str = "verify: {scheme: stripe, secrets: [{env: whsec_old}, {env: whsec_test_secret}]}";
const STRIPE_V1: &str = "248a374f50f943a28b0f6ab50faf9a7e7e29b710fa26df9fb1618b9bf8ea9c9a";
const STRIPE_BODY: &[u8] = br#"{"id":"evt_1"}"#;
const STRIPE_AT: i64 = 1_700_000_000;
const HUBSPOT_SECRET: &str = "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy";
const HUBSPOT_BATCH: &[u8] = br#"[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}]"#;
const HUBSPOT_V1: &str = "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de";
const SVIX_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SVIX_BODY: &[u8] = br#"{"test": 2432232314}"#;
const SVIX_V1: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const SVIX_V1A: &str =
    "v1a,Ykcu7AtGZGmZxFEH1Gaa2Nd7feY/CTuruoL4fqgnKwfbHU4DhemoVHZdvGfIvKvn4BIgwktLGGPGIr/i9nK7AA==";
const SVIX_AT: i64 = 1_614_265_330;
const GITHUB_SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

/// In these tests a secret's value is the name of its environment variable.
fn named_secret(reference: &SecretRef) -> Result<Option<Secret>, SecretError> {
    match &reference.place {
        Place::Env(name) if name == "UNSET" && reference.optional => Ok(None),
        Place::Env(name) if name == "UNSET" => Err(SecretError::Unset(name.clone())),
        Place::Env(name) => Ok(Some(Secret::new(name.as_bytes()))),
        Place::File(path) => Err(SecretError::Empty(path.display().to_string())),
    }
}

fn decode(yaml: &str) -> (Option<SourceConfig>, Lints) {
    let file = Arc::new(SourceFile { path: PathBuf::from("connectors/a.yaml"), text: yaml.to_owned() });
    let mut lints = Lints::default();
    let node = parse(&file, &mut lints).unwrap();
    let config = SourceConfig::decode(&node, &mut lints);
    (config, lints)
}

fn build(yaml: &str, extract: Extractors, url: Option<&str>) -> Result<Source, BuildError> {
    let (config, lints) = decode(&format!("{yaml}\ntopic: events.a\n"));
    assert!(!lints.has_errors(), "{lints:?}");
    let surroundings = Surroundings { secrets: &named_secret, public_base_url: url };
    Source::build("acme", &config.unwrap(), extract, &surroundings)
}

fn source(yaml: &str) -> Source {
    build(yaml, Extractors::default(), Some("https://www.example.com")).unwrap()
}

/// A request: target, headers, body, and when it arrives.
struct Request {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    at_ms: i64,
}

impl Request {
    fn new(at_s: i64, headers: &[(&'static str, &str)], body: &[u8]) -> Self {
        Self {
            method: "POST",
            target: String::from("/webhook_uri"),
            headers: headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            body: Bytes::copy_from_slice(body),
            at_ms: at_s * 1000,
        }
    }

    fn later(mut self, seconds: i64) -> Self {
        self.at_ms += seconds * 1000;
        self
    }

    fn judge(&self, source: &Source) -> Result<Vec<Event>, Refusal> {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let request =
            Unverified { method: self.method, target: &self.target, headers: &headers, body: &self.body };
        let now: DateTime<Utc> = DateTime::from_timestamp_millis(self.at_ms).unwrap();
        source.verify(request, now)?.normalise()
    }

    /// Whether the signature holds, whatever the body says.
    fn is_proved(&self, source: &Source) -> Result<(), Refusal> {
        match self.judge(source) {
            Ok(_) | Err(Refusal::BadBody(_)) => Ok(()),
            Err(Refusal::MissingHeader(name)) if name.starts_with("x-github-") => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }
}

fn stripe_request(signature: &str) -> Request {
    Request::new(STRIPE_AT, &[("stripe-signature", signature)], STRIPE_BODY)
}

#[test]
fn stripe_takes_what_its_library_signs() {
    let source = source(STRIPE);
    let proved = |signature: &str| stripe_request(signature).is_proved(&source);
    let wrong = "0".repeat(64);
    assert_eq!(proved(&format!("t=1700000000,v1={STRIPE_V1}")), Ok(()));
    assert_eq!(proved(&format!("t=1700000000,v1={wrong},v1={STRIPE_V1},v0=abc")), Ok(()));
    let bad_header = Err(Refusal::BadHeader(String::from("stripe-signature")));
    for (signature, verdict) in [
        (format!("t=1700000000,v0={STRIPE_V1}"), Err(Refusal::BadSignature)),
        (format!("t=1700000000,v1={}", STRIPE_V1.to_uppercase()), Err(Refusal::BadSignature)),
        (format!("t=1700000000, v1={STRIPE_V1}"), Err(Refusal::BadSignature)),
        (format!("t=1700000000,V1={STRIPE_V1}"), Err(Refusal::BadSignature)),
        (format!("t=1700000000,v1={}", &STRIPE_V1[..62]), Err(Refusal::BadSignature)),
        (format!("t=1700000001,v1={STRIPE_V1}"), Err(Refusal::BadSignature)),
        (format!("t=1700000000,t=1700000000,v1={STRIPE_V1}"), bad_header.clone()),
        (format!("t=1700000000,v1={STRIPE_V1},t=1"), bad_header.clone()),
        (format!("t=+1700000000,v1={STRIPE_V1}"), bad_header.clone()),
        (format!("t=,v1={STRIPE_V1}"), bad_header.clone()),
        (format!("t=99999999999999999999,v1={STRIPE_V1}"), bad_header.clone()),
        (format!("v1={STRIPE_V1}"), bad_header.clone()),
        (String::from("nonsense"), bad_header),
        (String::new(), Err(Refusal::MissingHeader(String::from("stripe-signature")))),
    ] {
        assert_eq!(proved(&signature), verdict, "{signature}");
    }
}

#[test]
fn stripe_refuses_replays_and_repeated_headers() {
    let source = source(STRIPE);
    let good = format!("t=1700000000,v1={STRIPE_V1}");
    for (seconds, verdict) in [
        (300, Ok(())),
        (-300, Ok(())),
        (301, Err(Refusal::OutsideWindow)),
        (-301, Err(Refusal::OutsideWindow)),
    ] {
        assert_eq!(stripe_request(&good).later(seconds).is_proved(&source), verdict, "{seconds}");
    }
    let mut twice = stripe_request(&good);
    twice.headers.push(("stripe-signature", good));
    assert_eq!(twice.is_proved(&source), Err(Refusal::BadHeader(String::from("stripe-signature"))));
}

#[test]
fn bodies_are_signed_as_bytes() {
    // U+FFFD in place of the bad byte has another MAC, a mark of byte order belongs to the body.
    let source = source(STRIPE);
    for body in [&b"{\"id\":\"\xff\"}"[..], b"\xef\xbb\xbf{\"id\":\"evt_1\"}"] {
        let key = MacKey::new(Algorithm::Sha256, b"whsec_test_secret");
        let signature = hex::encode(key.sign(&[b"1700000000.", body]));
        let mut request = stripe_request(&format!("t=1700000000,v1={signature}"));
        request.body = Bytes::copy_from_slice(body);
        assert!(matches!(request.judge(&source), Err(Refusal::BadBody(_))));
        request.body = Bytes::from(String::from_utf8_lossy(body).into_owned().into_bytes());
        let is_same = request.body == body;
        assert_eq!(request.is_proved(&source).is_ok(), is_same);
    }
}

#[test]
fn hubspot_vectors_hold() {
    let all = format!(
        "verify: {{scheme: hubspot, versions: [v3, v2, v1], secrets: [{{env: {HUBSPOT_SECRET}}}, {{env: hs-secret}}]}}"
    );
    let all = source(&all);
    let v3 = |signature: &'static str| {
        Request::new(
            1_693_657_560,
            &[("x-hubspot-signature-v3", signature), ("x-hubspot-request-timestamp", "1693657560000")],
            b"{'example_field':'example_value'}",
        )
    };
    assert_eq!(v3("K36dawei4A+QBNolUOqo7s91KQDWQ5MXZ/QufNYuk/Y=").is_proved(&all), Ok(()));
    assert_eq!(
        v3("L36dawei4A+QBNolUOqo7s91KQDWQ5MXZ/QufNYuk/Y=").is_proved(&all),
        Err(Refusal::BadSignature)
    );
    let mut v2 = Request::new(
        0,
        &[
            ("x-hubspot-signature", "eee2dddcc73c94d699f5e395f4b9d454a069a6855fbfa152e91e88823087200e"),
            ("x-hubspot-signature-version", "v2"),
        ],
        b"",
    );
    v2.method = "GET";
    assert_eq!(v2.is_proved(&all), Ok(()));
    let v1 = Request::new(
        0,
        &[("x-hubspot-signature", HUBSPOT_V1), ("x-hubspot-signature-version", "v1")],
        HUBSPOT_BATCH,
    );
    assert_eq!(v1.is_proved(&all), Ok(()));
    let strict = source("verify: {scheme: hubspot, secrets: [{env: hs-secret}]}");
    let missing = Err(Refusal::MissingHeader(String::from("x-hubspot-signature-v3")));
    assert_eq!(v1.is_proved(&strict), missing);
}

#[test]
fn hubspot_decodes_what_it_signs_and_falls_back_to_nothing() {
    let all = build(
        "verify: {scheme: hubspot, versions: [v3, v1], secrets: [{env: hs-secret}], \
         public_base_url: \"https://example.com/\"}",
        Extractors::default(),
        None,
    )
    .unwrap();
    let mut request = Request::new(
        1_790_000_001,
        &[
            ("x-hubspot-signature-v3", "ZWB8Ij6kLoOMyeOIpnvsc0SuRbQhKo+CBWFk4rJUlsE="),
            ("x-hubspot-request-timestamp", "1790000001000"),
        ],
        b"[]",
    );
    request.target = String::from("/api/hubspot/webhooks?src=hs%3Aapp%2Fv3&x=%28a%29");
    assert_eq!(request.is_proved(&all), Ok(()));
    request.headers[1].1 = String::from("179000000100");
    assert_eq!(request.is_proved(&all), Err(Refusal::BadHeader(String::from("x-hubspot-request-timestamp"))));
    request.headers[1].1 = String::from("1790000001001");
    request.headers.extend(hubspot_v1("[]").headers);
    assert_eq!(request.is_proved(&all), Err(Refusal::BadSignature), "version 3 alone decides");
    assert_eq!(decode_signed_characters("%3a%2F%3f%40%21%24%27%28%29%2A%2c%3B"), ":/?@!$'()*,;");
    assert_eq!(decode_signed_characters("%20%26%3D%C3%A9%%3%zz%"), "%20%26%3D%C3%A9%%3%zz%");
}

fn svix_request(prefix: &str, signature: &str) -> Request {
    let names: [&'static str; 3] = match prefix {
        "svix" => ["svix-id", "svix-timestamp", "svix-signature"],
        _ => ["webhook-id", "webhook-timestamp", "webhook-signature"],
    };
    Request::new(
        SVIX_AT,
        &[(names[0], "msg_p5jXN8AQM9LWM0D4loKWxJek"), (names[1], "1614265330"), (names[2], signature)],
        SVIX_BODY,
    )
}

#[test]
fn standard_webhooks_vectors_hold() {
    let secret = source(&format!("verify: {{scheme: standard-webhooks, secrets: [{{env: {SVIX_SECRET}}}]}}"));
    let both = source(&format!(
        "verify: {{scheme: standard-webhooks, secrets: [{{env: {SVIX_SECRET}}}, \
         {{env: whpk_iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=}}]}}"
    ));
    for prefix in ["svix", "webhook"] {
        assert_eq!(svix_request(prefix, SVIX_V1).is_proved(&secret), Ok(()));
    }
    assert_eq!(svix_request("webhook", SVIX_V1A).is_proved(&both), Ok(()));
    assert_eq!(svix_request("webhook", SVIX_V1A).is_proved(&secret), Err(Refusal::BadSignature));
    let mixed = format!("nocomma v1,%%% v2,AAAA v1a,AAAA {SVIX_V1}");
    assert_eq!(svix_request("webhook", &mixed).is_proved(&secret), Ok(()));
    let as_v1 = SVIX_V1A.replace("v1a", "v1");
    for bad in ["nocomma", "v1,", &as_v1, &SVIX_V1.replace("v1,", "v1a,")] {
        assert_eq!(svix_request("webhook", bad).is_proved(&both), Err(Refusal::BadSignature), "{bad}");
    }
    for seconds in [301, -301] {
        let request = svix_request("webhook", SVIX_V1).later(seconds);
        assert_eq!(request.is_proved(&secret), Err(Refusal::OutsideWindow));
    }
    let mut preferred = svix_request("svix", "v1,AAAA");
    preferred.headers.extend(svix_request("webhook", SVIX_V1).headers);
    assert_eq!(preferred.is_proved(&secret), Err(Refusal::BadSignature));
}

#[test]
fn github_vector_holds() {
    let source = source("verify: {scheme: github, secrets: [{env: \"It's a Secret to Everybody\"}]}");
    let request = |signature: &str| Request::new(0, &[("x-hub-signature-256", signature)], b"Hello, World!");
    assert_eq!(request(GITHUB_SIGNATURE).is_proved(&source), Ok(()));
    let bad = Err(Refusal::BadHeader(String::from("x-hub-signature-256")));
    assert_eq!(request(&GITHUB_SIGNATURE.replace("sha256", "sha1")).is_proved(&source), bad);
    assert_eq!(request(&GITHUB_SIGNATURE[..69]).is_proved(&source), Err(Refusal::BadSignature));
    let absent = Err(Refusal::MissingHeader(String::from("x-hub-signature-256")));
    assert_eq!(request("").is_proved(&source), absent);
}

#[test]
fn configured_hmacs_meet_the_vendors_vectors() {
    let slack = source(
        "verify: {scheme: hmac, header: X-Slack-Signature, prefix: v0=, signed: \"v0:{timestamp}:{body}\", \
         timestamp_header: X-Slack-Request-Timestamp, secrets: [{env: 8f742231b10e8888abcd99yyyzzz85a5}]}",
    );
    let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
        channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&\
        response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&\
        trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let request = Request::new(
        1_531_420_618,
        &[
            ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
            ("x-slack-request-timestamp", "1531420618"),
        ],
        body,
    );
    assert_eq!(request.is_proved(&slack), Ok(()));
    assert_eq!(request.later(301).is_proved(&slack), Err(Refusal::OutsideWindow));
    let shopify = source(
        "verify: {scheme: hmac, header: X-Shopify-Hmac-Sha256, encoding: base64, secrets: [{env: hush}]}",
    );
    let request = Request::new(
        0,
        &[("x-shopify-hmac-sha256", "VnKUjZsLuN5iZWjn5EntcBVCF9kMN43LglzCE1/GSeY=")],
        br#"{"id":1}"#,
    );
    assert_eq!(request.is_proved(&shopify), Ok(()));
    let url = source(
        "verify: {scheme: hmac, header: x-s, encoding: base64, signed: \"{method}{url}{body}\", \
         algorithm: sha512, secrets: [{env: k}]}",
    );
    let key = MacKey::new(Algorithm::Sha512, b"k");
    let signature = MacKey::sign(&key, &[b"POSThttps://www.example.com/webhook_uribody"]);
    let signature = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, signature);
    assert_eq!(Request::new(0, &[("x-s", &signature)], b"body").is_proved(&url), Ok(()));
}

#[test]
fn keys_and_passwords() {
    let bearer = source(
        "verify: {scheme: api-key, header: Authorization, prefix: \"Bearer \", secrets: [{env: k1}, {env: k2}]}",
    );
    let call = |name: &'static str, value: &str| Request::new(0, &[(name, value)], b"{}");
    assert_eq!(call("authorization", "Bearer k2").is_proved(&bearer), Ok(()));
    assert_eq!(call("authorization", "Bearer k3").is_proved(&bearer), Err(Refusal::BadSignature));
    assert_eq!(
        call("authorization", "k2").is_proved(&bearer),
        Err(Refusal::BadHeader(String::from("authorization")))
    );
    let basic = source("verify: {scheme: basic, secrets: [{env: \"crm:pa:ss\"}]}");
    assert_eq!(call("authorization", "basic Y3JtOnBhOnNz").is_proved(&basic), Ok(()));
    assert_eq!(call("authorization", "Basic Y3JtOnBhOnN0").is_proved(&basic), Err(Refusal::BadSignature));
    assert!(basic.wants_basic() && !bearer.wants_basic());
}

fn hubspot_v1(body: &str) -> Request {
    use sha2::Digest as _;
    let hash = sha2::Sha256::new_with_prefix("hs-secret").chain_update(body).finalize();
    Request::new(
        0,
        &[("x-hubspot-signature", &hex::encode(hash)), ("x-hubspot-signature-version", "v1")],
        body.as_bytes(),
    )
}

#[test]
fn a_source_without_usable_secrets_does_not_start() {
    let refuse = |yaml: &str, url| match build(yaml, Extractors::default(), url) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{yaml} was built"),
    };
    let unset = refuse("verify: {scheme: stripe, secrets: [{env: UNSET}]}", None);
    assert!(unset.contains("cannot be read"), "{unset}");
    let none = refuse("verify: {scheme: stripe, secrets: [{env: UNSET, optional: true}]}", None);
    assert!(none.contains("environment variable UNSET"), "{none}");
    for key in ["whsec_%%%", "whsec_", "whsk_AAAA", "whpk_AAAA"] {
        let text = refuse(&format!("verify: {{scheme: standard-webhooks, secrets: [{{env: {key}}}]}}"), None);
        assert!(!text.contains(key), "{text}");
    }
    assert!(refuse("verify: {scheme: basic, secrets: [{env: nocolon}]}", None).contains("user:password"));
    let url = refuse("verify: {scheme: hubspot, secrets: [{env: a}]}", None);
    assert!(url.contains("public_base_url"), "{url}");
    let debug = format!("{:?}", Secret::new("hunter2"));
    assert!(!debug.contains("hunter2"));
}
