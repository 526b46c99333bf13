//! Loads a checkpoint and saves it again: `cargo run --release -p qwen2-5-vl --example resave FROM TO`.
//!
//! `golden/parity/check_roundtrip.py` then asks transformers whether both are the same model.

use std::path::Path;

use candle_core::{DType, Device};
use qwen2_5_vl::{Model, Processor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        return Err("usage: resave FROM TO".into());
    };
    let (from, to) = (Path::new(from), Path::new(to));
    Model::load(from, &Device::Cpu, DType::F32)?.save(to)?;
    Processor::load(from)?.save(to)?;
    Ok(())
}
