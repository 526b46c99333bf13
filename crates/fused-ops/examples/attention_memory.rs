//! Peak memory and seconds of attention, forward and backward: dense, tile by tile, and the fused
//! kernels. Shapes of the 3B model: 16 query heads on 2 of keys, size 128, causal, at 1,400, 2,800
//! and 5,600 tokens (dense would take 31 GB there and is not run); and its tower's windows at 2,800
//! patches (56 x 50), 16 heads of size 80.
//!
//! `cargo run --release --example attention_memory [TOKENS]` (only that many tokens; 0: only the
//! windows)

#[path = "../../qwen2-5-vl/tests/common/allocations.rs"]
mod allocations;

use std::time::Instant;

use allocations::peak_of;
use candle_core::{DType, Device, Result, Tensor, Var};
use fused_ops::{AttentionLayout, composed};
use seeded_random::{Draw, Stream};

fn variable(shape: &[usize], seed: u64, dtype: DType) -> Result<Var> {
    let mut generator = Stream::new(seed).purpose("attention").generator();
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| generator.normal() as f32)
        .collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

/// All scores at once, keys and values copied for every head.
fn dense(q: &Tensor, k: &Tensor, v: &Tensor, layout: &AttentionLayout) -> Result<Tensor> {
    let (_, heads, dim) = q.dims3()?;
    let (keys, kv_heads, _) = v.dims3()?;
    let weights = composed::attention_weights(q, k, layout, 1.0 / (dim as f64).sqrt())?;
    let values = v
        .transpose(0, 1)?
        .unsqueeze(1)?
        .expand((kv_heads, heads / kv_heads, keys, dim))?
        .reshape((heads, keys, dim))?;
    fused_ops::matmul(&weights, &values)?.transpose(0, 1)
}

fn measure(name: &str, run: impl Fn() -> Result<Tensor>) -> Result<()> {
    let start = Instant::now();
    let (seconds, peak) = peak_of(|| -> Result<(f64, f64)> {
        let out = run()?;
        let forward = start.elapsed().as_secs_f64();
        let loss = out.to_dtype(DType::F32)?.sum_all()?;
        drop(out);
        loss.backward()?;
        Ok((forward, start.elapsed().as_secs_f64()))
    });
    let (forward, both) = seconds?;
    println!(
        "| {name} | {:.0} | {forward:.2} | {both:.2} |",
        peak as f64 / 1e6
    );
    Ok(())
}

fn case(
    name: &str,
    layout: &AttentionLayout,
    (heads, kv_heads, dim): (usize, usize, usize),
) -> Result<()> {
    let scale = 1.0 / (dim as f64).sqrt();
    let tokens = layout.queries();
    for dtype in [DType::F32, DType::BF16] {
        let q = variable(&[tokens, heads, dim], 1, dtype)?;
        let k = variable(&[tokens, kv_heads, dim], 2, dtype)?;
        let v = variable(&[tokens, kv_heads, dim], 3, dtype)?;
        let kind = match dtype {
            DType::F32 => "f32",
            _ => "bf16",
        };
        measure(&format!("{name}, {kind}: by tiles"), || {
            composed::attention(&q, &k, &v, layout, scale)
        })?;
        if dtype == DType::F32 && tokens <= 2800 {
            measure(&format!("{name}, {kind}: dense"), || {
                dense(&q, &k, &v, layout)
            })?;
        }
        if dtype == DType::F32 {
            measure(&format!("{name}, {kind}: fused kernels"), || {
                Ok(fused_ops::attention(&q, &k, &v, layout, scale)?)
            })?;
        }
    }
    Ok(())
}

/// Patches of each window of a grid, as the tower of the released models cuts it.
fn windows(rows: usize, columns: usize) -> Vec<usize> {
    let side = |length: usize, at: usize| 8.min(length - at);
    let mut lengths = Vec::new();
    for top in (0..rows).step_by(8) {
        for left in (0..columns).step_by(8) {
            lengths.push(side(rows, top) * side(columns, left));
        }
    }
    lengths
}

fn main() -> Result<()> {
    // candle's element-wise operators would spin beside the pool of the products.
    // SAFETY: no other thread has been started.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let only: Option<usize> = std::env::args().nth(1).and_then(|text| text.parse().ok());
    println!("| | peak MB | forward s | forward and backward s |");
    println!("|---|---:|---:|---:|");
    // Thread pools and their buffers stay.
    let small = AttentionLayout::causal(&[64]);
    case("64 tokens, first", &small, (16, 2, 128))?;
    for tokens in [1400, 2800, 5600] {
        if only.is_none_or(|only| only == tokens) {
            let layout = AttentionLayout::causal(&[tokens]);
            case(&format!("{tokens} tokens"), &layout, (16, 2, 128))?;
        }
    }
    if only.is_none_or(|only| only == 0) {
        let layout = AttentionLayout::bidirectional(&windows(56, 50));
        case("windows of 2,800 patches", &layout, (16, 16, 80))?;
    }
    Ok(())
}
