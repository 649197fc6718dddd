//! GitHub's webhooks: `X-Hub-Signature-256: sha256=<hex>`, HMAC-SHA256 over the raw body. GitHub signs no time, so a
//! captured request stays valid; its delivery id (`ce_id`) tells repeats apart. GitHub does not deliver again by
//! itself: what is refused or answered 503 has to be redelivered by hand.

use serde::Deserialize;

use crate::connectors::request::{Draft, Refusal, Unverified};
use crate::connectors::signature::{self, Algorithm, Encoding, MacKey};
use crate::secrets::Secret;

const SIGNATURE: &str = "x-hub-signature-256";

/// Checks GitHub's signatures.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<MacKey>,
}

impl Verifier {
    /// A verifier for these webhook secrets.
    pub fn new(secrets: &[Secret]) -> Self {
        Self { keys: MacKey::of_secrets(Algorithm::Sha256, secrets) }
    }

    /// Checks the signature of `request`.
    ///
    /// # Errors
    /// [`Refusal`] when it is absent, malformed or does not match.
    pub fn verify(&self, request: &Unverified<'_>) -> Result<(), Refusal> {
        let claimed = request
            .required(SIGNATURE)?
            .strip_prefix("sha256=")
            .and_then(|text| Encoding::HexLower.decode(text))
            .ok_or_else(|| Refusal::BadHeader(SIGNATURE.to_owned()))?;
        signature::expect_mac(&self.keys, &[request.body], &[claimed])
    }
}

#[derive(Deserialize)]
struct Body {
    repository: Option<Repository>,
    organization: Option<Organization>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: Option<String>,
}

#[derive(Deserialize)]
struct Organization {
    login: Option<String>,
}

/// The event in a verified request: id and type stand in headers. Key and subject: the repository, else the
/// organisation.
///
/// # Errors
/// [`Refusal`] when the body is no JSON object or a header is missing.
pub fn normalise(request: &Unverified<'_>) -> Result<Vec<Draft>, Refusal> {
    request.expect_json()?;
    let body: Body = serde_json::from_str(request.body_text()?)
        .map_err(|error| Refusal::of_json(&error, "a GitHub event"))?;
    let subject = body
        .repository
        .and_then(|repository| repository.full_name)
        .or_else(|| body.organization.and_then(|organization| organization.login));
    Ok(vec![Draft {
        id: Some(request.required("x-github-delivery")?.to_owned()),
        kind: Some(request.required("x-github-event")?.to_owned()),
        key: subject.clone(),
        subject,
        time: None,
        payload: request.body.clone(),
    }])
}
