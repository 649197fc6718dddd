//! What must hold of everything that strangers can send and authors can write: one function per fuzz target, which
//! takes any bytes and panics where something does not hold.
//!
//! The fuzz targets call these with inputs they make up; the library's own tests call them with the inputs that are
//! kept in `fuzz/corpus`. So a crash that was found once stays found without a fuzzer.

pub mod avro;
pub mod config;
pub mod dead_letters;
pub mod events;
pub mod honest;
pub mod verifiers;
pub mod vrl;

/// A check by the name of its target.
pub type Check = fn(&[u8]);

/// Every target.
pub const ALL: [(&str, Check); 6] = [
    ("avro", avro::check),
    ("config", config::check),
    ("dead_letters", dead_letters::check),
    ("events", events::check),
    ("verifiers", verifiers::check),
    ("vrl", vrl::check),
];
