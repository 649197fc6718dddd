//! Input: the body of a request whose signature was good.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace::connectors::request::Unverified;
use millrace::connectors::{github, hubspot, standard_webhooks, stripe};

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    let headers: [(&str, &[u8]); 5] = [
        ("x-github-delivery", b"1"),
        ("x-github-event", b"push"),
        ("webhook-id", b"1"),
        ("webhook-timestamp", b"1700000000"),
        ("webhook-signature", b"v1,"),
    ];
    let request = Unverified { method: "POST", target: "/", headers: &headers, body: &body };
    for whole in [stripe::normalise(&request), github::normalise(&request), standard_webhooks::normalise(&request)]
    {
        let Ok(drafts) = whole else { continue };
        assert!(drafts.len() == 1 && drafts[0].payload == body);
    }
    let Ok(drafts) = hubspot::normalise(&request) else { return };
    assert!(!drafts.is_empty());
    let mut at = body.as_ptr() as usize;
    let end = at + body.len();
    for draft in drafts {
        let from = draft.payload.as_ptr() as usize;
        assert!(from >= at && from + draft.payload.len() <= end, "bytes of the body, in their order");
        at = from + draft.payload.len();
    }
});
