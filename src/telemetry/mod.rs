//! Metrics, logs: names fixed in one file.
