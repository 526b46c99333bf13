//! `iapo serve`: a model from a GGUF file as judge or verifier on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use gguf_chat::{ChatModel, answer, parameters};

use super::loopback::{Loopback, Response};
use super::output::print;

/// Weights up to which a model is held in f32, where its products take a tenth of the time: 4 GB.
const HELD_IN_F32: usize = 1_000_000_000;

/// The longest question that is read, bytes.
const LONGEST_REQUEST: usize = 8 << 20;

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
    let server = Loopback::bind(args.port)?;
    let held_in_f32 = parameters(&args.gguf)? <= HELD_IN_F32;
    if held_in_f32 {
        // SAFETY: no other thread has been started.
        unsafe { std::env::set_var("CANDLE_DEQUANTIZE_ALL", "1") };
    }
    let mut model = ChatModel::open(&args.gguf, args.tokenizer.as_deref())?;
    let (address, name) = (format!("{}/v1", server.address()), model.name().to_owned());
    print(&format!(
        "{name} answers at {address} until it is stopped (Ctrl-C):\n  --judge {address} --judge-model \
         {name}\n"
    ))?;
    server.serve(LONGEST_REQUEST, |request, body| {
        let answer = answer(&request.method, &request.path, body, &mut model);
        eprintln!(
            "answered with status {}, {} tokens",
            answer.status, answer.completion_tokens
        );
        Response {
            status: match answer.status {
                200 => "200 OK",
                404 => "404 Not Found",
                500 => "500 Internal Server Error",
                _ => "400 Bad Request",
            },
            kind: "application/json",
            again: None,
            body: answer.body.to_string(),
        }
    });
    Ok(ExitCode::SUCCESS)
}
