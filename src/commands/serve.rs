//! `iapo serve`: a model from a GGUF file as judge or verifier on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use gguf_chat::{ChatModel, Server, parameters};

use super::output::print;

/// Weights up to which a model is held in f32, where its products take a tenth of the time: 4 GB.
const HELD_IN_F32: usize = 1_000_000_000;

/// Serves a quantised chat model from a GGUF file on this machine, for judges and verifiers.
///
/// `eval-all --judge ADDRESS --judge-model NAME`, and `[judge]` and `[verifier]` of a profile, take the
/// address and the name that are printed. The name holds the hash of the file, so every verdict says
/// what gave it. Replies are greedy, one question after the other: concurrency 1 asks soonest. A model of
/// at most a billion weights is held in f32.
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file, of the architecture qwen2, qwen3 or llama.
    #[arg(value_name = "FILE.gguf")]
    gguf: PathBuf,
    /// The model's `tokenizer.json`; the file's own vocabulary if not given.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// The port of this machine; a free one if not given.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// Runs the command until it is stopped.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // A port that is taken is told before gigabytes are read.
    let server = Server::bind(args.port)?;
    let held_in_f32 = parameters(&args.gguf)? <= HELD_IN_F32;
    if held_in_f32 {
        // SAFETY: no other thread has been started.
        unsafe { std::env::set_var("CANDLE_DEQUANTIZE_ALL", "1") };
    }
    let mut model = ChatModel::open(&args.gguf, args.tokenizer.as_deref())?;
    print(&format!(
        "{} answers at {} until it is stopped (Ctrl-C):\n  --judge {} --judge-model {}\n",
        model.name(),
        server.address(),
        server.address(),
        model.name()
    ))?;
    server.serve(&mut model, |served| {
        eprintln!(
            "answered with status {}, {} tokens",
            served.status, served.completion_tokens
        );
    });
    Ok(ExitCode::SUCCESS)
}
