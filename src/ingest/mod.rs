//! Role `ingest`: webhooks in, records acknowledged by all replicas before the 2xx.
