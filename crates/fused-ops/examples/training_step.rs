//! Times a forward and backward pass of a small decoder on packed prompt groups.
//!
//! `cargo run --release -p fused-ops --example training_step -- [fused|composed] [layers]
//! [tokens] [system|retain|cache] [steps]`

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use fused_ops::allocator::CachingAllocator;
use fused_ops::{AttentionLayout, Segment, composed};
use seeded_random::{Draw, Stream};

/// Hands every request to the allocator that the command line names.
struct Switch;

static CACHING: AtomicBool = AtomicBool::new(false);

// SAFETY: the switch is set before the first large block and never again; smaller ones come from
// the system either way.
unsafe impl GlobalAlloc for Switch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match CACHING.load(Ordering::Relaxed) {
            // SAFETY: the caller's promises are the allocator's.
            true => unsafe { CachingAllocator.alloc(layout) },
            // SAFETY: likewise.
            false => unsafe { System.alloc(layout) },
        }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match CACHING.load(Ordering::Relaxed) {
            // SAFETY: the caller's promises are the allocator's.
            true => unsafe { CachingAllocator.alloc_zeroed(layout) },
            // SAFETY: likewise.
            false => unsafe { System.alloc_zeroed(layout) },
        }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match CACHING.load(Ordering::Relaxed) {
            // SAFETY: the caller's promises are the allocator's.
            true => unsafe { CachingAllocator.dealloc(block, layout) },
            // SAFETY: likewise.
            false => unsafe { System.dealloc(block, layout) },
        }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match CACHING.load(Ordering::Relaxed) {
            // SAFETY: the caller's promises are the allocator's.
            true => unsafe { CachingAllocator.realloc(block, layout, size) },
            // SAFETY: likewise.
            false => unsafe { System.realloc(block, layout, size) },
        }
    }
}

#[global_allocator]
static ALLOCATOR: Switch = Switch;

/// Keeps large blocks in the C library's heap and the heap at its size.
#[cfg(target_env = "gnu")]
fn retain() {
    use std::ffi::c_int;
    unsafe extern "C" {
        safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
    const TRIM_THRESHOLD: c_int = -1;
    const TOP_PAD: c_int = -2;
    const MMAP_MAX: c_int = -4;
    assert_eq!(mallopt(MMAP_MAX, 0), 1);
    assert_eq!(mallopt(TRIM_THRESHOLD, c_int::MAX), 1);
    assert_eq!(mallopt(TOP_PAD, 64 << 20), 1);
}

#[cfg(not(target_env = "gnu"))]
fn retain() {}

const HIDDEN: usize = 128;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 32;
const INNER: usize = 256;
const VOCAB: usize = 256;

unsafe extern "C" {
    /// Processor time of the process, in microseconds.
    safe fn clock() -> std::ffi::c_long;
}

fn variable(shape: &[usize], stream: &Stream, name: u64) -> Result<Var> {
    let mut generator = stream.index(name).generator();
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| 0.05 * generator.normal() as f32)
        .collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

struct Layer(Vec<Var>);

impl Layer {
    fn new(stream: &Stream) -> Result<Self> {
        let shapes: [&[usize]; 12] = [
            &[HIDDEN],
            &[HEADS * DIM, HIDDEN],
            &[HEADS * DIM],
            &[KV_HEADS * DIM, HIDDEN],
            &[KV_HEADS * DIM],
            &[KV_HEADS * DIM, HIDDEN],
            &[KV_HEADS * DIM],
            &[HIDDEN, HEADS * DIM],
            &[HIDDEN],
            &[INNER, HIDDEN],
            &[INNER, HIDDEN],
            &[HIDDEN, INNER],
        ];
        let vars = shapes
            .iter()
            .enumerate()
            .map(|(i, shape)| variable(shape, stream, i as u64));
        Ok(Layer(vars.collect::<Result<_>>()?))
    }

    fn run(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        layout: &AttentionLayout,
        fused: bool,
    ) -> Result<Tensor> {
        let w = &self.0;
        let tokens = x.dim(0)?;
        let norm = |x: &Tensor, w: &Tensor| match fused {
            true => Ok(fused_ops::rms_norm(x, w, 1e-6)?),
            false => composed::rms_norm(x, w, 1e-6),
        };
        let linear = |x: &Tensor, w: &Tensor, b: Option<&Tensor>| match (fused, b) {
            (true, b) => Ok(fused_ops::linear(x, w, b)?),
            (false, Some(b)) => x.matmul(&w.t()?)?.broadcast_add(b),
            (false, None) => x.matmul(&w.t()?),
        };
        let rotate = |x: Tensor, heads: usize| -> Result<Tensor> {
            let x = x.reshape((tokens, heads, DIM))?;
            match fused {
                true => Ok(fused_ops::rotary(&x, cos, sin)?),
                false => composed::rotary(&x, cos, sin),
            }
        };
        let normed = norm(x, &w[0])?;
        let q = rotate(linear(&normed, &w[1], Some(&w[2]))?, HEADS)?;
        let k = rotate(linear(&normed, &w[3], Some(&w[4]))?, KV_HEADS)?;
        let v = linear(&normed, &w[5], Some(&w[6]))?.reshape((tokens, KV_HEADS, DIM))?;
        let scale = 1.0 / (DIM as f64).sqrt();
        let attended = match fused {
            true => fused_ops::attention(&q, &k, &v, layout, scale)?,
            false => composed::attention(&q, &k, &v, layout, scale)?,
        };
        let x = (x + linear(&attended.reshape((tokens, HIDDEN))?, &w[7], None)?)?;
        let normed = norm(&x, &w[8])?;
        let gate = linear(&normed, &w[9], None)?;
        let up = linear(&normed, &w[10], None)?;
        let inner = match fused {
            true => fused_ops::swiglu(&gate, &up)?,
            false => composed::swiglu(&gate, &up)?,
        };
        x + linear(&inner, &w[11], None)?
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map(String::as_str);
    let fused = argument(0) != Some("composed");
    let layers: usize = argument(1).and_then(|text| text.parse().ok()).unwrap_or(3);
    let wanted: usize = argument(2)
        .and_then(|text| text.parse().ok())
        .unwrap_or(8192);

    match argument(3) {
        Some("cache") => CACHING.store(true, Ordering::Relaxed),
        Some("retain") => retain(),
        _ => {}
    }
    let steps: usize = argument(4).and_then(|text| text.parse().ok()).unwrap_or(12);
    let stream = Stream::new(1).purpose("training step");
    let mut generator = stream.purpose("lengths").generator();
    let mut segments = Vec::new();
    let mut tokens = 0;
    while tokens < wanted {
        let prefix = segments.len();
        segments.push(Segment {
            length: 110,
            parent: None,
        });
        tokens += 110;
        for _ in 0..8 {
            let length = 10 + generator.below(51);
            segments.push(Segment {
                length,
                parent: Some(prefix),
            });
            tokens += length;
        }
    }
    let layout = AttentionLayout::tree(&segments)?;
    let ids: Vec<u32> = (0..tokens).map(|_| generator.below(VOCAB) as u32).collect();
    let angles: Vec<f32> = (0..tokens * DIM).map(|i| (i % 977) as f32).collect();
    let angles = Tensor::from_vec(angles, (tokens, DIM), &Device::Cpu)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let table = variable(&[VOCAB, HIDDEN], &stream, 7)?;
    let last = variable(&[HIDDEN], &stream, 8)?;
    let model: Vec<Layer> = (0..layers)
        .map(|index| Layer::new(&stream.purpose("layer").index(index as u64)))
        .collect::<Result<_>>()?;
    println!(
        "{tokens} tokens, {} pairs, {layers} layers, fused {fused}",
        layout.pairs()
    );

    let mut walls = Vec::new();
    let mut used = Vec::new();
    for _ in 0..steps.max(1) {
        let (wall, start) = (Instant::now(), clock());
        let mut x = fused_ops::embedding(&table, &ids)?;
        for layer in &model {
            x = layer.run(&x, &cos, &sin, &layout, fused)?;
        }
        let x = fused_ops::rms_norm(&x, &last, 1e-6)?;
        let log_probs = match fused {
            true => fused_ops::token_log_probs(&x, &table, &ids, 1.0, &[])?.log_probs,
            false => composed::token_log_probs(&x, &table, &ids, 1.0, &[])?.0,
        };
        let forward = wall.elapsed().as_secs_f64();
        let grads = log_probs.mean_all()?.backward()?;
        assert!(grads.get(&table).is_some());
        drop((x, log_probs, grads));
        walls.push((wall.elapsed().as_secs_f64(), forward));
        used.push((clock() - start) as f64 / 1e6);
    }
    walls.sort_by(|a, b| a.0.total_cmp(&b.0));
    used.sort_by(f64::total_cmp);
    let (wall, forward) = walls[0];
    println!(
        "best wall {wall:.3} s (forward {forward:.3}): {:.0} tokens/s; median processor time {:.3} s, best {:.3} s: {:.0} tokens a processor second",
        tokens as f64 / wall,
        used[used.len() / 2],
        used[0],
        tokens as f64 / used[0]
    );
    Ok(())
}
