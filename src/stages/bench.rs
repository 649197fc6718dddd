//! A bench for the tests of stages that use services: compiles one stage, applies it to one record.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::connectors::scripted::{Script, ScriptedCall};
use crate::connectors::target::TargetConfig;
use crate::expr::scope::Scope;
use crate::expr::types::Types;
use crate::expr::{program, values};
use crate::fault::Fault;
use crate::record::InRecord;
use crate::stages::context::{CompileCx, Declared, Next, Origin, Outputs, StageCx};
use crate::stages::scripted_rows::RowScript;
use crate::stages::services::{HttpService, Services};
use crate::stages::{Applied, Stage, StageConfig};
use crate::yaml::fields;
use crate::yaml::lint::{Lints, SourceFile};
use crate::yaml::node::{Node, parse};

/// A piece of a project's file.
pub(crate) fn node(text: &str) -> Node {
    let file = Arc::new(SourceFile { path: "pipelines/leads.yaml".into(), text: text.to_owned() });
    parse(&file, &mut Lints::default()).expect("YAML")
}

/// Services of a test and what the project declares.
pub(crate) struct Bench {
    pub(crate) declared: Declared,
    pub(crate) services: Services,
    record: InRecord,
}

impl Bench {
    /// With connector `crm`, whose calls `calls` lists, and the answers of a test.
    pub(crate) fn new(calls: &str, answers: &str) -> Self {
        let mut lints = Lints::default();
        let target = node(&format!("base_url: https://crm.test\ncalls: {calls}\n"));
        let target = TargetConfig::decode(&target, &mut lints).expect("a target");
        let targets = BTreeMap::from([(String::from("crm"), Arc::new(target))]);
        let answers = fields::list(&node(answers), &mut lints, ScriptedCall::decode).expect("a list");
        assert_eq!(lints.0, []);
        let declared = Declared { targets: targets.clone(), ..Declared::default() };
        let services =
            Services::offline(BTreeMap::new(), Script::new(targets, &answers), RowScript::default());
        let record = InRecord {
            topic: "events.crm".into(),
            partition: 3,
            offset: 77,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Vec::new(),
        };
        Self { declared, services, record }
    }

    /// What the scripted destinations saw.
    pub(crate) fn script(&self) -> &Script {
        match &self.services.http {
            HttpService::Scripted(script) => script,
            HttpService::Live(_) => unreachable!("a bench is scripted"),
        }
    }

    /// Compiles stage `kind` written as `text`, as step `tell` of pipeline `leads`; the codes of its lints.
    pub(crate) fn compile(&self, kind: &str, text: &str) -> Result<Stage, Vec<(&'static str, String)>> {
        let mut lints = Lints::default();
        let mut cx = CompileCx {
            types: Types::default(),
            declared: &self.declared,
            pipeline: "leads".into(),
            step: "tell".into(),
        };
        let stage = StageConfig::decode(kind, &node(text), &mut lints)
            .and_then(|config| config.compile(&mut cx, &mut lints));
        match stage {
            Some(stage) if lints.0.is_empty() => Ok(stage),
            _ => Err(lints.0.into_iter().map(|lint| (lint.code, lint.help)).collect()),
        }
    }

    /// Applies a stage to a record of this offset and value; afterwards what `look` gives, as JSON.
    pub(crate) async fn apply(
        &self,
        stage: &Stage,
        (offset, value): (i64, &str),
        look: &str,
    ) -> Result<(Next, serde_json::Value), Fault> {
        let record =
            InRecord { offset, value: Some(Bytes::copy_from_slice(value.as_bytes())), ..self.record.clone() };
        let now: DateTime<Utc> = DateTime::UNIX_EPOCH;
        let mut scope = Scope::new(&record, now);
        let (pipeline, step) = (Arc::from("leads"), Arc::from("tell"));
        let mut cx = StageCx {
            origin: Origin { pipeline: &pipeline, record: &record, now },
            step: &step,
            elements: &[],
            scope: &mut scope,
            outputs: &mut Outputs::default(),
            services: &self.services,
        };
        let next = match stage.apply(&mut cx) {
            Applied::Now(done) => done?,
            Applied::Later(work) => work.await?,
        };
        let mut types = Types::default();
        types.add_stage("tell");
        let mut lints = Lints::default();
        let look = program::compile_expression(&node(look), &types, &mut lints);
        let seen = look.expect("an expression").evaluate(&mut scope)?;
        Ok((next, values::to_json(&seen)))
    }
}
