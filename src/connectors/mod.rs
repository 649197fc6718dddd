//! Outside systems, in both directions: what comes in (`Source`: verify, normalise) and what goes out (`Target`).
//! The only folder that names `reqwest`.

// What comes in.
pub mod generic;
pub mod github;
pub mod hubspot;
pub mod request;
pub mod sender;
pub mod signature;
pub mod source;
pub mod standard_webhooks;
pub mod stripe;
pub mod verify;

// What goes out.
pub mod answer;
pub mod auth;
pub mod breaker;
pub mod call;
pub mod form;
pub mod http;
pub mod oauth;
pub mod path;
pub mod scripted;
pub mod target;
