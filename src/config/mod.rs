//! What the YAML says, with places; no I/O but reading files.
