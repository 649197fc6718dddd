use std::fs;
use std::path::Path;

use crate::config::project;
use crate::ledger::{Namespace, Results};
use crate::plan::Plan;
use crate::plan::compile::compile;
use crate::plan::pipeline::{Delivery, TypePattern};
use crate::plan::topics::Role;
use crate::yaml::lint::Lints;

const TOPIC: &str = "partitions: 6\nretention: 7d\nvalue: {format: json}\n";

/// Compiles a project of these files; the messages when it has errors.
fn check(files: &[(&str, &str)]) -> Result<(Plan, Vec<String>), Vec<String>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).expect("a new folder");
        fs::write(path, text).expect("a new file");
    }
    let mut lints = Lints::default();
    let project = project::load(folder.path(), &mut lints).expect("the folder is there");
    let plan = compile(&project, &Namespace::new("ns").expect("a namespace"), &mut lints);
    let messages: Vec<String> =
        lints.0.iter().map(|lint| format!("{} {}: {}", lint.code, lint.span, lint.message)).collect();
    plan.map(|plan| (plan, messages.clone())).ok_or(messages)
}

fn pipeline(head: &str) -> String {
    format!("{head}\nstages:\n  - emit: {{topic: out, key: .id}}\n")
}

#[test]
fn pipelines_of_one_group_share_it_and_others_have_their_own() {
    let a = pipeline("input: {topics: [in, more], types: [order.*, refund]}\ngroup: crm");
    let b = pipeline("input: {topics: [in]}\ngroup: crm");
    let c = pipeline("input: {topics: [in]}\ndelivery: at_least_once");
    let (plan, warnings) = check(&[
        ("topics/in.yaml", TOPIC),
        ("topics/more.yaml", "partitions: 24\n"),
        ("topics/out.yaml", TOPIC),
        ("pipelines/a.yaml", &a),
        ("pipelines/b.yaml", &b),
        ("pipelines/c.yaml", &c),
    ])
    .expect("no errors");
    assert_eq!(warnings, Vec::<String>::new());
    let groups: Vec<_> = plan
        .groups
        .iter()
        .map(|group| {
            let names: Vec<&str> = group.pipelines.iter().map(|pipeline| &*pipeline.name).collect();
            let topics: Vec<&str> = group.topics.iter().map(|topic| &**topic).collect();
            (&*group.id, group.delivery, names, topics)
        })
        .collect();
    assert_eq!(
        groups,
        [
            ("ns.c", Delivery::AtLeastOnce, vec!["c"], vec!["in"]),
            ("ns.crm", Delivery::ExactlyOnce, vec!["a", "b"], vec!["in", "more"]),
        ]
    );
    let a = plan.pipeline("a").expect("it is there");
    let types = [TypePattern::Prefix(String::from("order.")), TypePattern::Exact(String::from("refund"))];
    assert_eq!(a.types, types);
    assert!(a.takes("more", "order.paid") && !a.takes("more", "refunds") && !a.takes("out", "refund"));
    assert!(a.is_cpu_only);
}

#[test]
fn every_topic_that_is_needed_is_in_the_plan() {
    let (plan, _) = check(&[
        ("topics/in.yaml", "partitions: 24\n"),
        ("topics/out.yaml", TOPIC),
        ("pipelines/a.yaml", &pipeline("input: {topics: [in]}\non_error: {tiers: [90s, 600s]}")),
    ])
    .expect("no errors");
    assert_eq!(plan.topic("a.replay").and_then(|topic| topic.mirrors.as_deref()), Some("in"));
    let topics: Vec<_> =
        plan.topics.iter().map(|topic| (&*topic.name, topic.role, topic.partitions.get())).collect();
    assert_eq!(
        topics,
        [
            ("a.dlq", Role::DeadLetter, 24),
            ("a.replay", Role::Companion, 24),
            ("a.retry.10m", Role::Companion, 24),
            ("a.retry.90s", Role::Companion, 24),
            ("in", Role::Declared, 24),
            ("ns.dead-letter-decisions", Role::Decisions, 1),
            ("ns.executions", Role::Executions, 12),
            ("ns.kpi-facts", Role::KpiFacts, 12),
            ("ns.kpis", Role::Kpis, 12),
            ("out", Role::Declared, 6),
        ]
    );
    let setting =
        |topic: &str, name: &str| plan.topic(topic).and_then(|spec| spec.settings.get(name).cloned());
    assert_eq!(setting("out", "retention.ms").as_deref(), Some("604800000"));
    assert_eq!(setting("ns.kpis", "cleanup.policy").as_deref(), Some("compact"));
}

#[test]
fn each_input_has_companions_of_its_own() {
    let (plan, warnings) = check(&[
        ("topics/in.yaml", TOPIC),
        ("topics/more.yaml", "partitions: 24\n"),
        ("topics/out.yaml", TOPIC),
        ("pipelines/a.yaml", &pipeline("input: {topics: [in, more]}\non_error: {tiers: [1m]}")),
    ])
    .expect("no errors");
    assert_eq!(
        warnings,
        [
            "tiers-unused pipelines/a.yaml:2:19: no stage of this pipeline waits for anything that could be down"
        ]
    );
    let of = |input: &str| {
        let companions = plan.pipelines[0].companions_of(input).expect("an input");
        let topics: Vec<_> = companions.topics().map(|name| plan.topic(name).expect("in the plan")).collect();
        topics.into_iter().map(|topic| (&*topic.name, topic.partitions.get())).collect::<Vec<_>>()
    };
    assert_eq!(of("in"), [("a.in.retry.1m", 6), ("a.in.replay", 6)]);
    assert_eq!(of("more"), [("a.more.retry.1m", 24), ("a.more.replay", 24)]);
}

#[test]
fn the_hash_follows_the_text() {
    let files = |text: &str| {
        let files = [("topics/in.yaml", TOPIC), ("topics/out.yaml", TOPIC), ("pipelines/a.yaml", text)];
        check(&files).expect("no errors").0
    };
    let text = pipeline("input: {topics: [in]}");
    let (first, again) = (files(&text), files(&text));
    let other = files(&format!("{text}# a comment\n"));
    let hash = |plan: &Plan| (plan.config_hash.clone(), plan.pipelines[0].config_hash.clone());
    assert_eq!(hash(&first), hash(&again));
    assert_ne!(hash(&first).0, hash(&other).0);
    assert_ne!(hash(&first).1, hash(&other).1);
    assert_eq!(first.config_hash.len(), 12);
}

#[test]
fn a_circle_of_pipelines_is_a_warning_and_dead_letters_are_for_others() {
    let there = "input: {topics: [in]}\nstages:\n  - emit: {topic: out}\n";
    let back = "input: {topics: [out, there.dlq]}\nstages:\n  - emit: {topic: in}\n";
    let own = "input: {topics: [own.dlq]}\nstages:\n  - emit: {topic: out}\n";
    let topics = [("topics/in.yaml", TOPIC), ("topics/out.yaml", TOPIC)];
    let both =
        [topics.as_slice(), &[("pipelines/there.yaml", there), ("pipelines/back.yaml", back)]].concat();
    let (_, warnings) = check(&both).expect("no errors");
    assert_eq!(
        warnings,
        [
            "loop pipelines/back.yaml:3:19: what is written here comes back by way of `there`",
            "loop pipelines/there.yaml:3:19: what is written here comes back by way of `back`",
        ]
    );
    let errors = check(&[topics.as_slice(), &[("pipelines/own.yaml", own)]].concat()).expect_err("an error");
    assert_eq!(errors, ["loop pipelines/own.yaml:1:18: a pipeline cannot read its own dead letters"]);
}

#[test]
fn a_typed_pipeline_may_write_to_its_own_topic() {
    let text = "input: {topics: [in], types: [order]}\nstages:\n  - emit: {topic: in}\n";
    let (_, warnings) = check(&[("topics/in.yaml", TOPIC), ("pipelines/a.yaml", text)]).expect("no errors");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("loop pipelines/a.yaml:3:19"), "{warnings:?}");
}

#[test]
fn a_topic_whose_file_is_broken_is_not_unknown_to_its_readers() {
    let errors = check(&[
        ("topics/in.yaml", "partitions: many\n"),
        ("topics/out.yaml", TOPIC),
        ("pipelines/a.yaml", &pipeline("input: {topics: [in]}")),
    ])
    .expect_err("an error");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("wrong-type topics/in.yaml:1:13"), "{errors:?}");
}

#[test]
fn concurrency_is_bounded_and_held_against_the_destination() {
    let check_with = |concurrency: &str| {
        let pipeline = format!(
            "input: {{topics: [in]}}\n{concurrency}stages:\n  - route:\n      - when: .id == 1\n        stages:\n          \
             - http: {{connector: crm, call: take}}\n"
        );
        check(&[
            ("topics/in.yaml", TOPIC),
            (
                "connectors/crm.yaml",
                "target:\n  base_url: https://crm.test\n  calls:\n    take: {method: POST, path: /take}\n",
            ),
            ("pipelines/a.yaml", &pipeline),
        ])
    };
    let at_work = |(plan, warnings): (Plan, Vec<String>)| (plan.pipelines[0].concurrency.get(), warnings);
    assert_eq!(check_with("").map(at_work), Ok((256, vec![])));
    assert_eq!(check_with("concurrency: 50\n").map(at_work), Ok((50, vec![])));
    let (count, warnings) = check_with("concurrency: 10000\n").map(at_work).expect("no errors");
    assert_eq!(count, 10_000);
    assert_eq!(
        warnings,
        [
            "narrow-target pipelines/a.yaml:2:14: 10000 records at work, but `crm` takes 50 calls at the same time"
        ]
    );
    let errors = check_with("concurrency: 10001\n").map(at_work).expect_err("too many");
    assert_eq!(errors, ["out-of-range pipelines/a.yaml:2:14: 10001 is out of range"]);
}

fn compiled(head: &str, stages: &str) -> Result<Plan, Vec<String>> {
    let text = format!("input: {{topics: [in]}}\n{head}stages:\n{stages}");
    let avro = r#"{"type": "record", "name": "a", "fields": [{"name": "id", "type": "string"}]}"#;
    let files = [
        ("topics/in.yaml", TOPIC),
        ("topics/out.yaml", TOPIC),
        ("topics/written.yaml", "partitions: 6\nvalue: {format: avro, schema: schemas/a.avsc}\n"),
        ("schemas/a.avsc", avro),
        ("pipelines/a.yaml", text.as_str()),
    ];
    check(&files).map(|(plan, _)| plan)
}

#[test]
fn results_of_failures_only_are_asked_for_in_words() {
    let stages = "  - emit: {topic: out}\n";
    for (head, wanted) in
        [("", Results::All), ("results: all\n", Results::All), ("results: failures\n", Results::Failures)]
    {
        let plan = compiled(head, stages).expect("no errors");
        assert_eq!(plan.pipelines[0].results, wanted, "{head}");
    }
    let messages = compiled("results: none\n", stages).expect_err("no such word");
    assert!(messages[0].contains("`none` is not one of all, failures"), "{messages:?}");
}

#[test]
fn a_value_is_decoded_in_part_where_that_is_enough() {
    let is_part = |stages: &str| {
        let plan = compiled("", stages).unwrap_or_else(|messages| panic!("{messages:?}"));
        plan.pipelines[0].projection.is_some()
    };
    for (stages, wanted) in [
        ("  - filter: .a == 1\n  - map: .b = .c.d\n  - emit: {topic: out, key: .b}\n", true),
        ("  - emit: {topic: out, key: .id}\n", true),
        // Nobody looks at the value.
        ("  - emit: {topic: out}\n", false),
        ("  - map: del(.a)\n  - emit: {topic: out, key: .id}\n", false),
        ("  - emit: {topic: written, key: .id}\n", false),
        // All of it is needed of the events that pass only, or of a new value.
        ("  - filter: .a == 1\n  - map: del(.a)\n  - emit: {topic: out}\n", true),
        ("  - map: '. = {\"id\": .id}'\n  - emit: {topic: written}\n", true),
        ("  - for_each: {in: .items, stages: [{map: del(.a)}]}\n", true),
    ] {
        assert_eq!(is_part(stages), wanted, "{stages}");
    }
}
