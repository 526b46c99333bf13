//! Check 8: how fast attention is, forward and backward; on a card by candle's operators, tile by tile, and
//! by kernels of our own. `benches/cuda/attention.py` times PyTorch's on the same shapes.

use candle_core::{DType, Device, Tensor, Var};
use fused_ops::AttentionLayout;
use seeded_random::{Draw, Stream};

use super::meter::seconds;
use super::{Figure, Found};

/// Runs of which the fastest counts.
const TIMES: usize = 5;

/// One shape, of which all sequences are packed.
struct Shape {
    name: &'static str,
    lengths: Vec<usize>,
    causal: bool,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

/// The decoder of the 3B at growing lengths, and the windows and the whole of a picture of 2,800 patches.
fn shapes(short: bool) -> Vec<Shape> {
    let decoder = |name, length| Shape {
        name,
        lengths: vec![length],
        causal: true,
        heads: 16,
        kv_heads: 2,
        dim: 128,
    };
    let tower = |name, lengths| Shape {
        name,
        lengths,
        causal: false,
        heads: 16,
        kv_heads: 16,
        dim: 80,
    };
    match short {
        true => vec![
            decoder("decoder 128", 128),
            tower("windows 2 x 64", vec![64; 2]),
        ],
        false => vec![
            decoder("decoder 1024", 1024),
            decoder("decoder 4096", 4096),
            decoder("decoder 12288", 12288),
            tower("windows 44 x 64", vec![64; 44]),
            tower("picture 2800", vec![2800]),
        ],
    }
}

/// Attention of queries, keys and values by a layout, at a scale.
type Attention = fn(&Tensor, &Tensor, &Tensor, &AttentionLayout, f64) -> anyhow::Result<Tensor>;

/// The forms to time, with what is added to their figures' names.
fn forms(device: &Device) -> Vec<(&'static str, Attention)> {
    let mut forms: Vec<(&'static str, Attention)> = vec![("", |q, k, v, layout, scale| {
        Ok(fused_ops::attention(q, k, v, layout, scale)?)
    })];
    if device.is_cuda() {
        forms.extend(OWN_KERNELS);
    }
    forms
}

/// What `FUSED_OPS_CUDA_KERNELS=1` takes; none in a build for the processor.
#[cfg(feature = "cuda")]
const OWN_KERNELS: Option<(&str, Attention)> = Some((", own kernels", |q, k, v, layout, scale| {
    let out = fused_ops::cuda::attention(q, k, v, layout, scale)?;
    anyhow::Context::context(out, "the kernels take these shapes and types")
}));
#[cfg(not(feature = "cuda"))]
const OWN_KERNELS: Option<(&str, Attention)> = None;

/// TFLOP/s of every shape.
pub fn check(device: &Device, dtype: DType, short: bool) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for shape in shapes(short) {
        let tokens: usize = shape.lengths.iter().sum();
        let drawn = |heads: usize, stream: u64| -> anyhow::Result<Var> {
            let mut generator = Stream::new(stream).generator();
            let values: Vec<f32> = (0..tokens * heads * shape.dim)
                .map(|_| generator.normal() as f32)
                .collect();
            let values = Tensor::from_vec(values, (tokens, heads, shape.dim), &Device::Cpu)?;
            Ok(Var::from_tensor(
                &values.to_device(device)?.to_dtype(dtype)?,
            )?)
        };
        let (q, k, v) = (
            drawn(shape.heads, 1)?,
            drawn(shape.kv_heads, 2)?,
            drawn(shape.kv_heads, 3)?,
        );
        let layout = match shape.causal {
            true => AttentionLayout::causal(&shape.lengths),
            false => AttentionLayout::bidirectional(&shape.lengths),
        };
        let scale = 1.0 / (shape.dim as f64).sqrt();
        // Two products of a head's width for every pair that sees each other; backward has five.
        let pairs: usize = shape.lengths.iter().map(|length| length * length).sum();
        let pairs = pairs as f64 / if shape.causal { 2.0 } else { 1.0 };
        let product = 2.0 * pairs * (shape.heads * shape.dim) as f64;
        for (form, attention) in forms(device) {
            let forward = || attention(&q, &k, &v, &layout, scale);
            let (mut ahead, mut back) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..TIMES {
                let (output, taken) = seconds(device, forward)?;
                ahead = ahead.min(taken);
                let loss = output.sum_all()?;
                back = back.min(seconds(device, || Ok(loss.backward()?))?.1);
            }
            for (way, taken, products) in [("forward", ahead, 2.0), ("backward", back, 5.0)] {
                found.figures.push(Figure::new(
                    format!("{}, {way}{form}", shape.name),
                    products * product / taken / 1e12,
                    "TFLOP/s",
                ));
            }
        }
    }
    Ok(found)
}
