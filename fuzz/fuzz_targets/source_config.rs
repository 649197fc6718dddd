//! Input: the text of a connector's `source:`.

#![no_main]

use std::path::PathBuf;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use millrace::connectors::source::SourceConfig;
use millrace::yaml::lint::{Lints, SourceFile};

fuzz_target!(|text: &str| {
    let file = Arc::new(SourceFile { path: PathBuf::from("a.yaml"), text: text.to_owned() });
    let mut lints = Lints::default();
    let config =
        millrace::yaml::node::parse(&file, &mut lints).and_then(|node| SourceConfig::decode(&node, &mut lints));
    assert!(config.is_some() || lints.has_errors(), "refused without a word");
    for lint in &lints.0 {
        assert!(lint.span.start <= lint.span.end && lint.span.end <= text.len(), "{lint:?}");
    }
});
