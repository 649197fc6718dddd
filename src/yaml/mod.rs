//! YAML with positions: files, a tree of nodes that know where they stand, and decoders that report every mistake
//! instead of the first.
//!
//! A decoder takes a [`node::Node`] and a [`lint::Lints`]. On a mistake it adds a lint and gives `None`; its caller
//! goes on with the rest, so that one run of `millrace check` shows all there is to mend.

pub mod fields;
pub mod files;
pub mod lint;
pub mod node;
pub mod units;

#[cfg(test)]
mod tests;
