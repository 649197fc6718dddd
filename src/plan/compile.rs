//! From what the files say to what they mean. Pure but for the schema files that stages name: same files, same plan,
//! and no look at the environment, so that `check` says the same on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::config;
use crate::config::project::{Project, Thing};
use crate::ledger::Namespace;
use crate::plan::Plan;
use crate::plan::checks::{self, Flow, Mentions};
use crate::plan::pipeline::{Delivery, Group, Ordering, Pipeline, TypePattern};
use crate::plan::topics::{self, TopicSpec};
use crate::yaml::lint::{Lints, Spanned, nearest};

/// Compiles a project. `None` when there are errors; all of them are in `lints`.
pub fn compile(project: &Project, namespace: &Namespace, lints: &mut Lints) -> Option<Plan> {
    let compiler = Compiler { project, namespace };
    compiler.sources(lints);
    None
}

/// First 12 hexadecimal digits of SHA-256.
fn hash(parts: &[&str]) -> Arc<str> {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    hex::encode(&digest.finalize()[..6]).into()
}
