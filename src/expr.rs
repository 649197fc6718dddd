//! Expressions: the only file that names `vrl`.
