//! The `iapo` command: parse, dispatch, report.

mod commands;
mod parity;

use std::process::ExitCode;

use clap::Parser;

/// Large tensors are kept for the next step instead of going back to the kernel.
#[global_allocator]
static ALLOCATOR: fused_ops::allocator::CachingAllocator = fused_ops::allocator::CachingAllocator;

fn main() -> ExitCode {
    match commands::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
