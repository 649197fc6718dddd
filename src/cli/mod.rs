//! The command line: one subcommand, one match arm, one call.
