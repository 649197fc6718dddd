//! Parses what was typed, starts logging, calls the verb, prints the chain of an error, sets the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use millrace::cli;
use millrace::telemetry::logs;

/// Also takes the place of malloc for librdkafka's C. With glibc's a third of the worker's time went into malloc and
/// free, which meet on different threads here (benches/README.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Its settings; `MALLOC_CONF` in the environment comes after them. Memory that is free goes back to the system after a
/// second instead of ten: a worker at work takes 5 to 10 MiB less.
// SAFETY: the allocator reads a pointer to text that ends with zero from a symbol of this name.
#[unsafe(export_name = "malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 37] = b"dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    let typed = cli::args::Cli::parse();
    if let Err(error) = logs::start(typed.common.log_format, typed.log_level()) {
        eprintln!("error: logging could not be started: {error}");
        return ExitCode::from(cli::Exit::Refused as u8);
    }
    match cli::run(typed) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            eprintln!("error: {}", logs::chain(error.as_ref()));
            ExitCode::from(cli::exit_of(&error) as u8)
        }
    }
}
