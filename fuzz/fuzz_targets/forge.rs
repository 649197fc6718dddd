//! Input: a byte that chooses the scheme, then lines `header: value`, an empty line, and the body.
//! No input knows the secrets, so none may pass.

#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use chrono::DateTime;
use libfuzzer_sys::fuzz_target;
use millrace::connectors::request::Unverified;
use millrace::connectors::source::{Extractors, Source, SourceConfig};
use millrace::connectors::verify::Surroundings;
use millrace::secrets::Secret;
use millrace::yaml::lint::{Lints, SourceFile};

/// Within the tolerance of the seeds' timestamps.
const NOW_SECONDS: i64 = 1_700_000_000;

static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    [
        "{scheme: stripe, secrets: [{env: A}, {env: B}]}",
        "{scheme: hubspot, secrets: [{env: A}]}",
        "{scheme: hubspot, versions: [v3, v2, v1], secrets: [{env: A}]}",
        "{scheme: standard-webhooks, secrets: [{env: A}]}",
        "{scheme: github, secrets: [{env: A}]}",
        "{scheme: hmac, header: x-signature, prefix: v0=, signed: \"{timestamp}:{body}\", timestamp_header: x-time, \
          secrets: [{env: A}]}",
        "{scheme: hmac, header: x-signature, encoding: base64url, signed: \"{method}{url}{body}\", secrets: [{env: A}]}",
        "{scheme: api-key, secrets: [{env: A}]}",
        "{scheme: basic, secrets: [{env: A}]}",
    ]
    .into_iter()
    .map(source)
    .collect()
});

fn source(verify: &str) -> Source {
    let text = format!("verify: {verify}\ntopic: t\n");
    let file = Arc::new(SourceFile { path: PathBuf::from("a.yaml"), text });
    let mut lints = Lints::default();
    let node = millrace::yaml::node::parse(&file, &mut lints).expect("YAML of ours");
    let config = SourceConfig::decode(&node, &mut lints).unwrap_or_else(|| panic!("{lints:?}"));
    // Base64 for Standard Webhooks, a colon for Basic would not be base64: each its own.
    let value = if verify.contains("basic") { "user:Zm9yZ2Vk" } else { "c2l4dGVlbiBzZWNyZXQgYnl0ZXM=" };
    let secrets = |_: &_| Ok(Some(Secret::new(value)));
    let surroundings = Surroundings { secrets: &secrets, public_base_url: Some("https://example.com") };
    Source::build("fuzz", &config, Extractors::default(), &surroundings).expect("secrets of ours")
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let source = &SOURCES[usize::from(*choice) % SOURCES.len()];
    let end = rest.windows(2).position(|pair| pair == b"\n\n").unwrap_or(rest.len());
    let body = Bytes::copy_from_slice(rest.get(end + 2..).unwrap_or(b""));
    let mut headers: Vec<(&str, &[u8])> = Vec::new();
    for line in rest[..end].split(|byte| *byte == b'\n') {
        let Some(colon) = line.windows(2).position(|pair| pair == b": ") else { continue };
        let Ok(name) = std::str::from_utf8(&line[..colon]) else { continue };
        headers.push((name, &line[colon + 2..]));
    }
    let request = Unverified { method: "POST", target: "/hooks/fuzz?a=%3Ab", headers: &headers, body: &body };
    let now = DateTime::from_timestamp(NOW_SECONDS, 0).expect("a time");
    assert!(source.verify(request, now).is_err(), "a forged request passed");
});
