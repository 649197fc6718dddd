//! The short way comes to the same as the long one, wherever it comes to anything.

use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::{now, pipeline, services};
use crate::engine::comeback::Past;
use crate::engine::verdict::Verdict;
use crate::engine::{run, straight};
use crate::plan::pipeline::Pipeline;
use crate::record::{Header, InRecord};

/// Pipelines whose stages are all short.
static SHORT: LazyLock<Vec<Pipeline>> = LazyLock::new(|| {
    let texts = [
        "- emit: {topic: out}",
        "- filter: .live == true\n- map: |\n    .n = int!(.n) + 1\n    .who = .of.id\n- emit: {topic: out, key: .who}",
        "- filter: '%id != \"b\"'\n- map: '. = merge(object!(.), {\"m\": 1})'\n- kpi: {fact: f, value: .n}\n- emit: {topic: out, headers: {h: .of.id}}",
        "- map: 'if .live == true { abort }'\n- emit: {topic: raw}\n- kpi: {fact: f, value: '1'}\n- filter: .n == 1",
        "- {map: .n = int!(.n), on_error: ignore}\n- emit: {topic: orders}\n- emit: {topic: out}",
    ];
    texts.into_iter().map(pipeline).collect()
});

fn long(pipeline: &Pipeline, record: &InRecord) -> Verdict {
    let (services, past) = (services(), Past::default());
    match pin!(run::process(pipeline, record, &past, &services, now()))
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// All of a verdict, as text.
fn text(verdict: &Verdict) -> String {
    format!("{verdict:?}")
}

fn documents() -> impl Strategy<Value = String> {
    let number = prop_oneof![Just("1"), Just("0"), Just("\"x\""), Just("null"), Just("1e400"), Just("1.50")];
    let live = prop_oneof![3 => Just("true"), 1 => Just("false"), 1 => Just("7")];
    let of = prop_oneof![Just("{\"id\": \"a\"}"), Just("{}"), Just("[]"), Just("{\"id\": {\"x\": 1}}")];
    let whole = (number, live, of).prop_map(|(number, live, of)| {
        format!("{{\"live\": {live}, \"n\": {number}, \"of\": {of}, \"id\": \"o\"}}")
    });
    prop_oneof![8 => whole, 1 => Just(String::from("{no json")), 1 => Just(String::from("[1]"))]
}

proptest! {
    #[test]
    fn the_short_way_comes_to_the_same(
        document in prop::option::weighted(0.95, documents()),
        id in "[ab]",
        topic in prop_oneof![9 => Just("in"), 1 => Just("orders")],
    ) {
        let mut record = super::record(document.as_deref());
        record.topic = topic.into();
        record.headers[0] = Header::of("ce_id", id);
        for pipeline in &*SHORT {
            let long = long(pipeline, &record);
            let short = straight::process(pipeline, &record, &services(), now());
            if let Some(short) = &short {
                prop_assert_eq!(text(short), text(&long));
            }
            // It is not always silent: without a fault and a codec it must know.
            let must = long.fault.is_none() && topic == "in" && pipeline.steps.iter().all(|step| step.on_error.is_none());
            prop_assert!(short.is_some() || !must);
        }
    }
}
