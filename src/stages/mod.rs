//! One leaf step of a pipeline per file: config, compile, apply.
