//! HTTP for operators: `/metrics`, `/health/live`, `/health/ready`.

pub mod server;
