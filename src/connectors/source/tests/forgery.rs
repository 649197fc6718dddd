//! Whatever byte an attacker changes, in the body or in a header that is signed, the request is refused.

use proptest::prelude::*;

use crate::connectors::source::Source;
use crate::connectors::source::tests::{
    GITHUB_SIGNATURE, HUBSPOT_BATCH, HUBSPOT_V1, Request, STRIPE, STRIPE_V1, SVIX_SECRET, SVIX_V1, SVIX_V1A,
    source, stripe_request, svix_request,
};

/// A source, a request that it takes, and how many of its headers are signed.
fn honest(scheme: usize) -> (Source, Request) {
    match scheme {
        0 => (source(STRIPE), stripe_request(&format!("t=1700000000,v1={STRIPE_V1}"))),
        1 => (
            source(
                "verify: {scheme: hubspot, versions: [v1], secrets: [{env: yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy}]}",
            ),
            Request::new(
                0,
                &[("x-hubspot-signature", HUBSPOT_V1), ("x-hubspot-signature-version", "v1")],
                HUBSPOT_BATCH,
            ),
        ),
        2 => (
            source("verify: {scheme: hubspot, secrets: [{env: yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy}]}"),
            Request::new(
                1_693_657_560,
                &[
                    ("x-hubspot-signature-v3", "K36dawei4A+QBNolUOqo7s91KQDWQ5MXZ/QufNYuk/Y="),
                    ("x-hubspot-request-timestamp", "1693657560000"),
                ],
                b"{'example_field':'example_value'}",
            ),
        ),
        3 => (
            source(&format!("verify: {{scheme: standard-webhooks, secrets: [{{env: {SVIX_SECRET}}}]}}")),
            svix_request("webhook", SVIX_V1),
        ),
        4 => (
            source(
                "verify: {scheme: standard-webhooks, secrets: [{env: whpk_iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=}]}",
            ),
            svix_request("svix", SVIX_V1A),
        ),
        5 => (
            source("verify: {scheme: github, secrets: [{env: \"It's a Secret to Everybody\"}]}"),
            Request::new(0, &[("x-hub-signature-256", GITHUB_SIGNATURE)], b"Hello, World!"),
        ),
        6 => (
            source("verify: {scheme: api-key, secrets: [{env: k-1234567890}]}"),
            Request::new(0, &[("x-api-key", "k-1234567890")], b""),
        ),
        _ => (
            source("verify: {scheme: basic, secrets: [{env: \"crm:pa:ss\"}]}"),
            Request::new(0, &[("authorization", "Basic Y3JtOnBhOnNz")], b""),
        ),
    }
}
const SCHEMES: usize = 8;

#[test]
fn the_honest_requests_are_taken() {
    for scheme in 0..SCHEMES {
        let (source, request) = honest(scheme);
        assert_eq!(request.is_proved(&source), Ok(()), "{scheme}");
    }
}

proptest! {
    #[test]
    fn a_changed_byte_is_refused(scheme in 0..SCHEMES, place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (source, mut request) = honest(scheme);
        let headers: usize = request.headers.iter().map(|(_, value)| value.len()).sum();
        let mut at = place.index(headers + request.body.len());
        let mut changed_header = None;
        for (index, (_, value)) in request.headers.iter().enumerate() {
            if at < value.len() {
                let mut bytes = value.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                changed_header = Some((index, String::from_utf8(bytes)));
                break;
            }
            at -= value.len();
        }
        match changed_header {
            // The name of the Basic scheme counts in either case.
            Some((_, Ok(text))) if text.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("basic"))
                && at < 5 => return Ok(()),
            Some((index, Ok(text))) => request.headers[index].1 = text,
            // No header of HTTP: bytes above 127 are refused before a scheme looks at them.
            Some((_, Err(_))) => return Ok(()),
            None => {
                let mut body = request.body.to_vec();
                body[at] ^= 1 << bit;
                request.body = body.into();
            }
        }
        prop_assert!(request.is_proved(&source).is_err());
    }

    #[test]
    fn nonsense_neither_passes_nor_panics(
        scheme in 0..SCHEMES,
        values in prop::collection::vec(".{0,80}", 3),
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let (source, mut request) = honest(scheme);
        for ((_, header), value) in request.headers.iter_mut().zip(values) {
            *header = value;
        }
        request.body = body.into();
        prop_assert!(request.is_proved(&source).is_err());
    }
}
