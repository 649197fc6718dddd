//! Feeds `checks::avro`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::avro::check(input));
