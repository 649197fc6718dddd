//! The ledger's two records as Avro: written straight into the output, read without a value tree, because the engine
//! writes one or more of them per event.
//!
//! The field order is that of the files in `schemas/`; a test has stock `apache-avro` read what is written here.

use std::collections::BTreeMap;

use crate::ledger::{ExecutionResult, KpiFact, Outcome};
use crate::schema::error::SchemaError;
use crate::schema::wire::{self, Wire};

/// Schema of [`ExecutionResult`].
pub const EXECUTION_SCHEMA: &str = include_str!("../../schemas/millrace.execution.avsc");
/// Schema of [`KpiFact`].
pub const KPI_FACT_SCHEMA: &str = include_str!("../../schemas/millrace.kpi-fact.avsc");

/// Appends the datum of `result`. Attempts above `i32::MAX` are written as `i32::MAX`.
pub fn put_execution<Text: AsRef<str>>(out: &mut Vec<u8>, result: &ExecutionResult<Text>) {
    let put_optional =
        |out: &mut Vec<u8>, text: &Option<Text>| wire::put_optional(out, text.as_ref().map(AsRef::as_ref));
    let ExecutionResult {
        pipeline,
        outcome,
        stage,
        error_class,
        error,
        attempts,
        event_id,
        event_source,
        event_type,
        tenant,
        topic,
        partition,
        offset,
        event_time,
        started_at,
        duration_us,
        records_out,
        config_hash,
    } = result;
    wire::put_bytes(out, pipeline.as_ref().as_bytes());
    wire::put_long(out, outcome_symbol(*outcome));
    put_optional(out, stage);
    put_optional(out, error_class);
    put_optional(out, error);
    wire::put_long(out, i64::from(i32::try_from(*attempts).unwrap_or(i32::MAX)));
    wire::put_bytes(out, event_id.as_ref().as_bytes());
    wire::put_bytes(out, event_source.as_ref().as_bytes());
    wire::put_bytes(out, event_type.as_ref().as_bytes());
    put_optional(out, tenant);
    wire::put_bytes(out, topic.as_ref().as_bytes());
    wire::put_long(out, i64::from(*partition));
    wire::put_long(out, *offset);
    wire::put_time(out, *event_time);
    wire::put_time(out, *started_at);
    wire::put_long(out, *duration_us);
    wire::put_long(out, i64::from(*records_out));
    wire::put_bytes(out, config_hash.as_ref().as_bytes());
}

/// Reads the datum of an [`ExecutionResult`].
///
/// # Errors
/// [`SchemaError::Corrupt`] when it is none.
pub fn execution(datum: &[u8]) -> Result<ExecutionResult, SchemaError> {
    let mut wire = Wire::new(datum);
    let text = |wire: &mut Wire<'_>| wire.text().map(str::to_owned);
    let optional = |wire: &mut Wire<'_>| wire.optional_text().map(|text| text.map(str::to_owned));
    let result = ExecutionResult {
        pipeline: text(&mut wire)?,
        outcome: outcome_of(wire.long()?)?,
        stage: optional(&mut wire)?,
        error_class: optional(&mut wire)?,
        error: optional(&mut wire)?,
        attempts: attempts_of(wire.int()?)?,
        event_id: text(&mut wire)?,
        event_source: text(&mut wire)?,
        event_type: text(&mut wire)?,
        tenant: optional(&mut wire)?,
        topic: text(&mut wire)?,
        partition: wire.int()?,
        offset: wire.long()?,
        event_time: wire.time()?,
        started_at: wire.time()?,
        duration_us: wire.long()?,
        records_out: wire.int()?,
        config_hash: text(&mut wire)?,
    };
    wire.finish()?;
    Ok(result)
}

/// Appends the datum of `fact`. A value with more than 9 decimals is rounded half to even; every value fits.
pub fn put_fact(out: &mut Vec<u8>, fact: &KpiFact) {
    let KpiFact { fact, value, time, dimensions, pipeline, tenant, topic, partition, offset } = fact;
    wire::put_bytes(out, fact.as_bytes());
    let unscaled =
        wire::unscaled(*value, wire::DECIMAL_SCALE).expect("a 96-bit mantissa times 10^9 is below 2^127");
    wire::put_unscaled(out, unscaled);
    wire::put_time(out, *time);
    if !dimensions.is_empty() {
        wire::put_long(out, dimensions.len() as i64);
        for (name, value) in dimensions {
            wire::put_bytes(out, name.as_bytes());
            wire::put_bytes(out, value.as_bytes());
        }
    }
    wire::put_long(out, 0);
    wire::put_bytes(out, pipeline.as_bytes());
    wire::put_optional(out, tenant.as_deref());
    wire::put_bytes(out, topic.as_bytes());
    wire::put_long(out, i64::from(*partition));
    wire::put_long(out, *offset);
}

/// Reads the datum of a [`KpiFact`].
///
/// # Errors
/// [`SchemaError::Corrupt`] when it is none, or its value has more than 28 significant digits.
pub fn fact(datum: &[u8]) -> Result<KpiFact, SchemaError> {
    let mut wire = Wire::new(datum);
    let name = wire.text()?.to_owned();
    let value = wire::decimal(wire.unscaled()?, wire::DECIMAL_SCALE)
        .ok_or_else(|| SchemaError::corrupt("the value has more than 28 significant digits"))?;
    let time = wire.time()?;
    let mut dimensions = BTreeMap::new();
    loop {
        let count = wire.block()?;
        if count == 0 {
            break;
        }
        for _ in 0..count {
            let name = wire.text()?.to_owned();
            dimensions.insert(name, wire.text()?.to_owned());
        }
    }
    let fact = KpiFact {
        fact: name,
        value,
        time,
        dimensions,
        pipeline: wire.text()?.to_owned(),
        tenant: wire.optional_text()?.map(str::to_owned),
        topic: wire.text()?.to_owned(),
        partition: wire.int()?,
        offset: wire.long()?,
    };
    wire.finish()?;
    Ok(fact)
}

fn outcome_symbol(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Succeeded => 0,
        Outcome::Filtered => 1,
        Outcome::DeadLettered => 2,
    }
}

fn outcome_of(symbol: i64) -> Result<Outcome, SchemaError> {
    match symbol {
        0 => Ok(Outcome::Succeeded),
        1 => Ok(Outcome::Filtered),
        2 => Ok(Outcome::DeadLettered),
        _ => Err(SchemaError::corrupt(format!("there is no outcome {symbol}"))),
    }
}

fn attempts_of(attempts: i32) -> Result<u32, SchemaError> {
    u32::try_from(attempts).map_err(|_| SchemaError::corrupt(format!("{attempts} attempts")))
}
