//! Check 2: every operator on a device against candle's operators in f64 on the processor, values and
//! gradients, and the same bits a second time.

use candle_core::{DType, Device, Result, Tensor, Var};
use fused_ops::{AttentionLayout, QueryBlock, Segment};
use seeded_random::{Draw, Stream};

use super::Compared;

/// Relative to the largest value: f32 sums in another order, and bf16's seven bits of fraction.
const F32: f64 = 2e-4;
const BF16: f64 = 6e-2;

/// What a case computes of its inputs.
type Operator = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// An operator of some inputs, which it is given as variables.
struct Case {
    name: String,
    inputs: Vec<(Vec<f32>, Vec<usize>)>,
    run: Operator,
}

/// Compares every case in f32, and on a card in bf16.
pub fn check(device: &Device, short: bool) -> anyhow::Result<Vec<Compared>> {
    let mut found = Vec::new();
    for case in cases(short)? {
        let expected = case.values(&Device::Cpu, DType::F64)?;
        let mut kinds = vec![(DType::F32, F32)];
        if !device.is_cpu() {
            // candle multiplies no bf16 on the processor.
            kinds.push((DType::BF16, BF16));
        }
        for (dtype, allowed) in kinds {
            let first = case.values(device, dtype)?;
            let name = format!("{} in {}", case.name, dtype.as_str());
            found.push(Compared {
                found: difference(&expected, &first),
                allowed,
                name: name.clone(),
            });
            let again = case.values(device, dtype)?;
            let bits = |values: &[Vec<f64>]| -> Vec<u64> {
                values
                    .iter()
                    .flatten()
                    .map(|value| value.to_bits())
                    .collect()
            };
            found.push(Compared {
                found: f64::from(u8::from(bits(&first) != bits(&again))),
                allowed: 0.0,
                name: format!("{name}, other bits the second time"),
            });
        }
    }
    Ok(found)
}

impl Case {
    /// The output, then the gradient of its weighted sum for every input.
    fn values(&self, device: &Device, dtype: DType) -> anyhow::Result<Vec<Vec<f64>>> {
        let inputs = self
            .inputs
            .iter()
            .map(|(values, shape)| {
                let tensor = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)?;
                Var::from_tensor(&tensor.to_dtype(dtype)?.to_device(device)?)
            })
            .collect::<Result<Vec<Var>>>()?;
        let tensors: Vec<Tensor> = inputs.iter().map(|var| var.as_tensor().clone()).collect();
        let output = (self.run)(&tensors)?;
        let weights: Vec<f32> = draws(&format!("{} weights", self.name), output.elem_count());
        let weights = Tensor::from_slice(&weights, output.dims(), &Device::Cpu)?
            .to_dtype(output.dtype())?
            .to_device(device)?;
        let gradients = (&output * weights)?.sum_all()?.backward()?;
        let flat = |tensor: &Tensor| -> Result<Vec<f64>> {
            let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            tensor.flatten_all()?.to_vec1()
        };
        let mut found = vec![flat(&output)?];
        for input in &inputs {
            if let Some(gradient) = gradients.get(input) {
                found.push(flat(gradient)?);
            }
        }
        Ok(found)
    }
}

/// The largest difference of all values, relative to the largest of its tensor; endless where tensors
/// are missing.
fn difference(expected: &[Vec<f64>], found: &[Vec<f64>]) -> f64 {
    if expected.len() != found.len() {
        return f64::INFINITY;
    }
    let mut worst = 0.0f64;
    for (expected, found) in expected.iter().zip(found) {
        let scale = expected
            .iter()
            .fold(1e-12f64, |most, value| most.max(value.abs()));
        for (a, b) in expected.iter().zip(found) {
            let off = (a - b).abs() / scale;
            // NaN is the worst of all.
            worst = if off.is_nan() {
                f64::INFINITY
            } else {
                worst.max(off)
            };
        }
    }
    worst
}

fn draws(purpose: &str, count: usize) -> Vec<f32> {
    let mut generator = Stream::new(12).purpose(purpose).generator();
    (0..count).map(|_| generator.normal() as f32).collect()
}

fn case(
    name: impl Into<String>,
    shapes: &[&[usize]],
    run: impl Fn(&[Tensor]) -> fused_ops::Result<Tensor> + 'static,
) -> Case {
    let name = name.into();
    let inputs = shapes
        .iter()
        .enumerate()
        .map(|(index, shape)| {
            let count = shape.iter().product();
            (draws(&format!("{name} {index}"), count), shape.to_vec())
        })
        .collect();
    Case {
        name,
        inputs,
        run: Box::new(move |inputs| run(inputs).map_err(candle_core::Error::wrap)),
    }
}

fn cases(short: bool) -> anyhow::Result<Vec<Case>> {
    let tokens = if short { 70 } else { 1030 };
    let (hidden, inner, vocabulary) = if short {
        (64, 96, 130)
    } else {
        (512, 1376, 4099)
    };
    let ids: Vec<u32> = (0..tokens as u32)
        .map(|id| id * 7 % (vocabulary as u32 - 2))
        .collect();
    let rows = ids.clone();
    let mut cases = vec![
        case(
            "linear",
            &[&[tokens, hidden], &[inner, hidden], &[inner]],
            |x| fused_ops::linear(&x[0], &x[1], Some(&x[2])),
        ),
        case("rms_norm", &[&[tokens, hidden], &[hidden]], |x| {
            fused_ops::rms_norm(&x[0], &x[1], 1e-6)
        }),
        case("swiglu", &[&[tokens, inner], &[tokens, inner]], |x| {
            fused_ops::swiglu(&x[0], &x[1])
        }),
        case("embedding", &[&[vocabulary, hidden]], move |x| {
            fused_ops::embedding(&x[0], &rows)
        }),
        case("rotary", &[&[tokens, 2, 80]], move |x| {
            let angles: Vec<f64> = (0..tokens * 80).map(|at| (at % 997) as f64).collect();
            let table = |of: fn(f64) -> f64| -> Result<Tensor> {
                let values: Vec<f64> = angles.iter().map(|&angle| of(angle)).collect();
                Tensor::from_vec(values, (tokens, 80), &Device::Cpu)?
                    .to_dtype(x[0].dtype())?
                    .to_device(x[0].device())
            };
            fused_ops::rotary(&x[0], &table(libm::cos)?, &table(libm::sin)?)
        }),
        case(
            "token_log_probs",
            &[&[tokens, hidden], &[vocabulary, hidden]],
            move |x| {
                // Hidden states of the size that a norm leaves.
                let small = (&x[1] * 0.05)?;
                let banned = [vocabulary as u32 - 1];
                Ok(fused_ops::token_log_probs(&x[0], &small, &ids, 0.7, &banned)?.log_probs)
            },
        ),
    ];
    let long = if short { 40 } else { 600 };
    let segment = |length, parent| Segment { length, parent };
    let decode = QueryBlock {
        queries: 0..3,
        visible: vec![0..long, long + 5..long + 9],
        causal: None,
    };
    let layouts = [
        ("causal", AttentionLayout::causal(&[long, 1, 17])),
        (
            "tree",
            AttentionLayout::tree(&[
                segment(long, None),
                segment(9, Some(0)),
                segment(12, Some(0)),
                segment(7, Some(2)),
            ])?,
        ),
        ("windows", AttentionLayout::bidirectional(&[16, long, 5])),
        ("decode", AttentionLayout::new(vec![decode], 3, long + 9)?),
    ];
    for (name, layout) in layouts {
        for (dim, heads, kv) in [(80, 2, 2), (128, 7, 1), (128, 16, 2)] {
            let (queries, keys) = (layout.queries(), layout.keys());
            let shapes: [&[usize]; 3] =
                [&[queries, heads, dim], &[keys, kv, dim], &[keys, kv, dim]];
            let name = format!("attention, {name}, head size {dim}, {} a group", heads / kv);
            let scale = 1.0 / (dim as f64).sqrt();
            #[cfg(feature = "cuda")]
            let own = layout.clone();
            #[cfg(feature = "cuda")]
            cases.push(case(format!("{name}, own kernels"), &shapes, move |x| {
                // The kernels take what is on a card, and no f64.
                match fused_ops::cuda::attention(&x[0], &x[1], &x[2], &own, scale)? {
                    Some(out) => Ok(out),
                    None => fused_ops::attention(&x[0], &x[1], &x[2], &own, scale),
                }
            }));
            let layout = layout.clone();
            cases.push(case(name, &shapes, move |x| {
                fused_ops::attention(&x[0], &x[1], &x[2], &layout, scale)
            }));
        }
    }
    Ok(cases)
}
