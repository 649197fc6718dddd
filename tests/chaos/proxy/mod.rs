//! A proxy between Millrace and a server, which can do to a connection what networks do.

pub mod kafka;
pub mod plain;
mod pump;
mod refusal;
pub mod wire;
