//! The `iapo` command: parse, dispatch, report.

mod commands;
mod parity;
mod stand_ins;

use std::process::ExitCode;

use clap::Parser;

/// Large tensors are kept for the next step instead of going back to the kernel.
#[global_allocator]
static ALLOCATOR: fused_ops::allocator::CachingAllocator = fused_ops::allocator::CachingAllocator;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    // candle's element-wise operators spin in a pool of their own, which takes the processor from
    // the one that runs everything else here; alone they are as fast and change no bit.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() && !cli.runs_on_candles_threads() {
        // SAFETY: no other thread has been started.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    replicate::provenance::declare(env!("IAPO_COMMIT"));
    let kernels = fused_ops::instruction_set().and_then(|_| fused_ops::composed_only());
    if let Err(error) = kernels {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
