//! What the YAML says, with places; no I/O but reading files.
//!
//! One file is one thing, and the file's name is the thing's name. Every decoder reports all mistakes it finds and
//! goes on; what could not be read at all is left out, so that the rest can still be checked.

pub mod connector;
pub mod kpi;
pub mod pipeline;
pub mod project;
pub mod step;
pub mod stop_above;
pub mod test_case;
pub mod topic;
