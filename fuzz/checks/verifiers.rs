//! No request passes a verifier that was not signed for it: none that a stranger makes up, and no honest one of which
//! a byte was changed, the time ran out or a header was repeated or left out. An honest one passes.

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use millrace::connectors::request::Refusal;

use super::honest::{Request, SCHEMES, SOURCES, Scheme, TOLERANCE_SECONDS, as_hubspot_signs};

/// Targets with what HubSpot decodes before it signs, what it does not, and text beyond ASCII.
const TARGETS: [&str; 5] = ["/", "/hooks/a?b=%3Ac", "/x%2Fy?q=%C3%A9&r=%252F", "/%%3a%2", "/café?ü=1"];

/// Input: a byte for the scheme and what is done. An even one: lines `header: value` or `/target`, an empty line, the
/// body, as a stranger might send it. An odd one: choices for an honest request and for what is changed in it.
pub fn check(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let scheme = usize::from(choice >> 1) % SCHEMES.len();
    if choice & 1 == 0 {
        forged(scheme, rest);
    } else {
        // Too few bytes to choose with: nothing to check.
        let _ = tampered(scheme, Unstructured::new(rest));
    }
}

fn forged(scheme: usize, text: &[u8]) {
    let end = text.windows(2).position(|pair| pair == b"\n\n").unwrap_or(text.len());
    let body = Bytes::copy_from_slice(text.get(end + 2..).unwrap_or(b""));
    let mut request = Request { method: "POST", target: String::from("/"), headers: Vec::new(), body };
    for line in text[..end].split(|byte| *byte == b'\n') {
        if let Some(colon) = line.windows(2).position(|pair| pair == b": ") {
            let known = HEADERS.iter().find(|name| name.as_bytes() == &line[..colon]);
            request.headers.extend(known.map(|name| (*name, line[colon + 2..].to_vec())));
        } else if line.starts_with(b"/") {
            request.target = String::from_utf8_lossy(line).into_owned();
        }
    }
    let judged = request.judge(&SOURCES[scheme], 0, |_| ());
    assert!(judged.is_err(), "{:?} takes a forged request: {request:?}", SCHEMES[scheme].0);
}

/// Every header that a scheme looks at.
const HEADERS: [&str; 18] = [
    "stripe-signature",
    "x-hubspot-signature-v3",
    "x-hubspot-request-timestamp",
    "x-hubspot-signature",
    "x-hubspot-signature-version",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "svix-id",
    "svix-timestamp",
    "svix-signature",
    "x-hub-signature-256",
    "x-signature",
    "x-time",
    "x-api-key",
    "authorization",
    "content-type",
    "traceparent",
];

fn tampered(at: usize, mut choices: Unstructured<'_>) -> Result<()> {
    let (scheme, source) = (SCHEMES[at].0, &SOURCES[at]);
    let target = (*choices.choose(&TARGETS)?).to_owned();
    let action = choices.int_in_range(0..=7)?;
    let seconds = choices.int_in_range(-1000_i64..=1000)?;
    let (place, mask) = (choices.arbitrary::<u16>()?, choices.int_in_range(1..=255_u8)?);
    let body = Bytes::copy_from_slice(choices.take_rest());
    let mut request = Request::signed(scheme, target, body);
    let is_timed = seconds.abs() > TOLERANCE_SECONDS && signs_time(scheme);
    let judged = request.judge(source, seconds, |verified| verified.normalise().map(|events| events.len()));
    match judged {
        Ok(events) => assert!(!is_timed && events != Ok(0), "{scheme:?}: taken too late, or no event"),
        Err(refusal) => assert!(is_timed && refusal == Refusal::OutsideWindow, "{scheme:?}: {refusal}"),
    }
    let Some(()) = change(&mut request, scheme, action, usize::from(place), mask) else { return Ok(()) };
    let judged = request.judge(source, 0, |_| ());
    assert!(judged.is_err(), "{scheme:?} takes a changed request: {request:?}");
    Ok(())
}

/// Whether the sender signs the time.
fn signs_time(scheme: Scheme) -> bool {
    match scheme {
        Scheme::Stripe
        | Scheme::HubSpotV3
        | Scheme::StandardWebhooks
        | Scheme::StandardWebhooksPair
        | Scheme::Svix
        | Scheme::HmacTimestamp => true,
        Scheme::HubSpotV2
        | Scheme::HubSpotV1
        | Scheme::GitHub
        | Scheme::HmacHex
        | Scheme::HmacUrl
        | Scheme::ApiKey
        | Scheme::Basic => false,
    }
}

/// Changes the request so that it must be refused; `None` when what was chosen does not change what is signed.
fn change(request: &mut Request, scheme: Scheme, action: u8, place: usize, mask: u8) -> Option<()> {
    let signs_body = !matches!(scheme, Scheme::ApiKey | Scheme::Basic);
    let header = place % request.headers.len();
    match action {
        0 if signs_body && !request.body.is_empty() => {
            let mut body = request.body.to_vec();
            let at = place % body.len();
            body[at] ^= mask;
            request.body = Bytes::from(body);
        }
        1 if signs_body => request.body = Bytes::from([&request.body[..], &[mask]].concat()),
        2 if signs_body && !request.body.is_empty() => {
            request.body.truncate(place % request.body.len());
        }
        3 => {
            let again = request.headers[header].clone();
            request.headers.push(again);
        }
        4 => drop(request.headers.remove(header)),
        5 => change_target(request, scheme, place, mask)?,
        6 if matches!(scheme, Scheme::HubSpotV3 | Scheme::HubSpotV2 | Scheme::HmacUrl) => {
            request.method = "PUT";
        }
        _ => change_header(request, scheme, place, mask)?,
    }
    Some(())
}

fn change_target(request: &mut Request, scheme: Scheme, place: usize, mask: u8) -> Option<()> {
    let mut changed = request.target.clone().into_bytes();
    let at = place % changed.len();
    changed[at] ^= mask;
    let changed = String::from_utf8(changed).ok()?;
    let differs = match scheme {
        Scheme::HubSpotV3 => as_hubspot_signs(&changed) != as_hubspot_signs(&request.target),
        Scheme::HubSpotV2 | Scheme::HmacUrl => true,
        _ => false,
    };
    request.target = changed;
    differs.then_some(())
}

fn change_header(request: &mut Request, scheme: Scheme, place: usize, mask: u8) -> Option<()> {
    let lengths: usize = request.headers.iter().map(|(_, value)| value.len()).sum();
    let mut at = place % lengths;
    let (_, value) = request.headers.iter_mut().find(|(_, value)| {
        let is_here = at < value.len();
        at -= if is_here { 0 } else { value.len() };
        is_here
    })?;
    let before = value.clone();
    value[at] ^= mask;
    let is_same = match scheme {
        // Its configuration does not say in which case the digits are written.
        Scheme::HmacHex => at >= "sha1=".len() && value.eq_ignore_ascii_case(&before),
        // The name of the scheme counts in either case (RFC 9110).
        Scheme::Basic => at < "basic".len() && value.eq_ignore_ascii_case(&before),
        _ => false,
    };
    (!is_same).then_some(())
}
