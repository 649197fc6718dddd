//! Signs and posts webhooks as their vendors would, so that `quickstart` goes the whole way: through the network,
//! the signature and the broker.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};

use crate::connectors::hubspot::decode_signed_characters;
use crate::connectors::signature::{Algorithm, MacKey};
use crate::secrets::Secret;

const PATIENCE: Duration = Duration::from_secs(15);

/// How a webhook is signed.
#[derive(Clone, Debug)]
pub enum Signing {
    /// `Stripe-Signature`.
    Stripe(Secret),
    /// `X-HubSpot-Signature-v3`, over the address that HubSpot believes it calls.
    HubSpot {
        /// Client secret of the app.
        secret: Secret,
        /// What stands before the path in the address that HubSpot calls.
        public_base_url: String,
    },
    /// A header that holds the secret itself.
    Header {
        /// Header's name.
        name: String,
        /// The secret.
        secret: Secret,
    },
    /// Not at all.
    Unsigned,
}

/// What the endpoint answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// Posts webhooks to one endpoint.
#[derive(Clone, Debug)]
pub struct Sender {
    client: reqwest::Client,
    base_url: String,
}

impl Sender {
    /// A sender to the endpoint at `base_url`, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(base_url: String) -> Result<Self, reqwest::Error> {
        crate::tls::provide();
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Self { client, base_url })
    }

    /// Posts `body` to `/hooks/<connector>`.
    ///
    /// # Errors
    /// When the endpoint does not answer.
    pub async fn post(
        &self,
        connector: &str,
        body: &str,
        signing: &Signing,
        now: DateTime<Utc>,
    ) -> Result<Answer, reqwest::Error> {
        let path = format!("/hooks/{connector}");
        let mut request = self
            .client
            .post(format!("{}{path}", self.base_url))
            .header("content-type", "application/json")
            .body(body.to_owned());
        for (name, value) in headers(signing, &path, body, now) {
            request = request.header(name, value);
        }
        let answer = request.send().await?;
        Ok(Answer { status: answer.status().as_u16(), body: answer.text().await? })
    }
}

fn headers(signing: &Signing, path: &str, body: &str, now: DateTime<Utc>) -> Vec<(String, String)> {
    match signing {
        Signing::Stripe(secret) => {
            let time = now.timestamp().to_string();
            let key = MacKey::new(Algorithm::Sha256, secret.expose());
            let mac = key.sign(&[time.as_bytes(), b".", body.as_bytes()]);
            vec![(String::from("stripe-signature"), format!("t={time},v1={}", hex::encode(mac)))]
        }
        Signing::HubSpot { secret, public_base_url } => {
            let time = now.timestamp_millis().to_string();
            let uri = decode_signed_characters(&format!("{public_base_url}{path}"));
            let key = MacKey::new(Algorithm::Sha256, secret.expose());
            let mac = key.sign(&[b"POST", uri.as_bytes(), body.as_bytes(), time.as_bytes()]);
            vec![
                (String::from("x-hubspot-signature-v3"), STANDARD.encode(mac)),
                (String::from("x-hubspot-request-timestamp"), time),
            ]
        }
        Signing::Header { name, secret } => {
            vec![(name.clone(), String::from_utf8_lossy(secret.expose()).into_owned())]
        }
        Signing::Unsigned => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::{Signing, headers};
    use crate::secrets::Secret;

    #[test]
    fn signs_as_the_vendors_libraries_do() {
        let stripe = Signing::Stripe(Secret::new("whsec_test_secret"));
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        assert_eq!(
            headers(&stripe, "/hooks/stripe", r#"{"id":"evt_1"}"#, at)[0].1,
            "t=1700000000,v1=248a374f50f943a28b0f6ab50faf9a7e7e29b710fa26df9fb1618b9bf8ea9c9a"
        );
        let hubspot = Signing::HubSpot {
            secret: Secret::new("yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy"),
            public_base_url: String::from("https://www.example.com"),
        };
        let at = DateTime::from_timestamp(1_693_657_560, 0).unwrap();
        assert_eq!(
            headers(&hubspot, "/webhook_uri", "{'example_field':'example_value'}", at)[0].1,
            "K36dawei4A+QBNolUOqo7s91KQDWQ5MXZ/QufNYuk/Y="
        );
    }
}
