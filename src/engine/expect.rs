//! Compares what a pipeline did with what a test expects.

use rust_decimal::Decimal;
use serde_json::Value as Json;

use crate::config::test_case::{ExpectConfig, ExpectedFact, ExpectedRecord};
use crate::engine::offline::Problem;
use crate::engine::verdict::Verdict;
use crate::ledger::KpiFact;
use crate::record::{OutRecord, last_header};
use crate::stages::services::Services;
use crate::yaml::lint::Span;

/// Adds what is not as expected; `case` is where the test begins.
pub fn check(
    expect: &ExpectConfig,
    case: &Span,
    verdicts: &[Verdict],
    services: &Services,
    problems: &mut Vec<Problem>,
) {
    outcomes(expect, verdicts, problems);
    if let Some(last) = verdicts.last() {
        ending(expect, last, problems);
    }
    if expect.outcomes.is_empty()
        && expect.error.is_none()
        && let Some(verdict) = verdicts.iter().find(|verdict| verdict.fault.is_some())
    {
        problems.push(Problem::at(case, format!("expected no failure, got {}", ended(verdict))));
    }
    for (topic, expected) in &expect.records {
        let written: Vec<&OutRecord> = verdicts
            .iter()
            .flat_map(|verdict| &verdict.records)
            .filter(|record| *record.topic == *topic.value)
            .collect();
        if written.len() != expected.len() {
            let message =
                format!("{}: expected {} records, got {}", topic.value, expected.len(), written.len());
            problems.push(Problem::at(&topic.span, message));
        }
        for (at, (expected, record)) in expected.iter().zip(written).enumerate() {
            let what = format!("{}[{at}]", topic.value);
            compare_record(expected, record, &what, services, problems);
        }
    }
    if let Some(expected) = &expect.facts {
        let stated: Vec<&KpiFact> = verdicts.iter().flat_map(|verdict| &verdict.facts).collect();
        if stated.len() != expected.value.len() {
            let message = format!("expected {} facts, got {}", expected.value.len(), stated.len());
            problems.push(Problem::at(&expected.span, message));
        }
        for (at, (expected, fact)) in expected.value.iter().zip(stated).enumerate() {
            compare_fact(expected, fact, &format!("fact {}", at + 1), problems);
        }
    }
}

fn outcomes(expect: &ExpectConfig, verdicts: &[Verdict], problems: &mut Vec<Problem>) {
    for (at, verdict) in verdicts.iter().enumerate() {
        let expected = match &expect.outcomes[..] {
            [] => return,
            [all] => all,
            each => match each.get(at) {
                Some(expected) => expected,
                None => return,
            },
        };
        if expected.value == verdict.outcome {
            continue;
        }
        let stage = expect.stage.as_ref().filter(|_| at + 1 == verdicts.len());
        let wanted = stage.map_or_else(
            || expected.value.name().to_owned(),
            |stage| format!("{} at `{}`", expected.value.name(), stage.value),
        );
        let which = if verdicts.len() > 1 { format!(" of event {}", at + 1) } else { String::new() };
        let message = format!("outcome{which}: expected {wanted}, got {}", ended(verdict));
        problems.push(Problem::at(&expected.span, message));
    }
}

/// Stage, class and message of the last event's end.
fn ending(expect: &ExpectConfig, last: &Verdict, problems: &mut Vec<Problem>) {
    let is_other = expect.outcomes.last().is_some_and(|expected| expected.value != last.outcome);
    if is_other {
        return;
    }
    if let Some(stage) = &expect.stage
        && last.stage.as_deref() != Some(stage.value.as_str())
    {
        let message = format!("stage: expected `{}`, got {}", stage.value, ended(last));
        problems.push(Problem::at(&stage.span, message));
    }
    let class = last.fault.as_ref().map_or("none", |fault| fault.class.name());
    if let Some(error) = &expect.error
        && class != error.value
    {
        let message = format!("error: expected {}, got {}", error.value, ended(last));
        problems.push(Problem::at(&error.span, message));
    }
    if let Some(text) = &expect.message
        && !last.fault.as_ref().is_some_and(|fault| fault.message.contains(&text.value))
    {
        let message = format!("message: expected `{}`, got {}", text.value, ended(last));
        problems.push(Problem::at(&text.span, message));
    }
}

/// How a run ended, in words.
fn ended(verdict: &Verdict) -> String {
    let stage = verdict.stage.as_ref().map_or_else(String::new, |stage| format!(" at `{stage}`"));
    let fault = verdict.fault.as_ref().map_or_else(String::new, |fault| format!(": {fault}"));
    format!("{}{stage}{fault}", verdict.outcome.name())
}

fn compare_record(
    expected: &ExpectedRecord,
    record: &OutRecord,
    what: &str,
    services: &Services,
    problems: &mut Vec<Problem>,
) {
    let mut differs =
        |message: String| problems.push(Problem::at(&expected.span, format!("{what}: {message}")));
    if let Some(key) = &expected.key {
        let found = record.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
        if found != *key {
            let shown = |key: &Option<String>| {
                key.as_ref().map_or_else(|| String::from("none"), |key| format!("`{key}`"))
            };
            differs(format!("key: expected {}, got {}", shown(key), shown(&found)));
        }
    }
    for (name, value) in &expected.headers {
        let found =
            last_header(&record.headers, name).map(|value| String::from_utf8_lossy(value).into_owned());
        if found.as_deref() != Some(value) {
            let found = found.unwrap_or_else(|| String::from("none"));
            differs(format!("header {name}: expected `{value}`, got `{found}`"));
        }
    }
    if expected.value.is_none() && expected.exactly.is_none() {
        return;
    }
    let found = match decoded(record, services) {
        Ok(found) => found,
        Err(error) => {
            differs(format!("its value cannot be read: {error}"));
            return;
        }
    };
    for (wanted, is_exact) in [(&expected.value, false), (&expected.exactly, true)] {
        if let Some(wanted) = wanted {
            for difference in differences(wanted, &found, is_exact) {
                differs(difference);
            }
        }
    }
}

/// A record's value as JSON; a tombstone is null, what is no JSON is text.
fn decoded(record: &OutRecord, services: &Services) -> Result<Json, String> {
    let Some(bytes) = &record.value else { return Ok(Json::Null) };
    match services.schemas.get(&*record.topic) {
        Some(schema) => services.codec.read_value(schema, bytes).map_err(|error| error.to_string()),
        None => Ok(serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(bytes).into_owned()))),
    }
}

fn compare_fact(expected: &ExpectedFact, fact: &KpiFact, what: &str, problems: &mut Vec<Problem>) {
    let ExpectedFact { span, fact: name, value, time, dimensions } = expected;
    let mut differs = |part: &str, wanted: String, found: String| {
        problems.push(Problem::at(span, format!("{what}: {part}: expected {wanted}, got {found}")));
    };
    if let Some(name) = name
        && *name != fact.fact
    {
        differs("fact", name.clone(), fact.fact.clone());
    }
    if let Some(value) = value
        && *value != fact.value
    {
        differs("value", value.to_string(), fact.value.to_string());
    }
    if let Some(time) = time
        && chrono::DateTime::parse_from_rfc3339(time).ok() != Some(fact.time.fixed_offset())
    {
        differs("time", time.clone(), fact.time.to_rfc3339());
    }
    for (name, wanted) in dimensions {
        let found = fact.dimensions.get(name);
        if found != Some(wanted) {
            let found = found.map_or_else(|| String::from("none"), |found| format!("`{found}`"));
            differs(&format!("dimension {name}"), format!("`{wanted}`"), found);
        }
    }
}

/// Where `found` is not what is wanted. Unless `is_exact`, objects may have more fields than are wanted.
fn differences(wanted: &Json, found: &Json, is_exact: bool) -> Vec<String> {
    let mut all = Vec::new();
    compare("value", wanted, found, is_exact, &mut all);
    all
}

fn compare(path: &str, wanted: &Json, found: &Json, is_exact: bool, all: &mut Vec<String>) {
    match (wanted, found) {
        (Json::Object(wanted), Json::Object(found)) => {
            for (name, value) in wanted {
                let path = format!("{path}.{name}");
                match found.get(name) {
                    Some(found) => compare(&path, value, found, is_exact, all),
                    None => all.push(format!("{path}: expected {value}, got nothing")),
                }
            }
            if is_exact {
                for name in found.keys().filter(|name| !wanted.contains_key(*name)) {
                    all.push(format!("{path}.{name}: expected nothing, got {}", found[name]));
                }
            }
        }
        (Json::Array(wanted), Json::Array(found)) if wanted.len() == found.len() => {
            for (at, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                compare(&format!("{path}[{at}]"), wanted, found, is_exact, all);
            }
        }
        (wanted, found) if is_equal(wanted, found) => {}
        _ => all.push(format!("{path}: expected {wanted}, got {found}")),
    }
}

/// Equality in which 42 is 42.0.
fn is_equal(wanted: &Json, found: &Json) -> bool {
    match (wanted, found) {
        (Json::Number(wanted), Json::Number(found)) => {
            let exact = |number: &serde_json::Number| Decimal::from_str_exact(&number.to_string()).ok();
            match (exact(wanted), exact(found)) {
                (Some(wanted), Some(found)) => wanted == found,
                _ => wanted == found,
            }
        }
        _ => wanted == found,
    }
}
